"""`GET /metrics`, `GET /debug/metrics`, and the task that measures how late the event loop is."""

import asyncio

from aiohttp import web
from prometheus_async.aio import time
from prometheus_client.aiohttp import make_aiohttp_handler

from dmap.metrics.series import Histogram
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit

LOOK_S = 1.0
"""How often the loop's lag is measured."""


async def page(proxy: Proxy, visit: Visit) -> web.StreamResponse:
    """
    `GET /metrics`: the metrics in the format that the scraper asks for; it times itself.

    prometheus_async's own `server_stats` knows the global registry only, which all daemons of a process would
    share.
    """
    metrics = proxy.metrics
    scrape = time(metrics.scrape)(make_aiohttp_handler(metrics.registry, disable_compression=True))
    return await scrape(visit.request)  # type: ignore[arg-type]  # it reads the query and headers


async def as_json(proxy: Proxy, visit: Visit) -> web.Response:
    """`GET /debug/metrics`: what `/metrics` has, as JSON."""
    return web.json_response(proxy.metrics.as_dict())


async def watch(lag: Histogram) -> None:
    """Measure how late the loop is, for ever."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + LOOK_S
        await asyncio.sleep(LOOK_S)
        lag.observe(max(0.0, clock() - due))
