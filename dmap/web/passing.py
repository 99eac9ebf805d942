"""
What dmap does not know below /v1, passed on as it is to a server whose kind takes that.

Moderations, tokens, files, batches: the counterpart of `inference`, whose bounds, queue and relay it shares.
Which paths these are is `wire.passing`'s business.  Nothing is known of what such a request means.  So its
body is not translated or filled in, what may have changed something is never sent twice, and a client that
may use some models only reaches no more than the one that it names.
"""

from aiohttp import web

from dmap.errors import AccessDenied, BadRequest, PathNotFound
from dmap.kinds import kinds_that_pass_on
from dmap.models import ModelKey, Route
from dmap.web import inference
from dmap.web.asked import Asked
from dmap.web.choice import Choice
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit
from dmap.wire.body import check_permits
from dmap.wire.dialects import Dialect
from dmap.wire.passing import OF_ONE_MODEL, Query, read_query
from dmap.wire.routes import InferenceRoute


async def pass_on(proxy: Proxy, visit: Visit) -> web.StreamResponse:
    """Refuse one request for a path that dmap does not know, or pass it and its answer on."""
    request, record = visit.request, visit.record
    query = read_query(request.raw_path.partition("?")[2])
    reply = inference.reply_to(proxy, visit, _path(record.path))
    asked = await inference.read(proxy, visit, _path(record.path))
    if asked.size and record.method != "POST":
        raise BadRequest(f"{record.method} {record.path} takes no body")
    _check_reach(proxy, visit, asked, query)
    asked.acts = record.method != "GET" and record.path not in OF_ONE_MODEL
    record.stream = asked.stream

    async def check(route: Route) -> None:
        asked.check_as_is(route, visit.client.permit)
        check_permits(query.needs, route.permit | visit.client.permit, frozenset())
        asked.path = _path(record.path + query.written(route.name))
        proxy.inventory.check(route.key.backend)

    choice = Choice(proxy, visit, asked, await _routes(proxy, visit, asked, query), check)
    await choice.take()
    return await inference.answer(proxy, visit, reply, asked, choice)


def _path(path: str) -> InferenceRoute:
    return InferenceRoute(path, Dialect.PLAIN, form=True, empty=True)


def _check_reach(proxy: Proxy, visit: Visit, asked: Asked, query: Query) -> None:
    """Refuse a client that may not use every model what may reach any: a batch, say, names its own."""
    if "*" in visit.client.models and "*" in proxy.config.allow_models:
        return
    if asked.model is None or query.pairs or visit.record.path not in OF_ONE_MODEL:
        raise AccessDenied(
            f"{visit.record.path} may reach any model of its server, and this client may use some only; "
            f"it may name one as 'model' in the body of a POST to {', '.join(sorted(OF_ONE_MODEL))}"
        )


async def _routes(proxy: Proxy, visit: Visit, asked: Asked, query: Query) -> tuple[Route, ...]:
    """Return the routes of the model that the body or the query names; else that of the only server."""
    if asked.model is not None and query.model is not None:
        raise BadRequest("name the model in the body or in the query, not in both", param="model")
    named = asked.model if query.model is None else query.model
    if named is None:
        return (Route(ModelKey(_unnamed(proxy, visit.record.path), "")),)
    routes = await proxy.resolve(named, visit.client)
    key = routes[0].key  # and its copies are on backends of the same kind
    if key.backend not in proxy.passing:
        those, kind = " or ".join(kinds_that_pass_on()), proxy.config.kind_of(key.backend).name
        told = f"{visit.record.path} is passed on to servers of {those} only"
        raise PathNotFound(f"{told}; {key.model!r} is on a backend of {kind}")
    return routes


def _unnamed(proxy: Proxy, path: str) -> str:
    """Return the backend for a request that names no model: the only one, or the active model's."""
    if len(proxy.passing) == 1:
        return proxy.passing[0]
    active = proxy.catalog.key_of(proxy.saved.active) if proxy.saved.active is not None else None
    if active is None or active.backend not in proxy.passing:
        those = " or ".join(map(repr, proxy.passing))
        raise BadRequest(
            f"{path} may be meant for {those}: name a model there, as 'model' in the body or the query",
            param="model",
        )
    return active.backend
