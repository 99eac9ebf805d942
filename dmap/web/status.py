"""How dmap stands: for whoever watches the process, whoever sends it requests, and whoever runs it."""

import asyncio
import functools
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from dmap import __version__
from dmap.arbiter import Plan, Snapshot
from dmap.gate import Gate
from dmap.models import ModelKey
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit

SHOWN = 200
"""So many requests of a queue are listed, the next ones first; more would hold up those that they tell of."""

_May = Callable[[ModelKey], bool]
"""Tells whether the client may know of a model."""


async def health(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /health`: the process answers, and how long its loop took to turn once."""
    clock = asyncio.get_running_loop().time
    started = clock()
    await asyncio.sleep(0)
    return web.json_response({"status": "ok", "loop_ms": round(1000 * (clock() - started), 3)})


async def ready(proxy: Proxy, visit: Visit) -> web.Response:
    """
    `GET /ready`: 200 if some backend answers, else 503; with the state of each device and backend.

    It names the models that the client may use, and no others.  Without a key, where there are keys, it
    tells nothing but whether.
    """
    answering = proxy.inventory.answering
    if visit.client.key is None and proxy.config.access.keys:
        return web.json_response({"ready": bool(answering)}, status=200 if answering else 503)
    backends = {name: _answers(proxy, name) for name in proxy.backends}
    for name, engine in proxy.engines.items():
        backends[name]["engine"] = {"name": engine.name, "devices": engine.devices}
    for name, gate in proxy.passages.items():
        backends[name] |= _passage(gate)
    for name, warning in _others(proxy).items():
        backends[name]["warning"] = warning
    may = functools.partial(proxy.catalog.allows, visit.client)
    devices = {name: state(gate, may) for name, gate in proxy.devices.items()}
    answer = {"ready": bool(answering), "backends": backends, "devices": devices, **_redis(proxy)}
    return web.json_response(answer, status=200 if answering else 503)


async def status(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /debug/status`: residents, switch and queue of each device, and whether each backend answers."""
    opened = list(proxy.visits.open())
    backends: dict[str, dict[str, Any]] = {
        name: {"kind": backend.kind, "device": backend.device, **_answers(proxy, name)}
        for name, backend in proxy.config.backends.items()
    }
    for name, gate in proxy.passages.items():
        backends[name] |= _passage(gate) | waiting(proxy, f"backend {name}", opened)
    for name, node in proxy.nodes.items():
        backends[name] |= {"standing": node.standing}
    served, more_served = _served(opened)
    answer = {
        "version": __version__,
        "uptime_s": round(proxy.bus.clock() - proxy.bus.started_at, 3),
        "devices": {
            name: state(gate) | {"residents": _residents(gate), "gpu_memory": _memory(gate)} | _waiting(gate)
            for name, gate in proxy.devices.items()
        },
        "backends": backends,
        **_redis(proxy),
        "active": proxy.catalog.active,
        "open": len(opened),
        "served": served,
        "more_served": more_served,
        "readers": proxy.bus.readers,
        "last_event": proxy.bus.last,
    }
    return web.json_response(answer)


def _answers(proxy: Proxy, backend: str) -> dict[str, Any]:
    """Tell whether *backend* answers, and if it does not, why."""
    inventory = proxy.inventory
    down = {"reason": inventory.down[backend]} if backend in inventory.down else {}
    return {"answers": backend in inventory.answering, **down}


def _others(proxy: Proxy) -> dict[str, str]:
    """Return a warning for each backend whose models something else switches, too."""
    shared = proxy.shared
    told = dict.fromkeys(sorted(proxy.rivals.suspected()), "something else switches its models, too")
    return told | dict.fromkeys(shared.leases.others if shared is not None else (), "another dmap has it")


def _redis(proxy: Proxy) -> dict[str, str]:
    """Tell whether Redis answers, where there is one; nothing that clients ask depends on it."""
    return {} if proxy.shared is None else {"redis": "up" if proxy.shared.is_up else "down"}


def state(gate: Gate, may: _May = lambda model: True) -> dict[str, Any]:
    """Describe the device of *gate* in short.  It names only the models for which *may* is true."""
    view = gate.snapshot()
    return {
        "drained": view.drained,
        "residents": _names((resident.model for resident in view.residents), may),
        "placed": {str(key): got.placed for key, got in gate.got.items() if got.placed and may(key)},
        "switch": _switch(view.plan, may),
        "held": dict(gate.section.held),
        "preload": {str(model): state for model, state in view.preload.items() if may(model)},
        **_queue(view),
    }


def _passage(gate: Gate) -> dict[str, Any]:
    """Describe the gate of a backend whose models dmap cannot switch; it is drained with its device."""
    view = gate.snapshot()
    return {"drained": view.drained, **_queue(view)}


def _queue(view: Snapshot) -> dict[str, Any]:
    return {"waiting": view.waiting, "leases": view.leases, "oldest_wait_s": round(view.oldest_wait_s, 3)}


def waiting(proxy: Proxy, name: str, opened: Iterable[Visit]) -> dict[str, Any]:
    """Describe the requests that wait at the gate called *name*, or at its node; *opened* are all."""
    node = name.removeprefix("backend ")
    return _waiting_at(node, opened) if node in proxy.nodes else _waiting(proxy.gates[name])


def _waiting(gate: Gate) -> dict[str, Any]:
    """Describe the requests that wait at *gate*, the next one first, `SHOWN` of them at the most."""
    now = asyncio.get_running_loop().time()
    listed = [
        {
            "id": lease.name,
            "client": lease.client,
            **lease.route.key.told,
            "position": place.position,
            "estimate_s": round(place.estimate_s, 3),
            "p80_s": round(place.p80_s, 3),
            "waited_s": round(now - lease.since, 3),
        }
        for lease, place in gate.view.first(SHOWN).items()
    ]
    return {"waiting": listed, "more_waiting": gate.snapshot().waiting - len(listed)}


def _waiting_at(node: str, opened: Iterable[Visit]) -> dict[str, Any]:
    """Describe the requests that wait at *node*, as that has told it last, oldest first, `SHOWN` at most."""
    now = asyncio.get_running_loop().time()
    there = [visit.record for visit in opened if visit.record.waits and visit.record.backend == node]
    listed = [
        {
            "id": record.id,
            "client": record.client,
            "backend": record.backend,
            "model": record.model,
            "position": record.place.position if record.place is not None else None,
            "estimate_s": record.place.estimate_s if record.place is not None else None,
            "p80_s": record.place.p80_s if record.place is not None else None,
            "waited_s": round(now - record.arrived_at, 3),
        }
        for record in there[:SHOWN]
    ]
    return {"waiting": listed, "more_waiting": len(there) - len(listed)}


def _served(opened: Iterable[Visit]) -> tuple[list[dict[str, Any]], int]:
    """Describe the requests that have a model, oldest first, `SHOWN` at the most; return how many more."""
    now = asyncio.get_running_loop().time()
    served = [visit for visit in opened if not visit.record.waits]
    listed = [visit.fields(now) | {"device": visit.record.device} for visit in served[:SHOWN]]
    return listed, len(served) - len(listed)


def _residents(gate: Gate) -> list[dict[str, Any]]:
    now = asyncio.get_running_loop().time()
    return [
        {
            **resident.model.told,
            "leases": resident.leases,
            "waiting": resident.waiting,
            "for_s": round(now - resident.since, 3),
            "leaving": resident.leaving,
            "placed": got.placed if (got := gate.got.get(resident.model)) is not None else None,
            "took_bytes": gate.memory.took.get(resident.model),
        }
        for resident in gate.snapshot().residents
    ]


def _memory(gate: Gate) -> dict[str, Any] | None:
    """Describe who has the memory of the device, in bytes; None if that is not measured, or not known."""
    found = gate.memory.balance
    if found is None:
        return None
    processes = [{"pid": each.pid, "name": each.name, "bytes": each.bytes} for each in found.foreign]
    return {**found.kinds, "processes": processes}


def _switch(plan: Plan | None, may: _May) -> dict[str, Any] | None:
    """Describe the switch under way, if there is one; `load` is None where it only unloads."""
    if plan is None:
        return None
    return {
        "load": str(plan.load) if plan.load is not None and may(plan.load) else None,
        "unload": _names(plan.victims, may),
        "phase": plan.phase,
        "for_s": round(asyncio.get_running_loop().time() - plan.since, 3),
    }


def _names(models: Iterable[ModelKey], may: _May) -> list[str]:
    return [str(model) for model in models if may(model)]
