"""
One timer for everything under way that has a time limit.

A request has several bounds, and a timer for each would cost more than its whole way through the relay.
The bounds are seconds to minutes long, so it is enough to look at everything under way now and then.  What
a look finds, and what follows from it, is the business of the thing that is looked at.
"""

import asyncio
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from dmap import tasks


class Watched(Protocol):
    """Something under way that wants to be looked at every *look_s* seconds."""

    look_s: float

    def look(self, now: float) -> None:
        """Act on what is overdue at *now*, the loop's time; this may take it out of the sweep."""


LATE_S = 1.0
"""A timer that comes up so late tells of a loop, or a process, that has stood still."""
CATCH_UP_S = 1.0
"""Then it has so long to hear others, which may have stood still with it."""

_Kind = TypeVar("_Kind", bound=Watched)


class Sweep(Generic[_Kind]):
    """
    What is under way: `add` it, and `discard` it at its end.

    The timer comes up as often as the most impatient thing needs, and stops when nothing is left to look at.
    A busy sweep therefore sets one timer per round, and not one per request.

    After a loop that stood still nothing is judged at once: what has come meanwhile is read first, or all
    that was heard in time would count as silent.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: set[_Kind] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._every_s = self._due_at = 0.0
        self._catches_up = False

    def __iter__(self) -> Iterator[_Kind]:
        """Iterate over what is under way now; things may leave meanwhile."""
        return iter(tuple(self._watched))

    def add(self, one: _Kind) -> None:
        """Look at *one* from now on."""
        self._watched.add(one)
        if self._timer is None or one.look_s < self._every_s:
            self._set_timer(one.look_s)

    def discard(self, one: _Kind) -> None:
        """Look at *one* no more.  Idempotent."""
        self._watched.discard(one)

    def _set_timer(self, every_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._every_s, self._timer = every_s, self._loop.call_later(every_s, self._look)
        self._due_at = self._loop.time() + every_s

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._catches_up = not self._catches_up and now - self._due_at > LATE_S
        if self._catches_up:
            self._set_timer(CATCH_UP_S)
            return
        for one in self:
            tasks.attempt("a time limit", one.look, now)
        if self._watched:
            self._set_timer(min(one.look_s for one in self._watched))
