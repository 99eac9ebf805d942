"""Whether dmap is well: `/health` for whoever watches the process, `/ready` for whoever sends it requests."""

import asyncio
from typing import Any

from aiohttp import web

from dmap.gate import Gate
from dmap.web.proxy import Proxy
from dmap.web.views import switch_fields
from dmap.web.visit import Visit


async def health(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /health`: the process answers, and how long its loop took to turn once."""
    clock = asyncio.get_running_loop().time
    started = clock()
    await asyncio.sleep(0)
    return web.json_response({"status": "ok", "loop_ms": round(1000 * (clock() - started), 3)})


async def ready(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /ready`: 200 if some backend answers, else 503; with the state of each device and backend."""
    answering = proxy.inventory.answering
    state = {
        "ready": bool(answering),
        "backends": {name: {"answers": name in answering} | _queue(proxy, name) for name in proxy.backends},
        "devices": {name: _state(gate) for name, gate in proxy.devices.items()},
    }
    return web.json_response(state, status=200 if answering else 503)


def _queue(proxy: Proxy, backend: str) -> dict[str, Any]:
    """Describe the queue of a backend without a device; the others share the queue of theirs."""
    gate = proxy.passages.get(backend)
    view = gate.snapshot() if gate is not None else None
    return {"waiting": view.waiting, "leases": view.leases} if view is not None else {}


def _state(gate: Gate) -> dict[str, Any]:
    now = asyncio.get_running_loop().time()
    view = gate.snapshot()
    return {
        "drained": view.drained,
        "residents": [str(resident.model) for resident in view.residents],
        "switch": switch_fields(view.switch, now),
        "waiting": view.waiting,
        "leases": view.leases,
        "oldest_wait_s": round(view.oldest_wait_s, 3),
    }
