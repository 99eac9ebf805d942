"""
What the person who runs dmap may watch: its events as they happen, and how it stands.

Nothing here makes a request wait.  The readers of `GET /debug/stream` are woken after the event, in small
batches, and write no more than their connection takes.  A reader that is too slow loses the oldest events,
and learns how many.
"""

import asyncio
import re
import socket
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse
from multidict import MultiMapping

from dmap import tasks
from dmap.errors import BadRequest, ClientStalled, MethodNotAllowed, Overloaded, ShuttingDown
from dmap.events import MISSED, TYPES, Bus, Event
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit

READERS = 256
"""How many may read the stream at once."""
PIECE = 100
"""Events that a reader gets in one write, at most."""
BUFFER_BYTES = 64 * 1024
"""What waits in the process, and again in the kernel, for a reader that does not read."""
FIELDS = 64
"""Parameters that a query may have."""

_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Filter:
    """
    Which events a reader wants: any of its *types*, and of its *models* and *clients*, which are globs.

    No glob meets an event without a client.  The models of a switch are the loaded and the unloaded ones.
    """

    types: frozenset[str] = frozenset(TYPES)
    models: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()

    @classmethod
    def of(cls, query: MultiMapping[str]) -> Self:
        """Read `?type=&model=&client=`, each repeatable or with commas; raises `BadRequest`."""
        if len(query) > FIELDS:
            raise BadRequest(f"the query has over {FIELDS} parameters")
        unknown = sorted(set(query) - {"type", "model", "client", "after"})
        if unknown:
            raise BadRequest(f"no such parameter: {unknown[0][:64]!r}", param=unknown[0][:64])
        types = [kind for wanted in _listed(query, "type") for kind in _types(wanted)]
        return cls(frozenset(types or TYPES), _listed(query, "model"), _listed(query, "client"))

    def passes(self, event: Event) -> bool:
        """Tell whether *event* is wanted."""
        if event.type not in self.types:
            return False
        fields = event.fields
        if self.clients and not _meet(self.clients, [fields.get("client")]):
            return False
        named = [fields.get("model"), fields.get("load"), *fields.get("unload", ())] if self.models else ()
        return not self.models or _meet(self.models, named)


def _listed(query: MultiMapping[str], name: str) -> tuple[str, ...]:
    return tuple(part for value in query.getall(name, ()) for part in value.split(",") if part)


def _types(wanted: str) -> list[str]:
    """Find the types that *wanted* means: one, a glob, or the first word of some."""
    found = [kind for kind in TYPES if fnmatchcase(kind, wanted) or kind.startswith(f"{wanted}.")]
    if not found:
        raise BadRequest(
            f"no such type of event: {wanted[:64]!r}; known are {', '.join(TYPES)}", param="type"
        )
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
    request, bus = visit.request, proxy.bus
    if request.method != "GET":
        raise MethodNotAllowed("the stream takes GET", allowed="GET")
    chosen, after = Filter.of(request.query), _start(request, bus)
    server = proxy.config.server
    response = EventSourceResponse(send_timeout=server.client_stall_s, ping_interval=server.heartbeat_s)
    with _place(bus):
        writer = await response.prepare(request)
        assert writer is not None, "only a second head is not written"
        async with response:
            await response.write(b"id: %d\n\n" % after)
            reader = Reader(request, response, writer, server.client_stall_s)
            try:
                await reader.follow(bus, chosen, after)
            except TimeoutError:
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


class Reader:
    """One connection that reads the stream; it is cut when it does not read for *stall_s*."""

    def __init__(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        writer: AbstractStreamWriter,
        stall_s: float,
    ) -> None:
        if request.transport is None:
            raise ConnectionResetError("the reader has left")
        self._protocol = request.protocol
        self._transport = request.transport
        self._transport.set_write_buffer_limits(high=BUFFER_BYTES)
        # Left to itself the kernel takes megabytes, and hours of events, before anybody notices.
        kernel = self._transport.get_extra_info("socket")
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._chunked = response.headers.get("Transfer-Encoding") == "chunked"
        self._writer = writer
        self._stall_s = stall_s

    async def follow(self, bus: Bus, chosen: Filter, after: int) -> None:
        """Write what is *chosen* of the events after *after*, until *bus* is closed."""
        while not bus.closed.is_set():
            await bus.news(after)
            events, missed = bus.since(after, PIECE)
            piece, seen = _piece(events, chosen)
            if missed:
                piece = _missed(bus, after, missed) + piece
            after += missed + seen
            if piece:
                self._write(piece)
            if self._protocol.writing_paused:
                await self._drained(bus)
            elif after < bus.last:
                await asyncio.sleep(0)  # there is more, but others' turn comes first

    def _write(self, piece: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    async def _drained(self, bus: Bus) -> None:
        """Wait until the reader has read on.  Raises `TimeoutError` and cuts it off if it does not."""
        drained = tasks.errand(self._writer.drain(), "drain a reader", expected=(ConnectionError,))
        waits = (drained, tasks.errand(bus.closed.wait(), "wait for the end"))
        try:
            await asyncio.wait(waits, timeout=self._stall_s, return_when=asyncio.FIRST_COMPLETED)
            if not drained.done():
                self._transport.abort()
                raise TimeoutError
        finally:
            await tasks.end(*waits)


def _piece(events: list[Event], chosen: Filter) -> tuple[bytes, int]:
    """Join what is *chosen* of *events*, no more than fits; return it, and how many were looked at."""
    frames: list[bytes] = []
    size_bytes = seen = 0
    for event in events:
        seen += 1
        if chosen.passes(event):
            frames.append(event.frame)
            size_bytes += len(event.frame)
        if size_bytes >= BUFFER_BYTES:
            break
    return b"".join(frames), seen


def _missed(bus: Bus, after: int, missed: int) -> bytes:
    return Event(after + missed, bus.clock(), MISSED, {"missed": missed}).frame
