"""`dmap tail`: the events of a running daemon, one line each, and again from where it stopped."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from urllib.parse import urlencode

from aiohttp.http_exceptions import LineTooLong

from dmap.remote.client import DaemonClient, Gone, Trouble

SILENCE_S = 60.0
"""The daemon shows a sign of life every `server.heartbeat_s` (15); without one the connection is dead."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
MISSED = "debug.missed"
"""What the daemon tells a reader of events that it had to leave out."""
MOST_BYTES = 1024 * 1024
"""Of one line."""


async def follow(
    daemon: DaemonClient,
    wanted: Mapping[str, Sequence[str]],
    after: int | None,
    show: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """
    Have *show* called with the JSON of each event, for ever; *say* gets what happens to the connection.

    *wanted* has lists of the types, models and clients to show, by the names of the query's parameters.  It
    begins after the event with the number *after*, with None at the next one; *say* also hears if the first
    ones are not kept.  Raises `Trouble` when the daemon refuses, or cannot be reached the first time.
    """
    path = f"/debug/stream?{urlencode(wanted, doseq=True)}".removesuffix("?")
    last_id = None if after is None else str(after)
    pause_s, is_lost, begins = FIRST_PAUSE_S, None, True
    while True:
        try:
            async for seen, event in records(daemon, path, last_id):
                last_id = seen
                if is_lost:
                    say("connected again")
                pause_s, is_lost = FIRST_PAUSE_S, False
                if begins and f'"type":"{MISSED}"' in event:
                    say("older events are not kept")
                elif event:
                    show(event)
                begins = begins and not event
            reason = f"{daemon.url} ended the stream"
        except Gone as exc:
            if is_lost is None:
                raise
            reason = str(exc)
        if not is_lost:
            say(f"{reason}; trying again")
        is_lost = True
        await asyncio.sleep(pause_s)
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


async def records(
    daemon: DaemonClient, path: str, last_id: str | None
) -> AsyncGenerator[tuple[str | None, str]]:
    """
    Yield the records of the event stream at *path* after *last_id* (WHATWG HTML, "Server-sent events").

    Each is the id to go on from and the data, which may be empty.  Only what dmap sends is understood: its
    lines end with LF or CR LF, and no record has two types.  A record without an end is dropped.  Raises
    `Trouble` for a line without one, and for what is no stream.
    """
    headers = {"Last-Event-ID": last_id} if last_id is not None else {}
    data: list[str] = []
    async with daemon.open(path, headers=headers, silence_s=SILENCE_S) as response:
        if response.content_type != "text/event-stream":
            raise Trouble(f"what answers at {daemon.url} is not dmap")
        try:
            while line := await response.content.readline(max_line_length=MOST_BYTES):
                name, _, value = line.decode(errors="replace").rstrip("\r\n").partition(":")
                if name == "id":
                    last_id = value.removeprefix(" ")
                elif name == "data":
                    data.append(value.removeprefix(" "))
                elif line in (b"\n", b"\r\n"):
                    yield last_id, "\n".join(data)
                    data = []
        except LineTooLong as exc:
            raise Trouble("what answers is not dmap's stream") from exc
