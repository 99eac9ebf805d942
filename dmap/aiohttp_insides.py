"""
All that dmap uses of aiohttp beyond its documented interface.

Each use is one function or one method here, with its reason, and has a test of its own in
`tests/test_aiohttp_insides.py`: after an upgrade of aiohttp these are what to look at.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_writer import StreamWriter

from dmap.errors import BadRequest
from dmap.logfmt import Line
from dmap.wire.headers import request_id
from dmap.wire.trace import Trace

BODY_ERRORS = (web.RequestPayloadError, aiohttp.ClientPayloadError)
"""What reading a body raises when it does not arrive whole: its server raises the client's error too."""

LINGER_S = 2.0
"""How long a client that still sends may take to read why it was refused (RFC 9112 section 9.6)."""
LINGER_BYTES = 256 * 1024
"""How much of an unwanted body is read and dropped meanwhile; Go's server has the same bound."""

BUFFER_BYTES = 16 * 1024
"""
How much of a body is parsed before it is read: up to twice this, in a 16th as many chunks.

Each chunk costs some 3 us, however short it is, and one read of the socket may bring 40,000.
"""

_log = logging.getLogger("dmap.connection")

_OPTIONS: dict[str, Any] = {
    "access_log": None,
    # An encoded body is refused (`web/app.py`), and unpacking it would take the loop before that.
    "auto_decompress": False,
    "keepalive_timeout": 75.0,
    # `ClientConnection` lingers itself: aiohttp bounds the time but not the bytes.
    "lingering_time": 0.0,
    "max_field_size": 32 * 1024,
    "max_headers": 100,
    "read_bufsize": BUFFER_BYTES,
}


def nothing() -> None:
    """Do nothing, where there is nobody who has to know."""


