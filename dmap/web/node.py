"""
What a node tells a front that asks for others: that a request waits, and that it has its model.

Such answers in between go to fronts and to nobody else.  Comments in a stream go to all but them: a comment
commits to an answer, and the front could send the request nowhere else.  `wire.hop` has what is said.
"""

import asyncio
from collections.abc import Callable

from dmap.aiohttp_insides import write_before
from dmap.errors import BadRequest
from dmap.web.visit import Visit
from dmap.wire import hop


def take_hop(visit: Visit) -> None:
    """Take the client of *visit* for whom it says that it asks, if it is a front and does."""
    if not visit.client.is_front:
        return
    asks = hop.hop_of(visit.request.headers)
    if asks is not None:
        if visit.request.version < (1, 1):
            raise BadRequest("a front speaks HTTP/1.1, which has answers in between")
        visit.hop, visit.client = asks, visit.client.asking_for(asks)


async def wait(visit: Visit, future: "asyncio.Future[None]", words: Callable[[], str]) -> None:
    """Wait for *future*; tell the front of *visit* so in *words*, every `PLACE_S`."""
    while not (await asyncio.wait({future}, timeout=hop.PLACE_S))[0]:
        await write_before(visit.request, hop.waits(words()))
    await future


async def tell_granted(visit: Visit) -> None:
    """Tell the front of *visit* that it has its model: from now on the request must go nowhere else."""
    await write_before(visit.request, hop.granted(visit.record.device or visit.record.backend))
