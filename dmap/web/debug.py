"""
What the person who runs dmap may watch: its events as they happen, and how it stands.

Nothing here makes a request wait.  The readers of `GET /debug/stream` are woken after the event, in small
batches, and write no more than their connection takes.  A reader that is too slow loses the oldest events,
and learns how many.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse
from multidict import MultiMapping

from dmap import tasks
from dmap.aiohttp_insides import write
from dmap.errors import BadRequest, ClientStalled, MethodNotAllowed, Overloaded, ShuttingDown
from dmap.events import MISSED, TYPES, Bus, Event
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit

READERS = 256
"""How many may read the stream at once."""
PIECE = 32
"""Events that a reader gets in one write, at most."""
BUFFER_BYTES = 64 * 1024
"""What the process buffers for a reader that does not read, beside the last piece; the kernel the same."""
FIELDS = 64
"""Parameters that a query may have."""

_NUMBER = re.compile(r"[0-9]{1,18}")


def wanted(query: MultiMapping[str]) -> Callable[[Event], bool]:
    """
    Read `?type=&model=&client=`, each repeatable or with commas; return what tells if an event is wanted.

    It is if it has any of the types, and of the models and the clients, which are globs.  No glob meets an
    event without a client.  The models of a switch are the loaded and the unloaded ones.

    Raises `BadRequest`.
    """
    if len(query) > FIELDS:
        raise BadRequest(f"the query has over {FIELDS} parameters")
    unknown = sorted(set(query) - {"type", "model", "client", "after"})
    if unknown:
        raise BadRequest(f"no such parameter: {unknown[0][:64]!r}", param=unknown[0][:64])
    types = {kind for word in _listed(query, "type") for kind in _types(word)} or TYPES
    models, clients = _listed(query, "model"), _listed(query, "client")

    def passes(event: Event) -> bool:
        fields = event.fields
        if event.type not in types or (clients and not _meet(clients, [fields.get("client")])):
            return False
        whole = f"{fields['backend']}/{fields['model']}" if "model" in fields else None
        return not models or _meet(models, [whole, fields.get("load"), *fields.get("unload", ())])

    return passes


def _listed(query: MultiMapping[str], name: str) -> tuple[str, ...]:
    return tuple(part for value in query.getall(name, ()) for part in value.split(",") if part)


def _types(word: str) -> list[str]:
    """Find the types that *word* means: one, a glob, or the first word of some."""
    found = [kind for kind in TYPES if fnmatchcase(kind, word) or kind.startswith(f"{word}.")]
    if not found:
        raise BadRequest(f"no such type of event: {word[:64]!r}; known are {', '.join(TYPES)}", param="type")
    return found


def _meet(globs: tuple[str, ...], names: Iterable[Any]) -> bool:
    """Tell whether a glob meets any of *names*, with or without the backend before its first slash."""
    said = [name for name in names if isinstance(name, str)]
    either = [*said, *(name.partition("/")[2] for name in said)]
    return any(fnmatchcase(name, glob) for name in either for glob in globs)


async def stream(proxy: Proxy, visit: Visit) -> web.StreamResponse:
    """
    `GET /debug/stream`: events as they happen, and before them those after `Last-Event-ID` or `?after=`.

    It begins with an id and no event, so that a reader has a place to go on from.  Raises `BadRequest`,
    `Overloaded` when there are `READERS` already, and `ShuttingDown`.
    """
    request, bus, server = visit.request, proxy.bus, proxy.config.server
    if request.method != "GET":
        raise MethodNotAllowed("the stream takes GET", allowed="GET")
    chosen, after = wanted(request.query), _start(request, bus)
    response = EventSourceResponse(send_timeout=server.client_stall_s, ping_interval=server.heartbeat_s)
    with _place(bus):
        writer, transport = await response.prepare(request), request.transport
        assert writer is not None, "only a second head is not written"
        if transport is None:
            raise ConnectionResetError("the reader has left")
        _keep_buffers_small(transport)
        async with response:
            await write(writer, b"id: %d\n\n" % after)
            try:
                while not bus.closed.is_set():
                    await bus.news(after)
                    piece, after = _piece(bus, chosen, after)
                    await write(writer, piece)
                    if request.protocol.writing_paused:
                        await _drained(writer, bus, server.client_stall_s)
                    await asyncio.sleep(0)  # others' turn comes first
            except TimeoutError:
                transport.abort()
                visit.record.outcome = ClientStalled.code
    return response


def _start(request: web.BaseRequest, bus: Bus) -> int:
    """Find the number of the event that the reader saw last; without one the reader gets new events only."""
    asked = request.headers.get("Last-Event-ID", request.query.get("after"))
    if asked is None:
        return bus.last
    if not _NUMBER.fullmatch(asked):
        raise BadRequest(f"not the number of an event: {asked[:64]!r}", param="after")
    # A number that is yet to come is of the process before this one, so all that is kept is new.
    return int(asked) if int(asked) <= bus.last else 0


@contextmanager
def _place(bus: Bus) -> Generator[None]:
    if bus.closed.is_set():
        raise ShuttingDown("dmap is shutting down", retry_after_s=5)
    if bus.readers >= READERS:
        raise Overloaded(f"{READERS} read the stream already; try again later", retry_after_s=5)
    bus.readers += 1
    try:
        yield
    finally:
        bus.readers -= 1


async def captures(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /debug/captures`: the last bodies, the oldest first, if `debug.capture` is on."""
    is_on = proxy.config.debug.capture
    return web.json_response({"capture": is_on, "captures": proxy.captures.fields() if is_on else []})


def _keep_buffers_small(transport: asyncio.Transport) -> None:
    """Bound what is buffered for a reader.  The kernel would take megabytes, which are hours of events."""
    transport.set_write_buffer_limits(high=BUFFER_BYTES)
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)


def _piece(bus: Bus, chosen: Callable[[Event], bool], after: int) -> tuple[bytes, int]:
    """Return what is *chosen* of the next events after *after*, and the number of the last of these."""
    events, missed = bus.since(after, PIECE)
    after += missed
    frames = [Event(after, bus.clock(), MISSED, {"missed": missed}).frame] if missed else []
    frames += [event.frame for event in events if chosen(event)]
    return b"".join(frames), after + len(events)


async def _drained(writer: AbstractStreamWriter, bus: Bus, within_s: float) -> None:
    """Wait for the reader to read on.  Raises `TimeoutError` after *within_s*, or when *bus* is closed."""
    drained = tasks.errand(writer.drain(), "drain a reader", expected=(ConnectionError,))
    waits = (drained, tasks.errand(bus.closed.wait(), "wait for the end"))
    try:
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            raise TimeoutError
    finally:
        await tasks.end(*waits)
