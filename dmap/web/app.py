"""
The application: its routes, and the one place where a failure becomes a response.

Every request gets an id and a record, is admitted before anything of it is read, and leaves one log line.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from dmap.access import scope_of
from dmap.aiohttp_insides import is_ambiguous
from dmap.errors import BadRequest, DmapError, EncodedBody, Internal, NotBuilt, PathNotFound
from dmap.logfmt import logfmt
from dmap.record import RequestRecord
from dmap.web import admin, cors, debug, listing, metrics, request_log, status
from dmap.web.build import running
from dmap.web.inference import CLIENT, RECORD, infer
from dmap.web.proxy import PROXY, Proxy
from dmap.wire.headers import request_id
from dmap.wire.routes import ROUTES, Dialect

MAX_HEAD_BYTES = 16 * 1024
"""Of all header lines together; aiohttp's own limits, per line, are above."""

_log = logging.getLogger("dmap.requests")
_OPEN = "/health"

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(proxy: Proxy) -> web.Application:
    """Wire *proxy* into an application; they are started and stopped with it."""
    app = web.Application(middlewares=[_answer])
    app[PROXY] = proxy
    app.cleanup_ctx.extend((running, metrics.watched))
    app.on_response_prepare.append(_sign)
    for path in ROUTES:
        app.router.add_post(path, infer, expect_handler=_later)
    app.router.add_get("/v1/models", listing.models)
    app.router.add_get("/v1/models/{id:.+}", listing.model)
    app.router.add_get("/api/v0/models", listing.models_v0)
    app.router.add_get("/api/v0/models/{id:.+}", listing.model_v0)
    app.router.add_get("/api/v1/models", listing.models_v1)
    app.router.add_get("/health", listing.health)
    app.router.add_get("/ready", listing.ready)
    admin.add_routes(app, _later)
    app.router.add_get("/debug/stream", debug.stream)
    app.router.add_get("/debug/status", status.status)
    app.router.add_get("/debug/metrics", status.metrics)
    app.router.add_get("/debug/captures", status.captures)
    app.router.add_get("/metrics", metrics.page(proxy.metrics))
    return app


async def _later(request: web.Request) -> None:
    """Leave `100 Continue` to the reading of the body: aiohttp asks here before the client is admitted."""


@web.middleware
async def _answer(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Serve one request; whatever goes wrong before its head is out is told in OpenAI's shape."""
    record = request[RECORD] = RequestRecord(
        id=request_id(request.headers),
        path=request.path,
        client=request.remote or "",
        arrived_at=asyncio.get_running_loop().time(),
        method=request.method,
    )
    try:
        with request.app[PROXY].presence.of(request):
            response = await _told(request, record, handler)
        record.status = response.status
        return response
    except (asyncio.CancelledError, ConnectionError):
        record.outcome = "client_left"
        raise
    finally:
        request_log.ended(request.app[PROXY].bus, record, asyncio.get_running_loop().time())


async def _told(request: web.Request, record: RequestRecord, handler: _Handler) -> web.StreamResponse:
    try:
        _check_framing(request)
        asked = cors.preflight(request, request.app[PROXY].config.access)
        if asked is not None:
            return asked
        _admit(request, record)
        return await _served(request, record, handler)
    except DmapError as error:
        return _refusal(record, error)
    except web.HTTPMethodNotAllowed as exc:
        allowed = ", ".join(sorted(exc.allowed_methods))
        refusal = _refusal(record, BadRequest(f"{request.path} takes {allowed}"))
        refusal.set_status(405)
        refusal.headers["Allow"] = allowed
        return refusal
    except web.HTTPException:
        return _refusal(record, PathNotFound(f"there is no route {request.method} {request.path[:256]}"))
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception:
        _log.exception(logfmt("bug", {"id": record.id, "path": record.path}))
        if record.committed and request.transport is not None:
            request.transport.abort()
        return _refusal(
            record, Internal("an error of dmap's own; its log has the details under this request's id")
        )


async def _served(request: web.Request, record: RequestRecord, handler: _Handler) -> web.StreamResponse:
    """Have a request that was let in handled; one that wants a model counts for its key's bounds."""
    proxy = request.app[PROXY]
    if request.method != "POST" or record.path not in ROUTES:
        return await handler(request)
    with proxy.access.hold(request[CLIENT], record.path):
        request_log.received(proxy.bus, record)
        return await handler(request)


def _check_framing(request: web.Request) -> None:
    """Refuse a body that is encoded, or that another server in the way may take for one of another length."""
    for encoding in request.headers.getall("Content-Encoding", ()):
        if encoding.strip().lower() != "identity":
            raise EncodedBody("dmap takes no encoded body; send it without 'Content-Encoding'")
    if is_ambiguous(request):
        raise BadRequest("HTTP/1.0 has no 'Transfer-Encoding'; send 'Content-Length'")


def _admit(request: web.Request, record: RequestRecord) -> None:
    """Refuse what must not be served, before its body is read."""
    if request.path == _OPEN:
        return
    proxy = request.app[PROXY]
    peer, path, scope = request.remote or "", request.path, scope_of(request.path)
    client = request[CLIENT] = proxy.access.admit(peer, request.headers, scope=scope, path=path)
    record.client, record.key = client.name, client.key
    if request.headers.get("Upgrade", "").lower() == "websocket":
        raise NotBuilt("dmap does not pass WebSockets on yet; 'lms --host' and LM Studio's SDKs need one")
    if sum(len(name) + len(value) for name, value in request.raw_headers) > MAX_HEAD_BYTES:
        raise BadRequest(f"the headers are over {MAX_HEAD_BYTES} bytes")
    if not request.raw_path.startswith("/"):
        # RFC 9112, 3.2.2: such a target outweighs `Host`, and is for proxies to strangers' servers.
        raise PathNotFound("dmap is no forward proxy; the request target has to be a path")
    if scope == "admin":
        _refuse_form(request)
    elif request.method == "POST" and (raw := request.raw_path.partition("?")[0]) not in ROUTES:
        # Never with its query, which may hold a secret.
        raise PathNotFound(f"there is no route POST {raw[:256]}; paths are taken literally")


def _refuse_form(request: web.Request) -> None:
    """Refuse what a page of another site can send without asking the browser first: a form, or no body."""
    if request.method not in ("GET", "HEAD") and request.content_type != "application/json":
        raise BadRequest("the admin API takes JSON; send 'Content-Type: application/json', body or not")


def _refusal(record: RequestRecord, error: DmapError) -> web.Response:
    record.outcome, record.reason = error.code, error.message
    route = ROUTES.get(record.path)
    told = {"type": "error"} if route is not None and route.dialect is Dialect.MESSAGES else {}
    return web.json_response(told | error.body(), status=error.status, headers=error.headers())


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    """Put on every response who made it and for which request."""
    response.headers["Server"] = "dmap"
    record = request.get(RECORD)
    if record is not None:
        response.headers["x-request-id"] = record.id
    cors.sign(request, response, request.app[PROXY].config.access)
