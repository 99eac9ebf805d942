"""
What happens at all dmaps, for the debug stream of each: one stream in Redis.

Each dmap writes what its own bus has kept since the last time, ten times a second in one command, and reads
what the others wrote only while somebody watches it.  Nothing waits for that.  The bus is the only buffer;
what it has no longer, or Redis, is told as missed.
"""

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

from dmap.events import MISSED, TYPES, Bus
from dmap.logfmt import Line
from dmap.shared.connection import Away, Connection

TURN_S = 0.1
PIECE = 128
"""Events in one entry, at most."""
ENTRIES = 1000
"""So many entries are kept, of all dmaps; some 300 bytes for each event."""
KEPT_S = 3600
RUNS = 256
"""Of so many dmaps, restarts counted, it is known what comes next."""
READ = 32
"""Entries read in one turn."""
_ENTRIES = list[tuple[bytes, dict[bytes, bytes]]]

_log = logging.getLogger(__name__)


class EventStream:
    """
    The stream *key*, to which this dmap adds what *bus* tells, and from which it reads.

    Others know it by *name*; *run* is what no other has.
    """

    def __init__(self, connection: Connection, key: str, name: str, run: str, bus: Bus) -> None:
        self._connection, self._key, self._bus = connection, key, bus
        self._name, self._run = name, run
        self._sent, self._counted = 0, 0
        self._read: bytes | None = None
        self._expected: dict[str, int] = {}

    @property
    def follows(self) -> bool:
        """Whether what happens at the others from now on will be told here."""
        return self._read is not None

    async def run(self) -> None:
        """Write and read, for ever."""
        while True:
            await asyncio.sleep(TURN_S)
            self._write()
            with suppress(Away):
                await self._follow()

    def _write(self) -> None:
        """Add what has happened here since the last time, also from before a short outage."""
        if self._bus.last == self._sent or not self._connection.is_up:
            return
        events, missed = self._bus.since(self._sent, PIECE)
        own = [event for event in events if event.origin is None]
        self._counted += missed
        lines = b"\n".join(event.data for event in own)
        fields = ("from", self._name, "run", self._run, "first", self._counted, "events", lines)
        command = ("XADD", self._key, "MAXLEN", "~", ENTRIES, "*", *fields)
        if not own or self._connection.tell("events", *command):
            self._sent += missed + len(events)
            self._counted += len(own)
            self._connection.tell("events", "EXPIRE", self._key, KEPT_S)
        else:
            self._counted -= missed

    async def _follow(self) -> None:
        """Let the readers of this dmap know what has happened at the others."""
        if not self._bus.readers or not self._connection.is_up:
            self._read = None
            self._expected.clear()
            return
        if self._read is None:
            newest = ("XREVRANGE", self._key, "+", "-", "COUNT", 1)
            last = await self._connection.ask("events", *newest, shape=_ENTRIES)
            self._read = last[0][0] if last else b"0-0"
            return
        command = ("XRANGE", self._key, b"(" + self._read, "+", "COUNT", READ)
        for id, fields in await self._connection.ask("events", *command, shape=_ENTRIES):
            self._read = id
            self._take(fields)

    def _take(self, fields: dict[bytes, bytes]) -> None:
        """Take one entry."""
        try:
            origin, run, first = fields[b"from"].decode(), fields[b"run"].decode(), int(fields[b"first"])
            events = [json.loads(line) for line in fields[b"events"].splitlines()]
            if run != self._run:
                self._note_missed(origin, run, first, len(events))
                self._relay(origin, events)
        # Another version of dmap may write what this one does not know; other programs, anything.
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
            _log.debug(Line("events_not_understood", {"reason": str(exc)[:200]}))

    def _note_missed(self, origin: str, run: str, first: int, count: int) -> None:
        if len(self._expected) > RUNS:
            self._expected.clear()
        missed = first - self._expected.get(run, first)
        self._expected[run] = first + count
        if missed > 0:
            self._bus.relay(MISSED, self._bus.clock(), {"missed": missed}, origin)

    def _relay(self, origin: str, events: list[dict[str, Any]]) -> None:
        for event in events:
            type, at = event.pop("type"), float(event.pop("at"))
            _ = event.pop("number", None), event.pop("dmap", None)
            if type in TYPES and _is_whole(event):
                self._bus.relay(type, at, event, origin)


def _is_whole(fields: dict[str, Any]) -> bool:
    """Tell whether *fields* are what readers choose by, as those of our own events are."""
    return ("model" not in fields or "backend" in fields) and isinstance(fields.get("unload", []), list)
