"""
The way in: every request gets an id and a record, is admitted before anything of it is read, and leaves one
log line.  It is also the one place where a failure becomes a response.
"""

import asyncio
import functools
import logging
from itertools import chain

from aiohttp import web

from dmap.access import scope_of
from dmap.aiohttp_insides import HttpServer, Request
from dmap.errors import BadRequest, DmapError, EncodedBody, Internal, NotBuilt, PathNotFound
from dmap.kinds import ROUTES
from dmap.logfmt import Line
from dmap.record import RequestRecord
from dmap.web import cors, request_log
from dmap.web.inference import infer
from dmap.web.node import take_hop
from dmap.web.passing import pass_on
from dmap.web.proxy import Proxy
from dmap.web.table import find
from dmap.web.visit import Visit
from dmap.wire.dialects import Dialect
from dmap.wire.failure import envelope

MAX_HEAD_BYTES = 16 * 1024
"""Of all header lines together; aiohttp's own limits are per line, and higher."""

_log = logging.getLogger("dmap.requests")


def make_server(proxy: Proxy) -> HttpServer:
    """Return the HTTP server of *proxy*."""
    return HttpServer(functools.partial(_answer, proxy), functools.partial(_sign, proxy))


async def _answer(proxy: Proxy, request: Request) -> web.StreamResponse:
    """Serve one request; whatever goes wrong before its head is out becomes an error in OpenAI's shape."""
    clock = asyncio.get_running_loop().time
    record = RequestRecord(request.id, request.path, request.remote or "", clock(), request.method)
    record.trace = request.trace = proxy.traces.begin(request.headers)
    visit = Visit(request, record)
    proxy.visits.enter(visit)
    try:
        response = await _respond(proxy, visit)
        record.status = response.status
        return response
    except (asyncio.CancelledError, ConnectionError):
        record.outcome = "client_left"
        raise
    finally:
        proxy.visits.leave(visit)
        total_s = clock() - record.arrived_at
        if record.received:
            proxy.access.end(visit.client, total_s)
        if visit.slot and proxy.shared is not None:
            proxy.shared.quotas.end(visit.slot)
        request_log.ended(proxy.bus, record, total_s)
        proxy.traces.end(record, total_s)


async def _respond(proxy: Proxy, visit: Visit) -> web.StreamResponse:
    request, record = visit.request, visit.record
    try:
        _check_framing(request)
        asked = cors.preflight(request, proxy.config.access)
        if asked is not None:
            return asked
        _admit(proxy, visit)
        # Without its query, which may hold a secret.
        path = request.raw_path.partition("?")[0]
        handler, visit.named = find(request.method, path, passes=bool(proxy.passing))
        if handler is infer or handler is pass_on:
            if proxy.shared is not None:
                await _ask_all(proxy, visit)
            _begin(proxy, visit)
        return await handler(proxy, visit)
    except DmapError as error:
        error.__traceback__ = None  # a future may keep the error, and the frames would keep the body
        return _refusal(record, error)
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception:
        _log.exception(Line("bug", {"id": record.id, "path": record.path}))
        if record.committed and request.transport is not None:
            request.transport.abort()
        return _refusal(
            record, Internal("an error of dmap's own; its log has the details under this request's id")
        )


def _check_framing(request: web.BaseRequest) -> None:
    """Refuse a body that is encoded, or that another server in the way may take for one of another length."""
    for encoding in request.headers.getall("Content-Encoding", ()):
        if encoding.strip().lower() != "identity":
            raise EncodedBody("dmap takes no encoded body; send it without 'Content-Encoding'")
    # RFC 9112 section 6.1; aiohttp reads the chunks all the same, where an older server would not.
    if request.version < (1, 1) and "Transfer-Encoding" in request.headers:
        raise BadRequest("HTTP/1.0 has no 'Transfer-Encoding'; send 'Content-Length'")


def _admit(proxy: Proxy, visit: Visit) -> None:
    """Refuse who must not be served, and what is no request for dmap, before the body is read."""
    request, record = visit.request, visit.record
    path = record.path
    if path == "/health":
        return
    scope = scope_of(path)
    try:
        visit.client = proxy.access.admit(record.client, request.headers, scope=scope, path=path)
    except DmapError:
        record.client = proxy.access.name_of(record.client, request.headers)
        raise
    take_hop(visit)
    record.client, record.key = visit.client.name, visit.client.key is not None
    if request.headers.get("Upgrade", "").lower() == "websocket":
        raise NotBuilt("dmap does not pass WebSockets on yet; 'lms --host' and LM Studio's SDKs need one")
    if sum(map(len, chain.from_iterable(request.raw_headers))) > MAX_HEAD_BYTES:
        raise BadRequest(f"the headers are over {MAX_HEAD_BYTES} bytes")
    if not request.raw_path.startswith("/"):
        # RFC 9112, 3.2.2: such a target outweighs `Host`, and is for proxies to strangers' servers.
        raise PathNotFound("dmap is no forward proxy; the request target has to be a path")
    if scope == "admin":
        _refuse_form(request)


async def _ask_all(proxy: Proxy, visit: Visit) -> None:
    """Ask what all dmaps together let the request do, where its key has a bound."""
    key, shared = visit.client.key, proxy.shared
    if shared is not None and key is not None and (key.parallel or key.rate_per_min):
        visit.slot = shared.quotas.place(key)
        visit.said = await shared.quotas.begin(key, visit.slot)


def _begin(proxy: Proxy, visit: Visit) -> None:
    """Let in a request for a model.  From now on it counts for the bounds of its key."""
    among = proxy.shared.dmaps if proxy.shared is not None else 1
    proxy.access.begin(visit.client, visit.record.path, visit.said, among)
    record = visit.record
    record.received = True
    request_log.tell(proxy.bus, record, "request.received", {"method": record.method, "path": record.path})


def _refuse_form(request: web.BaseRequest) -> None:
    """Refuse what a page of another site can send without asking the browser first: a form, or no body."""
    if request.method not in ("GET", "HEAD") and request.content_type != "application/json":
        raise BadRequest("the admin API takes JSON; send 'Content-Type: application/json', body or not")


def _refusal(record: RequestRecord, error: DmapError) -> web.Response:
    record.outcome, record.reason = error.code, error.message
    body = envelope(error, _dialect(record.path), record.id)
    return web.json_response(body, status=error.status, headers=error.headers())


def _dialect(path: str) -> Dialect:
    """Tell what the clients of *path* speak; those of /v1/messages also count tokens and have batches."""
    if path.startswith("/v1/messages/"):
        return Dialect.MESSAGES
    return ROUTES[path].dialect if path in ROUTES else Dialect.PLAIN


def _sign(proxy: Proxy, request: Request, response: web.StreamResponse) -> None:
    """Put headers on *response* that tell who made it and for which request."""
    response.headers["Server"] = "dmap"
    response.headers["x-request-id"] = request.id
    if request.trace is not None:
        response.headers["traceresponse"] = request.trace.answer()
    cors.sign(request, response, proxy.config.access)
