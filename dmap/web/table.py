"""Every route: which methods a path takes, and what answers it."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from dmap.errors import MethodNotAllowed, PathNotFound
from dmap.kinds import ROUTES
from dmap.web import admin, debug, listing, metrics, status
from dmap.web.inference import infer
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit

Handler = Callable[[Proxy, Visit], Awaitable[web.StreamResponse]]

_ALL: tuple[tuple[str, str, Handler], ...] = (
    *(("POST", path, infer) for path in ROUTES),
    ("GET", "/v1/models", listing.models),
    ("GET", "/v1/models/{id}", listing.model),
    ("GET", "/api/v0/models", listing.models_v0),
    ("GET", "/api/v0/models/{id}", listing.model_v0),
    ("GET", "/api/v1/models", listing.models_v1),
    ("GET", "/health", status.health),
    ("GET", "/ready", status.ready),
    *admin.ROUTES,
    ("GET", "/debug/stream", debug.stream),
    ("GET", "/debug/status", status.status),
    ("GET", "/debug/metrics", metrics.as_json),
    ("GET", "/debug/captures", debug.captures),
    ("GET", "/metrics", metrics.page),
)

PATHS: Mapping[str, Mapping[str, Handler]] = {
    path: {method: handler for method, its_path, handler in _ALL if its_path == path} for _, path, _ in _ALL
}
"""What each path takes; `{id}` stands for any text."""

_NAMING = [(path.partition("{id}"), methods) for path, methods in PATHS.items() if "{id}" in path]


def find(method: str, path: str) -> tuple[Handler, str]:
    """
    Return what answers *path*, and what the path names, "" where it has no place for that.

    HEAD is answered as GET is.  Raises `PathNotFound` or `MethodNotAllowed`.
    """
    methods, named = PATHS.get(path), ""
    if methods is None:
        methods, named = _named(path)
    if methods is None:
        raise PathNotFound(f"there is no route {method} {path[:256]}")
    handler = methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        allowed = ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
        raise MethodNotAllowed(f"{path[:256]} takes {allowed}", allowed=allowed)
    return handler, named


def _named(path: str) -> tuple[Mapping[str, Handler] | None, str]:
    for (start, _, end), methods in _NAMING:
        named = path[len(start) : len(path) - len(end)]
        if named and path == f"{start}{named}{end}":
            return methods, named
    return None, ""
