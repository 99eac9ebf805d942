"""The routes that make a model work: one request, from its body to the end of its answer."""

import functools

from aiohttp import web

from dmap import relay
from dmap.access import Client
from dmap.backends import Backend, Target
from dmap.config import OpenAIBackend
from dmap.errors import BackendBroke, BackendDown, BadRequest, DmapError, ModelNotFound, PathNotFound
from dmap.gate import Beat, Gate, Lease
from dmap.relay import Reply
from dmap.trip import Route, Trip
from dmap.web import story
from dmap.web.open_requests import OpenRequest
from dmap.web.parts import PARTS, Parts
from dmap.wire.body import guarded, peek
from dmap.wire.fitting import fit
from dmap.wire.form import peek_form, put_model
from dmap.wire.headers import to_backend
from dmap.wire.parameters import wording
from dmap.wire.routes import ROUTES, InferenceRoute

__all__ = ["CLIENT", "TRIP", "proxy"]

_JSON = "application/json"

TRIP = web.RequestKey("trip", Trip)
CLIENT = web.RequestKey("client", Client)


async def proxy(request: web.Request) -> web.StreamResponse:
    """Refuse one inference request, or queue for its model and pass the model's answer on."""
    parts, trip, path = request.app[PARTS], request[TRIP], ROUTES[request.path]
    reply = Reply(request, trip, path.dialect, parts.config.server)
    with parts.bodies.of(request) as upload:
        body = await upload.read()
        if parts.config.debug.capture:
            parts.captures.note(trip, body, parts.bus.clock())
        try:
            body, route = _understand(request, path, body)
        except ModelNotFound:
            await parts.inventory.refresh()  # it may be new
            body, route = _understand(request, path, body)
        parts.inventory.check(route.key.backend, route.key.model)
        await parts.context.check(route, path.path, body)
        try:
            with OpenRequest(parts.open, trip):
                await _serve(request, reply, route, path, body)
            parts.context.learn(route, path.path, body, trip.tokens_in)
        except DmapError as error:
            _report(parts, route, error)
            await reply.fail(error)
    return await reply.end()


def _understand(request: web.Request, path: InferenceRoute, body: bytes) -> tuple[bytes, Route]:
    """Find out what *body* asks for and where that goes; return it as the backend shall have it."""
    trip = request[TRIP]
    form = _kind(request, path)
    if form != _JSON:
        body, route, trip.stream = _form(request, body, form)
    else:
        body, route, trip.stream = _json(request, path, body)
    trip.model, trip.backend = route.key.model, route.key.backend
    _suit(path, route, request.app[PARTS].config.backends[route.key.backend].kind)
    return body, route


def _suit(path: InferenceRoute, route: Route, kind: str) -> None:
    """Refuse what a backend of *kind* lacks, or would load the model for in vain."""
    model, embeds = route.key.model, path.path.endswith("/embeddings")
    if kind in path.lacking:
        raise PathNotFound(f"backends of {kind} have no {path.path}; {model!r} is on one")
    if path.native not in (None, kind):
        raise PathNotFound(f"{path.path} is a route of {path.native}; {model!r} is on a backend of {kind}")
    if kind == "lmstudio" and embeds and not route.embedding:
        # It would load a copy of its own for each such request (bug-tracker #902).
        told = f"{model!r} makes no embeddings in LM Studio; ask a model that is made for it"
        raise BadRequest(told, param="model")
    if kind == "lmstudio" and route.embedding and not embeds:
        told = f"{model!r} makes embeddings and nothing else; ask it at /v1/embeddings"
        raise BadRequest(told, param="model")


def _kind(request: web.Request, path: InferenceRoute) -> str:
    """Return the body's content type as dmap reads it, so that a backend can read it no other way."""
    kind = request.headers.get("Content-Type", "")
    return kind if path.form and kind.lower().startswith("multipart/") else _JSON


