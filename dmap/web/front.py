"""What a front tells a node of a request: for whom it asks, and what that one has waited already."""

import asyncio

from dmap.models import Route
from dmap.web.visit import Visit
from dmap.wire.hop import Hop
from dmap.wire.users import HEADER


def hop_to(visit: Visit, route: Route, since: float) -> list[tuple[str, str]]:
    """Return the headers with which the request of *visit*, that waits *since* then, goes to its node."""
    client, user = visit.client, visit.request.headers.get(HEADER)
    waited_s = asyncio.get_running_loop().time() - since
    told = Hop(client.name, client.priority, client.permit | route.permit, max(waited_s, 0.0)).headers()
    return [*told, (HEADER, user)] if user is not None else told
