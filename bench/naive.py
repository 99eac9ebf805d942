"""
The proxy that one writes first: an aiohttp handler that awaits each chunk and awaits its writing.

It shows what the relay of dmap saves, and that the bench counts as others do. Not for use.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping

import aiohttp
import uvloop
from aiohttp import web

_SESSION = web.AppKey("session", aiohttp.ClientSession)
_TARGET = web.AppKey("target", str)
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date", "host"}


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


async def _proxy(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    url = request.app[_TARGET] + request.path_qs
    headers = _passed_on(request.headers)
    async with request.app[_SESSION].request(request.method, url, data=body, headers=headers) as answer:
        out = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
        if answer.content_length is not None:
            out.content_length = answer.content_length
        await out.prepare(request)
        async for chunk in answer.content.iter_any():
            await out.write(chunk)
        await out.write_eof()
        return out


async def _session(app: web.Application) -> AsyncIterator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        app[_SESSION] = session
        yield


async def _serve(port: int, target: str) -> None:
    app = web.Application()
    app[_TARGET] = target
    app.cleanup_ctx.append(_session)
    app.router.add_route("*", "/{path:.*}", _proxy)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2]))
