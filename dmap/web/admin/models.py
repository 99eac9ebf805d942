"""`/admin/models`: load, unload and activate models, really where the backend can, in words where not."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web

from dmap.backends import Loaded
from dmap.catalog import as_openai
from dmap.errors import BadRequest, LoadFailed
from dmap.models import Route
from dmap.sections.types import size_text
from dmap.state import Activation
from dmap.web.admin.orders import ModelOrder, note, read_order
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit


async def load(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/models/load`: set what is given, load, and make it the active model unless told not to."""
    order, clock = await read_order(proxy, visit, ModelOrder), asyncio.get_running_loop().time
    came_at, key = clock(), (await proxy.resolve(order.model_key, visit.client)).key
    async with proxy.turns.setdefault(key, asyncio.Lock()):
        route = await proxy.resolve(order.model_key, visit.client)
        name, activation, settings = _understand(proxy, route, order)
        is_activated = _is_activated(route, order.activate)
        loaded, status = {}, "activated" if is_activated else "noted"
        if route.device is not None:
            loaded, status = await _load(proxy, visit, name, route, activation), "loaded"
        await _set(proxy, name, activation, name if is_activated else proxy.saved.active)
        if is_activated:
            proxy.bus.tell("model.activated", {"model": str(route.key)})
    spent_s = round(clock() - came_at, 3)
    note(visit, model=name, load_s=spent_s)
    answer = _answer(proxy, route, status, activation.load) | settings | loaded
    return web.json_response(answer | {"took_s": spent_s})


