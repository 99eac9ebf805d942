"""`/admin/queue`: who waits and who is answered, and how to end it."""

import asyncio

from aiohttp import web

from dmap.errors import Cancelled, RequestNotFound
from dmap.web.admin.orders import Nothing, note, read_order
from dmap.web.proxy import Proxy, named_gates
from dmap.web.views import waiting_fields
from dmap.web.visit import Visit


async def queue(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /admin/queue`: per device and per backend without one, who waits; and all that is open."""
    now = asyncio.get_running_loop().time()
    waiting = {
        name: [waiting_fields(each) for each in gate.waiting()]
        for name, gate in named_gates(proxy.devices, proxy.passages).items()
    }
    return web.json_response({"waiting": waiting, "open": [each.fields(now) for each in proxy.visits.open()]})


async def cancel(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/queue/{id}/cancel`: end a request that waits or is answered; its client is told so."""
    await read_order(proxy, visit, Nothing)
    id = visit.named
    found = [each for each in proxy.visits.open() if each.record.id == id]
    if not found:
        raise RequestNotFound(f"no request {id[:128]!r} waits or is being answered")
    for each in found:
        each.cancel(Cancelled("the request was ended by whoever runs dmap"))
    note(visit, "cancel", id=id)
    return web.json_response({"status": "cancelled", "id": id})
