"""`/admin/drain` and `/admin/resume`: a device that serves nobody for a while."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from dmap.errors import BadRequest
from dmap.gate import Gate
from dmap.web.admin.orders import DeviceOrder, note, read_order
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit


async def drain(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/drain`: serve nobody on a device until it is resumed; who waits keeps the place."""
    order = await read_order(proxy, visit, DeviceOrder)
    gates = _gates(proxy, order.device)
    for gate in gates.values():
        gate.drain(unload=order.unload)
    await proxy.save(replace(proxy.saved, drained=proxy.saved.drained | gates.keys()))
    note(visit, "drain", devices=",".join(gates))
    return web.json_response({"status": "drained", "devices": _states(gates)})


async def resume(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/resume`: serve again."""
    order = await read_order(proxy, visit, DeviceOrder)
    gates = _gates(proxy, order.device)
    for gate in gates.values():
        gate.resume()
    await proxy.save(replace(proxy.saved, drained=proxy.saved.drained - gates.keys()))
    note(visit, "resume", devices=",".join(gates))
    return web.json_response({"status": "resumed", "devices": _states(gates)})


def _gates(proxy: Proxy, device: str | None) -> dict[str, Gate]:
    if device is not None and device not in proxy.config.devices:
        known = ", ".join(proxy.config.devices) or "none"
        raise BadRequest(f"there is no device {device[:64]!r}; there are: {known}", param="device")
    chosen: Iterable[str] = proxy.config.devices if device is None else [device]
    return {name: proxy.devices[name] for name in chosen}


def _states(gates: Mapping[str, Gate]) -> dict[str, Any]:
    views = {name: gate.snapshot() for name, gate in gates.items()}
    return {
        name: {
            "drained": view.drained,
            "residents": [str(resident.model) for resident in view.residents],
            "leases": view.leases,
            "waiting": view.waiting,
        }
        for name, view in views.items()
    }
