"""`GET /admin/models`: what is set for each model, and where its copies are."""

from typing import Any

from aiohttp import web

from dmap.catalog import Shown, as_openai
from dmap.models import Route
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit


async def models(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /admin/models`: every model that this key may use, with all that is set for it."""
    await proxy.inventory.refresh()
    active, seen = proxy.saved.active, proxy.catalog.shown(visit.client, proxy.residents())
    listed = [as_openai(shown) | _settings(proxy, shown) for shown in seen if not shown.is_alias]
    is_known = any(shown.active for shown in seen) or (active is not None and visit.client.may_use(active))
    shown_active = active if is_known else None
    count = f"{len(listed)} model{'s' if len(listed) != 1 else ''} for this key"
    none = "requests that name no model get none" if active is None else "the active one is not for this key"
    said = f"requests that name no model get {shown_active!r}" if is_known else none
    return web.json_response({"message": f"{count}; {said}.", "active": shown_active, "models": listed})


def _settings(proxy: Proxy, shown: Shown) -> dict[str, Any]:
    """Return what is set for one model, and where it may be loaded, if that is at several places."""
    route = shown.route
    backend = proxy.config.backends[route.key.backend]
    held = proxy.config.device(backend.device).held if backend.device is not None else {}
    places = proxy.catalog.places(shown.entry)
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
    } | ({"copies": [_copy(shown, place) for place in places]} if len(places) > 1 else {})


def _copy(shown: Shown, route: Route) -> dict[str, Any]:
    """Return where one of several copies is, and whether it is loaded there, as its node says or we know."""
    return {
        "name": str(route.key),
        "device": route.device,
        "resident": route.key in shown.residents,
        "load_config": dict(route.load),
    }
