"""The lists of models, in OpenAI's form and in LM Studio's, over all backends."""

from aiohttp import web

from dmap.catalog import Shown, as_openai, v0, v1
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit


async def models(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /v1/models`: what this client may use, over all backends."""
    return web.json_response(
        {"object": "list", "data": [as_openai(shown) for shown in await _shown(proxy, visit)]}
    )


async def model(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /v1/models/{id}`: one of them, by any name that a request may use."""
    return web.json_response(as_openai(await _wanted(proxy, visit)))


async def models_v0(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /api/v0/models`: the same for clients of LM Studio's older REST API."""
    listed = [v0(shown) for shown in await _shown(proxy, visit) if not shown.is_alias]
    return web.json_response({"object": "list", "data": listed})


async def model_v0(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /api/v0/models/{id}`: one of these, by any name that a request may use."""
    return web.json_response(v0(await _wanted(proxy, visit)))


async def models_v1(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /api/v1/models`: the same for clients of LM Studio's native REST API, which has no other."""
    listed = [v1(shown) for shown in await _shown(proxy, visit) if not shown.is_alias]
    return web.json_response({"models": listed})


async def _shown(proxy: Proxy, visit: Visit) -> list[Shown]:
    await proxy.inventory.refresh()
    return proxy.catalog.shown(visit.client, proxy.residents())


async def _wanted(proxy: Proxy, visit: Visit) -> Shown:
    await proxy.inventory.refresh()
    return proxy.catalog.show(visit.named, visit.client, proxy.residents())