class ClientConnection(web.RequestHandler):
    """
    One client's connection with *server*.

    *on_full* is called whenever the client's buffer has passed its limit, within the write that did it, and
    when the connection has ended: uvloop raises at a write that comes before the handler is cancelled.
    It has dmap's words for what is no HTTP.  That is a client's doing, so it is one line in the log and never
    a traceback.
    """

    __slots__ = ("_server", "on_full")

    def __init__(self, server: "HttpServer") -> None:
        super().__init__(server, loop=server.loop, **_OPTIONS)
        self._server = server
        self.on_full: Callable[[], None] = nothing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Wait for a request, idle.

        A client of IPv4 on a socket of both families is at its address of IPv4 (RFC 4291).
        """
        super().connection_made(transport)
        peer: Any = self.peername
        if peer and "." in peer[0]:
            self._cache["peername"] = (peer[0].removeprefix("::ffff:"), *peer[1:])
        self._server.idle[self] = self._server.loop.time()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what is under way on it."""
        self._server.idle.pop(self, None)
        super().connection_lost(exc)
        self.on_full()

    def pause_writing(self) -> None:
        """Note that the buffer is full, and say so; the transport calls this."""
        super().pause_writing()
        self.on_full()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on if reading was paused; aiohttp would have it resumed for each piece that is read."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a broken request in OpenAI's shape; a client that has left gets no answer."""
        if isinstance(exc, ConnectionError):
            raise exc  # which ends the connection without a word
        if not isinstance(exc, HttpProcessingError) or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        # Never aiohttp's own words: they quote the bytes, and so the key in a broken header.
        return _refusal(request, f"the request is not HTTP as dmap reads it ({type(exc).__name__})")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send *resp*; end the connection if the body was not read."""
        is_unread = not request.content.is_eof()
        if is_unread:
            resp.force_close()
        outcome = await super().finish_response(request, resp, start_time)
        if is_unread:
            await self._linger(request.content)
        if self.transport is not None:
            self._server.idle[self] = self._server.loop.time()
        return outcome

    async def _linger(self, body: aiohttp.StreamReader) -> None:
        """Drop a little of *body*: a connection that is closed with bytes unread takes the answer with it."""
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while left > 0 and not body.is_eof():
                    left -= len(await read_some(body))
                if left <= 0 and self.transport is not None:
                    self.transport.pause_reading()
                    await asyncio.sleep(LINGER_S)
        except (TimeoutError, *BODY_ERRORS):
            return


class Request(web.BaseRequest):
    """
    A request with an *id* and perhaps a *trace*, whose response is *signed* just before its head is written.

    `web.Application` has a signal for that.  It is not used: its router, middlewares and signals take as
    long as all the rest of aiohttp.
    """

    id: str
    trace: Trace | None = None
    signed: "Callable[[Request, web.StreamResponse], None]"

    @property
    def keep_alive(self) -> bool:
        """
        Whether the connection goes on after this request; after one in chunks it does not.

        aiohttp's parser takes the last field behind the last chunk (RFC 9112 section 7.1.2) for the first
        header of the next request.  Where a proxy shares a connection, that may be another client's.
        """
        return not (self._message.should_close or self._message.chunked)

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        self.signed(self, response)


class HttpServer(web.Server):
    """
    Has *answer* answer each request, and *sign* put its headers on each response.

    It is called to make the protocol of a connection.  *idle* has the connections on which no request is
    under way, each with the time since when, the one idle for longest first.  A request is under way from
    the end of its head to the end of its answer.
    """

    def __init__(
        self,
        answer: Callable[["Request"], Awaitable[web.StreamResponse]],
        sign: Callable[["Request", web.StreamResponse], None],
    ) -> None:
        make: Any = self._request
        super().__init__(answer, request_factory=make, handler_cancellation=True)  # type: ignore[arg-type]
        self.loop = asyncio.get_running_loop()
        self.idle: dict[ClientConnection, float] = {}
        self._sign = sign

    def __call__(self) -> ClientConnection:
        """Return the protocol of one more connection."""
        return ClientConnection(self)

    def __len__(self) -> int:
        """Return how many connections there are; their public list is made anew each time."""
        return len(self._connections)

    def cut_idle(self, most: int, idle_s: float) -> None:
        """Cut up to *most* connections that have been idle for *idle_s*, beginning with the longest idle."""
        until = self.loop.time() - idle_s
        for connection, since in list(itertools.islice(self.idle.items(), most)):
            if since <= until and connection.transport is not None:
                connection.transport.abort()

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Request:
        self.idle.pop(protocol, None)
        made = Request(message, payload, protocol, writer, task, self.loop)
        made.id, made.signed = request_id(message.headers), self._sign
        return made


async def read_some(body: aiohttp.StreamReader) -> bytes:
    """
    Wait for more of *body* and return it, nothing at its end.

    The loop has its turn first.  aiohttp's reader does not wait while anything is left of what one read of
    the socket brought, which is parsed as it is read.
    """
    await asyncio.sleep(0)
    return await body.readany()


async def ask_for_body(request: web.BaseRequest) -> None:
    """
    Send `100 Continue` (RFC 9110 section 10.1.1).

    """
    await write_before(request, b"HTTP/1.1 100 Continue\r\n\r\n")


async def write_before(request: web.BaseRequest, head: bytes) -> None:
    """
    Send *head*, that of an answer in between (1xx), before the answer to *request*; wait for nobody.

    aiohttp counts these bytes as the head of the answer, and would then tell no error, so its count begins
    anew.
    """
    await write(request.writer, head)
    request.writer.output_size = 0


class Beginning(web.StreamResponse):
    """A response whose head goes out with the first bytes of its body: one packet where aiohttp sends two."""

    _send_headers_immediately = False


async def write(writer: AbstractStreamWriter, data: bytes) -> None:
    """Write *data* in the framing of *writer*, behind a head that is not out yet, and wait for nobody."""
    await cast(StreamWriter, writer).write(data, drain=False)


def _refusal(request: web.BaseRequest, words: str) -> web.Response:
    """Refuse what the application does not get to see, and end its connection."""
    assert isinstance(request, Request), "the server makes no others"
    refusal = BadRequest(words)
    _log.info(Line("bad_http", {"id": request.id, "client": request.remote, "reason": words}))
    response = web.json_response(refusal.body(), status=refusal.status)
    response.force_close()
    return response
