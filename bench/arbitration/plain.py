"""
Plain policies to compare with, which take from the world what `Arbiter` takes.

`fifo`: a loaded model serves newcomers for ever, and when it is idle the model that was asked for first is
next.  `exh`: the same, but the model with most waiters is next.  `drain`: the first who waits for another
model stops the newcomers.  All refuse who has waited for `wait_s`.
"""

from collections.abc import Iterator

from dmap.arbiter import Cause, Effect, Grant, Limits, Needs, Outcome, Reason, Refuse, Switch


class Plain:
    """A device with one resident, and a line of tickets for each model; *rule* is the policy's name."""

    def __init__(self, limits: Limits, rule: str) -> None:
        self._limits, self._rule = limits, rule
        self._lines: dict[str, dict[int, float]] = {}
        self._model_of: dict[int, str] = {}
        self._parallel: dict[str, int] = {}
        self._leases: set[int] = set()
        self._invited = 0
        self._loaded: str | None = None
        self._loading: str | None = None

    def submit(
        self, now: float, ticket: int, model: str, client: str, needs: Needs, priority: int
    ) -> list[Effect]:
        """Queue a request."""
        self._lines.setdefault(model, {})[ticket] = now
        self._model_of[ticket] = model
        self._parallel[model] = needs.parallel or 1
        return self.tick(now)

    def withdraw(self, now: float, ticket: int) -> list[Effect]:
        """End an answer."""
        self._leases.discard(ticket)
        return self.tick(now)

    def unloaded(self, now: float, model: str) -> list[Effect]:
        """Do nothing: a switch of these policies names nobody who goes."""
        return []

    def switched(self, now: float, outcome: Outcome) -> list[Effect]:
        """End a load; who waits for the model now is invited."""
        self._loaded, self._loading = self._loading, None
        self._invited = len(self._lines.get(str(self._loaded), ()))
        return self.tick(now)

    def tick(self, now: float) -> list[Effect]:
        """Decide."""
        effects = list(self._expired(now))
        if self._loading is None:
            effects += self._grants()
            if not self._leases and self._lines:
                self._loading = self._next()
                effects.append(Switch(self._loading, (), Cause.IDLE, 0))
        return effects

    def next_deadline(self) -> float | None:
        """Return when the next one will have waited too long."""
        oldest = min(
            (since for line in self._lines.values() for since in [next(iter(line.values()))]), default=None
        )
        return None if oldest is None else oldest + self._limits.wait_s

    def _next(self) -> str:
        if self._rule == "exh":
            return max(self._lines, key=lambda model: len(self._lines[model]))
        return min(self._lines, key=lambda model: next(iter(self._lines[model].values())))

    def _expired(self, now: float) -> Iterator[Effect]:
        for line in list(self._lines.values()):
            while line and now >= next(iter(line.values())) + self._limits.wait_s:
                yield Refuse(self._take(next(iter(line))), Reason.WAIT_EXPIRED)

    def _grants(self) -> Iterator[Effect]:
        line = self._lines.get(str(self._loaded), {})
        while line and len(self._leases) < self._parallel[str(self._loaded)] and self._may_pass():
            self._invited -= 1
            self._leases.add(ticket := self._take(next(iter(line))))
            yield Grant(ticket)

    def _may_pass(self) -> bool:
        return self._rule != "drain" or self._invited > 0 or len(self._lines) == 1

    def _take(self, ticket: int) -> int:
        line = self._lines[model := self._model_of.pop(ticket)]
        del line[ticket]
        if not line:
            del self._lines[model]
        return ticket
