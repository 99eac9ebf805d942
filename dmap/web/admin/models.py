"""`/admin/models`: load, unload and activate models, really where the backend can, in words where not."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from aiohttp import web

from dmap.backends import Loaded
from dmap.errors import BadRequest, DmapError, LoadFailed
from dmap.models import Route
from dmap.state import Activation, Saved, later
from dmap.web.admin import words
from dmap.web.admin.orders import ModelOrder, loader_of, note, read_order, turn_of
from dmap.web.admin.words import Loader
from dmap.web.choice import best
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit


class _Setting(NamedTuple):
    """
    What an order sets: *activations* by the names that they are kept under.

    *name* is the model's, or the variant's, and *model* that of what is loaded; *load* are options of the
    load, *refused* those that its backend does not take, and *told* is what the answer says about all that.
    """

    name: str
    model: str
    activations: Mapping[str, Activation]
    load: Mapping[str, Any]
    refused: tuple[str, ...]
    told: dict[str, Any]


async def load(proxy: Proxy, visit: Visit) -> web.Response:
    """
    `POST /admin/models/load`: set what is given, load, and make it the active model unless told not to.

    Where dmap cannot load, that is all of it: the model is `activated`, or what was set is `noted`.  Of
    several copies the one is loaded that is there soonest, or the next one if it cannot be; what is set holds
    for all of them.
    """
    order, clock = await read_order(proxy, visit, ModelOrder), asyncio.get_running_loop().time
    _check(proxy)
    came_at, routes = clock(), await proxy.resolve(order.model_key, visit.client)
    async with turn_of(proxy, routes):
        routes = await proxy.resolve(order.model_key, visit.client)
        route, _ = best(proxy, routes)
        setting = _understand(proxy, route, order)
        is_activated = _is_activated(route, order.activate)
        loaded: dict[str, Any] = {}
        changed, status = False, "activated" if is_activated else "noted"
        if route.device is not None:
            (route, loaded, changed), status = await _load_one(proxy, visit, setting, routes), "loaded"
        chosen = setting.name if is_activated else None
        saved = await _agreed(proxy, setting.activations, lambda active: chosen or active)
        try:
            await proxy.save(saved)
        finally:  # it is in effect, saved or not
            if not changed:
                reason = loader_of(proxy, route).value or "already loaded"
                _tell(proxy, visit, setting, route, "model.loaded", reason=reason, changed=False)
            if is_activated:
                _tell(proxy, visit, setting, route, "model.activated")
    spent_s = round(clock() - came_at, 3)
    note(visit, **route.key.told, status=status, load_s=spent_s)
    done = _done(proxy, setting.name, route, status, changed=changed, refused=setting.refused)
    answer = _answer(proxy, done, words.of_load(done)) | setting.told | loaded
    return web.json_response(answer | _by_hand(proxy, route, setting) | {"took_s": spent_s})


async def activate(proxy: Proxy, visit: Visit) -> web.Response:
    """`POST /admin/models/activate`: what requests that name no model get; the first of them loads it."""
    order = await read_order(proxy, visit, ModelOrder)
    _check(proxy)
    route = _there(proxy, await proxy.resolve(order.model_key, visit.client))
    setting = _understand(proxy, route, order)
    _is_activated(route, True)
    saved = await _agreed(proxy, setting.activations, lambda active: setting.name)
    try:
        await proxy.save(saved)
    finally:  # it is in effect, saved or not
        _tell(proxy, visit, setting, route, "model.activated")
    proxy.gate(route).changed()
    note(visit, **route.key.told, status="activated")
    done = _done(proxy, setting.name, route, "activated", refused=setting.refused)
    message = words.of_activation(done, resident=route.key in proxy.residents())
    answer = _answer(proxy, done, message) | setting.told | _by_hand(proxy, route, setting)
    return web.json_response(answer)


async def _unload(proxy: Proxy, visit: Visit, routes: Sequence[Route]) -> bool:
    """Unload all copies of a model that are there; tell whether any was.  One that fails stops no other."""
    unloads = (proxy.gate(each).unload(each.key, _who(visit)) for each in routes)
    done = await asyncio.gather(*unloads, return_exceptions=True)
    for error in done:
        if isinstance(error, BaseException):
            raise error
    return any(done)


async def unload(proxy: Proxy, visit: Visit) -> web.Response:
    """
    `POST /admin/models/unload`: take it out once it is idle, and forget what was set for it here.

    Nothing that would load it again is active afterwards, be it the model or a variant.  Of several copies
    all go that are there.
    """
    order, clock = await read_order(proxy, visit, ModelOrder), asyncio.get_running_loop().time
    _check(proxy)
    came_at, routes = clock(), await proxy.resolve(order.model_key, visit.client)
    route = _there(proxy, routes)
    (name, model), status = proxy.catalog.kept_as(order.model_key), "cleared"
    if route.device is not None:
        status = "unloaded" if await _unload(proxy, visit, routes) else "not_loaded"
    if status != "unloaded":
        reason = loader_of(proxy, route).value or "not loaded"
        told = _told(visit, name, model, route)
        proxy.bus.tell("model.unloaded", told | {"reason": reason, "changed": False})
    active = proxy.saved.active
    meant = proxy.catalog.keys_of(active) if active is not None else set()
    is_ended = bool(meant) and meant <= {each.key for each in routes}
    # What a load sets for a variant is forgotten: its parameters, and the options of its model's load.
    models = {model, *(str(each.key) for each in routes)}
    kept = {each: replace(proxy.saved.models.get(each, Activation()), load={}) for each in models}
    forgotten = dict.fromkeys(kept, Activation()) if name == model else {**kept, name: Activation()}
    saved = await _agreed(proxy, forgotten, lambda last: None if is_ended and last == active else last)
    await proxy.save(saved)
    note(visit, **route.key.told, status=status, took_s=round(clock() - came_at, 3))
    done = _done(proxy, name, route, status, changed=status == "unloaded")
    answer = _answer(proxy, done, words.of_unload(done, ended=is_ended))
    return web.json_response(answer | _by_hand(proxy, route, ended=is_ended))


def _understand(proxy: Proxy, route: Route, order: ModelOrder) -> _Setting:
    """
    Return what *order* sets: parameters for the model or the variant that it names, the load for the model.

    What it lacks stays as it was set before.  Options that the backend refuses are not set, but where
    a person does the load, all are kept for the workflow.
    """
    by_hand = loader_of(proxy, route) is Loader.PERSON
    name, model = proxy.catalog.kept_as(order.model_key)
    before = {each: proxy.saved.models.get(each, Activation()) for each in (name, model)}
    given, wanted = order.default_inference, order.load_config
    defaults = before[name].defaults if given is None else given.given()
    asked = before[model].load if wanted is None else wanted.given()
    if by_hand:
        refused = dict.fromkeys(asked, "dmap cannot load models on this server; see workflow")
    else:
        refused = proxy.config.backends[route.key.backend].refuses(asked)
    applied = {option: value for option, value in asked.items() if option not in refused}
    kept = asked if by_hand else applied
    before[model] = replace(before[model], load=kept)
    before[name] = replace(before[name], defaults=defaults)
    told = {
        "default_inference": dict(defaults),
        "load_config": {"applied": applied, "not_applied": refused},
    }
    return _Setting(name, model, before, kept, tuple(refused), told)


def _is_activated(route: Route, activate: bool | None) -> bool:
    """Tell whether the model becomes the active one; one for embeddings cannot: chats would go to it."""
    if activate and route.needs.embedding:
        raise BadRequest(f"{route.key.model!r} makes embeddings, so it cannot be active", param="activate")
    return activate is not False and not route.needs.embedding


def _there(proxy: Proxy, routes: Sequence[Route]) -> Route:
    """Return the first of *routes* whose model is loaded, else the first."""
    residents = proxy.residents()
    return next((each for each in routes if each.key in residents), routes[0])


async def _load_one(
    proxy: Proxy, visit: Visit, setting: _Setting, routes: Sequence[Route]
) -> tuple[Route, dict[str, Any], bool]:
    """Do `_load` at the best of *routes*, at the next one if it cannot be there; return also where it was."""
    left = list(routes)
    while True:
        route, _ = best(proxy, left)
        left.remove(route)
        try:
            return route, *await _load(proxy, visit, setting, route)
        except DmapError as error:
            if not (left and error.elsewhere):
                raise


async def _load(proxy: Proxy, visit: Visit, setting: _Setting, before: Route) -> tuple[dict[str, Any], bool]:
    """
    Load the model of *setting*; one that is resident with other options goes first.

    Return what that gave, and whether it was loaded for this.

    Requests for it go by *setting* meanwhile, but nothing is promised yet.  If the load fails, requests
    for the model as it was *before* need not wait until its back-off is over.
    """
    client, gate = visit.client, proxy.gate(before)
    found = gate.got.get(before.key)
    proxy.trials.update(setting.activations)
    proxy.choose()
    try:
        route = proxy.catalog.place_of(setting.name, before.key) or before
        if route.load != before.load:
            # A backend may take a larger context for good enough, but this order asks for exactly that one.
            await gate.unload(route.key, _who(visit))
        loaded = await gate.load(route, client.name, priority=client.priority, name=visit.record.id)
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
    return {"loaded": asdict(loaded or known)}, loaded is not None and loaded is not found


async def _agreed(
    proxy: Proxy, activations: Mapping[str, Activation], activate: Callable[[str | None], str | None]
) -> Saved:
    """Return what to save: *activations* for the models that they name, and what *activate* makes active."""

    def change(saved: Saved) -> Saved:
        models = later(saved.models, activations)
        given = {name: each for name, each in models.items() if each.defaults or each.load}
        return replace(saved, active=activate(saved.active), models=given)

    return await proxy.agree(change)


def _check(proxy: Proxy) -> None:
    """Refuse an order that could not be kept for all dmaps, before anything is done for it."""
    if proxy.shared is not None:
        proxy.shared.settings.check()


def _who(visit: Visit) -> dict[str, str]:
    """Return for which request, and by which client, something is done."""
    return {"for": visit.record.id, "by": visit.client.name}


def _told(visit: Visit, name: str, model: str, route: Route) -> dict[str, Any]:
    """Return what every event tells of an order for *name*, a variant where that is not its *model*."""
    device = {"device": route.device} if route.device is not None else {}
    variant = {"variant": name} if name != model else {}
    return {**device, **route.key.told, **variant, **_who(visit), **route.settings}


def _tell(proxy: Proxy, visit: Visit, setting: _Setting, route: Route, event: str, **more: Any) -> None:
    """Tell *event* of what *setting* is about at *route*, as it is set now; the name may be gone by now."""
    now = proxy.catalog.place_of(setting.name, route.key) or route
    proxy.bus.tell(event, {**_told(visit, setting.name, setting.model, now), **more})


def _done(
    proxy: Proxy, name: str, route: Route, status: str, *, changed: bool = False, refused: Sequence[str] = ()
) -> words.Done:
    active = None if proxy.saved.active is None else proxy.saved.active == name
    return words.Done(name, route, status, changed, active, loader_of(proxy, route), refused)


def _answer(proxy: Proxy, done: words.Done, message: str) -> dict[str, Any]:
    """Return what every answer to an order for a model says."""
    return {
        "status": done.status,
        "message": message,
        "model": done.name,
        "backend": done.route.key.backend,
        "active": bool(done.active),
        "changed": done.changed,
    }


def _by_hand(
    proxy: Proxy, route: Route, setting: _Setting | None = None, *, ended: bool = False
) -> dict[str, Any]:
    """
    Return what a person has to do where dmap cannot switch, after a load, or an unload if nothing is set.

    With *ended* the model was the active one.
    """
    if loader_of(proxy, route) is not Loader.PERSON:
        return {}
    (backend, model), section = route.key, proxy.config.backends[route.key.backend]
    url = proxy.backends[backend].url or "this host"
    if setting is not None:
        return {"workflow": words.steps_to_load(model, url, setting.load)}
    size = proxy.config.device(section.device).held.get(backend) if section.device is not None else None
    held = (section.device, size) if section.device is not None and size is not None else None
    return {"workflow": words.steps_to_unload(model, url, backend, held, ended=ended)}
