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

_OLD_HTTP = "a front speaks HTTP/1.1, which has answers in between; what is before this node speaks HTTP/1.0"


def take_hop(visit: Visit) -> None:
    """Take the client of *visit* for whom it says that it asks, if it is a front and does."""
    if not visit.client.is_front:
        return
    asks = hop.hop_of(visit.request.headers)
    if asks is not None:
        if visit.request.version < (1, 1):
            raise BadRequest(_OLD_HTTP)
        visit.hop, visit.client = asks, visit.client.asking_for(asks)


def refuse_another_hop(proxy: Proxy, visit: Visit, route: Route) -> None:
    """Refuse a front a *route* to yet another box: two that have each other as nodes would ask for ever."""
    if visit.hop is not None and proxy.config.kind_of(route.key.backend).forwards:
        raise Misdirected(f"{route.key.model!r} is at other boxes only, and a request makes one hop")


async def view(proxy: Proxy, visit: Visit) -> web.Response:
    """
    `GET /node/view`: how this dmap stands, for a front; its models only if `?tag=` is not theirs.

    With `?between=` an answer in between goes before it, for the front to see whether such answers arrive.
    """
    request, between = visit.request, "between" in visit.request.query
    if between and request.version < (1, 1):
        raise BadRequest(_OLD_HTTP)
    found = proxy.views.of(visit.client, request.query.get("tag", ""), between=between)
    if between:
        await write_before(request, hop.GO_ON)
    return web.Response(body=written(found), content_type="application/json")


async def wait(visit: Visit, future: "asyncio.Future[None]", place: Callable[[], hop.Queued]) -> None:
    """Wait for *future*; tell the front of *visit* its *place*, at once and then every `PLACE_S`."""
    while True:
        await write_before(visit.request, hop.waits(place()))
        if (await asyncio.wait({future}, timeout=hop.PLACE_S))[0]:
            return await future


async def tell_granted(visit: Visit, made_with: str) -> None:
    """Tell the front of *visit* that it has its model: from now on the request must go nowhere else."""
    device = visit.record.device or visit.record.backend
    await write_before(visit.request, hop.granted(device, made_with))