def _json(request: web.Request, path: InferenceRoute, body: bytes) -> tuple[bytes, Route, bool]:
    parts, client = request.app[PARTS], request[CLIENT]
    asked = peek(body)
    route = parts.catalog.resolve(asked.model, client)
    call = fit(
        asked,
        wording(path.path, parts.config.backends[route.key.backend].kind),
        model=route.key.model,
        defaults=route.defaults,
        force=route.force,
        strip=route.strip,
    )
    for field, reason in guarded(call, body):
        if field not in route.permit and field not in client.permit:
            raise BadRequest(f"{field!r} is not permitted for this model: it {reason}", param=field)
    return body if call is asked else call.written(), route, call.stream


def _form(request: web.Request, body: bytes, kind: str) -> tuple[bytes, Route, bool]:
    model, stream = peek_form(body, kind)
    route = request.app[PARTS].catalog.resolve(model, request[CLIENT])
    return body if model == route.key.model else put_model(body, kind, route.key.model), route, stream


def _beat(reply: Reply, gate: Gate) -> tuple[Beat | None, float]:
    """Tell a waiting client its place, if its request lets comments through."""

    async def beat(position: int, estimate_s: float) -> None:
        left = f"about {estimate_s:.0f} s to go" if not gate.drained else "served when its owner resumes it"
        await reply.beat(f"position {position} in the queue, {left}")

    return beat if reply.beats else None, reply.server.heartbeat_s


async def _serve(request: web.Request, reply: Reply, route: Route, path: InferenceRoute, body: bytes) -> None:
    """Wait for the model and have it answer; once more if its server was gone before anything was sent."""
    gate = request.app[PARTS].gate(route)
    for is_last in (route.device is None, True):
        lease = await _granted(request, reply, gate, route)
        try:
            return await _relay(request, reply, route, path, body)
        except BackendDown:
            if is_last:
                raise
        finally:
            lease.release()
        await gate.recheck()


async def _granted(request: web.Request, reply: Reply, gate: Gate, route: Route) -> Lease:
    """Wait for a lease, which is then to be released, and note how long that took, also if it was in vain."""
    bus, client, trip = request.app[PARTS].bus, request[CLIENT], reply.trip
    on_wait = functools.partial(story.queued, bus, trip, gate)
    lease = gate.lease(route, client.name, *_beat(reply, gate), client.priority, trip.id, on_wait)
    try:
        await lease.__aenter__()
    finally:
        trip.queue_s += lease.queue_s
        trip.switch_s += lease.switch_s
    story.granted(bus, trip)
    return lease


async def _relay(request: web.Request, reply: Reply, route: Route, path: InferenceRoute, body: bytes) -> None:
    parts = request.app[PARTS]
    backend = parts.backends[route.key.backend]

    async def where() -> Target:
        await backend.confirm()
        return backend.target(route.key.model, path.path)

    own = (("Content-Type", _kind(request, path)), ("X-Request-Id", reply.trip.id))
    await relay.run(
        reply,
        parts.pool,
        where,
        to_backend(request.headers.items(), own),
        body,
        lease_s=parts.lease_s(route),
        on_answer=functools.partial(_begun, parts, reply.trip, backend),
        by_finish=isinstance(parts.config.backends[backend.name], OpenAIBackend),
    )


def _begun(parts: Parts, trip: Trip, backend: Backend, named: str | None) -> None:
    """Tell that the answer has begun, and if the model that it names is another one than was asked."""
    story.first_byte(parts.bus, trip)
    if named is None or backend.means(trip.model, named):
        return
    trip.reason = f"answered as {named[:256]!r}"
    told = {"id": trip.id, "client": trip.client, "model": trip.model, "answered": named[:256]}
    parts.bus.tell("request.mismatch", told)
    if backend.substitutes:
        raise BackendBroke(f"the backend had {named[:256]!r} answer instead of the model that was asked")


def _report(parts: Parts, route: Route, error: DmapError) -> None:
    """Have a backend that cannot be reached probed from now on; a device's are its gate's business."""
    if isinstance(error, BackendDown) and route.device is None:
        parts.inventory.report(route.key.backend, error)
