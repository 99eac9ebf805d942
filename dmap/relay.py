"""
One upstream answer, passed on to one client as it comes.

`run` is the whole story.  Body bytes go from the backend's read callback straight into the client's
transport; the handler only waits, in a `_Pump`, for the end, for silence, and for a client that reads too
slowly.  The head is held back until the first byte of the body, so that whatever goes wrong before that
still has its HTTP status.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from multidict import CIMultiDict

from dmap.backends import Target
from dmap.errors import BackendBroke, BackendSlow, LeaseExpired, Relayed
from dmap.reply import Reply
from dmap.trip import Trip
from dmap.upstream import Exchange, Pool, Stale
from dmap.wire.headers import to_client
from dmap.wire.stream import Tail, error_of, model_of, usage_of
from dmap.wire.verdict import decoded, failure_of

__all__ = ["run"]

HOLD_BYTES = 64 * 1024
"""A plain body up to this size is judged before it is passed on; a larger one goes on as it comes."""
_NO_MARK = "the backend ended the stream before its end mark"
_IDLE_LOOKS = 4
"""Silence is looked for this often per `idle_s`, so it is noticed at most a quarter late."""


async def run(
    reply: Reply,
    pool: Pool,
    target: Target,
    headers: list[tuple[str, str]],
    body: bytes,
    *,
    lease_s: float,
    by_finish: bool = False,
    is_meant: Callable[[str], bool] | None = None,
) -> None:
    """
    Send a request to a backend and pass its answer on; returns when the backend has nothing more to say.

    *is_meant*, if given, tells whether a model that the answer names is the one that was asked.
    *by_finish* takes a `finish_reason` for the end of a stream that lacks `[DONE]`.  Raises a `DmapError`
    for whatever keeps the answer from being whole; when cancelled, the backend is cut off at once.
    """
    try:
        async with asyncio.timeout(lease_s), await _ask(reply, pool, target, headers, body) as exchange:
            if is_meant is not None:
                _refuse_other_model(exchange, is_meant)
            if exchange.status == 200 and _kind(exchange) == "text/event-stream":
                await _stream(reply, exchange, by_finish)
            else:
                await _plain(reply, exchange)
    except TimeoutError as exc:
        raise LeaseExpired(f"the request held its model for {lease_s:g} s (lease_s of the device)") from exc


async def _ask(
    reply: Reply, pool: Pool, target: Target, headers: list[tuple[str, str]], body: bytes
) -> Exchange:
    """Send the request and wait for the first byte of the answer's body."""
    try:
        return await _first(reply, await pool.send(target, headers, body))
    except Stale:
        return await _first(reply, await pool.send(target, headers, body, fresh=True))


async def _first(reply: Reply, exchange: Exchange) -> Exchange:
    loop, bound = asyncio.get_running_loop(), reply.server.first_byte_s
    slow = BackendSlow(f"no first byte from the backend within {bound:g} s (server.first_byte_s)")
    limit, started = loop.call_later(bound, exchange.stop, slow), loop.time()
    try:
        await reply.wait(exchange.first, "waiting for the first token")
    except BaseException:
        exchange.abort()
        raise
    finally:
        limit.cancel()
    reply.trip.first_byte_s = loop.time() - started
    return exchange


def _refuse_other_model(exchange: Exchange, is_meant: Callable[[str], bool]) -> None:
    """Refuse another model's answer: LM Studio has one that is alone answer to any name (#366, #619)."""
    named = model_of(b"".join(exchange.held)) if exchange.status == 200 and _is_readable(exchange) else None
    if named is not None and not is_meant(named):
        raise BackendBroke(f"the backend had {named[:256]!r} answer instead of the model that was asked")


async def _stream(reply: Reply, exchange: Exchange, by_finish: bool) -> None:
    """Pass an event stream on and see that it came to its end mark."""
    tail = Tail()
    readable = _is_readable(exchange)
    _refuse_start(reply, exchange, readable)
    await reply.commit(200, _head(exchange, reply.trip), sse=True)
    try:
        await _Pump(reply, exchange).pass_on(tail.feed)
    finally:
        reply.torn = tail.torn
    reply.trip.tokens_in, reply.trip.tokens_out = tail.tokens()
    if tail.error:
        reply.trip.outcome = "backend_error"
    if readable and not tail.ended(reply.dialect, by_finish=by_finish):
        raise BackendBroke(_NO_MARK)


def _refuse_start(reply: Reply, exchange: Exchange, readable: bool) -> None:
    """Make a stream that begins with an error, or is empty, the error it should have been."""
    if reply.trip.committed:
        if not readable:
            raise BackendBroke("the backend's stream is encoded, and comments went before it that are not")
        return
    first = Tail()
    first.feed(b"".join(exchange.held))
    if first.error:
        raise Relayed(first.error, status=502, code="backend_error")
    if not exchange.held and readable and not first.ended(reply.dialect):
        raise BackendBroke(_NO_MARK)


