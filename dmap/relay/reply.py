"""
The response to one client, and its only writer.

Until it is *committed*, which means that its head is on the way, every failure still gets its HTTP status.
Afterwards a failure is an event inside the stream, followed by a cut that no client can take for a clean end.
Where the bytes come from is not its business; see `relay`, its counterpart.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from dmap.aiohttp_insides import Beginning, ClientConnection, nothing, write
from dmap.config import Server
from dmap.errors import BackendBroke, ClientStalled, DmapError
from dmap.record import RequestRecord
from dmap.wire.dialects import Dialect
from dmap.wire.failure import error_record
from dmap.wire.stream import BATCH_BYTES

if TYPE_CHECKING:
    from dmap.relay.copy import Copy  # where answers are kept

FLUSH_S = 5.0
"""How long a client that does not read has to take the last error, before its connection is cut."""


class Reply:
    """
    The response to *request*: `beat` or `wait` while nothing has come, `commit`, write, `end`.

    `keep` replaces all of that for an answer that is small and whole; `fail` ends it with an error.
    *server* has the bounds, *record* takes the facts, *dialect* says how an error looks inside a stream.
    A client that is *silent* gets no comments.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        record: RequestRecord,
        dialect: Dialect,
        server: Server,
        *,
        silent: bool = False,
    ) -> None:
        self.record = record
        self.server = server
        self.dialect = dialect
        self._is_silent = silent
        self._request = request
        self._response: web.StreamResponse | None = None
        self._writer: AbstractStreamWriter | None = None
        self._sse = False
        self._chunked = False
        self._stall_left = server.client_stall_s
        self.copy: Copy | None = None
        """Takes what the client is answered, where somebody wants that."""
        self.no_store = False
        """Whether nobody is to keep the answer: dmap itself doubts it."""
        self.torn = False
        """Whether the stream stands inside a record, which an error has to end first."""
        self.told: str | None = None
        """The error that the stream has told already: a client takes one, and stops."""

    @property
    def streams(self) -> bool:
        """Whether the client asked for an event stream."""
        return self.record.stream and self.dialect is not Dialect.PLAIN

    @property
    def beats(self) -> bool:
        """Whether comments can keep this client alive."""
        return self.streams and not self._is_silent

    # While nothing has come.

    async def wait(self, future: "asyncio.Future[None]", words: Callable[[], str]) -> None:
        """Wait for *future*; tell the client *words*, as a sign of life, every `server.heartbeat_s`."""
        while self.beats and not (await asyncio.wait({future}, timeout=self.until_beat()))[0]:
            await self.beat(words())
        await future

    def until_beat(self) -> float:
        """Return the seconds to the next beat: the first is due `heartbeat_s` after the request came."""
        if self.record.committed:
            return self.server.heartbeat_s
        waited = asyncio.get_running_loop().time() - self.record.arrived_at
        return max(0.0, self.server.heartbeat_s - waited)

    async def beat(self, what: str) -> None:
        """Write a comment, which clients ignore; this commits to an event stream."""
        headers = CIMultiDict({"Content-Type": "text/event-stream; charset=utf-8"})
        await self.commit(200, headers, sse=True)
        await self._insert(f": dmap: {what}\n\n".encode())

    # The answer.

    def keep(self, status: int, headers: "CIMultiDict[str]", body: bytes) -> None:
        """Answer with *body*, all of it, when `end` is called."""
        self._mark(headers)
        self._response = web.Response(status=status, headers=headers, body=body)
        if self.copy is not None:
            self.copy.begin(status, headers)
            self.copy.add(body)
        self.record.status, self.record.bytes_out = status, len(body)

    async def commit(
        self, status: int, headers: "CIMultiDict[str]", *, length: int | None = None, sse: bool
    ) -> None:
        """Send the head, once; the body is framed by what aiohttp chose, never by what the backend had."""
        self._mark(headers)
        if self.copy is not None:
            self.copy.begin(status, headers)
        if self.record.committed:
            if not (sse and self._sse):
                raise BackendBroke("the backend answered something else than the event stream already begun")
            return
        if sse:
            kept = "no-store" if _is_unkept(headers) else "no-cache"
            headers.update({"Cache-Control": kept, "X-Accel-Buffering": "no"})
        self._response = response = Beginning(status=status, headers=headers)
        response.content_length = length
        if self._request.version < (1, 1):
            response.force_close()
        self._transport().set_write_buffer_limits(high=self.server.buffer)
        self.record.committed, self.record.status = True, status
        self._sse = sse and "Content-Encoding" not in headers
        self._writer = await response.prepare(self._request)
        self._chunked = response.headers.get("Transfer-Encoding") == "chunked"

    def _mark(self, headers: "CIMultiDict[str]") -> None:
        if self.no_store:
            headers["Cache-Control"] = "no-store"

    async def write(self, data: bytes) -> None:
        """Write *data*, and the head before it if that is not out, without waiting for the client."""
        self.record.bytes_out += len(data)
        if self.copy is not None:
            self.copy.add(data)
        await self._insert(data)

    def pusher(self, keep: Callable[[bytes], object], look: Callable[[], None]) -> Callable[[bytes], None]:
        """
        Return what passes one piece of the body on.  The hot path: all that can be is looked up here, once.

        It gives each piece to *keep*, and calls *look* when another `BATCH_BYTES` of them have come.
        """
        record, is_chunked, push = self.record, self._chunked, self._transport().write
        next_look = record.bytes_out + BATCH_BYTES
        if self.copy is not None:
            keep = _both(keep, self.copy.add)

        def push_piece(data: bytes) -> None:
            nonlocal next_look
            size = len(data)
            push(b"%x\r\n%b\r\n" % (size, data) if is_chunked else data)
            keep(data)
            record.bytes_out = bytes_out = record.bytes_out + size
            if bytes_out >= next_look:
                next_look = bytes_out + BATCH_BYTES
                look()

        return push_piece

    @contextlib.contextmanager
    def when_full(self, on_full: Callable[[], None]) -> Generator[None]:
        """Have *on_full* called while this lasts: when `server.buffer` is full, or the client leaves."""
        connection = cast(ClientConnection, self._request.protocol)
        connection.on_full = on_full
        try:
            if connection.writing_paused:
                on_full()
            yield
        finally:
            connection.on_full = nothing

    async def drain(self) -> None:
        """
        Wait until the client has read what is buffered.

        Raises `ClientStalled` when its pauses add up to `server.client_stall_s`.
        """
        assert self._writer is not None, "nothing is buffered before the head is out"
        clock, bound_s = asyncio.get_running_loop().time, self.server.client_stall_s
        started = clock()
        try:
            async with asyncio.timeout(self._stall_left):
                await self._writer.drain()
        except TimeoutError as exc:
            reason = f"the client did not read for {bound_s:g} s in all (server.client_stall_s)"
            raise ClientStalled(reason) from exc
        self._stall_left = max(0.0, self._stall_left - (clock() - started))

    # The end.

    async def end(self) -> web.StreamResponse:
        """Finish the response; what is not read within the client's allowance is cut off."""
        assert self._response is not None, "a reply ends with an answer or with an error"
        if self.record.committed and self._is_open():
            try:
                async with asyncio.timeout(self._stall_left):
                    await self._response.write_eof()
            except TimeoutError:
                self.record.outcome = ClientStalled.code
                self._cut(flush_s=0)
        return self._response

    async def fail(self, error: DmapError) -> None:
        """
        Raise *error* again while it can still have its status; else write it as an event, and cut.

        A cut is never a clean end: no last chunk, fewer bytes than announced, or a reset (HTTP/1.0).
        """
        if not self.record.committed:
            raise error
        self.record.outcome, self.record.reason = error.code, error.message
        if self.told is not None:
            self.record.outcome, self.record.reason = "backend_error", self.told
        if not self._is_open():
            return
        if self._sse and self.told is None:
            await self._insert(b"\n\n" * self.torn + error_record(error, self.dialect))
        self._cut()

    def _cut(self, flush_s: float = FLUSH_S) -> None:
        transport, loop = self._transport(), asyncio.get_running_loop()
        if self._request.version < (1, 1):
            _reset_on_close(transport)
            if transport.get_extra_info("sslcontext") is not None:
                loop.call_soon(transport.abort)  # to close would say, in TLS, that this is the end
                return
        transport.close()
        loop.call_later(flush_s, transport.abort)

    async def _insert(self, data: bytes) -> None:
        """Write what is dmap's own."""
        assert self._writer is not None, "the body comes after the head"
        await write(self._writer, data)

    def _is_open(self) -> bool:
        transport = self._request.transport
        return transport is not None and not transport.is_closing()

    def _transport(self) -> asyncio.Transport:
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the client has left")
        return transport


def _is_unkept(headers: "CIMultiDict[str]") -> bool:
    """Tell whether *headers* say that nobody is to keep the answer: its server's, or `Reply.no_store`."""
    return "no-store" in ",".join(headers.getall("Cache-Control", ())).lower()


def _both(one: Callable[[bytes], object], other: Callable[[bytes], object]) -> Callable[[bytes], None]:
    def each(data: bytes) -> None:
        one(data)
        other(data)

    return each


def _reset_on_close(transport: asyncio.Transport) -> None:
    """Have the kernel send RST instead of FIN: without a length, a plain close looks like the end."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
