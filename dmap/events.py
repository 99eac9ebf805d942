"""
What happens in dmap, told once and kept for the debug stream, the metrics and other listeners.

Telling costs an append and never waits.  The last events stay in a ring; a reader has no queue of its own,
only the number of the event that it saw last, so one that is slow costs nothing and can tell what it
missed.  An event is encoded when it is first read, and only once.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dmap import tasks

MISSED = "debug.missed"
"""The one type that is never on the bus: it tells a reader how many events it has lost."""

TYPES = (
    "request.received",
    "request.queued",
    "request.granted",
    "request.retried",
    "request.moved",
    "request.routed",
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
    "model.loaded",
    "model.leaving",
    "model.kept",
    "model.unloaded",
    "device.drained",
    "device.resumed",
    "config.reloaded",
    "config.refused",
    "access.denied",
    MISSED,
)
"""Every type there is; what `?type=` of the debug stream takes."""

PAUSE_S = 0.05
"""Readers are woken this long after an event, so that a burst of them costs one wake-up."""
BATCH = 16
"""So many readers are woken in one turn of the loop; requests come in between."""

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Event:
    """
    One thing that happened: *number* counts from 1, *at* is wall time in seconds since 1970.

    *fields* hold plain values, never a body, a key or another secret.  *origin* is the dmap where it
    happened, None for this one.
    """

    number: int
    at: float
    type: str
    fields: Mapping[str, Any]
    origin: str | None = None
    _data: bytes | None = None
    _frame: bytes | None = None

    @property
    def data(self) -> bytes:
        """This event as a JSON object on one line: `number`, `at`, `type` and the fields side by side."""
        if self._data is None:
            fields = {name: rounded(value) for name, value in self.fields.items()}
            whose = {} if self.origin is None else {"dmap": self.origin}
            told = {"number": self.number, "at": round(self.at, 3), "type": self.type, **whose, **fields}
            self._data = _json(told)
        return self._data

    @property
    def frame(self) -> bytes:
        """This event as a record of an event stream (WHATWG HTML, "Server-sent events")."""
        if self._frame is None:
            self._frame = b"id: %d\nevent: %b\ndata: %b\n\n" % (self.number, self.type.encode(), self.data)
        return self._frame


def rounded(value: Any) -> Any:
    """Return *value* as it is shown: a float, such as seconds, with six digits behind its point at most."""
    return round(value, 6) if isinstance(value, float) else value


def _json(data: Mapping[str, Any]) -> bytes:
    """Encode on one line, whatever it is: bytes of a client that are no UTF-8 must not stop the readers."""
    try:
        return _encode(data)
    except (TypeError, ValueError):
        return json.dumps(data, default=str).encode()


Tell = Callable[[str, Mapping[str, Any]], None]
"""`Bus.tell`: takes an event's type and its fields, with models as text and times in seconds."""

Listener = Callable[[Event], None]
"""Called for each event as it happens; must be quick.  What it raises is logged and concerns nobody else."""


class Bus:
    """
    The ring of the last *size* events, and their listeners.

    *clock* gives the wall time; *last* is the number of the latest event, 0 before the first.  *readers* is
    kept by those who let readers in.  `tell` may be called from the loop's thread only.
    """

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.started_at = clock()
        self.last = 0
        self.readers = 0
        self.closed = asyncio.Event()
        self._kept = deque[Event](maxlen=size)
        self._listeners: dict[str, tuple[Listener, ...]] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._bell: asyncio.Handle | None = None

    def tell(self, type: str, fields: Mapping[str, Any]) -> None:
        """Let an event of *type*, one of `TYPES`, be known.  The *fields* are kept, not copied."""
        self.last += 1
        event = Event(self.last, self.clock(), type, fields)
        self._kept.append(event)
        for listener in self._listeners.get(type, ()):
            try:
                listener(event)
            except Exception as exc:
                tasks.report(f"a listener of {type}", exc)
        if self._waiting and self._bell is None:
            self._ring()

    def relay(self, type: str, at: float, fields: Mapping[str, Any], origin: str) -> None:
        """Let readers know of an event at another dmap, *origin*; nobody here counts it."""
        self.last += 1
        self._kept.append(Event(self.last, at, type, fields, origin))
        if self._waiting and self._bell is None:
            self._ring()

    def _ring(self) -> None:
        self._bell = asyncio.get_running_loop().call_later(PAUSE_S, self._wake, len(self._waiting))

    def listen(self, listener: Listener, *types: str) -> None:
        """Have *listener* called for every event of these *types* from now on."""
        for type in types:
            self._listeners[type] = (*self._listeners.get(type, ()), listener)

    def resize(self, size: int) -> None:
        """Keep *size* events from now on."""
        self._kept = deque(self._kept, maxlen=size)

    def since(self, number: int, most: int) -> tuple[list[Event], int]:
        """Return the next events after *number*, *most* at most, and how many before them are not kept."""
        oldest = self.last - len(self._kept) + 1
        first = max(number + 1, oldest)
        until = min(first + most, self.last + 1)
        return [self._kept[at - oldest] for at in range(first, until)], first - number - 1

    async def news(self, number: int) -> None:
        """Wait until there is an event after *number*, or the bus is closed."""
        if self.last > number or self.closed.is_set():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)

    def close(self) -> None:
        """Send the readers away; events are kept all the same.  Idempotent."""
        self.closed.set()
        self._wake(len(self._waiting))

    def _wake(self, left: int) -> None:
        """Wake the *left* readers that have waited longest, a batch in each turn of the loop."""
        self._bell = None
        for _ in range(min(left, BATCH, len(self._waiting))):
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            if not waiter.done():
                waiter.set_result(None)
        left = min(left - BATCH, len(self._waiting))
        if left > 0:
            self._bell = asyncio.get_running_loop().call_soon(self._wake, left)
