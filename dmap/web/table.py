"""Every route: which methods a path takes, and what answers it."""

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote

from aiohttp import web

from dmap.errors import MethodNotAllowed, PathNotFound
from dmap.kinds import ROUTES
from dmap.sections.near import nearest
from dmap.web import debug, listing, logs, metrics, node, status
from dmap.web.admin import listing as admin_listing
from dmap.web.admin import models, service
from dmap.web.inference import infer
from dmap.web.passing import pass_on
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit
from dmap.wire.passing import reason_against

Handler = Callable[[Proxy, Visit], Awaitable[web.StreamResponse]]

PATHS: Mapping[str, Mapping[str, Handler]] = {
    **dict.fromkeys(ROUTES, {"POST": infer}),
    "/v1/models": {"GET": listing.models},
    "/v1/models/{id}": {"GET": listing.model},
    "/api/v0/models": {"GET": listing.models_v0},
    "/api/v0/models/{id}": {"GET": listing.model_v0},
    "/api/v1/models": {"GET": listing.models_v1},
    "/health": {"GET": status.health},
    "/ready": {"GET": status.ready},
    "/admin/models": {"GET": admin_listing.models},
    "/admin/models/load": {"POST": models.load},
    "/admin/models/unload": {"POST": models.unload},
    "/admin/models/activate": {"POST": models.activate},
    "/admin/queue": {"GET": service.queue},
    "/admin/queue/{id}/cancel": {"POST": service.cancel},
    "/admin/drain": {"POST": service.drain},
    "/admin/resume": {"POST": service.resume},
    "/admin/reload": {"POST": service.reload},
    "/debug/stream": {"GET": debug.stream},
    "/debug/status": {"GET": status.status},
    "/debug/metrics": {"GET": metrics.as_json},
    "/debug/captures": {"GET": debug.captures},
    "/debug/logs/{id}": {"GET": logs.log},
    "/metrics": {"GET": metrics.page},
    "/node/view": {"GET": node.view},
}
"""What each path takes; `{id}` stands for any text."""

_KNOWN = frozenset(PATHS)
_BASES = (
    "A client's base URL ends in /v1, once",
    "The base URL of Anthropic's clients ends before /v1, which they add",
)
_ALIKE = 0.95
"""From here on one path is a typo of another (difflib's ratio): a letter more or less."""
_LITERAL = "paths are taken literally"
_NAMING = [(path.partition("{id}"), methods) for path, methods in PATHS.items() if "{id}" in path]


def find(method: str, path: str, *, passes: bool = False) -> tuple[Handler, str]:
    """
    Return what answers *path*, as the client wrote it, and what it names, "" where it has no place for that.

    HEAD is answered as GET is.  With *passes* there is a server that gets what dmap does not know, but no
    typos of what it knows.  Raises `PathNotFound` or `MethodNotAllowed`.
    """
    methods, named = (PATHS[path], "") if path in PATHS else _named(path)
    if methods is None:
        reason = reason_against(method, path, _KNOWN) if passes and path.startswith("/v1/") else _LITERAL
        hint = _hint(path)
        if reason is None and not hint:
            return pass_on, ""
        raise PathNotFound(f"there is no route {method} {path[:256]}; {hint or reason}")
    handler = methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        allowed = ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
        raise MethodNotAllowed(f"{path[:256]} takes {allowed}", allowed=allowed)
    return handler, named


def _hint(path: str) -> str:
    """Tell which path was most likely meant; nothing if that does not show."""
    whole = path.rstrip("/")
    for meant in (f"/v1{whole}", f"/v1{whole.rpartition('/v1')[2]}", whole, path.lower()):
        if meant != path and (meant in PATHS or _named(meant)[0] is not None):
            return f"did you mean {meant[:256]}? {_BASES[meant.startswith('/v1/messages')]}"
    near = nearest(path, PATHS, cutoff=_ALIKE)
    return f"did you mean {near}?" if near is not None else ""


def _named(path: str) -> tuple[Mapping[str, Handler] | None, str]:
    for (start, _, end), methods in _NAMING:
        named = path[len(start) : len(path) - len(end)]
        if named and path == f"{start}{named}{end}":
            return methods, unquote(named)
    return None, ""
