"""How dmap stands, for its owner: devices, their residents and queues."""

import asyncio
from typing import Any

from aiohttp import web

from dmap import __version__
from dmap.arbiter import Snapshot
from dmap.gate import Gate
from dmap.web.proxy import Proxy
from dmap.web.views import switch_fields, waiting_fields
from dmap.web.visit import Visit


async def status(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /debug/status`: residents, switch and queue of each device, and whether each backend answers."""
    state = {
        "version": __version__,
        "uptime_s": round(proxy.bus.clock() - proxy.bus.started_at, 3),
        "devices": {name: _device(gate) for name, gate in proxy.devices.items()},
        "backends": {name: _backend(proxy, name) for name in proxy.config.backends},
        "active": proxy.catalog.active,
        "open": sum(1 for _ in proxy.visits.open()),
        "readers": proxy.bus.readers,
        "last_event": proxy.bus.last,
    }
    return web.json_response(state)


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
    switch = switch_fields(view.switch, now)
    return {"residents": residents, "switch": switch, "drained": view.drained, **_queue(gate, view)}


def _backend(proxy: Proxy, name: str) -> dict[str, Any]:
    """Describe one backend, with its queue if it has one of its own, without a device."""
    backend, gate = proxy.config.backends[name], proxy.passages.get(name)
    fields = {"kind": backend.kind, "device": backend.placed_on, "answers": name in proxy.inventory.answering}
    return fields | (_queue(gate, gate.snapshot()) if gate is not None else {})


def _queue(gate: Gate, view: Snapshot) -> dict[str, Any]:
    waiting = [waiting_fields(each) for each in gate.waiting()]
    return {"leases": view.leases, "oldest_wait_s": round(view.oldest_wait_s, 3), "waiting": waiting}
