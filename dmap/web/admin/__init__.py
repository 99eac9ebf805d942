"""
The admin API: load, unload and activate models, look at the queue, drain devices, reload.

It goes through the arbiter like everybody else.  What it sets is in effect at once and, when the answer is
sent, on the disk (`state`).  Scope `admin`; every change is a POST.
"""

from collections.abc import Callable

from aiohttp import web

from dmap.config import ConfigProblem
from dmap.errors import Invalid, NotBuilt
from dmap.web.admin import devices, models, queue
from dmap.web.admin.orders import Nothing, note, read_order
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit

__all__ = ["ROUTES"]


async def reload(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/reload`: read the file again, as SIGHUP does; a file that is wrong changes nothing."""
    await read_order(proxy, visit, Nothing)
    read_again: Callable[[], None] | None = proxy.reload
    if read_again is None:
        raise NotBuilt("this dmap was not started from a file")
    try:
        read_again()
    except ConfigProblem as exc:
        raise Invalid(exc.problems) from exc
    note(visit, "reload")
    return web.json_response({"status": "reloaded"})


ROUTES = (
    ("GET", "/admin/models", models.models),
    ("GET", "/admin/queue", queue.queue),
    ("POST", "/admin/models/load", models.load),
    ("POST", "/admin/models/unload", models.unload),
    ("POST", "/admin/models/activate", models.activate),
    ("POST", "/admin/queue/{id}/cancel", queue.cancel),
    ("POST", "/admin/drain", devices.drain),
    ("POST", "/admin/resume", devices.resume),
    ("POST", "/admin/reload", reload),
)
"""The admin API."""
