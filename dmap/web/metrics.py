"""`GET /metrics`, and the task that measures how late the event loop is."""

import asyncio
import functools
from collections.abc import AsyncGenerator

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_async.aio import time
from prometheus_client.aiohttp import make_aiohttp_handler

from dmap import tasks
from dmap.metrics import Metrics
from dmap.metrics.series import Histogram
from dmap.web.proxy import PROXY

LOOK_S = 1.0
"""How often the loop's lag is measured."""


def page(metrics: Metrics) -> Handler:
    """
    Return what serves *metrics* in the format that the scraper asks for, and times itself.

    prometheus_async's own `server_stats` knows the global registry only, which all daemons of a process would
    share.
    """
    return time(metrics.scrape)(make_aiohttp_handler(metrics.registry, disable_compression=True))


async def watched(app: web.Application) -> AsyncGenerator[None]:
    """Measure the loop's lag while *app* runs; for `cleanup_ctx`."""
    lag = app[PROXY].metrics.lag
    task = tasks.spawn(functools.partial(_watch, lag), "loop lag")
    yield
    await tasks.end(task)


async def _watch(lag: Histogram) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + LOOK_S
        await asyncio.sleep(LOOK_S)
        lag.observe(max(0.0, clock() - due))
