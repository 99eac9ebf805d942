"""
What a node tells a front that asks for others: how it stands, that a request waits, that it has its model.

Such answers in between go to fronts and to nobody else.  Comments in a stream go to all but them: a comment
commits to an answer, and the front could send the request nowhere else.  `wire.hop` has what is said.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web

from dmap.aiohttp_insides import write_before
from dmap.errors import BadRequest, Misdirected
from dmap.models import Route
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit
from dmap.wire import hop
from dmap.wire.view import written


def take_hop(visit: Visit) -> None:
    """Take the client of *visit* for whom it says that it asks, if it is a front and does."""
    if not visit.client.is_front:
        return
    asks = hop.hop_of(visit.request.headers)
    if asks is not None:
        if visit.request.version < (1, 1):
            raise BadRequest("a front speaks HTTP/1.1, which has answers in between")
        visit.hop, visit.client = asks, visit.client.asking_for(asks)


def refuse_another_hop(proxy: Proxy, visit: Visit, route: Route) -> None:
    """Refuse a front a *route* to yet another box: two that have each other as nodes would ask for ever."""
    if visit.hop is not None and proxy.config.kind_of(route.key.backend).forwards:
        raise Misdirected(f"{route.key.model!r} is at other boxes only, and a request makes one hop")


async def view(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /node/view`: how this dmap stands, for a front; its models only if `?tag=` is not theirs."""
    known = visit.request.query.get("tag", "")
    body = written(proxy.views.of(visit.client, known))
    return web.Response(body=body, content_type="application/json")


async def wait(visit: Visit, future: "asyncio.Future[None]", words: Callable[[], str]) -> None:
    """Wait for *future*; tell the front of *visit* so in *words*, every `PLACE_S`."""
    while not (await asyncio.wait({future}, timeout=hop.PLACE_S))[0]:
        await write_before(visit.request, hop.waits(words()))
    await future


async def tell_granted(visit: Visit) -> None:
    """Tell the front of *visit* that it has its model: from now on the request must go nowhere else."""
    await write_before(visit.request, hop.granted(visit.record.device or visit.record.backend))
