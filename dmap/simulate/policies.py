"""The policies that the simulator compares: what they have in common, and their names."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from dmap.arbiter import Arbiter, Effect, Limits, Needs, Outcome, Switch
from dmap.simulate.plain import Plain


class Policy(Protocol):
    """What an arbiter and a plain policy have in common."""

    @property
    def switch(self) -> Switch | None:
        """The switch under way, if it still is."""

    @property
    def extra_s(self) -> float:
        """What the load adds to patience."""

    def submit(
        self,
        now: float,
        ticket: Any,
        model: Any,
        client: Any,
        needs: Needs,
        priority: int,
        user: Any = None,
        since: float | None = None,
    ) -> list[Effect]:
        """Hear of a request, which may have waited elsewhere."""

    def withdraw(self, now: float, ticket: Any) -> list[Effect]:
        """Hear that it is over."""

    def unloaded(self, now: float, model: Any) -> list[Effect]:
        """Hear that a resident has gone, first of all in a switch."""

    def switched(self, now: float, outcome: Outcome) -> list[Effect]:
        """Hear that a switch has ended."""

    def tick(self, now: float) -> list[Effect]:
        """Hear that time has passed."""

    def next_deadline(self) -> float | None:
        """Return when to call `tick`."""


POLICIES: Mapping[str, Callable[[Limits], Policy]] = {
    "fifo": partial(Plain, rule="fifo"),
    "drain": partial(Plain, rule="drain"),
    "longest-queue": partial(Plain, rule="longest-queue"),
    "dmap": Arbiter,
}

MEANINGS: Mapping[str, str] = {
    "fifo": "a loaded model serves newcomers for ever; when it idles, the oldest waiter's model is next",
    "drain": "the oldest waiter for another model stops the newcomers at once",
    "longest-queue": "as fifo, but the model that most wait for is next",
    "dmap": "what `dmap serve` does",
}
