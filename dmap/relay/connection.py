"""
One TCP connection to a backend, its answers parsed by `httptools`.

It goes back to the pool only when nothing is left on it: the answer complete and keep-alive, the request
written whole, no byte after the end.  Anything else closes it.
"""

import asyncio
from typing import TYPE_CHECKING, cast

import httptools

from dmap.errors import BackendBroke, DmapError
from dmap.relay.exchange import Exchange, Stale, drop

if TYPE_CHECKING:
    from dmap.relay.pool import Pool

MAX_HEAD_BYTES = 64 * 1024
STALE_S = 1.0
"""A reused connection that ends this soon and without a byte had been closed before we wrote to it."""

Address = tuple[str, int, bool]
"""Host, port, and whether it is TLS."""


class Connection(asyncio.Protocol):
    """One TCP connection to a backend: at most one exchange at a time, then idle in the pool."""

    transport: asyncio.Transport

    def __init__(self, pool: "Pool", address: Address) -> None:
        self.address = address
        self.is_open = True
        self.idle_since = 0.0
        self.pool = pool
        self._exchange: Exchange | None = None
        self._reset(fresh=True)

    def _reset(self, *, fresh: bool) -> None:
        """Get ready for one answer.  A parser of its own, since one that saw an error is no good."""
        self._parser = httptools.HttpResponseParser(self)
        self._fresh = fresh
        self._silent = True
        self._head_bytes = 0
        self._unparsed = 0
        self._head_done = False
        self._sized = False
        self._complete = False
        self._keep_alive = False
        self._excess = False

    def write(self, exchange: Exchange, head: bytes, body: bytes, *, reused: bool) -> None:
        """Write a request; what comes back from now on is *exchange*'s."""
        if reused:
            self._reset(fresh=False)
        self._exchange = exchange
        self.transport.writelines((head, body))

    def close(self) -> None:
        """Close an idle connection."""
        self.is_open = False
        self.transport.close()

    def abort(self) -> None:
        """Cut the connection, whatever is on it."""
        self._exchange = None
        self.is_open = False
        self.transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio calls this before anything else."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came; an idle connection has nothing to say, so there it means the end."""
        if self._exchange is None:
            self.close()
            return
        self._silent = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._excess = True
            if not self._complete:
                self._fail(BackendBroke(f"the backend's answer is not HTTP: {exc.__context__ or exc}"))
        if self._complete:
            self._finish()
        elif not self._head_done:
            self._unparsed += len(data)
            self._check_head(self._unparsed)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange: well only if EOF is what delimits this answer."""
        self.is_open = False
        exchange = self._exchange
        if exchange is None:
            self.pool.forget(self)
            return
        self._exchange = None
        if self._head_done and not self._sized and exc is None:
            exchange.by_eof = True
            exchange.finish()
        elif self._silent and not self._fresh and self.pool.loop.time() - exchange.sent_at < STALE_S:
            exchange.finish(Stale())
        else:
            cause = f": {exc}" if exc else ""
            exchange.finish(BackendBroke(f"the backend closed the connection in mid-answer{cause}"))

    # What httptools calls.

    def on_message_begin(self) -> None:
        """Notice a second answer to one request, of which nothing is passed on; a 1xx before is none."""
        if self._complete:
            self._excess = True
            if self._exchange is not None:
                self._exchange.sink = drop

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; those after the body are trailers and are dropped."""
        if self._head_done or self._exchange is None:
            return
        self._head_bytes += len(name) + len(value) + 4
        self._check_head(self._head_bytes)
        self._exchange.add_header(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """Hand the head over, unless it is a 1xx."""
        exchange = self._exchange
        status = self._parser.get_status_code()
        if exchange is None or self._complete:
            return
        if 100 <= status < 200:
            exchange.headers.clear()
            exchange.named.clear()
            return
        self._head_done = True
        exchange.status = status
        named = exchange.named
        self._sized = "content-length" in named or "transfer-encoding" in named or status in (204, 304)

    def on_body(self, data: bytes) -> None:
        """Push one piece of the body.  The hot path."""
        exchange = self._exchange
        if exchange is not None:
            exchange.chunks += 1
            exchange.sink(data)

    def on_message_complete(self) -> None:
        """Note the end of the answer; `data_received` acts on it when the parser has seen all bytes."""
        if self._head_done:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()  # afterwards it speaks of the next answer

    def _check_head(self, size: int) -> None:
        if size > MAX_HEAD_BYTES:
            self._fail(BackendBroke(f"the head of the backend's answer is over {MAX_HEAD_BYTES} bytes"))

    def _fail(self, error: DmapError) -> None:
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.finish(error)

    def _finish(self) -> None:
        """
        Let the exchange go, and keep the connection if nothing is left on it.

        What is not written yet is dropped: a backend that answered early may never read the rest.
        """
        exchange = self._exchange
        if exchange is None:
            return
        self._exchange = None
        written = self.transport.get_write_buffer_size() == 0
        if self._keep_alive and written and not self._excess:
            self.idle_since = self.pool.loop.time()
            self.transport.resume_reading()
            self.pool.give_back(self)
        elif written:
            self.close()
        else:
            self.abort()
        exchange.finish()
