"""
What an answer means that comes from a node: whether the request may go elsewhere, and how long it took where.

Until a node has granted a request, nobody has begun to answer it, and it may be sent to another place; never
after.  An answer that is no refusal is a grant, too, for a middlebox may have eaten the other one.
`at_node` keeps what the node has told, `wire.hop` has the words.
"""

import re
from collections.abc import Mapping

from dmap.errors import (
    BackendBroke,
    BackendDied,
    BackendDown,
    BodyTooLarge,
    Cancelled,
    ContextExceeded,
    DmapError,
    Drained,
    LoadFailed,
    Misdirected,
    ModelNotFound,
    Overloaded,
    PathNotFound,
    Relayed,
    ShuttingDown,
    WaitExpired,
)
from dmap.record import RequestRecord
from dmap.relay.at_node import AtNode
from dmap.relay.exchange import Exchange
from dmap.wire.stream import error_of
from dmap.wire.verdict import decoded

_ABOUT_NODES = (BackendDown, BodyTooLarge, ContextExceeded, Drained, LoadFailed, Misdirected, ModelNotFound)
_ELSEWHERE = frozenset(each.code for each in (*_ABOUT_NODES, Overloaded, PathNotFound, ShuttingDown))
"""The codes of refusals that are about the node: another one may take the request."""
_OVER = (WaitExpired.code, Cancelled.code)
"""Those that hold wherever it goes: it has waited as long as it may, or somebody has ended it."""
_REFUSALS = (421, 429, 503)
"""What a node says of itself, not of the request, whatever the words."""
_KEYLESS = (401, 403)
_BETWEEN = (502, 504)
"""What a server between front and node says when it does not reach that."""
_PART = re.compile(r"(queue|switch|first_byte);dur=([0-9.]{1,12})(?:, |$)")


async def check(exchange: Exchange) -> None:
    """Raise what a node refused while the request *waits* there, if that is a reason to go elsewhere."""
    if exchange.status < 400:
        return
    await exchange.halted.wait()
    refusal = _refusal(exchange, decoded(exchange.headers.get("Content-Type", ""), b"".join(exchange.held)))
    if refusal is not None:
        refusal.elsewhere = True
        raise refusal


def _refusal(exchange: Exchange, payload: object) -> DmapError | None:
    """Return the refusal that *payload* tells if another node may take the request."""
    told = payload.get("error") if isinstance(payload, dict) else None
    told, status = told if isinstance(told, dict) else {}, exchange.status
    code, kind = told.get("code"), told.get("type")
    if status in _KEYLESS:
        return BackendDown("a node refuses the key or the address of this front", retry_after_s=2)
    if code in _OVER or (code not in _ELSEWHERE and status not in (*_REFUSALS, *_BETWEEN)):
        return None
    if status in _BETWEEN and code not in _ELSEWHERE:
        is_dmap = isinstance(payload, dict) and payload.get("src") == "dmap"
        away = f"a node cannot be reached: what is before it says {status}"
        return None if is_dmap else BackendDown(away, retry_after_s=2)
    words, named = error_of(payload) or f"the node refused ({status})", isinstance(code, str)
    refusal = Relayed(words, status=status, code=str(code) if named else "backend_error")
    refusal.type = kind if isinstance(kind, str) else refusal.type
    refusal.param = told.get("param") if isinstance(told.get("param"), str) else None
    after, retry = exchange.headers.get("Retry-After", ""), exchange.headers.get("x-should-retry")
    refusal.retry_after_s = int(after) if after.isdecimal() and len(after) < 4 else None
    refusal.should_retry = None if retry is None else retry == "true"
    return refusal


def verdict(node: AtNode | None, error: DmapError, *, acts: bool) -> DmapError:
    """
    Return what *error*, which came before the first byte of an answer, means if it comes from a *node*.

    A request that was granted may have been computed, and goes nowhere else; its client may ask again, unless
    it *acts* on its server's side.
    """
    if node is None:
        return error
    if node.waits:
        error.elsewhere = True
    elif isinstance(error, BackendBroke) and not acts:
        return BackendDied(f"the node was lost before it answered: {error.message}")
    return error


def note_times(node: AtNode, headers: Mapping[str, str], record: RequestRecord) -> None:
    """
    Note how the time to the first byte was spent at the *node*, as its *headers* say, and what the hop added.

    Nothing is noted where the node did not say it, or somebody on the way has dropped that.
    """
    told = dict(_PART.findall(headers.get("Server-Timing", "")))
    if record.first_byte_s is None or not told.keys() >= {"queue", "first_byte"}:
        return
    queue_s, switch_s, first_byte_s = (_seconds(told.get(each)) for each in ("queue", "switch", "first_byte"))
    record.hop_s = max(0.0, node.waited_s + record.first_byte_s - queue_s - first_byte_s)
    node.waited(queue_s - node.waited_s, switch_s)
    record.first_byte_s = first_byte_s


def _seconds(milliseconds: str | None) -> float:
    try:
        return float(milliseconds or 0) / 1000
    except ValueError:
        return 0.0