async def activate(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/models/activate`: what requests that name no model get; the first of them loads it."""
    order = await read_order(proxy, visit, ModelOrder)
    route = await proxy.resolve(order.model_key, visit.client)
    name, activation, settings = _understand(proxy, route, order)
    _is_activated(route, True)
    await _set(proxy, name, activation, name)
    proxy.bus.tell("model.activated", {"model": str(route.key)})
    proxy.gate(route).changed()
    note(visit, model=name)
    return web.json_response(_answer(proxy, route, "activated", activation.load) | settings)


async def unload(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/models/unload`: take it out once it is idle, and forget what was set for it here."""
    order = await read_order(proxy, visit, ModelOrder)
    route = await proxy.resolve(order.model_key, visit.client)
    name, status = _name(proxy, route), "cleared"
    if route.device is not None:
        await proxy.gate(route).unload(route.key)
        status = "unloaded"
    active = proxy.saved.active
    await _set(proxy, name, Activation(), None if active == name else active)
    note(visit, model=name)
    return web.json_response(_answer(proxy, route, status))


async def models(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /admin/models`: every model that this key may use, with all that is set for it."""
    await proxy.inventory.refresh()
    listed = [
        as_openai(shown) | _settings(proxy, shown.route)
        for shown in proxy.catalog.shown(visit.client, proxy.residents())
        if not shown.is_alias
    ]
    return web.json_response({"active": proxy.saved.active, "models": listed})


def _settings(proxy: Proxy, route: Route) -> dict[str, Any]:
    backend = proxy.config.backends[route.key.backend]
    held = proxy.config.device(backend.device).held if backend.device is not None else {}
    return {
        "kind": backend.kind,
        "device": backend.device,
        "loadable": route.device is not None,
        "held_bytes": held.get(route.key.backend),
        "set_here": _name(proxy, route) in proxy.saved.models,
        "default_inference": dict(route.defaults),
        "force": dict(route.force),
        "strip": sorted(route.strip),
        "load_config": dict(route.load),
        "pin": route.needs.pinned,
        "ttl_s": route.needs.ttl_s,
    }


def _name(proxy: Proxy, route: Route) -> str:
    """Return the name that *route* is kept under: short where that is clear."""
    return route.key.model if proxy.catalog.key_of(route.key.model) == route.key else str(route.key)


def _understand(proxy: Proxy, route: Route, order: ModelOrder) -> tuple[str, Activation, dict[str, Any]]:
    """
    Return the model's name, what to set for it, and what the answer says about that.

    What *order* lacks stays as it was set before.  Options that the backend refuses are not set, but where
    a person does the load, all are kept for the workflow.
    """
    name = _name(proxy, route)
    before = proxy.saved.models.get(name, Activation())
    defaults = before.defaults if order.default_inference is None else order.default_inference.given()
    asked = before.load if order.load_config is None else order.load_config.given()
    if route.device is not None:
        refused = proxy.config.backends[route.key.backend].refuses(asked)
    else:
        refused = dict.fromkeys(asked, "dmap cannot load models on this server; see workflow")
    applied = {option: value for option, value in asked.items() if option not in refused}
    kept = applied if route.device is not None else asked
    load_config = {"applied": applied, "not_applied": refused}
    return name, Activation(defaults, kept), {"default_inference": dict(defaults), "load_config": load_config}


def _is_activated(route: Route, activate: bool | None) -> bool:
    """Tell whether the model becomes the active one; one for embeddings cannot: chats would go to it."""
    if activate and route.needs.embedding:
        raise BadRequest(f"{route.key.model!r} makes embeddings, so it cannot be active", param="activate")
    return activate is not False and not route.needs.embedding


async def _load(
    proxy: Proxy, visit: Visit, name: str, before: Route, activation: Activation
) -> dict[str, Any]:
    """
    Load the model called *name* and tell what that gave; one that is resident with other options goes first.

    Requests for it go by *activation* meanwhile, but nothing is promised yet.  If the load fails, requests
    for the model as it was *before* need not wait until its back-off is over.
    """
    client = visit.client
    proxy.trials[name] = activation
    proxy.choose()
    try:
        route = proxy.catalog.resolve(name, client)[0]
        gate = proxy.gate(route)
        if route.load != before.load:
            # A backend may take a larger context for good enough, but this order asks for exactly that one.
            await gate.unload(route.key)
        loaded = await gate.load(route, client.name, priority=client.priority)
    except LoadFailed:
        if activation.load != before.load:
            proxy.gate(before).forgive(before.key)
        raise
    finally:
        proxy.trials.pop(name, None)
        proxy.choose()
    # Of a model that was there already, this is what is known.
    known = Loaded(before.needs.size_bytes, before.context_length, before.needs.parallel)
    return {"loaded": asdict(loaded or known)}


async def _set(proxy: Proxy, name: str, activation: Activation, active: str | None) -> None:
    """Keep *activation* for the model called *name*, and which model is *active*."""
    rest = {other: kept for other, kept in proxy.saved.models.items() if other != name}
    given = {name: activation} if activation.defaults or activation.load else {}
    await proxy.save(replace(proxy.saved, active=active, models=rest | given))


def _answer(proxy: Proxy, route: Route, status: str, load: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    Say what an order did; where dmap cannot load, also what a person has to do.

    *load* has the options of a load; None is an unload.
    """
    name, backend = _name(proxy, route), route.key.backend
    answer = {"status": status, "model": name, "backend": backend, "active": proxy.saved.active == name}
    if route.device is not None:
        return answer
    url = proxy.backends[backend].url or "this host"
    by_hand = f"{route.key.model!r} in the server at {url} by hand: dmap cannot switch models there."
    if load is None:
        rest = "Until another model is activated, requests have to name their model."
        return answer | {"workflow": [f"Unload {by_hand}", *_held(proxy, backend), rest]}
    wanted = ", ".join(f"{option} = {value}" for option, value in load.items())
    steps = [f"Load {by_hand}", *([f"Load it with {wanted}."] if wanted else [])]
    return answer | {"workflow": [*steps, "Check with GET /v1/models that the server lists it."]}


def _held(proxy: Proxy, backend: str) -> list[str]:
    """Say what the server of *backend* goes on to hold of its device, whatever it unloads."""
    section = proxy.config.backends[backend]
    size = proxy.config.device(section.device).held.get(backend) if section.device is not None else None
    if size is None:
        return []
    return [
        f"{size_text(size)} of device {section.device!r} stay counted for that server; to give them to other "
        f"models, lower backends.{backend}.memory in the configuration and have it read again."
    ]
