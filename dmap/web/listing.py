"""What anyone may look at without making a model work: the models, and whether dmap is well."""

import asyncio
from typing import Any

from aiohttp import web

from dmap.catalog import Shown, openai, v0, v1
from dmap.gate import Gate
from dmap.web.inference import CLIENT
from dmap.web.proxy import PROXY, Proxy
from dmap.web.views import switch_told


async def models(request: web.Request) -> web.Response:
    """`GET /v1/models`: what this client may use, over all backends."""
    return web.json_response({"object": "list", "data": [openai(shown) for shown in await _shown(request)]})


async def model(request: web.Request) -> web.Response:
    """`GET /v1/models/{id}`: one of them, by any name that a request may use."""
    return web.json_response(openai(await _wanted(request)))


async def models_v0(request: web.Request) -> web.Response:
    """`GET /api/v0/models`: the same for clients of LM Studio's older REST API."""
    listed = [v0(shown) for shown in await _shown(request) if not shown.is_alias]
    return web.json_response({"object": "list", "data": listed})


async def model_v0(request: web.Request) -> web.Response:
    """`GET /api/v0/models/{id}`: one of these, by any name that a request may use."""
    return web.json_response(v0(await _wanted(request)))


async def models_v1(request: web.Request) -> web.Response:
    """`GET /api/v1/models`: the same for clients of LM Studio's native REST API, which has no other."""
    listed = [v1(shown) for shown in await _shown(request) if not shown.is_alias]
    return web.json_response({"models": listed})


async def _shown(request: web.Request) -> list[Shown]:
    proxy = request.app[PROXY]
    await proxy.inventory.refresh()
    return proxy.catalog.shown(request[CLIENT], proxy.residents())


async def _wanted(request: web.Request) -> Shown:
    proxy = request.app[PROXY]
    await proxy.inventory.refresh()
    return proxy.catalog.show(request.match_info["id"], request[CLIENT], proxy.residents())


async def health(request: web.Request) -> web.Response:
    """`GET /health`: the process answers, and how long its loop took to turn once."""
    clock = asyncio.get_running_loop().time
    started = clock()
    await asyncio.sleep(0)
    return web.json_response({"status": "ok", "loop_ms": round(1000 * (clock() - started), 3)})


async def ready(request: web.Request) -> web.Response:
    """`GET /ready`: 200 if some backend answers, else 503; with the state of each device and backend."""
    proxy = request.app[PROXY]
    answering = proxy.inventory.answering
    state = {
        "ready": bool(answering),
        "backends": {name: {"answers": name in answering} | _queue(proxy, name) for name in proxy.backends},
        "devices": {name: _state(gate) for name, gate in proxy.devices.items()},
    }
    return web.json_response(state, status=200 if answering else 503)


def _queue(proxy: Proxy, backend: str) -> dict[str, Any]:
    """Tell who waits at a backend that has no device; those with one wait there."""
    gate = proxy.passages.get(backend)
    view = gate.snapshot() if gate is not None else None
    return {"waiting": view.waiting, "leases": view.leases} if view is not None else {}


def _state(gate: Gate) -> dict[str, Any]:
    now = asyncio.get_running_loop().time()
    view = gate.snapshot()
    return {
        "drained": view.drained,
        "residents": [str(resident.model) for resident in view.residents],
        "switch": switch_told(view.switch, now),
        "waiting": view.waiting,
        "leases": view.leases,
        "oldest_wait_s": round(view.oldest_wait_s, 3),
    }
