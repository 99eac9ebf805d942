"""
The life of the process: sockets, signals, and an end that cuts nobody off without a word.

`listening` is the production server; the tests use it too, so that what they see is what runs.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from dmap.config import Config
from dmap.errors import BadRequest, ShuttingDown
from dmap.logfmt import logfmt
from dmap.web.app import make_app
from dmap.web.parts import Parts, build

__all__ = ["Daemon", "listening", "serve"]

_log = logging.getLogger(__name__)

_HTTP = {"keepalive_timeout": 75.0, "max_field_size": 32 * 1024, "max_headers": 100, "lingering_time": 5.0}
_CANCEL_S = 1.0
"""What a cancelled handler gets to end.  aiohttp waits up to twice this."""
_PROBE_AFTER_S, _PROBE_EVERY_S, _PROBES = 15, 5, 3


class _Connection(web.RequestHandler):
    """aiohttp's side of one client connection, with dmap's words for what is not HTTP."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a broken request in OpenAI's shape, without a traceback for each in the log."""
        if not isinstance(exc, HttpProcessingError) or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        _log.info(logfmt("bad_http", {"client": request.remote, "reason": message}))
        reason = " ".join((message or "").split())[:200]
        response = web.json_response(BadRequest(f"the request is not HTTP: {reason}").body(), status=400)
        response.force_close()
        return response


@dataclass(frozen=True, slots=True)
class Daemon:
    """A proxy that listens at *addresses*."""

    parts: Parts
    addresses: list[tuple[str, int]]
    _server: asyncio.Server

    @property
    def url(self) -> str:
        """The first address, as a URL."""
        host, port = self.addresses[0]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def drain(self, hurry: asyncio.Event) -> None:
        """
        Stop listening, refuse who waits, and let streams finish within `server.shutdown_s`.

        What is left then, or once *hurry* is set, is told so inside the stream and cut.
        """
        self._server.close()
        for gate in self.parts.gates.values():
            await gate.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.parts.config.server.shutdown_s):
                await _first_of(self.parts.presence.gone(), hurry.wait())
        self.parts.pool.stop(ShuttingDown("dmap is shutting down"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CANCEL_S):
                await self.parts.presence.gone()


@contextlib.asynccontextmanager
async def listening(config: Config) -> AsyncGenerator[Daemon]:
    """Run a proxy of *config* inside the context; port 0 takes a free one."""
    parts = build(config)
    runner = web.AppRunner(
        make_app(parts), handler_cancellation=True, access_log=None, shutdown_timeout=_CANCEL_S
    )
    await runner.setup()
    try:
        server = await _listen(runner, config)
        try:
            addresses = [sock.getsockname()[:2] for sock in server.sockets]
            yield Daemon(parts, addresses, server)
        finally:
            server.close()
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, config: Config) -> asyncio.Server:
    loop, manager = asyncio.get_running_loop(), runner.server
    assert manager is not None, "the runner is set up"
    server = await loop.create_server(
        lambda: _Connection(manager, loop=loop, access_log=None, **_HTTP),  # type: ignore[arg-type]
        config.listen.host,
        config.listen.port,
        backlog=1024,
        reuse_address=True,
        start_serving=False,
    )
    for sock in server.sockets:
        _find_vanished(sock, config.server.client_stall_s)
    await server.start_serving()
    return server


def _find_vanished(sock: socket.socket, stall_s: float) -> None:
    """
    Have the kernel notice hosts that vanish without a word; accepted sockets inherit all of this.

    `TCP_USER_TIMEOUT` also ends a connection whose window stays shut, so it is longer than the stall bound.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_AFTER_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    patience_ms = int(1000 * (stall_s + _PROBE_AFTER_S + _PROBES * _PROBE_EVERY_S))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)


async def serve(config: Config, on_ready: Callable[[str], None] = lambda url: None) -> None:
    """Run until SIGTERM or SIGINT, a second one ends it at once; *on_ready* gets the URL that answers."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with listening(config) as daemon:
        _log.info(logfmt("listening", {"url": daemon.url, "backends": ",".join(config.backends)}))
        on_ready(daemon.url)
        await stop.wait()
        _log.info(logfmt("stopping", {"within_s": config.server.shutdown_s}))
        await daemon.drain(hurry)


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for one of *waits* and cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
