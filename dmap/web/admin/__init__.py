"""
The admin API: load, unload and activate models, look at the queue, drain devices, reload.

It goes through the arbiter like everybody else.  What it sets is in effect at once and, when the answer is
sent, on the disk (`state`).  Scope `admin`; every change is a POST.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from dmap.config import ConfigProblem
from dmap.errors import Invalid, NotBuilt
from dmap.web.admin import devices, models, queue
from dmap.web.admin.orders import Nothing, note, read_order
from dmap.web.proxy import PROXY

__all__ = ["add_routes"]


def add_routes(app: web.Application, on_expect: Callable[[web.Request], Awaitable[None]]) -> None:
    """Put the admin API under /admin; *on_expect* is asked when a client waits for `100 Continue`."""
    app.router.add_get("/admin/models", models.models)
    app.router.add_get("/admin/queue", queue.queue)
    app.router.add_post("/admin/models/load", models.load, expect_handler=on_expect)
    app.router.add_post("/admin/models/unload", models.unload, expect_handler=on_expect)
    app.router.add_post("/admin/models/activate", models.activate, expect_handler=on_expect)
    app.router.add_post("/admin/queue/{id}/cancel", queue.cancel, expect_handler=on_expect)
    app.router.add_post("/admin/drain", devices.drain, expect_handler=on_expect)
    app.router.add_post("/admin/resume", devices.resume, expect_handler=on_expect)
    app.router.add_post("/admin/reload", reload, expect_handler=on_expect)


async def reload(request: web.Request) -> web.Response:
    """`POST /admin/reload`: read the file again, as SIGHUP does; a file that is wrong changes nothing."""
    await read_order(request, Nothing)
    read_again: Callable[[], None] | None = request.app[PROXY].reload
    if read_again is None:
        raise NotBuilt("this dmap was not started from a file")
    try:
        read_again()
    except ConfigProblem as exc:
        raise Invalid(exc.problems) from exc
    note(request, "reload")
    return web.json_response({"status": "reloaded"})
