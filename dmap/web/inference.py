"""The routes that make a model work: one request, from its body to the end of its answer."""

import functools

from aiohttp import web

from dmap import relay
from dmap.backends import Backend, Kind, Target
from dmap.backends.registry import ROUTES, kinds_with
from dmap.errors import BackendBroke, BackendDown, BadRequest, DmapError, ModelNotFound, PathNotFound
from dmap.gate import Gate, Lease
from dmap.models import Route
from dmap.record import RequestRecord
from dmap.relay import Reply
from dmap.web import request_log, upload
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit
from dmap.wire.body import check_permits, peek
from dmap.wire.fitting import fit
from dmap.wire.form import content_type_of, peek_form, put_model
from dmap.wire.headers import to_backend
from dmap.wire.routes import InferenceRoute
from dmap.wire.shape import check_shape

_JSON = "application/json"


async def infer(proxy: Proxy, visit: Visit) -> web.StreamResponse:
    """Refuse one inference request, or queue for its model and pass the model's answer on."""
    record, path = visit.record, ROUTES[visit.record.path]
    reply = Reply(visit.request, record, path.dialect, proxy.config.server)
    body = await upload.read(proxy.visits, visit)
    if proxy.config.debug.capture:
        proxy.captures.note(record, body, proxy.bus.clock())
    try:
        body, route = _understand(proxy, visit, path, body)
    except ModelNotFound:
        await proxy.inventory.refresh()  # it may be new
        body, route = _understand(proxy, visit, path, body)
    proxy.inventory.check(route.key.backend)
    await proxy.context.check(route, path.path, body)
    try:
        with visit:
            await _serve(proxy, visit, reply, route, path, body)
        proxy.context.learn(route, path.path, body, record.tokens_in)
    except DmapError as error:
        _report(proxy, route, error)
        await reply.fail(error)
    proxy.visits.free(visit)
    return await reply.end()


def _understand(proxy: Proxy, visit: Visit, path: InferenceRoute, body: bytes) -> tuple[bytes, Route]:
    """Find out what *body* asks for and where that goes; return it as the backend shall have it."""
    record = visit.record
    form = _kind(visit, path)
    if form != _JSON:
        body, route, record.stream = _form(proxy, visit, body, form)
    else:
        body, route, record.stream = _json(proxy, visit, path, body)
    record.model, record.backend = route.key.model, route.key.backend
    _suit(path, route, proxy.config.kind_of(route.key.backend))
    return body, route


def _suit(path: InferenceRoute, route: Route, kind: Kind) -> None:
    """Refuse what servers of *kind* lack, or would load the model for in vain."""
    model, embeds = route.key.model, path.path.endswith("/embeddings")
    if not kind.has(path.path):
        those = " or ".join(kinds_with(path.path))
        raise PathNotFound(f"{path.path} is a route of {those}; {model!r} is on a backend of {kind.name}")
    if kind.embeds_apart and embeds and not route.embedding:
        message = f"{model!r} makes no embeddings on its server; ask a model that is made for it"
        raise BadRequest(message, param="model")
    if kind.embeds_apart and route.embedding and not embeds:
        message = f"{model!r} makes embeddings and nothing else; ask it at /v1/embeddings"
        raise BadRequest(message, param="model")


def _kind(visit: Visit, path: InferenceRoute) -> str:
    """Return the body's content type as dmap reads it, so that a backend can read it no other way."""
    kind = visit.request.headers.get("Content-Type", "")
    return kind if path.form and kind.lower().startswith("multipart/") else _JSON


def _json(proxy: Proxy, visit: Visit, path: InferenceRoute, body: bytes) -> tuple[bytes, Route, bool]:
    client = visit.client
    asked = peek(body)
    route = proxy.catalog.resolve(asked.model, client)
    call = fit(
        asked,
        proxy.config.kind_of(route.key.backend).wording(path),
        model=route.key.model,
        defaults=route.defaults,
        force=route.force,
        strip=route.strip,
    )
    check_permits(asked, route.permit | client.permit, route.strip)
    check_shape(path.path, asked.fields)
    return body if call is asked else call.written(), route, call.stream


def _form(proxy: Proxy, visit: Visit, body: bytes, kind: str) -> tuple[bytes, Route, bool]:
    model, stream = peek_form(body, kind)
    route = proxy.catalog.resolve(model, visit.client)
    return body if model == route.key.model else put_model(body, kind, route.key.model), route, stream


async def _serve(
    proxy: Proxy, visit: Visit, reply: Reply, route: Route, path: InferenceRoute, body: bytes
) -> None:
    """Wait for the model and have it answer; once more if its server was gone before anything was sent."""
    gate = proxy.gate(route)
    for is_last in (route.device is None, True):
        lease = await _granted(proxy, visit, reply, gate, route)
        try:
            return await _relay(proxy, visit, reply, route, path, body)
        except BackendDown:
            if is_last:
                raise
        finally:
            lease.release()
        await gate.recheck()


async def _granted(proxy: Proxy, visit: Visit, reply: Reply, gate: Gate, route: Route) -> Lease:
    """Wait for a lease, which is then to be released, and note how long that took, also if it was in vain."""
    bus, client, record = proxy.bus, visit.client, reply.record
    lease = gate.lease(route, client.name, client.priority, record.id)
    try:
        lease.ask()
        if lease.granted is not None:
            request_log.queued(bus, record, gate, lease)
            await reply.wait(lease.granted, functools.partial(_words, gate, lease))
    except BaseException:
        lease.release()
        raise
    finally:
        record.queue_s += lease.queue_s
        record.switch_s += lease.switch_s
    request_log.granted(bus, record)
    return lease


def _words(gate: Gate, lease: Lease) -> str:
    """Tell a waiting client its place."""
    position, estimate_s = gate.view.of(lease)
    left = f"about {estimate_s:.0f} s to go" if not gate.drained else "served when its owner resumes it"
    return f"position {position} in the queue, {left}"


async def _relay(
    proxy: Proxy, visit: Visit, reply: Reply, route: Route, path: InferenceRoute, body: bytes
) -> None:
    backend = proxy.backends[route.key.backend]

    async def where() -> Target:
        await backend.confirm()
        return backend.target(route.key.model, path.path)

    kind = _kind(visit, path)
    written = kind if kind == _JSON else content_type_of(kind)
    own = (("Content-Type", written), ("X-Request-Id", reply.record.id))
    await relay.run(
        reply,
        proxy.pool,
        where,
        to_backend(visit.request.headers.items(), own),
        body,
        lease_s=proxy.gate(route).lease_s,
        on_answer=functools.partial(_begun, proxy, reply.record, backend),
        by_finish=proxy.config.kind_of(backend.name).ends_by_finish,
    )


def _begun(proxy: Proxy, record: RequestRecord, backend: Backend, named: str | None) -> None:
    """Tell that the answer has begun, and if the model that it names is another one than was asked."""
    request_log.first_byte(proxy.bus, record)
    if named is None or backend.means(record.model, named):
        return
    record.reason = f"answered as {named[:256]!r}"
    told = {"id": record.id, "client": record.client, "model": record.model_key, "answered": named[:256]}
    proxy.bus.tell("request.mismatch", told)
    if proxy.config.kind_of(backend.name).substitutes:
        raise BackendBroke(f"the backend had {named[:256]!r} answer instead of the model that was asked")


def _report(proxy: Proxy, route: Route, error: DmapError) -> None:
    """Have a backend that cannot be reached probed from now on; a device's are its gate's business."""
    if isinstance(error, BackendDown) and route.device is None:
        proxy.inventory.report(route.key.backend, error)
