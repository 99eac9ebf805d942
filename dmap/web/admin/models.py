"""`/admin/models`: load, unload and activate models, really where the backend can, in words where not."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web

from dmap.backends import Loaded
from dmap.catalog import as_openai
from dmap.errors import BadRequest, LoadFailed, ModelNotFound
from dmap.models import Route
from dmap.state import Activation
from dmap.web.admin.orders import ModelOrder, note, read_order
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit


async def load(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/models/load`: set what is given, load, and make it the active model unless told not to."""
    order, clock = await read_order(proxy, visit, ModelOrder), asyncio.get_running_loop().time
    came_at, key = clock(), (await _resolve(proxy, visit, order.model_key)).key
    async with proxy.turns.setdefault(key, asyncio.Lock()):
        route = await _resolve(proxy, visit, order.model_key)
        name, activation, settings = _understand(proxy, route, order)
        active = _may_activate(route, order.activate, asked=order.activate is True)
        loaded, status = {}, "activated" if active else "noted"
        if _is_switched(proxy, route):
            async with _trying(proxy, route, name, activation):
                loaded, status = _got(await _load(proxy, visit, name, route), route), "loaded"
        await _set(proxy, name, activation, route if active else None)
    spent_s = round(clock() - came_at, 3)
    note(visit, "load", model=name, load_s=spent_s)
    answer = _answer(proxy, route, status, activation.load) | settings | loaded
    return web.json_response(answer | {"took_s": spent_s})


async def activate(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/models/activate`: what requests that name no model get; the first of them loads it."""
    order = await read_order(proxy, visit, ModelOrder)
    route = await _resolve(proxy, visit, order.model_key)
    name, activation, settings = _understand(proxy, route, order)
    _may_activate(route, True, asked=True)
    await _set(proxy, name, activation, route)
    proxy.gate(route).changed()
    note(visit, "activate", model=name)
    return web.json_response(_answer(proxy, route, "activated", activation.load) | settings)


async def unload(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/models/unload`: take it out once it is idle, and forget what was set for it here."""
    order = await read_order(proxy, visit, ModelOrder)
    route = await _resolve(proxy, visit, order.model_key)
    name, status = _name(proxy, route), "cleared"
    if _is_switched(proxy, route):
        await proxy.gate(route).unload(route.key)
        status = "unloaded"
    saved = proxy.saved
    rest = {other: activation for other, activation in saved.models.items() if other != name}
    active = None if saved.active == name else saved.active
    await proxy.save(replace(saved, active=active, models=rest))
    note(visit, "unload", model=name)
    return web.json_response(_answer(proxy, route, status))


async def models(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /admin/models`: every model that this key may use, with all that is set for it."""
    await proxy.inventory.refresh()
    listed = [
        as_openai(shown) | _settings(proxy, shown.entry.route)
        for shown in proxy.catalog.shown(visit.client, proxy.residents())
        if not shown.is_alias
    ]
    return web.json_response({"active": proxy.saved.active, "models": listed})


def _settings(proxy: Proxy, route: Route) -> dict[str, Any]:
    backend = proxy.config.backends[route.key.backend]
    return {
        "kind": backend.kind,
        "device": route.device,
        "loadable": _is_switched(proxy, route),
        "set_here": _name(proxy, route) in proxy.saved.models,
        "default_inference": dict(route.defaults),
        "force": dict(route.force),
        "strip": sorted(route.strip),
        "load_config": dict(route.load),
        "pin": route.pin,
        "ttl_s": route.ttl_s,
    }


async def _resolve(proxy: Proxy, visit: Visit, model: str) -> Route:
    """Find the route of *model*, which may be new; raises what the catalog does."""
    try:
        return proxy.catalog.resolve(model, visit.client)[0]
    except ModelNotFound:
        await proxy.inventory.refresh()
        return proxy.catalog.resolve(model, visit.client)[0]


def _is_switched(proxy: Proxy, route: Route) -> bool:
    """Tell whether dmap can load and unload models where *route* leads."""
    return route.key.backend in proxy.switchers


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
    if _is_switched(proxy, route):
        refused = proxy.config.backends[route.key.backend].refuses(asked)
    else:
        refused = dict.fromkeys(asked, "dmap cannot load models on this server; see workflow")
    applied = {option: value for option, value in asked.items() if option not in refused}
    kept = applied if _is_switched(proxy, route) else asked
    load_config = {"applied": applied, "not_applied": refused}
    return name, Activation(defaults, kept), {"default_inference": dict(defaults), "load_config": load_config}


def _may_activate(route: Route, activate: bool | None, *, asked: bool) -> bool:
    """Tell whether the model becomes the active one; one for embeddings cannot: chats would go to it."""
    if asked and route.embedding:
        raise BadRequest(f"{route.key.model!r} makes embeddings, so it cannot be active", param="activate")
    return activate is not False and not route.embedding


@asynccontextmanager
async def _trying(proxy: Proxy, route: Route, name: str, activation: Activation) -> AsyncGenerator[None]:
    """
    Have requests for the model go by *activation* while it is being loaded, but promise nothing yet.

    If the load fails, requests for the model as it was need not wait until its back-off is over.
    """
    proxy.trials[name] = activation
    proxy.choose()
    try:
        yield
    except LoadFailed:
        if activation.load != route.load:
            proxy.gate(route).forgive(route.key)
        raise
    finally:
        proxy.trials.pop(name, None)
        proxy.choose()


async def _load(proxy: Proxy, visit: Visit, name: str, before: Route) -> Loaded | None:
    """Load *name* as requests would have it now; if it is resident with other options, unload it first."""
    client = visit.client
    route = proxy.catalog.resolve(name, client)[0]
    gate = proxy.gate(route)
    if route.load != before.load:
        # A backend may take a larger context for good enough, but this order asks for exactly that one.
        await gate.unload(route.key)
    return await gate.load(route, client.name, priority=client.priority)


async def _set(proxy: Proxy, name: str, activation: Activation, active: Route | None) -> None:
    """Keep *activation* for the model called *name*; if its route is given as *active*, activate it."""
    saved = proxy.saved
    rest = {other: set_ for other, set_ in saved.models.items() if other != name}
    kept = {name: activation} if activation.defaults or activation.load else {}
    chosen = replace(saved, models=rest | kept)
    await proxy.save(replace(chosen, active=name) if active else chosen)
    if active:
        proxy.bus.tell("model.activated", {"model": str(active.key)})


def _answer(proxy: Proxy, route: Route, status: str, load: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    Say what an order did; where dmap cannot load, also what a person has to do.

    *load* has the options of a load; None is an unload.
    """
    name, backend = _name(proxy, route), route.key.backend
    answer = {"status": status, "model": name, "backend": backend, "active": proxy.saved.active == name}
    if _is_switched(proxy, route):
        return answer
    url = proxy.backends[backend].url or "this host"
    by_hand = f"{route.key.model!r} in the server at {url} by hand: dmap cannot switch models there."
    if load is None:
        rest = "Until another model is activated, requests have to name their model."
        return answer | {"workflow": [f"Unload {by_hand}", rest]}
    wanted = ", ".join(f"{option} = {value}" for option, value in load.items())
    steps = [f"Load {by_hand}", *([f"Load it with {wanted}."] if wanted else [])]
    return answer | {"workflow": [*steps, "Check with GET /v1/models that the server lists it."]}


def _got(loaded: Loaded | None, route: Route) -> dict[str, Any]:
    """Tell what the load really gave, or what is known of a model that was there already."""
    return {"loaded": asdict(loaded or Loaded(route.size_bytes, route.context_length, route.parallel))}
