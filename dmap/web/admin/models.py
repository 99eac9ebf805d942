"""`/admin/models`: load, unload and activate models, really where the backend can, in words where not."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from aiohttp import web

from dmap.backends import Loaded
from dmap.catalog import Shown, as_openai
from dmap.errors import BadRequest, LoadFailed
from dmap.models import Route
from dmap.sections.types import size_text
from dmap.state import Activation
from dmap.web.admin.orders import ModelOrder, note, read_order
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit


class _Setting(NamedTuple):
    """
    What an order sets: *activations* by the names that they are kept under.

    *name* is the model's, or the variant's, and *model* that of what is loaded; *load* are options of the
    load, and *told* is what the answer says about all that.
    """

    name: str
    model: str
    activations: Mapping[str, Activation]
    load: Mapping[str, Any]
    told: dict[str, Any]


async def load(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/models/load`: set what is given, load, and make it the active model unless told not to."""
    order, clock = await read_order(proxy, visit, ModelOrder), asyncio.get_running_loop().time
    came_at, key = clock(), (await proxy.resolve(order.model_key, visit.client)).key
    async with proxy.turns.setdefault(key, asyncio.Lock()):
        route = await proxy.resolve(order.model_key, visit.client)
        setting = _understand(proxy, route, order)
        is_activated = _is_activated(route, order.activate)
        loaded, status = {}, "activated" if is_activated else "noted"
        if route.device is not None:
            loaded, status = await _load(proxy, visit, setting, route), "loaded"
        await _set(proxy, setting.activations, setting.name if is_activated else proxy.saved.active)
        if is_activated:
            proxy.bus.tell("model.activated", dict(route.key.told))
    spent_s = round(clock() - came_at, 3)
    note(visit, model=setting.name, load_s=spent_s)
    answer = _answer(proxy, route, setting.name, status, setting.load) | setting.told | loaded
    return web.json_response(answer | {"took_s": spent_s})


