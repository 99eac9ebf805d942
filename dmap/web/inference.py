"""The routes that make a model work: one request, from its body to the end of its answer."""

import functools
from collections.abc import Callable

from aiohttp import web

from dmap import relay
from dmap.backends import Backend, Kind, Target
from dmap.errors import (
    BackendBroke,
    BackendDown,
    BadRequest,
    DmapError,
    Misdirected,
    ModelNotFound,
    PathNotFound,
    Unanswered,
)
from dmap.gate import Gate, Lease
from dmap.kinds import ROUTES, kinds_with
from dmap.models import Route
from dmap.record import RequestRecord
from dmap.relay import Reply
from dmap.web import node, request_log, upload
from dmap.web.asked import Asked
from dmap.web.beside import beside
from dmap.web.choice import Choice, report
from dmap.web.front import at_node, hop_to
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit
from dmap.wire.body import Call
from dmap.wire.headers import to_backend
from dmap.wire.hop import Queued
from dmap.wire.images import shows_images
from dmap.wire.routes import InferenceRoute

SHOWN = 256
"""So many characters of a name that a client made up are told of it."""


async def infer(proxy: Proxy, visit: Visit) -> web.StreamResponse:
    """Refuse one inference request, or queue for its model and pass the model's answer on."""
    path = ROUTES[visit.record.path]
    reply = reply_to(proxy, visit, path)
    asked = await read(proxy, visit, path)
    try:
        routes = await proxy.resolve(asked.model, visit.client, or_fallback=visit.hop is None)
    except ModelNotFound as error:
        raise error if visit.hop is None else Misdirected(error.message) from None
    choice = Choice(proxy, visit, asked, routes, functools.partial(_check, proxy, visit, asked))
    await choice.take()
    if proxy.cache is None or visit.hop is not None:  # the front keeps, which knows who asks
        return await answer(proxy, visit, reply, asked, choice)
    ask = functools.partial(answer, proxy, visit, reply, asked, choice)
    return await proxy.cache.answer(visit, reply, asked, routes, ask)


def reply_to(proxy: Proxy, visit: Visit, path: InferenceRoute) -> Reply:
    """Return what answers *visit*; a front makes the comments for its client itself."""
    silent = visit.hop is not None
    return Reply(visit.request, visit.record, path.dialect, proxy.config.server, silent=silent)


async def answer(
    proxy: Proxy, visit: Visit, reply: Reply, asked: Asked, choice: Choice
) -> web.StreamResponse:
    """Have what was *asked* answered, at the place that was taken first; when it is its turn."""
    try:
        with visit:
            await _serve(proxy, visit, reply, asked, choice)
        route = choice.route
        if route.device is not None and visit.record.status < 400:
            proxy.lacking.answered(route.key, asked.path.path)
        if asked.sample is not None:
            proxy.context.learn(route, asked.path, asked.sample, visit.record.tokens_in)
    except DmapError as error:
        error.__traceback__ = None  # as in `app`: the lease keeps it
        report(proxy, choice.route, error)
        if not visit.client.may_watch:
            error.leave_out_lines()
        await reply.fail(error)
    return await reply.end()


async def read(proxy: Proxy, visit: Visit, path: InferenceRoute) -> Asked:
    """Read the body, once, for everything that is decided by it."""
    body = await upload.read(proxy.visits, visit)
    if proxy.config.debug.capture:
        proxy.captures.note(visit.record, body, proxy.bus.clock())
    content_type = visit.request.headers.get("Content-Type", "")
    asked = await beside(len(body), functools.partial(Asked, path, content_type, body))
    visit.record.asked = (asked.model or "")[:SHOWN]
    return asked