async def _plain(reply: Reply, exchange: Exchange) -> None:
    """Pass a plain answer on: judged first if it is small, else as it comes."""
    pump = _Pump(reply, exchange)
    if await pump.collect(HOLD_BYTES):
        _judge(reply, exchange, b"".join(exchange.held))
        return
    readable = _is_readable(exchange)
    failure = failure_of(exchange.status, "", b"".join(exchange.held) if readable else b"", None)
    if failure is not None:
        raise failure
    _refuse_plain(reply, exchange)
    length = exchange.header("content-length")
    await reply.commit(
        exchange.status, _head(exchange, reply.trip), length=int(length) if length else None, sse=False
    )
    last: deque[bytes] = deque(maxlen=1)
    await pump.pass_on(last.append)
    if exchange.by_eof and readable and "json" in _kind(exchange) and last[0].rstrip()[-1:] not in b"}]":
        raise BackendBroke("the backend's answer is cut short: it is no whole JSON")


def _judge(reply: Reply, exchange: Exchange, body: bytes) -> None:
    """Keep a whole body for the client, unless what it says is a failure."""
    kind = exchange.header("content-type") or ""
    readable = _is_readable(exchange)
    payload = decoded(kind, body) if readable else None
    failure = failure_of(exchange.status, kind if readable else "", body, payload)
    if isinstance(failure, Relayed) and not readable:
        failure = None
    if failure is None and exchange.status < 400:
        _refuse_plain(reply, exchange)
    elif failure is None and reply.trip.committed:
        failure = Relayed(
            error_of(payload) or "no reason given", status=exchange.status, code="backend_error"
        )
    if failure is not None:
        raise failure
    reply.trip.tokens_in, reply.trip.tokens_out = usage_of(payload)
    reply.keep(exchange.status, _head(exchange, reply.trip), body)


def _refuse_plain(reply: Reply, exchange: Exchange) -> None:
    """Refuse a plain answer to a request for a stream: clients would read no event and think it empty."""
    if reply.beats and exchange.status < 400:
        raise BackendBroke(f"the backend answered {_kind(exchange) or 'nothing'} to a request for a stream")


def _is_readable(exchange: Exchange) -> bool:
    return exchange.header("content-encoding") in (None, "identity")


def _kind(exchange: Exchange) -> str:
    return (exchange.header("content-type") or "").partition(";")[0].strip().lower()


def _head(exchange: Exchange, trip: Trip) -> "CIMultiDict[str]":
    headers = to_client(exchange.headers)
    headers["Server-Timing"] = ", ".join(
        f"{name};dur={1000 * (seconds or 0):.1f}"
        for name, seconds in (
            ("queue", trip.queue_s),
            ("switch", trip.switch_s),
            ("first_byte", trip.first_byte_s),
        )
    )
    return headers


class _Pump:
    """Moves the body of one exchange, and wakes the handler only for what needs a decision."""

    def __init__(self, reply: Reply, exchange: Exchange) -> None:
        self._reply = reply
        self._exchange = exchange
        self._turn: asyncio.Future[None] | None = None
        self._full = False
        exchange.on_end = self._nudge

    async def collect(self, limit: int) -> bool:
        """Gather the body in `held`; False when it is larger than *limit*, with the rest still to come."""
        exchange, size = self._exchange, sum(map(len, self._exchange.held))

        def gather(data: bytes) -> None:
            nonlocal size
            size += len(data)
            exchange.held.append(data)
            if size > limit:
                self._fill()

        exchange.sink = gather
        await self._until(lambda: exchange.ended or size > limit)
        return self._ended_whole() and size <= limit

    async def pass_on(self, watch: Callable[[bytes], None]) -> None:
        """Push what was held and all that follows to the client, at the client's pace."""
        exchange = self._exchange
        push = exchange.sink = self._reply.pusher(watch, self._fill)
        for data in exchange.held:
            push(data)
        exchange.held.clear()
        while not exchange.ended:
            if self._full:
                await self._reply.drain()
                self._full = False
                exchange.resume()
            await self._until(lambda: exchange.ended or self._full)
        self._ended_whole()

    def _ended_whole(self) -> bool:
        if self._exchange.broken is not None:
            raise self._exchange.broken
        return self._exchange.ended

    def _fill(self) -> None:
        """Stop the backend until the client, or the handler, has caught up."""
        if not self._full:
            self._full = True
            self._exchange.pause()
            self._nudge()

    def _nudge(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def _until(self, ready: Callable[[], bool]) -> None:
        """Wait until *ready*; end the exchange when no byte comes for `server.idle_s`."""
        idle_s, silent = self._reply.server.idle_s, 0
        while not ready():
            seen = self._exchange.chunks
            self._turn = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._turn}, timeout=idle_s / _IDLE_LOOKS)
            silent = silent + 1 if seen == self._exchange.chunks else 0
            if silent >= _IDLE_LOOKS:
                self._exchange.stop(BackendSlow(f"silence from the backend for {idle_s:g} s (server.idle_s)"))
