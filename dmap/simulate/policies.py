"""
The policies that the simulator compares: the arbiter, a FIFO, and a queue that drains.

FIFO always serves newcomers of the loaded model; DRAIN stops them at the first waiter of another.  With both,
all waiters of a loading model are served together.
"""

from collections.abc import Callable, Iterator

from dmap.arbiter import Arbiter, Cause, Effect, Grant, Limits, Needs, Outcome, Switch


class Queue:
    """
    FIFO, and DRAIN with *strict*: whoever waits longest is next as soon as the device is idle.

    It takes from the simulator what `Arbiter` takes.
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._waiting: dict[int, tuple[str, int]] = {}
        self._invited: set[int] = set()
        self._leases: set[int] = set()
        self._loaded: str | None = None
        self._loading: str | None = None

    def submit(
        self, now: float, ticket: int, model: str, client: str, needs: Needs, priority: int
    ) -> list[Effect]:
        """Queue a request, whatever its *priority*."""
        self._waiting[ticket] = model, needs.parallel or 1
        return self._settle()

    def withdraw(self, now: float, ticket: int) -> list[Effect]:
        """End an answer."""
        self._leases.discard(ticket)
        return self._settle()

    def unloaded(self, now: float, model: str) -> list[Effect]:
        """Do nothing: a switch of these policies names nobody who goes."""
        return []

    def switched(self, now: float, outcome: Outcome) -> list[Effect]:
        """End a load; whoever waits for the model now is invited."""
        self._loaded, self._loading = self._loading, None
        self._invited = {ticket for ticket, (model, _) in self._waiting.items() if model == self._loaded}
        return self._settle()

    def tick(self, now: float) -> list[Effect]:
        """Do nothing: these policies know no time."""
        return []

    def next_deadline(self) -> float | None:
        """Return None, always."""
        return None

    def _settle(self) -> list[Effect]:
        if self._loading is not None:
            return []
        effects: list[Effect] = [Grant(ticket) for ticket in self._admitted()]
        if self._waiting and not self._leases:
            self._loading = next(iter(self._waiting.values()))[0]
            effects.append(Switch(self._loading, (), Cause.IDLE, 0))
        return effects

    def _admitted(self) -> Iterator[int]:
        foreign = self._strict and any(model != self._loaded for model, _ in self._waiting.values())
        for ticket, (model, parallel) in list(self._waiting.items()):
            if (
                model == self._loaded
                and len(self._leases) < parallel
                and (not foreign or ticket in self._invited)
            ):
                del self._waiting[ticket]
                self._leases.add(ticket)
                yield ticket


POLICIES: dict[str, Callable[[Limits], Arbiter | Queue]] = {
    "fifo": lambda limits: Queue(strict=False),
    "drain": lambda limits: Queue(strict=True),
    "dmap": Arbiter,
}