async def _check(proxy: Proxy, visit: Visit, asked: Asked, route: Route) -> None:
    """Refuse what needs no place in the queue to be refused."""
    node.refuse_another_hop(proxy, visit, route)
    kind = proxy.config.kind_of(route.key.backend)
    call = asked.check(route, kind.wording(asked.path), visit.client.permit)
    visit.record.stream, visit.record.changes = asked.stream, asked.changes
    _suit(asked.path, route, kind)
    proxy.lacking.check(route.key, asked.path.path)
    proxy.inventory.check(route.key.backend)
    if call is not None:
        _check_images(route, call)
    await proxy.gate(route).check(route)
    if call is not None:
        await proxy.context.check(route, asked.path, call)


def _check_images(route: Route, call: Call) -> None:
    """Refuse images for a model that is known to be blind; its server would load it to say so."""
    if route.vision is False and shows_images(call.fields):
        those = "GET /v1/models shows vision: true for those that do"
        raise BadRequest(f"{route.key.model!r} takes no images; {those}", param="messages")


def _suit(path: InferenceRoute, route: Route, kind: Kind) -> None:
    """Refuse what servers of *kind* lack, or would load the model for in vain."""
    model, embeds = route.key.model, path.path.endswith("/embeddings")
    if not kind.has(path.path):
        those = " or ".join(kinds_with(path.path))
        raise PathNotFound(f"{path.path} is a route of {those}; {model!r} is on a backend of {kind.name}")
    if kind.embeds_apart and embeds != route.needs.embedding:
        lacks = "makes no embeddings on its server; ask a model that is made for it"
        only = "makes embeddings and nothing else; ask it at /v1/embeddings"
        raise BadRequest(f"{model!r} {lacks if embeds else only}", param="model")


async def _serve(proxy: Proxy, visit: Visit, reply: Reply, asked: Asked, choice: Choice) -> None:
    """Have one place after the other answer, until one does."""
    while True:
        try:
            return await _serve_at(proxy, visit, reply, asked, choice)
        except DmapError as error:
            await choice.move(error)


async def _serve_at(proxy: Proxy, visit: Visit, reply: Reply, asked: Asked, choice: Choice) -> None:
    """
    Wait for the model at the place that was taken, and have it answer.

    If its server was gone, the request goes back to its place in the queue, once: before anything was sent,
    or before a byte of the answer came, unless the server may have acted on it by then.
    """
    route, gate, record, lease = choice.route, choice.gate, reply.record, choice.lease()
    try:
        await _granted(proxy, visit, reply, asked, gate, lease, lease.ask)
        try:
            return await _send(proxy, visit, reply, asked, gate, lease)
        except (BackendDown, Unanswered) as error:
            if not choice.comes_back(error):
                if lease.may_move and route.device is not None:
                    lease.give_up()
                raise
            record.retried = 1
            request_log.tell(proxy.bus, record, "request.retried", {"reason": error.message})
        await _granted(proxy, visit, reply, asked, gate, lease, lease.come_back)
        await _send(proxy, visit, reply, asked, gate, lease)
    finally:
        lease.release()
        if (node := proxy.nodes.get(route.key.backend)) is not None:
            node.heard(record.id)
        if record.lacks_route and route.device is not None:
            proxy.lacking.note(route.key, asked.path.path)
        record.waits = False
        record.queue_s, record.switch_s = lease.queue_s, lease.switch_s
        record.service_s = lease.service_s


async def _granted(
    proxy: Proxy, visit: Visit, reply: Reply, asked: Asked, gate: Gate, lease: Lease, ask: Callable[[], None]
) -> None:
    """Have *lease* ask *gate*, and wait until it is granted.  A front is told both."""
    bus, record = proxy.bus, reply.record
    ask()
    if lease.granted is not None:
        record.behind = gate.view.obstacle(lease, drained=gate.drained)
        begun = _place(gate.view.of_newcomer(lease), gate, record)
        request_log.tell(bus, record, "request.queued", begun.told)
        record.waits = True
        if visit.hop is None:
            await reply.wait(lease.granted, lambda: _place(gate.view.of(lease), gate, record).words)
        else:
            await node.wait(visit, lease.granted, lambda: _place(gate.view.of(lease), gate, record))
        record.waits = False
    record.queue_s, record.switch_s = lease.queue_s, lease.switch_s
    if reply.copy is not None and proxy.making.now(asked.model, visit.client) != reply.copy.made_with:
        reply.copy.drop()  # something was set while it waited
    if visit.hop is not None:
        keeps = visit.hop.keeps and asked.may_repeat
        made_with = proxy.making.now(asked.model, visit.client, at_node=True) if keeps else ""
        await node.tell_granted(visit, made_with)
    if record.backend not in proxy.nodes:  # that grants it itself
        request_log.granted(bus, record)


