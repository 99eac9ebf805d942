"""Virtual time: what is to happen when."""

import heapq
import itertools
from collections.abc import Callable

Event = Callable[[float], None]


class Agenda:
    """What is to happen, each with its time; at one time what was noted first, but ticks after all else."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._events: list[tuple[float, int, int, Event]] = []

    def at(self, when: float, event: Event, rank: int = 0) -> None:
        """Have *event* happen then.  One of *rank* 1 is no reason to go on."""
        heapq.heappush(self._events, (when, rank, next(self._ids), event))

    def play(self, until: float) -> float:
        """Have all happen until then; return when it ended, which is earlier if nobody has anything to do."""
        last = 0.0
        while self._events and self._events[0][0] <= until:
            now, rank, _, event = heapq.heappop(self._events)
            event(now)
            last = last if rank else now  # a tick may come long after the last request
        return until if self._events else last
