"""How dmap stands, for whoever runs it: devices and their residents, and who waits."""

import asyncio
from typing import Any

from aiohttp import web

from dmap import __version__
from dmap.arbiter import Snapshot
from dmap.gate import Gate
from dmap.web.proxy import Proxy
from dmap.web.views import switch_told, waiting_told
from dmap.web.visit import Visit


async def status(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /debug/status`: residents, switch and queue of each device, and whether each backend answers."""
    told = {
        "version": __version__,
        "uptime_s": round(proxy.bus.clock() - proxy.bus.started_at, 3),
        "devices": {name: _device(gate) for name, gate in proxy.devices.items()},
        "backends": {name: _backend(proxy, name) for name in proxy.config.backends},
        "active": proxy.catalog.active,
        "open": sum(1 for _ in proxy.visits.open()),
        "readers": proxy.bus.readers,
        "last_event": proxy.bus.last,
    }
    return web.json_response(told)


def _device(gate: Gate) -> dict[str, Any]:
    now, view = asyncio.get_running_loop().time(), gate.snapshot()
    residents = [
        {
            "model": str(resident.model),
            "leases": resident.leases,
            "waiting": resident.waiting,
            "for_s": round(now - resident.since, 3),
            "leaving": resident.leaving,
        }
        for resident in view.residents
    ]
    switch = switch_told(view.switch, now)
    return {"residents": residents, "switch": switch, "drained": view.drained, **_queue(gate, view)}


def _backend(proxy: Proxy, name: str) -> dict[str, Any]:
    """Tell of one backend; who waits for one that has a device waits there."""
    backend, gate = proxy.config.backends[name], proxy.passages.get(name)
    told = {"kind": backend.kind, "device": backend.placed_on, "answers": name in proxy.inventory.answering}
    return told | (_queue(gate, gate.snapshot()) if gate is not None else {})


def _queue(gate: Gate, view: Snapshot) -> dict[str, Any]:
    waiting = [waiting_told(each) for each in gate.waiting()]
    return {"leases": view.leases, "oldest_wait_s": round(view.oldest_wait_s, 3), "waiting": waiting}