def _place(seen: tuple[int, float, float], gate: Gate, record: RequestRecord) -> Queued:
    """Return the place that was *seen*: its position, an estimate, and the p80."""
    position, estimate_s, p80_s = seen
    return Queued(position, round(estimate_s, 3), round(p80_s, 3), record.behind, gate.drained)


async def _send(proxy: Proxy, visit: Visit, reply: Reply, asked: Asked, gate: Gate, lease: Lease) -> None:
    """Send the request, whose *lease* of *gate* is granted, to its backend, and pass the answer on."""
    route = lease.route
    backend, path = proxy.backends[route.key.backend], asked.path.path
    kind, headers, at = proxy.config.kind_of(backend.name), _headers(proxy, visit, asked), None
    if (to_node := proxy.nodes.get(backend.name)) is not None:
        to_node.sent(route.key.model, visit.record.id)
        headers += hop_to(visit, route, lease.since, keeps=reply.copy is not None)
        at = at_node(proxy.bus, visit.record, lease, to_node)
    made_of = backend.made_of(route.key.model) if reply.copy is not None else None

    async def where() -> Target:
        await backend.confirm()
        return backend.target(route.key.model, path)

    def begun(named: str | None) -> None:
        asked.drop()
        proxy.visits.free(visit)
        _begun(proxy, reply, backend, route, named)

    await beside(asked.size, functools.partial(asked.fitted, route))
    if proxy.config.debug.capture:
        proxy.captures.sent(visit.record, asked.fitted(route))
    await relay.run(
        reply,
        proxy.pool,
        where,
        headers,
        functools.partial(asked.fitted, route),
        lease_s=gate.section.lease_s,
        method=visit.record.method,
        fresh=asked.acts,
        on_answer=begun,
        by_finish=kind.ends_by_finish,
        node=at,
    )
    if reply.copy is not None and to_node is not None and reply.copy.said != made_of:
        reply.copy.drop()  # something was set there that its last view did not have


def _headers(proxy: Proxy, visit: Visit, asked: Asked) -> list[tuple[str, str]]:
    """Return what a server is told in headers, the span that is its parent too."""
    own = [("X-Request-Id", visit.record.id)]
    if asked.content_type:
        own.append(("Content-Type", asked.content_type))
    trace = visit.record.trace
    if trace is not None:
        own.append(("traceparent", trace.send(proxy.bus.clock())))
    begins = trace is not None and trace.parent is None
    return to_backend(visit.request.headers.items(), own, drop="tracestate" if begins else "")


def _begun(proxy: Proxy, reply: Reply, backend: Backend, route: Route, named: str | None) -> None:
    """Tell that the answer has begun, and if the model that it names is another one than was asked."""
    record = reply.record
    request_log.tell(proxy.bus, record, "request.first_byte", {"first_byte_s": record.first_byte_s})
    if named is None or backend.means(route.name, named):
        return
    reply.no_store = True
    record.reason = f"answered as {named[:256]!r}"
    request_log.tell(proxy.bus, record, "request.mismatch", {"answered": named[:256]})
    if proxy.config.kind_of(backend.name).substitutes:
        raise BackendBroke(f"the backend had {named[:256]!r} answer instead of the model that was asked")
