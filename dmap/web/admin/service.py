"""`/admin/queue`, `/admin/drain`, `/admin/resume` and `/admin/reload`: what is served, and where."""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiohttp import web

from dmap.errors import BadRequest, Cancelled, Invalid, NotBuilt, RequestNotFound
from dmap.gate import Gate
from dmap.models import ModelKey
from dmap.web.admin.orders import DeviceOrder, Order, note, read_order
from dmap.web.proxy import Proxy
from dmap.web.status import SHOWN, state, waiting
from dmap.web.visit import Visit


async def queue(proxy: Proxy, visit: Visit) -> web.Response:
    """
    `GET /admin/queue`: what waits per device, or per backend without one; what is open, oldest first.

    The `model` is null of a request for one that the key may not use.
    """
    now = asyncio.get_running_loop().time()
    may = functools.cache(functools.partial(proxy.catalog.allows, visit.client))
    opened = list(proxy.visits.open())
    found = {name: waiting(proxy, name, opened) for name in proxy.gates}
    waits = {name: [_known(one, may) for one in each["waiting"]] for name, each in found.items()}
    more = {name: each["more_waiting"] for name, each in found.items()}
    shown = [_known(each.fields(now), may) for each in opened[:SHOWN]]
    count = sum(map(len, waits.values())) + sum(more.values())
    message = f"{len(opened)} open request{'s' if len(opened) != 1 else ''}, {count} of them waiting."
    waiting_and_open = {"waiting": waits, "more_waiting": more, "open": shown}
    return web.json_response({"message": message, **waiting_and_open, "more_open": len(opened) - len(shown)})


def _known(told: dict[str, Any], may: Callable[[ModelKey], bool]) -> dict[str, Any]:
    """Return what is *told* of a request without its model, unless the key *may* know of that."""
    is_known = not told["model"] or may(ModelKey(told["backend"], told["model"]))
    return told if is_known else told | {"model": None}


async def cancel(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/queue/{id}/cancel`: end a request that waits or is answered; its client is told so."""
    await read_order(proxy, visit, Order)
    id = visit.named
    found = [each for each in proxy.visits.open() if each.record.id == id]
    if not found:
        raise RequestNotFound(f"no request {id[:128]!r} waits or is being answered")
    for each in found:
        each.cancel(Cancelled("the request was ended by whoever runs dmap"))
    note(visit, request=id)
    message = f"The request {id} was ended; its client is told so."
    return web.json_response({"status": "cancelled", "message": message, "id": id})


async def drain(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/drain`: serve nobody on a device until it is resumed; who waits stays, or moves."""
    order = await read_order(proxy, visit, DeviceOrder)
    gates = _gates(proxy, order.device)
    _tell(proxy, visit, "device.drained", gates, unload=order.unload)
    for name in gates:
        proxy.drain(name, unload=order.unload)
    models = "; its models go once they are idle" if order.unload else ""
    message = f"{_names(gates)}: nobody is served there until it is resumed{models}."
    return await _drained(proxy, visit, "drained", message, gates, proxy.saved.drained | gates.keys())


async def resume(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/resume`: serve again."""
    order = await read_order(proxy, visit, DeviceOrder)
    gates = _gates(proxy, order.device)
    _tell(proxy, visit, "device.resumed", gates)
    for name in gates:
        proxy.resume(name)
    message = f"{_names(gates)}: requests are served again."
    return await _drained(proxy, visit, "resumed", message, gates, proxy.saved.drained - gates.keys())


async def reload(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/reload`: read the file again, as SIGHUP does; a file that is wrong changes nothing."""
    await read_order(proxy, visit, Order)
    if proxy.reload is None:
        raise NotBuilt("this dmap was not started from a file")
    if problems := proxy.reload():
        raise Invalid(problems)
    note(visit)
    message = "The configuration was read again and is in effect."
    return web.json_response({"status": "reloaded", "message": message})


def _gates(proxy: Proxy, device: str | None) -> dict[str, Gate]:
    if device is None:
        return dict(proxy.devices)
    if device not in proxy.devices:
        known = ", ".join(proxy.devices) or "none"
        raise BadRequest(f"there is no device {device[:64]!r}; there are: {known}", param="device")
    return {device: proxy.devices[device]}


def _names(gates: dict[str, Gate]) -> str:
    return ", ".join(map(repr, gates)) or "no device"


def _tell(proxy: Proxy, visit: Visit, event: str, gates: dict[str, Gate], **more: bool) -> None:
    """Tell *event* of each of *gates*, before what follows from it."""
    for name in gates:
        proxy.bus.tell(event, {"device": name, "for": visit.record.id, "by": visit.client.name, **more})


async def _drained(
    proxy: Proxy, visit: Visit, status: str, message: str, gates: dict[str, Gate], drained: frozenset[str]
) -> web.Response:
    """Save which devices are *drained*, and answer for *gates*, which the order was for, with *message*."""
    await proxy.save(replace(proxy.saved, drained=drained))
    note(visit, devices=",".join(gates))
    may = functools.partial(proxy.catalog.allows, visit.client)
    devices = {name: state(gate, may) for name, gate in gates.items()}
    return web.json_response({"status": status, "message": message, "devices": devices})
