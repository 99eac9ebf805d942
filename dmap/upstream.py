"""
The client side of the relay: pooled raw connections to backends, parsed by `httptools`.

Bytes of a body are pushed into a callable as they arrive, in the loop's read callback: no task wakes up
for a chunk.  What an answer means is not this module's business; see `relay`, its counterpart.

An exchange is one request and its answer.  It owns its connection until the answer is complete, and the
connection goes back to the pool only when nothing is left on it: the answer complete and keep-alive, the
request written whole, no byte after the end.  Anything else closes it.
"""

import asyncio
import errno
import ssl
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self, cast

import httptools

from dmap.backends import Target
from dmap.errors import BackendBroke, BackendDown, BackendSlow, DmapError, LeaseExpired, Overloaded
from dmap.sweep import Sweep

__all__ = ["Bounds", "Exchange", "Pool", "Stale"]

MAX_HEAD_BYTES = 64 * 1024
MAX_IDLE_S = 3.5
"""LM Studio and llama-server close an idle connection after 5 s (`Keep-Alive: timeout=5`)."""
MAX_IDLE = 64
"""Idle connections kept per backend address."""
STALE_S = 1.0
"""A reused connection that ends this soon and without a byte had been closed before we wrote to it."""
_LOOKS = 8
"""An exchange is looked at this often per bound; silence is then noticed at most a quarter late."""

_Address = tuple[str, int, bool]


class Stale(Exception):
    """The server had closed the idle connection that was reused: it saw nothing of the request."""


class Bounds(NamedTuple):
    """How long an answer may take, in seconds: until its first byte, without a byte after it, and in all."""

    first_byte_s: float
    idle_s: float
    lease_s: float


