"""
Pages of other sites in a browser (the Fetch standard, "CORS protocol"): which may call, which may read.

Without `access.cors` nothing here does anything.  No cookies are ever allowed: dmap has none.
"""

import re

from aiohttp import web

from dmap.config import AccessSection

_METHODS = "GET, POST, DELETE"
_EXPOSED = "x-request-id, Retry-After, x-should-retry, Server-Timing, Age, Dmap-Cache"
_MAX_AGE_S = 600
"""How long a browser may remember; after a change of the configuration it asks again within that."""
_NAMES = re.compile(r"[A-Za-z0-9-]{1,64}")
_MOST_NAMES = 64


def preflight(request: web.BaseRequest, access: AccessSection) -> web.Response | None:
    """
    Answer a browser that asks whether a page of a listed origin may send a request.  None for all else.

    The question has no key.  A yes lets nobody in, because the request that follows is admitted by itself.
    """
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
        return None
    if _allowed_origin(request, access) is None:
        return None
    wanted = request.headers.get("Access-Control-Request-Headers", "")
    # OpenAI's client sends many of its own (x-stainless-...): what a listed origin's page wants, it may.
    names = [name for name in re.split(r"[ ,]+", wanted)[:_MOST_NAMES] if _NAMES.fullmatch(name)]
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": ", ".join(names),
            "Access-Control-Max-Age": str(_MAX_AGE_S),
        },
    )


def sign(request: web.BaseRequest, response: web.StreamResponse, access: AccessSection) -> None:
    """Let a page of a listed origin read *response*: an answer, a stream or an error."""
    if not access.cors:
        return
    if "*" not in access.cors:
        response.headers.add("Vary", "Origin")
    allowed = _allowed_origin(request, access)
    if allowed is not None:
        response.headers["Access-Control-Allow-Origin"] = allowed
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED


def _allowed_origin(request: web.BaseRequest, access: AccessSection) -> str | None:
    """Return the value of `Access-Control-Allow-Origin`, None if the request's origin is not listed."""
    origin = request.headers.get("Origin")
    if origin is not None and "*" in access.cors:
        return "*"
    return origin if origin is not None and origin.lower() in access.cors else None