async def activate(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/models/activate`: what requests that name no model get; the first of them loads it."""
    order = await read_order(proxy, visit, ModelOrder)
    route = await proxy.resolve(order.model_key, visit.client)
    setting = _understand(proxy, route, order)
    _is_activated(route, True)
    await _set(proxy, setting.activations, setting.name)
    proxy.bus.tell("model.activated", dict(route.key.told))
    proxy.gate(route).changed()
    note(visit, model=setting.name)
    return web.json_response(_answer(proxy, route, setting.name, "activated", setting.load) | setting.told)


async def unload(proxy: Proxy, visit: Visit) -> web.Response:
    """
    `POST /admin/models/unload`: take it out once it is idle, and forget what was set for it here.

    Nothing that would load it again is active afterwards, be it the model or a variant.
    """
    order = await read_order(proxy, visit, ModelOrder)
    route = await proxy.resolve(order.model_key, visit.client)
    (name, model), status = proxy.catalog.kept_as(order.model_key), "cleared"
    if route.device is not None:
        await proxy.gate(route).unload(route.key)
        status = "unloaded"
    active = proxy.saved.active
    is_ended = active is not None and proxy.catalog.key_of(active) == route.key
    # What a load sets for a variant is forgotten: its parameters, and the options of its model's load.
    kept = replace(proxy.saved.models.get(model, Activation()), load={})
    await _set(proxy, {model: kept, name: Activation()}, None if is_ended else active)
    note(visit, model=name)
    return web.json_response(_answer(proxy, route, name, status))


async def models(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /admin/models`: every model that this key may use, with all that is set for it."""
    await proxy.inventory.refresh()
    active, seen = proxy.saved.active, proxy.catalog.shown(visit.client, proxy.residents())
    listed = [as_openai(shown) | _settings(proxy, shown) for shown in seen if not shown.is_alias]
    is_known = any(shown.active for shown in seen) or (active is not None and visit.client.may_use(active))
    return web.json_response({"active": active if is_known else None, "models": listed})


def _settings(proxy: Proxy, shown: Shown) -> dict[str, Any]:
    route = shown.route
    backend = proxy.config.backends[route.key.backend]
    held = proxy.config.device(backend.device).held if backend.device is not None else {}
    return {
        "kind": backend.kind,
        "device": backend.device,
        "loadable": route.device is not None,
        "held_bytes": held.get(route.key.backend),
        "set_here": proxy.catalog.kept_as(shown.name)[0] in proxy.saved.models,
        "default_inference": dict(route.defaults),
        "force": dict(route.force),
        "strip": sorted(route.strip),
        "load_config": dict(route.load),
        "pin": route.needs.pinned,
        "ttl_s": route.needs.ttl_s,
    }


def _understand(proxy: Proxy, route: Route, order: ModelOrder) -> _Setting:
    """
    Return what *order* sets: parameters for the model or the variant that it names, the load for the model.

    What it lacks stays as it was set before.  Options that the backend refuses are not set, but where
    a person does the load, all are kept for the workflow.
    """
    name, model = proxy.catalog.kept_as(order.model_key)
    before = {each: proxy.saved.models.get(each, Activation()) for each in (name, model)}
    given, wanted = order.default_inference, order.load_config
    defaults = before[name].defaults if given is None else given.given()
    asked = before[model].load if wanted is None else wanted.given()
    if route.device is not None:
        refused = proxy.config.backends[route.key.backend].refuses(asked)
    else:
        refused = dict.fromkeys(asked, "dmap cannot load models on this server; see workflow")
    applied = {option: value for option, value in asked.items() if option not in refused}
    kept = applied if route.device is not None else asked
    before[model] = replace(before[model], load=kept)
    before[name] = replace(before[name], defaults=defaults)
    told = {
        "default_inference": dict(defaults),
        "load_config": {"applied": applied, "not_applied": refused},
    }
    return _Setting(name, model, before, kept, told)


def _is_activated(route: Route, activate: bool | None) -> bool:
    """Tell whether the model becomes the active one; one for embeddings cannot: chats would go to it."""
    if activate and route.needs.embedding:
        raise BadRequest(f"{route.key.model!r} makes embeddings, so it cannot be active", param="activate")
    return activate is not False and not route.needs.embedding


async def _load(proxy: Proxy, visit: Visit, setting: _Setting, before: Route) -> dict[str, Any]:
    """
    Load the model of *setting* and tell what that gave; one that is resident with other options goes first.

    Requests for it go by *setting* meanwhile, but nothing is promised yet.  If the load fails, requests
    for the model as it was *before* need not wait until its back-off is over.
    """
    client = visit.client
    proxy.trials.update(setting.activations)
    proxy.choose()
    try:
        route = proxy.catalog.resolve(setting.name, client)[0]
        gate = proxy.gate(route)
        if route.load != before.load:
            # A backend may take a larger context for good enough, but this order asks for exactly that one.
            await gate.unload(route.key)
        loaded = await gate.load(route, client.name, priority=client.priority)
    except LoadFailed:
        if setting.load != before.load:
            proxy.gate(before).forgive(before.key)
        raise
    finally:
        for name in setting.activations:
            proxy.trials.pop(name, None)
        proxy.choose()
    # Of a model that was there already, this is what is known.
    known = Loaded(before.needs.size_bytes, before.context_length, before.needs.parallel)
    return {"loaded": asdict(loaded or known)}


async def _set(proxy: Proxy, activations: Mapping[str, Activation], active: str | None) -> None:
    """Keep *activations* for the models that they name, and which model is *active*."""
    models = {**proxy.saved.models, **activations}
    given = {name: each for name, each in models.items() if each.defaults or each.load}
    await proxy.save(replace(proxy.saved, active=active, models=given))


def _answer(
    proxy: Proxy, route: Route, name: str, status: str, load: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """
    Say what an order for *name* did; where dmap cannot load, also what a person has to do.

    *load* has the options of a load; None is an unload.
    """
    backend = route.key.backend
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