class Pool:
    """
    The idle connections to all backends, and the exchanges under way; make it inside the loop that runs it.

    *connect_s* bounds each attempt to open a new connection.
    """

    def __init__(self, *, connect_s: float) -> None:
        self.connect_s = connect_s
        self.loop = asyncio.get_running_loop()
        self.under_way: Sweep[Exchange] = Sweep(self.loop)
        self._idle: dict[_Address, deque[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def send(
        self,
        target: Target,
        headers: list[tuple[str, str]],
        body: bytes,
        bounds: Bounds,
        *,
        fresh: bool = False,
    ) -> "Exchange":
        """
        Send one POST; the exchange then owns the connection and has to be ended by `with`.

        With *fresh* no idle connection is used.  Raises `BackendDown` when no connection can be had, and
        nothing was sent then.
        """
        connection = None if fresh else self._take((target.host, target.port, target.tls))
        reused = connection is not None
        connection = connection or await self._open(target)
        exchange = Exchange(connection, self.loop, bounds)
        self.under_way.add(exchange)
        connection.write(exchange, _request_head(target, headers, len(body)), body, reused=reused)
        return exchange

    def stop(self, error: DmapError) -> None:
        """End every exchange that is under way, broken by *error*."""
        for exchange in self.under_way:
            exchange.stop(error)

    async def close(self) -> None:
        """Close every idle connection."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def _take(self, address: _Address) -> "_Connection | None":
        """Return the idle connection used last that is still fresh."""
        now, idle = self.loop.time(), self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.is_open and now - connection.idle_since < MAX_IDLE_S:
                return connection
            connection.close()
        return None

    def give_back(self, connection: "_Connection") -> None:
        """Keep *connection* for the next request; called by itself when it has nothing left to read."""
        idle = self._idle.setdefault(connection.address, deque())
        while idle and (len(idle) >= MAX_IDLE or connection.idle_since - idle[0].idle_since > MAX_IDLE_S):
            idle.popleft().close()
        idle.append(connection)

    def forget(self, connection: "_Connection") -> None:
        """Drop *connection*, which has ended; an address whose last it was is forgotten too."""
        idle = self._idle.get(connection.address)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[connection.address]

    async def _open(self, target: Target) -> "_Connection":
        address = (target.host, target.port, target.tls)
        try:
            async with asyncio.timeout(self.connect_s):
                _, connection = await self.loop.create_connection(
                    lambda: _Connection(self, address),
                    target.host,
                    target.port,
                    ssl=self._context(target.tls),
                )
        except (OSError, TimeoutError) as exc:
            if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
                raise Overloaded("dmap has no file descriptor left", retry_after_s=5) from exc
            reason = str(exc) or f"no connection within {self.connect_s:g} s"
            where = f"{target.host}:{target.port}"
            raise BackendDown(f"the backend at {where} cannot be reached: {reason}", retry_after_s=2) from exc
        return connection

    def _context(self, tls: bool) -> ssl.SSLContext | None:
        if tls and self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls if tls else None


def _request_head(target: Target, headers: list[tuple[str, str]], length: int) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = [f"POST {target.path} HTTP/1.1", f"Host: {host}:{target.port}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")  # as aiohttp decoded them


class Exchange:
    """
    One request and the answer to it.

    *first* is done when the head and the first byte of the body are here, or all of an answer without
    one; it fails with what broke the answer before that, `Stale` when the request may be sent again.
    Body bytes go to *sink*, which starts out collecting them in *held*.  *on_end* is called once, at the
    end: *broken* is then None if the answer is complete, else it may be one of the *bounds* that is over.
    A backend that is paused is not silent.
    """

    __slots__ = (
        "_connection",
        "_is_paused",
        "_seen",
        "_silent_since",
        "bounds",
        "broken",
        "by_eof",
        "chunks",
        "ended",
        "first",
        "headers",
        "held",
        "look_s",
        "named",
        "on_end",
        "sent_at",
        "sink",
        "status",
    )

    def __init__(self, connection: "_Connection", loop: asyncio.AbstractEventLoop, bounds: Bounds) -> None:
        self._connection: _Connection | None = connection
        self.first: asyncio.Future[None] = loop.create_future()
        self.bounds = bounds
        self.look_s = min(bounds) / _LOOKS
        self.sent_at = self._silent_since = loop.time()
        self._seen = 0
        self._is_paused = False
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.named: dict[str, str] = {}
        self.held: list[bytes] = []
        self.sink: Callable[[bytes], None] = self._hold
        self.chunks = 0
        self.ended = False
        self.broken: DmapError | None = None
        self.by_eof = False
        self.on_end: Callable[[], None] | None = None

    def _hold(self, data: bytes) -> None:
        self.held.append(data)
        if not self.first.done():
            self.first.set_result(None)

    def add_header(self, name: str, value: str) -> None:
        """Take the next header of the answer's head."""
        self.headers.append((name, value))
        self.named.setdefault(name.lower(), value)

    def header(self, name: str) -> str | None:
        """Return the first value of header *name*, which is given in lower case."""
        return self.named.get(name)

    def pause(self) -> None:
        """Stop reading the answer; the backend feels it when the kernel's buffers are full."""
        self._is_paused = True
        if self._connection is not None:
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        self._is_paused = False
        if self._connection is not None:
            self._connection.transport.resume_reading()

    def look(self, now: float) -> None:
        """End the answer if one of its bounds is over; for the sweep."""
        first_byte_s, idle_s, lease_s = self.bounds
        if now - self.sent_at >= lease_s:
            self.stop(LeaseExpired(f"the request held its model for {lease_s:g} s (lease_s of the device)"))
        elif not self.first.done():
            if now - self.sent_at >= first_byte_s:
                told = f"no first byte from the backend within {first_byte_s:g} s (server.first_byte_s)"
                self.stop(BackendSlow(told))
        elif self._is_paused or self._seen != self.chunks:
            self._seen, self._silent_since = self.chunks, now
        elif now - self._silent_since >= idle_s:
            self.stop(BackendSlow(f"silence from the backend for {idle_s:g} s (server.idle_s)"))

    def finish(self, broken: DmapError | Stale | None = None) -> None:
        """Mark the answer complete, or *broken*; called by the connection."""
        self._release()
        self.broken = broken if isinstance(broken, DmapError) else None
        if not self.first.done():
            self.first.set_exception(broken) if broken else self.first.set_result(None)
            self.first.exception()  # whoever waits may be cancelled before it looks
        if self.on_end is not None:
            self.on_end()

    def stop(self, error: DmapError) -> None:
        """End the answer here if it is not complete, broken by *error*."""
        if not self.ended:
            self.abort()
            self.finish(error)

    def abort(self) -> None:
        """Cut the connection if the answer is not complete: that makes the backend stop generating."""
        connection = self._release()
        if connection is not None:
            connection.abort()

    def _release(self) -> "_Connection | None":
        connection, self._connection = self._connection, None
        self.ended = True
        if connection is not None:
            connection.pool.under_way.discard(self)
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
        # Both lead back here: broken up, all that the request held is freed now and not by the collector.
        self.sink, self.on_end = _drop, None


class _Connection(asyncio.Protocol):
    """One TCP connection to a backend: at most one exchange at a time, then idle in the pool."""

    transport: asyncio.Transport

    def __init__(self, pool: Pool, address: _Address) -> None:
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
                self._exchange.sink = _drop

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


def _drop(data: bytes) -> None:
    pass
