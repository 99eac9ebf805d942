"""
One upstream answer, passed on to one client as it comes.

`run` is the whole story.  Body bytes go from the backend's read callback straight into the client's
transport; the handler only waits for the end, and for a client that reads too slowly.  The head is held
back until the first byte of the body, so that whatever goes wrong before that still has its HTTP status.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from multidict import CIMultiDict

from dmap.aiohttp_insides import nothing
from dmap.backends import Target
from dmap.errors import BackendBroke, DmapError, Relayed
from dmap.kinds import PHRASES
from dmap.record import RequestRecord
from dmap.relay import nodes
from dmap.relay.at_node import AtNode
from dmap.relay.exchange import Bounds, Exchange, Stale
from dmap.relay.pool import Pool
from dmap.relay.reply import Reply
from dmap.wire.headers import to_client
from dmap.wire.stream import StreamWatch, error_of, model_of, usage_of
from dmap.wire.verdict import decoded, failure_of, in_dialect, lacks_route

_NO_MARK = "the backend ended the stream before its end mark"


async def run(
    reply: Reply,
    pool: Pool,
    where: Callable[[], Awaitable[Target]],
    headers: list[tuple[str, str]],
    body: Callable[[], bytes],
    *,
    lease_s: float,
    method: str = "POST",
    fresh: bool = False,
    by_finish: bool = False,
    node: AtNode | None = None,
    on_answer: Callable[[str | None], None] = lambda named: None,
) -> None:
    """
    Send a request to a backend and pass its answer on; returns when the backend has nothing more to say.

    *where* returns where the request goes, and *body* what it says; *where* may raise.  Both are called again
    if the idle connection that was used had been closed: its server may have been restarted.  With *fresh* no
    idle one is used, and nothing is sent twice.  *on_answer* hears which model answers; it may raise.

    *by_finish* takes a `finish_reason` for the end of a stream that lacks `[DONE]`.  At a *node* the request
    may wait first, and what fails before it is granted may go elsewhere.  Raises a `DmapError` for whatever
    keeps the answer from being whole.  When this is cancelled, the backend is cut off at once.
    """
    bounds = Bounds(reply.server.first_byte_s, reply.server.idle_s, lease_s)

    async def ask(*, anew: bool) -> Exchange:
        sent = await pool.send(await where(), headers, body(), bounds, method=method, fresh=anew, node=node)
        return await _first(reply, sent, acts=fresh)

    try:
        begun = await ask(anew=fresh)
    except Stale:
        begun = await ask(anew=True)
    with begun as exchange:
        try:
            if node is not None and node.waits:
                await nodes.check(exchange)
            on_answer(_named(exchange))
            await _answer(reply, exchange, by_finish)
        finally:
            reply.record.chunks = exchange.chunks


async def _answer(reply: Reply, exchange: Exchange, by_finish: bool) -> None:
    """Pass the answer on, as what it is."""
    if reply.copy is not None:
        reply.copy.said = exchange.node.made_with if exchange.node is not None else ""
    if exchange.status == 200 and _kind(exchange) == "text/event-stream":
        await _stream(reply, exchange, by_finish)
    else:
        await _plain(reply, exchange)


async def _first(reply: Reply, exchange: Exchange, *, acts: bool) -> Exchange:
    """Wait for the first byte of the answer's body."""
    try:
        await reply.wait(exchange.first, lambda: exchange.place)
    except DmapError as error:
        raise nodes.verdict(exchange.node, error, acts=acts) from None
    except BaseException:
        exchange.abort()
        raise
    reply.record.first_byte_s = asyncio.get_running_loop().time() - exchange.sent_at
    if exchange.node is not None:
        nodes.note_times(exchange.node, exchange.headers, reply.record)
    return exchange


def _named(exchange: Exchange) -> str | None:
    """Return the model that the first bytes of an answer name."""
    if exchange.status != 200 or not _is_readable(exchange):
        return None
    return model_of(b"".join(exchange.held))


async def _stream(reply: Reply, exchange: Exchange, by_finish: bool) -> None:
    """Pass an event stream on and see that it came to its end mark."""
    watch, first, readable = StreamWatch(), exchange.take(), _is_readable(exchange)
    watch.keep(first)
    _refuse_start(reply, first, watch, readable)
    await reply.commit(200, _head(exchange, reply.record), sse=True)
    try:
        await _pass_on(reply, exchange, first, watch.keep, watch.look)
    finally:
        reply.torn, reply.told = watch.torn, watch.error
    reply.record.tokens_in, reply.record.tokens_out, reply.record.tokens_per_s = watch.usage()
    if watch.error:
        reply.record.outcome = "backend_error"
    if readable and not watch.ended(reply.dialect, by_finish=by_finish, by_eof=exchange.by_eof):
        raise BackendBroke(_NO_MARK)


