"""The routes that make a model work: one request, from its body to the end of its answer."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from dmap import relay
from dmap.access import Client
from dmap.backends import Backend
from dmap.backends.lmstudio import LMStudioBackend
from dmap.catalog import Catalog
from dmap.config import OpenAIBackend
from dmap.errors import BackendDown, BadRequest, DmapError, ModelNotFound, PathNotFound
from dmap.gate import Beat, Lease
from dmap.reply import Reply
from dmap.trip import Route, Trip
from dmap.web.parts import PARTS, Parts
from dmap.wire.body import guarded, patch, peek
from dmap.wire.form import peek_form, put_model
from dmap.wire.headers import to_backend
from dmap.wire.routes import ROUTES, InferenceRoute

__all__ = ["CLIENT", "TRIP", "proxy"]

_JSON = "application/json"

TRIP = web.RequestKey("trip", Trip)
CLIENT = web.RequestKey("client", Client)


async def proxy(request: web.Request) -> web.StreamResponse:
    """Refuse one inference request, or queue for its model and pass the model's answer on."""
    parts, trip, path = request.app[PARTS], request[TRIP], ROUTES[request.path]
    reply = Reply(request, trip, path.dialect, parts.config.server)
    async with parts.bodies.of(request) as upload:
        body = await upload.read()
        try:
            body, route = _understand(request, path, body)
        except ModelNotFound:
            await parts.inventory.refresh()  # it may be new
            body, route = _understand(request, path, body)
        parts.inventory.check(route.key.backend)
        try:
            await _serve(request, reply, route, path, body)
        except DmapError as error:
            _report(parts, route, error)
            await reply.fail(error)
    return await reply.end()


def _understand(request: web.Request, path: InferenceRoute, body: bytes) -> tuple[bytes, Route]:
    """Find out what *body* asks for and where that goes; return it as the backend shall have it."""
    catalog, client, trip = request.app[PARTS].catalog, request[CLIENT], request[TRIP]
    kind = _kind(request, path)
    if kind != _JSON:
        body, route, trip.stream = _form(body, kind, catalog, client)
    else:
        body, route, trip.stream = _json(body, path, catalog, client)
    trip.model, trip.backend = route.key.model, route.key.backend
    kind = request.app[PARTS].config.backends[route.key.backend].kind
    if kind in path.lacking:
        raise PathNotFound(f"backends of {kind} have no {path.path}; {trip.model!r} is on one")
    if path.native not in (None, kind):
        raise PathNotFound(
            f"{path.path} is a route of {path.native}; {trip.model!r} is on a backend of {kind}"
        )
    return body, route


def _kind(request: web.Request, path: InferenceRoute) -> str:
    """Return the body's content type as dmap reads it, so that a backend can read it no other way."""
    kind = request.headers.get("Content-Type", "")
    return kind if path.form and kind.lower().startswith("multipart/") else _JSON


def _json(body: bytes, path: InferenceRoute, catalog: Catalog, client: Client) -> tuple[bytes, Route, bool]:
    call = peek(body)
    route = catalog.resolve(call.model, client)
    for field, reason in guarded(call, body):
        if field not in route.permit:
            raise BadRequest(f"{field!r} is not permitted for this model: it {reason}", param=field)
    body = patch(body, call, model=route.key.model, defaults=route.defaults, dialect=path.dialect)
    return body, route, call.stream


def _form(body: bytes, kind: str, catalog: Catalog, client: Client) -> tuple[bytes, Route, bool]:
    model, stream = peek_form(body, kind)
    route = catalog.resolve(model, client)
    return body if model == route.key.model else put_model(body, kind, route.key.model), route, stream


def _beat(reply: Reply) -> tuple[Beat | None, float]:
    """Tell a waiting client its place, if its request lets comments through."""

    async def beat(position: int, estimate_s: float) -> None:
        await reply.beat(f"position {position} in the queue, about {estimate_s:.0f} s to go")

    return beat if reply.beats else None, reply.server.heartbeat_s


async def _serve(request: web.Request, reply: Reply, route: Route, path: InferenceRoute, body: bytes) -> None:
    """Wait for the model and have it answer; once more if its server was gone before anything was sent."""
    gate, trip = request.app[PARTS].gate(route), reply.trip
    for is_last in (route.device is None, True):
        async with _queued(gate.lease(route, trip.client, *_beat(reply)), trip):
            try:
                return await _relay(request, reply, route, path, body)
            except BackendDown:
                if is_last:
                    raise
        await gate.recheck()


@asynccontextmanager
async def _queued(lease: Lease, trip: Trip) -> AsyncGenerator[None]:
    """Hold *lease*, and note how long that took, also for those who never got it."""
    clock = asyncio.get_running_loop().time
    came_at = clock()
    try:
        await lease.__aenter__()
    finally:
        trip.queue_s += clock() - came_at
    trip.switch_s += lease.switch_s
    try:
        yield
    finally:
        lease.release()


async def _relay(request: web.Request, reply: Reply, route: Route, path: InferenceRoute, body: bytes) -> None:
    parts = request.app[PARTS]
    backend = parts.backends[route.key.backend]
    target = backend.target(route.key.model, path.path)
    own = (("Content-Type", _kind(request, path)), ("X-Request-Id", reply.trip.id), *target.headers)
    await relay.run(
        reply,
        parts.pool,
        target,
        to_backend(request.headers.items(), own),
        body,
        lease_s=parts.lease_s(route),
        is_meant=_meaning(backend, route.key.model),
        by_finish=isinstance(parts.config.backends[backend.name], OpenAIBackend),
    )


def _meaning(backend: Backend, model: str) -> Callable[[str], bool] | None:
    """Return what tells whether a name in an answer means *model*; only LM Studio mixes them up."""
    if not isinstance(backend, LMStudioBackend):
        return None
    return lambda named: backend.canonical(named) in (None, model)


def _report(parts: Parts, route: Route, error: DmapError) -> None:
    """Have a backend that cannot be reached probed from now on; a device's are its gate's business."""
    if isinstance(error, BackendDown) and route.device is None:
        parts.inventory.report(route.key.backend, error)
