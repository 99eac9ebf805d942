"""
Where one request is answered: the places that may serve it, the best one first, each once.

With one place there is nothing to choose, and nobody asks how it stands there.  What is looked at for a
choice is what each gate says of itself; `placement` compares.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from dmap.errors import BackendDown, DmapError, NodeSilent, Unanswered
from dmap.gate import Gate, Lease
from dmap.models import Route
from dmap.placement import Place, Standing, first
from dmap.web import request_log
from dmap.web.asked import Asked
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit
from dmap.wire.users import conversation_of, user_of

Check = Callable[[Route], Awaitable[None]]
LATER = (429, 503)
"""What is told to clients who may come back."""


class Choice:
    """
    The places for the request of *visit*, which has *asked*: a route for each.

    *check* raises what speaks against a route before the request has a place in its queue.  *route* is the
    one that was taken, and passes through *gate*; `take` is called first.
    """

    __slots__ = (
        *("_asked", "_check", "_last", "_later", "_left", "_proxy", "_resent", "_visit", "_why"),
        *("gate", "route"),
    )

    def __init__(
        self, proxy: Proxy, visit: Visit, asked: Asked, routes: Sequence[Route], check: Check
    ) -> None:
        self._proxy, self._visit, self._asked, self._check = proxy, visit, asked, check
        self.route, self._left = routes[0], list(routes)
        self.gate: Gate
        self._last: Lease | None = None
        self._later: tuple[Route, DmapError] | None = None
        self._resent, self._why = False, ""

    async def take(self) -> None:
        """Take the best place of those left that does.  Raises what speaks against the last of them."""
        while True:
            self.route = self._best(self._left)
            self._left.remove(self.route)
            note(self._visit, self.route)
            self.gate = self._proxy.gate(self.route)
            key, coming = self.route.key, self.gate.view.coming
            coming.append(key)
            try:
                return await self._check(self.route)
            except DmapError as error:
                if not (self._left and error.elsewhere):
                    raise self._last_word(error) from None
            finally:
                coming.remove(key)

    def lease(self) -> Lease:
        """Return a lease at the place that was taken; what was waited elsewhere counts."""
        visit, last = self._visit, self._last
        if self.route.key.backend in self._proxy.nodes:
            request_log.tell(self._proxy.bus, visit.record, "request.routed", _to_node(self.route, self._why))
        client, user = visit.client, user_of(visit.request.headers, self._asked.fields)
        waited_s = visit.hop.waited_s if visit.hop is not None else 0.0
        if last is not None:
            waited_s = asyncio.get_running_loop().time() - last.since
        lease = self.gate.lease(self.route, client.name, client.priority, visit.record.id, user, waited_s)
        if last is not None:
            lease.queue_s, lease.switch_s, lease.service_s = last.queue_s, last.switch_s, last.service_s
        lease.may_move = bool(self._left)
        self._last = lease
        return lease

    def comes_back(self, error: BackendDown | Unanswered) -> bool:
        """
        Tell whether a request that its server did not answer takes its place there again, once.

        It may where the model can be loaded again, if no other place is quicker than that.
        """
        if self.route.device is None or self._visit.record.retried or not self._may_resend(error):
            return False
        if self._left and self._is_sooner_elsewhere():
            return False
        self._resent |= isinstance(error, Unanswered)
        return True

    async def move(self, error: DmapError) -> None:
        """Take another place, because of *error* at this one; raises it if there is none that does."""
        self._left = [route for route in self._left if self._proxy.catalog.route_of(route.key) is not None]
        may = error.elsewhere or (isinstance(error, Unanswered) and self._may_resend(error))
        if not self._left or not may:
            raise self._last_word(error)
        self._note_refusal(error)
        self._resent |= not error.elsewhere
        report(self._proxy, self.route, error)
        record = self._visit.record
        record.moved += 1
        said = {"reason": error.message, "code": error.code}
        request_log.tell(self._proxy.bus, record, "request.moved", said)
        await self.take()

    def _note_refusal(self, error: DmapError) -> None:
        """Note a place that refused, if the client may come back to it."""
        if error.elsewhere and error.status in LATER:
            error.__traceback__ = error.__context__ = None  # whose frames have this object
            self._later = self.route, error

    def _last_word(self, error: DmapError) -> DmapError:
        """
        Return what the client is told, whom the last place that there was refused with *error*.

        Where it never works is of no concern to a client who may have its answer elsewhere, later.
        """
        if self._later is None or not error.elsewhere or error.status in LATER:
            return error
        self.route, later = self._later
        note(self._visit, self.route)
        return later

    def _may_resend(self, error: DmapError) -> bool:
        """Tell whether nothing was sent, or nothing came of it that a second time would harm; once."""
        return not isinstance(error, Unanswered) or not (self._asked.acts or self._resent)

    def _best(self, routes: Sequence[Route]) -> Route:
        if len(routes) == 1:
            self._why = "only"
            return routes[0]
        route, place = best(self._proxy, routes, self._affinity())
        self._why = "unknown" if place.wait_s is None else "resident" if place.resident else "cold"
        return route

    def _is_sooner_elsewhere(self) -> bool:
        """Tell whether another place is quicker than a load here: what did not answer is likely gone."""
        _, other = best(self._proxy, self._left, self._affinity())
        return other.standing is Standing.SOUND and other.score_s < self.gate.view.load_s(self.route.key)

    def _affinity(self) -> str:
        """Return what this request has in common with others of its conversation, else with none."""
        talk = conversation_of(self._visit.request.headers, self._asked.fields) or self._visit.record.id
        return f"{self._visit.client.name} {talk}"


def report(proxy: Proxy, route: Route, error: DmapError) -> None:
    """Take note that *error* speaks against all of a server; one of a device is its gate's business."""
    name = route.key.backend
    if isinstance(error, NodeSilent) and name in proxy.nodes:
        proxy.nodes[name].doubt()
    elif isinstance(error, BackendDown) and route.device is None:
        proxy.inventory.report(name, error)


def best(proxy: Proxy, routes: Sequence[Route], affinity: str = "") -> tuple[Route, Place]:
    """Return where an answer begins first, of those whose backend is up; see `first` for *affinity*."""
    up = [route for route in routes if not proxy.inventory.is_down(route.key.backend)] or routes
    now = asyncio.get_running_loop().time()
    places = {_place(proxy, route, now): route for route in up}
    place = first(routes[0].key.model, affinity, places)
    return places[place], place


def _place(proxy: Proxy, route: Route, now: float) -> Place:
    """Return how a request for *route* stands there, as its gate says, or at *now* what another box said."""
    gate, node = proxy.gate(route), proxy.nodes.get(route.key.backend)
    if node is None:
        return gate.place(route)
    return node.place(route.key.model, now, gate.view.in_flight, gate.view.coming.count(route.key))


def _to_node(route: Route, why: str) -> dict[str, str]:
    """Return what an event tells of the choice of a node."""
    return dict(node=route.key.backend, reason=why)  # noqa: C408 - the name of a kind is no constant here


def note(visit: Visit, route: Route) -> None:
    """Note where the request goes."""
    visit.record.backend, visit.record.model = route.key
    visit.record.device, visit.record.priority = route.device, visit.client.priority