def _refuse_start(reply: Reply, first: bytes, watch: StreamWatch, readable: bool) -> None:
    """Make a stream that begins with an error, or is empty, the error it should have been."""
    if reply.record.committed:
        if not readable:
            raise BackendBroke("the backend's stream is encoded, and comments went before it that are not")
        return
    if watch.error:
        raise Relayed(watch.error, status=502, code="backend_error")
    if not first and readable and not watch.ended(reply.dialect):
        raise BackendBroke(_NO_MARK)


async def _plain(reply: Reply, exchange: Exchange) -> None:
    """Pass a plain answer on: judged first if it can be held whole, else as it comes."""
    await exchange.halted.wait()
    _raise_if_broken(exchange)
    first, readable = exchange.take(), _is_readable(exchange)
    if not exchange.is_paused:
        _judge(reply, exchange, first)
        return
    failure = failure_of(exchange.status, "", first if readable else b"", None, PHRASES)
    if failure is not None:
        raise failure
    _refuse_plain(reply, exchange)
    length = exchange.headers.get("Content-Length")
    await reply.commit(
        exchange.status, _head(exchange, reply.record), length=int(length) if length else None, sse=False
    )
    last = deque([first], maxlen=1)
    await _pass_on(reply, exchange, first, last.append, nothing)
    if exchange.by_eof and readable and "json" in _kind(exchange) and last[0].rstrip()[-1:] not in b"}]":
        raise BackendBroke("the backend's answer is cut short: it is no whole JSON")


def _judge(reply: Reply, exchange: Exchange, body: bytes) -> None:
    """Keep a whole body for the client, unless what it says is a failure."""
    kind = exchange.headers.get("Content-Type", "")
    is_kept = reply.record.method == "GET" and exchange.status < 300  # a client's file, say: of any kind
    readable = _is_readable(exchange) and not is_kept
    payload = decoded(kind, body) if readable else None
    failure = failure_of(exchange.status, kind if readable else "", body, payload, PHRASES)
    reply.record.lacks_route = readable and lacks_route(exchange.status, payload, body)
    if isinstance(failure, Relayed) and not readable:
        failure = None
    if failure is None and exchange.status < 400:
        _refuse_plain(reply, exchange)
    elif failure is None and reply.record.committed:
        reason = error_of(payload) or "no reason given"
        failure = Relayed(reason, status=exchange.status, code="backend_error")
    if failure is not None:
        raise failure
    reply.record.tokens_in, reply.record.tokens_out, reply.record.tokens_per_s = usage_of(payload)
    body = in_dialect(reply.dialect, payload, body) if exchange.status >= 400 else body
    reply.keep(exchange.status, _head(exchange, reply.record), body)


def _refuse_plain(reply: Reply, exchange: Exchange) -> None:
    """Refuse a plain answer to a request for a stream: clients would read no event and think it empty."""
    if reply.streams and exchange.status < 400:
        raise BackendBroke(f"the backend answered {_kind(exchange) or 'nothing'} to a request for a stream")


def _is_readable(exchange: Exchange) -> bool:
    return exchange.headers.get("Content-Encoding", "identity") == "identity"


def _kind(exchange: Exchange) -> str:
    return (exchange.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _head(exchange: Exchange, record: RequestRecord) -> "CIMultiDict[str]":
    headers = to_client(exchange.headers)
    first_byte_s = record.first_byte_s or 0.0
    headers["Server-Timing"] = (
        f"queue;dur={1000 * record.queue_s:.1f}, switch;dur={1000 * record.switch_s:.1f}, "
        f"first_byte;dur={1000 * first_byte_s:.1f}"
    )
    if record.hop_s is not None:
        until_now_s = asyncio.get_running_loop().time() - record.arrived_at
        route_s = max(0.0, until_now_s - record.queue_s - first_byte_s - record.hop_s)
        headers["Server-Timing"] += f", route;dur={1000 * route_s:.1f}, hop;dur={1000 * record.hop_s:.1f}"
    return headers


async def _pass_on(
    reply: Reply,
    exchange: Exchange,
    first: bytes,
    keep: Callable[[bytes], object],
    look: Callable[[], None],
) -> None:
    """Push *first* and what follows it, at the client's pace; *keep* and *look* are as in `Reply.pusher`."""
    await reply.write(first)
    exchange.sink = reply.pusher(keep, look)
    for data in exchange.held:
        exchange.sink(data)
    exchange.expect_much()
    with reply.when_full(exchange.pause):
        while not exchange.ended:
            if exchange.is_paused:
                await _drain(reply, exchange)
                exchange.resume()
            await exchange.halted.wait()
    _raise_if_broken(exchange)


async def _drain(reply: Reply, exchange: Exchange) -> None:
    """Wait for the client, but for no longer than the model is this request's."""
    try:
        async with asyncio.timeout_at(exchange.sent_at + exchange.bounds.lease_s):
            await reply.drain()
    except TimeoutError:
        exchange.look(asyncio.get_running_loop().time())


def _raise_if_broken(exchange: Exchange) -> None:
    if exchange.broken is not None:
        raise exchange.broken
