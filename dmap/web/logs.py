"""What the engines write: for whoever looks why a model does not load, or what its server does."""

import re

from aiohttp import web

from dmap.errors import BadRequest, ModelNotFound
from dmap.models import ModelKey
from dmap.process import Log
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit

_NUMBER = re.compile(r"[0-9]{1,18}")


async def log(proxy: Proxy, visit: Visit) -> web.Response:
    """
    `GET /debug/logs/{model}`: the last lines of its server, the oldest first; with `?after=` those after one.

    `last` is the number of the last line, for the next `?after=`.  Raises `BadRequest`, and `ModelNotFound`
    also for a model whose server dmap has not started.
    """
    if unknown := sorted(set(visit.request.query) - {"after"}):
        raise BadRequest(f"no such parameter: {unknown[0][:64]!r}", param=unknown[0][:64])
    asked = visit.request.query.get("after", "0")
    if not _NUMBER.fullmatch(asked):
        raise BadRequest(f"not the number of a line: {asked[:64]!r}", param="after")
    key, kept = _log_of(proxy, visit.named)
    after = int(asked) if int(asked) <= kept.last else 0  # a number that is yet to come is of another log
    return web.json_response({**key.told, "last": kept.last, "lines": kept.since(after)})


def _log_of(proxy: Proxy, name: str) -> tuple[ModelKey, Log]:
    key = proxy.catalog.key_of(name)
    if key is None:
        raise ModelNotFound(f"the model {name[:256]!r} does not exist", param="model")
    switcher = proxy.switchers.get(key.backend)
    kept = switcher.log(key.model) if switcher is not None else None
    if kept is None:
        raise ModelNotFound(
            f"there is no log of {str(key)!r}: dmap has not started its server", param="model"
        )
    return key, kept
