"""
One TCP connection to a backend, its answers parsed by `httptools`.

A connection serves one exchange after another; each answer moves it along the line of `states`, and only
`_turn` takes a step.
It goes back to the pool only when nothing is left on it: the answer is complete and keeps the connection
alive, the request is written whole, and no byte follows the answer.  Anything else closes it in any state.

A backend may send anything, and none of it may cost much.  The bytes of a body that one read brings are
passed on in one piece, however many chunks they came in.  Whatever else a backend sends between two bytes of
the body (1xx answers, chunk extensions, trailers) is bounded, and so is the head.  After a large read the
rest of the loop has its turn before the next one.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TypeAlias, cast

import httptools

from dmap.errors import BackendBroke, DmapError, Internal, Unanswered
from dmap.relay.exchange import Exchange, Stale
from dmap.relay.states import NEXT, State

MAX_HEAD_BYTES = MAX_BESIDE_BYTES = 64 * 1024
"""The headers of an answer, and what may come without a byte of its body in between."""
STALE_S = 1.0
"""A reused connection that ends this soon and without a byte had been closed before we wrote to it."""
_LARGE_BYTES = 64 * 1024
"""After a read of this size the next one waits for its turn: libuv would read 8 MB in a row."""
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux has it

Address = tuple[str, int, bool]
"""Host, port, and whether it is TLS."""
_Callback: TypeAlias = "Callable[[BackendConnection], None]"

_log = logging.getLogger(__name__)


_BODY = State.BODY  # looked up for each chunk


class _Stop(Exception):
    """Raised in a callback to stop the parser: what follows in this read is of no interest."""


class BackendConnection(asyncio.Protocol):
    """
    One TCP connection to a backend: at most one exchange at a time, then idle in the pool.

    *give_back* is called when it can serve another exchange, *forget* when it ends while idle.
    """

    transport: asyncio.Transport

    def __init__(
        self, loop: asyncio.AbstractEventLoop, address: Address, *, give_back: _Callback, forget: _Callback
    ) -> None:
        self.address = address
        self.state = State.IDLE
        self.idle_since = 0.0
        self._loop = loop
        self._give_back, self._forget = give_back, forget
        self._exchange: Exchange | None = None
        self._is_reused = False
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # for httptools; a method in Python would cost more per chunk
        self._parser = httptools.HttpResponseParser(self)

    def write(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Write a request; its answer belongs to *exchange*."""
        self._turn(State.SENT)
        self._head_bytes = self._beside_bytes = 0
        self._exchange = exchange
        self.transport.writelines((head, body))

    def pause(self) -> None:
        """Stop reading; the backend feels it when the kernel's buffers are full."""
        self.transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self.state is not State.CLOSED:
            self.transport.resume_reading()

    def expect_much(self) -> None:
        """
        Have the kernel acknowledge bytes with those that follow, and not at each read.

        The acknowledgements were a tenth of what a chunk costs.  If no bytes follow within 40 ms, the kernel
        returns to its usual way; until then, a server with Nagle's algorithm may hold back one chunk.  See
        TCP_QUICKACK in `tcp(7)`.
        """
        if _QUICKACK is not None:
            self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _QUICKACK, 0)

    def close(self) -> None:
        """Close a connection without an exchange."""
        self._turn(State.CLOSED)
        self.transport.close()

    def abort(self) -> None:
        """Cut the connection, whatever is on it."""
        self._exchange = None
        self._turn(State.CLOSED)
        self.transport.abort()

    def _turn(self, to: State) -> None:
        assert to is State.CLOSED or to in NEXT.get(self.state, ()), f"from {self.state!r} to {to!r}"
        self.state = to

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio calls this before anything else."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse one read and pass on the bytes of the body that it brings.  The hot path."""
        exchange, pieces = self._exchange, self._pieces
        if exchange is None:  # an idle connection has nothing to say, so this is its end
            self.close()
            return
        problem: DmapError | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            problem = self._problem_of(exc)
        if pieces:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._beside_bytes = 0
            exchange.chunks += 1
            try:
                exchange.sink(body)
            except Exception:
                problem = _bug()
        else:
            self._beside_bytes += len(data)
        if problem is not None or self.state is not _BODY or self._beside_bytes:
            self._settle(exchange, problem)
        if len(data) >= _LARGE_BYTES:
            self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange.  Its answer is whole only if it lasts until the connection ends."""
        before, exchange = self.state, self._exchange
        self._exchange = None
        self._turn(State.CLOSED)
        del self._parser  # it holds this: else both wait for the garbage collector
        if exchange is None:
            self._forget(self)
            return
        at_once = self._loop.time() - exchange.sent_at < STALE_S
        unanswered = before is State.SENT and not self._beside_bytes
        cause = f": {exc}" if exc else ""
        if before is State.UNFRAMED and exc is None:
            exchange.by_eof = True
            exchange.finish()
        elif unanswered and self._is_reused and at_once:
            exchange.finish(Stale())  # the server had closed it before the request was written
        elif unanswered:
            exchange.finish(Unanswered(f"the backend closed the connection without an answer{cause}"))
        else:
            exchange.finish(BackendBroke(f"the backend closed the connection in mid-answer{cause}"))

    # What httptools calls.

    def on_message_begin(self) -> None:
        """Notice the first byte of an answer.  A second answer to one request is not looked at."""
        if self.state is State.SENT:
            self._turn(State.HEAD)
        elif self.state is not State.HEAD:  # there, the answer before was a 1xx
            self._turn(State.SPENT)
            raise _Stop

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; those after the body are trailers and are dropped."""
        exchange = self._exchange
        if self.state is not State.HEAD or exchange is None:
            return
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BackendBroke(f"the head of the backend's answer is over {MAX_HEAD_BYTES} bytes")
        exchange.headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """Take the head as that of the answer, and drop that of a 1xx."""
        exchange, status = self._exchange, self._parser.get_status_code()
        assert exchange is not None, "nothing is parsed without an exchange"
        if status < 100:
            raise BackendBroke(f"the backend's answer is not HTTP: its status is {status}")
        headers = exchange.headers
        if status < 200:
            if exchange.hear(status):
                self._beside_bytes = 0
            headers.clear()
            self._head_bytes = 0
            return
        exchange.begin(status)
        is_framed = "Content-Length" in headers or "Transfer-Encoding" in headers or status in (204, 304)
        self._turn(State.BODY if is_framed else State.UNFRAMED)

    def on_message_complete(self) -> None:
        """Note the end of the answer; `data_received` acts on it when all bytes are passed on."""
        if self.state is State.BODY:  # a 1xx completes too
            self._turn(State.COMPLETE if self._parser.should_keep_alive() else State.SPENT)

    # What becomes of it.

    def _problem_of(self, exc: Exception) -> DmapError | None:
        """Return what is wrong when the parser raised *exc*; None if the answer was whole before."""
        cause = exc.__context__ if isinstance(exc, httptools.HttpParserCallbackError) else None
        if isinstance(cause, DmapError):
            return cause
        if cause is not None and not isinstance(cause, _Stop):
            return _bug()
        if self.state >= State.COMPLETE:
            self._turn(State.SPENT)
            return None
        return BackendBroke(f"the backend's answer is not HTTP: {exc}")

    def _settle(self, exchange: Exchange, problem: DmapError | None) -> None:
        """End the exchange if it has a *problem*, or if its answer is whole."""
        if self._exchange is not exchange:
            return  # it was cut off while its bytes were passed on
        is_whole = self.state >= State.COMPLETE
        if self._beside_bytes > MAX_BESIDE_BYTES and not is_whole:
            problem = problem or BackendBroke(f"over {MAX_BESIDE_BYTES} bytes came beside the answer's body")
        if problem is not None:
            self.abort()
            exchange.finish(problem)
        elif is_whole:
            self._finish(exchange)

    def _finish(self, exchange: Exchange) -> None:
        """
        Let the exchange go, and keep the connection if nothing is left on it.

        What is not written yet is dropped: a backend that answered early may never read the rest.
        """
        self._exchange = None
        if self.transport.get_write_buffer_size() > 0:
            self.abort()
        elif self.state is State.SPENT:
            self.close()
        else:
            self._turn(State.IDLE)
            self._is_reused = True
            self.idle_since = self._loop.time()
            self.resume()
            self._give_back(self)
        exchange.finish()

    def _rest(self) -> None:
        """Read on once the loop has done what else it has to do."""
        if self.state is not State.CLOSED:
            self.transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._exchange is None or not self._exchange.is_paused:
            self.resume()


def _bug() -> Internal:
    """Log the exception that is being handled, which is our own, with its traceback."""
    _log.exception("a bug: what came from a backend could not be handled")
    return Internal("dmap failed on the backend's answer; its log tells more")
