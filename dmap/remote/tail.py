"""`dmap tail`: the events of a running daemon, one line each, and again from where it stopped."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from dmap.remote.client import DaemonClient, Gone, Trouble

SILENCE_S = 60.0
"""The daemon shows a sign of life every `server.heartbeat_s` (15); without one the connection is dead."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
MOST_BYTES = 1024 * 1024
"""Of one record."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What to show: events after number *after* (None: only new ones) of these types, models and clients."""

    types: Sequence[str] = ()
    models: Sequence[str] = ()
    clients: Sequence[str] = ()
    after: int | None = None

    def path(self) -> str:
        """Return the path to ask for."""
        named = {"type": self.types, "model": self.models, "client": self.clients}
        pairs = [(name, value) for name, values in named.items() for value in values]
        return "/debug/stream" + (f"?{urlencode(pairs)}" if pairs else "")


@dataclass(slots=True)
class Records:
    """
    The records of an event stream, from its bytes as they come (WHATWG HTML, "Server-sent events").

    *last_id* is what to go on from, also before the first record.  Only what dmap sends is understood: its
    lines end with LF or CR LF, and no record has two types.
    """

    last_id: str | None = None
    _rest: bytes = b""
    _data: list[str] = field(default_factory=list)
    _id: str | None = field(init=False)

    def __post_init__(self) -> None:
        self._id = self.last_id

    def feed(self, piece: bytes) -> list[str]:
        """Return the data of the records that *piece* completes.  Raises `Trouble` for an endless one."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MOST_BYTES:
            raise Trouble("what answers is not dmap's stream")
        return [
            data for line in lines for data in self._line(line.removesuffix(b"\r").decode(errors="replace"))
        ]

    def cut(self) -> None:
        """Forget what was begun: another connection follows."""
        self._rest, self._data, self._id = b"", [], self.last_id

    def _line(self, line: str) -> list[str]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "data":
            self._data.append(value)
        if line:
            return []
        self.last_id = self._id  # of a whole record only: another one would be lost with the connection
        data, self._data = self._data, []
        return ["\n".join(data)] if data else []


async def follow(
    daemon: DaemonClient, tail: Tail, show: Callable[[str], None], say: Callable[[str], None]
) -> None:
    """
    Have *show* called with the JSON of each event, for ever; *say* gets what happens to the connection.

    Raises `Trouble` when the daemon refuses, or cannot be reached the first time.
    """
    records = Records(None if tail.after is None else str(tail.after))
    pause_s, is_lost = FIRST_PAUSE_S, None
    while True:
        try:
            async for piece in _pieces(daemon, tail, records.last_id):
                if is_lost:
                    say("connected again")
                pause_s, is_lost = FIRST_PAUSE_S, False
                for event in records.feed(piece):
                    show(event)
            reason = f"{daemon.url} ended the stream"
        except Gone as exc:
            if is_lost is None:
                raise
            reason = str(exc)
        if not is_lost:
            say(f"{reason}; trying again")
        is_lost = True
        records.cut()
        await asyncio.sleep(pause_s)
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


async def _pieces(daemon: DaemonClient, tail: Tail, last_id: str | None) -> AsyncGenerator[bytes]:
    headers = {"Last-Event-ID": last_id} if last_id is not None else {}
    async with daemon.open("GET", tail.path(), headers=headers, silence_s=SILENCE_S) as response:
        async for piece in response.content.iter_any():
            yield piece
