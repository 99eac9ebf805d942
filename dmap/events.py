"""
What happens in dmap, told once and kept for whoever wants to know: the debug stream, the metrics.

Telling costs an append and never waits.  The last events stay in a ring; a reader has no queue of its own,
only the number of the event that it saw last, so one that is slow costs nothing and can tell what it
missed.  An event is encoded when it is first read, and only once.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

__all__ = ["TYPES", "Bus", "Event", "Listener"]

TYPES = (
    "request.received",
    "request.queued",
    "request.granted",
    "request.first_byte",
    "request.finished",
    "request.failed",
    "request.cancelled",
    "request.mismatch",
    "switch.started",
    "switch.drained",
    "switch.unloaded",
    "switch.loaded",
    "switch.failed",
    "switch.cancelled",
    "model.appeared",
    "model.vanished",
    "model.activated",
    "config.reloaded",
    "config.refused",
    "access.denied",
)
"""Every type there is; what `?type=` of the debug stream takes."""

_encode = msgspec.json.Encoder().encode


class Event:
    """
    One thing that happened: *number* counts from 1, *at* is wall time in seconds since 1970.

    *fields* hold plain values, never a body, a key or another secret.
    """

    __slots__ = ("_encoded", "at", "fields", "number", "type")

    def __init__(self, number: int, at: float, type: str, fields: Mapping[str, Any]) -> None:
        self.number = number
        self.at = at
        self.type = type
        self.fields = fields
        self._encoded: str | None = None

    @property
    def encoded(self) -> str:
        """This event as a JSON object: `number`, `at`, `type` and its fields side by side."""
        if self._encoded is None:
            told = {"number": self.number, "at": round(self.at, 3), "type": self.type, **self.fields}
            self._encoded = _encode(told).decode()
        return self._encoded


Listener = Callable[[Event], None]
"""Called for each event as it happens; must be quick, and must not raise."""


class Bus:
    """
    The ring of the last *size* events, and who listens.

    *clock* gives the wall time.  `tell` may be called from the loop's thread only.
    """

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self._ring: deque[Event] = deque(maxlen=size)
        self._clock = clock
        self._numbers = itertools.count(1)
        self._listeners: dict[str, tuple[Listener, ...]] = {}
        self._news: asyncio.Future[None] | None = None

    def tell(self, type: str, fields: Mapping[str, Any]) -> None:
        """Let an event of *type*, one of `TYPES`, be known.  The *fields* are kept, not copied."""
        event = Event(next(self._numbers), self._clock(), type, fields)
        self._ring.append(event)
        for listener in self._listeners.get(type, ()):
            listener(event)
        if self._news is not None:
            self._news, news = None, self._news
            if not news.done():
                news.set_result(None)

    def listen(self, listener: Listener, *types: str) -> None:
        """Have *listener* called for every event of these *types* from now on."""
        for type in types:
            self._listeners[type] = (*self._listeners.get(type, ()), listener)

    def resize(self, size: int) -> None:
        """Keep *size* events from now on."""
        if size != self._ring.maxlen:
            self._ring = deque(self._ring, maxlen=size)

    @property
    def last(self) -> int:
        """The number of the latest event, 0 before the first."""
        return self._ring[-1].number if self._ring else 0

    def since(self, number: int) -> tuple[Iterator[Event], int]:
        """Return the events after *number* that are still kept, and how many are not."""
        if not self._ring or number >= self._ring[-1].number:
            return iter(()), 0
        first = self._ring[0].number
        skipped = max(0, number + 1 - first)
        return iter(list(itertools.islice(self._ring, skipped, None))), max(0, first - number - 1)

    async def news(self) -> None:
        """Wait for the next event."""
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)
