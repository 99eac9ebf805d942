"""
What a front tells a node of a request, and what it tells others of what that says.

It tells for whom it asks, and what that one has waited already.  That the request waits there, behind what,
and that it has its model is told here as if it were here: for whoever asks the front why it is slow.
"""

import asyncio

from dmap.backends import Forwarding
from dmap.events import Bus
from dmap.gate import Lease
from dmap.models import Route
from dmap.record import RequestRecord
from dmap.relay import AtNode
from dmap.web import request_log
from dmap.web.visit import Visit
from dmap.wire.hop import Hop, Queued
from dmap.wire.users import HEADER


def hop_to(visit: Visit, route: Route, since: float, *, keeps: bool) -> list[tuple[str, str]]:
    """
    Return the headers with which the request of *visit*, that waits *since* then, goes to its node.

    Of an answer that this front *keeps* the node has to tell what it is made with.
    """
    client, user = visit.client, visit.request.headers.get(HEADER)
    waited_s = asyncio.get_running_loop().time() - since
    hop = Hop(client.name, client.priority, client.permit | route.permit, max(waited_s, 0.0), keeps)
    return [*hop.headers(), (HEADER, user)] if user is not None else hop.headers()


def at_node(bus: Bus, record: RequestRecord, lease: Lease, node: Forwarding) -> AtNode:
    """Return what hears of the request of *record*, that has a *lease* here, at *node*, and tells it."""

    def queued(place: Queued | None) -> None:
        node.heard(record.id)
        record.place = place
        if record.waits:
            return
        record.waits = True
        record.behind = place.behind if place is not None else ""
        request_log.tell(bus, record, "request.queued", place.told if place is not None else {})

    def granted() -> None:
        node.heard(record.id)
        record.waits = False
        request_log.granted(bus, record)

    def waited(queue_s: float, switch_s: float) -> None:
        lease.waited_away(queue_s, switch_s)
        record.queue_s += queue_s
        record.switch_s += switch_s

    if not node.tells:
        request_log.granted(bus, record)
    return AtNode(node.name, node.tells, queued, granted, waited)
