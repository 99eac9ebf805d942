"""
What an answer means that comes from a node: whether the request may go elsewhere, and whether again.

Until a node has granted a request, nobody has begun to answer it, and it may be sent to another place; never
after.  An answer that is no refusal is a grant, too, for a middlebox may have eaten the other one.
`exchange` keeps what the node has told, `wire.hop` has the words.
"""

from dmap.errors import BackendBroke, BackendDied, DmapError, Relayed
from dmap.relay.exchange import Exchange
from dmap.wire.stream import error_of
from dmap.wire.verdict import decoded


async def check(exchange: Exchange) -> None:
    """Raise what a node refused before it granted the request, if that is a reason to go elsewhere."""
    if not exchange.waits:
        return
    await exchange.halted.wait()
    payload = decoded(exchange.headers.get("Content-Type", ""), exchange.take())
    told = payload.get("error") if isinstance(payload, dict) else None
    code = told.get("code") if isinstance(told, dict) else None
    kind = told.get("type") if isinstance(told, dict) else None
    refusal = Relayed(
        error_of(payload) or f"the node refused ({exchange.status})",
        status=exchange.status,
        code=code if isinstance(code, str) else "backend_error",
        type=kind if isinstance(kind, str) else "backend_error",
    )
    after = exchange.headers.get("Retry-After", "")
    refusal.retry_after_s = int(after) if after.isdecimal() and len(after) < 4 else None
    refusal.elsewhere = True
    raise refusal


def verdict(exchange: Exchange, error: DmapError, *, acts: bool) -> DmapError:
    """
    Return what *error*, which came before the first byte of an answer, means.

    A request that was granted may have been computed, and goes nowhere else; its client may ask again, unless
    it *acts* on its server's side.
    """
    if exchange.waits:
        error.elsewhere = True
    elif exchange.node and isinstance(error, BackendBroke) and not acts:
        return BackendDied(f"the node was lost before it answered: {error.message}")
    return error
