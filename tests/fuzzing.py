"""
Two proxies under a rain of `rubbish`, one with keys and one without, and a judge of what comes of it.

Behind each are an emulated LM Studio, whose models the admin orders really load, and a server that answers at
once, at times badly.  Nothing may be dmap's own fault: no 500, no refusal out of shape, no request by the
book without an answer, no line of an error in the log; and nothing may be left.
"""

import asyncio
import contextlib
import gc
import hashlib
import logging
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from dmap.config import parse
from dmap.daemon import RunningDaemon, listening
from dmap.web.reload import reload
from tests.conftest import Proxy
from tests.fakes import (
    DONE,
    END,
    SSE,
    Exchange,
    FakeBackend,
    answer,
    chat,
    chunk,
    delta,
    fake_backend,
    post,
    soon,
)
from tests.fuzz_visit import OWED_S, Visit
from tests.lmstudio_emulator import Emulator
from tests.lmstudio_world import SPECS, Knobs, Refusal, World
from tests.rubbish import Ask

__all__ = ["Campaign", "campaign"]

CLIENTS = 24
VISIT_S = 15.0
"""How long a connection may last."""
SPARE_TASKS = 8
"""A look, a probe or an unfinished load may be under way."""
RING = 500
_LOG = ("dmap", "aiohttp", "asyncio")

CONFIG = """
listen: {{port: 0}}
devices: {{gpu0: {{max_models: 2, cooldown_s: 0, patience_s: 0.1, wait_s: 1, lease_s: 2, queue: 16}}}}
backends:
  studio: {{kind: lmstudio, url: '{studio}', device: gpu0}}
  plain: {{kind: openai, url: '{plain}', parallel: 8, queue: 16, wait_s: 1}}
defaults: {{temperature: 0.7}}
models:
  m: {{aliases: [tiny], force: {{top_k: 5}}, strip: [user], permit: [keep_alive]}}
server:
  {{max_body: 256KiB, bodies: 1MiB, body_s: 0.1, heartbeat_s: 0.05, first_byte_s: 3, idle_s: 3}}
debug: {{ring: {ring}, capture: {capture}}}
state: {folder}/{name}/state.json
"""


def _key(name: str, scopes: str, more: str = "") -> str:
    digest = hashlib.sha256(f"sk-{name}".encode()).hexdigest()
    return f"  - {{name: {name}, sha256: {digest}, scopes: [{scopes}]{more}}}\n"


KEYS = (
    "access:\n  trusted_proxies: [127.0.0.1]\n  cors: ['http://page.example']\n"
    "  allow: [127.0.0.0/8, 10.0.0.0/8, '::1']\n  failures_per_min: 1000000\n  keys:\n"
    + _key("all", "inference, debug, admin", ", priority: 5, permit: [image_url]")
    + _key("inf", "inference", ", models: ['m', 'qwen/*']")
    + _key("few", "inference, debug", ", parallel: 2, rate_per_min: 600")
    + _key("adm", "admin")
)


BY_THE_BOOK = {
    "/admin/models/unload": {"modelKey": SPECS[0].key},
    "/admin/models/load": {"modelKey": SPECS[0].key, "loadConfig": {"contextLength": 2048}},
    "/v1/chat/completions": chat(model=SPECS[0].key),
}
REFUSAL = b'{"error": {"message": "no", "type": "invalid_request_error", "code": 400}}'


class _Sturdy(Emulator):
    """An LM Studio that says 400 to what it cannot read, as its schemas do; the emulator knows fewer."""

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await super()._serve(request)
        except (TypeError, ValueError, AttributeError, KeyError, RecursionError, Refusal) as exc:
            told = {"message": f"Invalid request: {type(exc).__name__}", "type": "invalid_request"}
            return web.json_response({"error": told}, status=400)
        except ConnectionError:  # dmap has left, which is nothing to log
            raise asyncio.CancelledError from None


async def _reply(exchange: Exchange) -> None:
    """Answer at once: mostly well, one in eight by the body not."""
    path, streams = exchange.path, b'"stream": true' in exchange.body or b'"stream":true' in exchange.body
    way = zlib.crc32(exchange.body) % 40
    if way == 0:
        return exchange.cut()
    if way == 1:
        return await exchange.write(answer(b'{"error": "Unexpected endpoint"}'))
    if way == 2:
        return await exchange.write(answer(b"<html>", status="502 Bad Gateway", kind="text/html"))
    if way == 3:
        return await exchange.write(answer(REFUSAL, status="400 Bad Request"))
    if way == 4:
        await exchange.write(SSE, chunk(delta("a")))
        return exchange.close()
    if not streams:
        return await exchange.write(answer(b'{"id": "x", "object": "any", "model": "m", "choices": []}'))
    await exchange.write(SSE, chunk(delta("a")), chunk(_end(path)), END)


def _end(path: str) -> bytes:
    if path.endswith("responses"):
        return b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n'
    return b'event: message_stop\ndata: {"type":"message_stop"}\n\n' if path.endswith("messages") else DONE


class _Alarms(logging.Handler):
    """Formats every record, as production does, and keeps those that tell of a bug."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        line = self.format(record)
        if record.levelno >= logging.ERROR or record.exc_info:
            self.lines.append(line)


@dataclass
class Site:
    """One proxy with its backends."""

    proxy: Proxy
    studio: Emulator
    plain: FakeBackend
    loads: int = 0
    answers: int = 0

    def count(self, event: dict[str, Any]) -> None:
        """Count what LM Studio really did."""
        self.loads += event["event"] == "load_end"
        self.answers += event["event"] == "generation_end"

    def forget(self) -> None:
        """Have the backends forget what they were asked, which is no memory of dmap's."""
        self.studio.requests.clear()
        self.studio.world.events.clear()
        self.plain.requests.clear()


@dataclass
class Campaign:
    """
    The two sites, and what was seen: `outcomes` by what came, and `findings`, each with what was sent.
    """

    sites: dict[bool, Site]
    alarms: _Alarms
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    idle_tasks: int = 0

    async def run(self, asks: Iterable[Ask]) -> None:
        """Send *asks*, `CLIENTS` at a time, and wait until all has ended."""
        queue = iter(asks)

        async def client() -> None:
            for number, ask in enumerate(queue):
                await self._one(ask)
                if number % 20 == 0:  # orders drain the device, and nobody would get anything any more
                    for gate in self.sites[ask.keyed].proxy.proxy.gates.values():
                        gate.resume()
                    self.sites[ask.keyed].forget()

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        self.findings += [f"log: {line}" for line in self.alarms.lines]
        self.alarms.lines.clear()
        for keyed, site in self.sites.items():
            self.findings += [f"keyed={keyed} left: {what}" for what in await self._left(site)]

    async def goes_on(self) -> None:
        """Have each proxy load a model by order and answer with it, whatever came before; count just that."""
        for keyed, site in self.sites.items():
            site.loads = site.answers = 0
            for gate in site.proxy.proxy.gates.values():
                gate.resume()
                gate.configure(gate.section.model_copy(update={"wait_s": OWED_S}))
            for path, body in BY_THE_BOOK.items():
                key = "Authorization: Bearer sk-all\r\n" if keyed else ""
                sent = post(body, path, headers=f"Content-Type: application/json\r\n{key}")
                await self._one(Ask((sent,), sane=True, leave="wait", keyed=keyed))

    def held_bytes(self) -> int:
        """Return what Python holds of memory taken since tracemalloc was started, garbage taken out."""
        for site in self.sites.values():
            site.forget()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async def _one(self, ask: Ask) -> None:
        visit = Visit(ask)
        try:
            async with asyncio.timeout(VISIT_S):
                await visit.run(self.sites[ask.keyed].proxy.daemon.addresses[0])
        except TimeoutError:
            visit.complaints.append("no end")
        self.outcomes.update(visit.seen or [f"none ({ask.leave if ask.sane else 'broken'})"])
        sent = visit.sent
        self.findings += [
            f"{complaint}: keyed={ask.keyed} {ask.leave} {len(sent)} bytes {sent[:1500]!r}"
            for complaint in visit.complaints
        ]

    async def _left(self, site: Site) -> list[str]:
        """Wait, five seconds at most, until nothing is left of the requests; tell what is."""
        with contextlib.suppress(TimeoutError):
            await soon(lambda: not self._leftovers(site), 5)
        return self._leftovers(site)

    def _leftovers(self, site: Site) -> list[str]:
        parts, proxy = site.proxy.proxy, site.proxy
        counts = {
            "leases, waiters and bytes of bodies": proxy.leftovers,
            "visits": len(parts.visits),
            "trials": len(parts.trials),
            "readers": parts.bus.readers,
            "requests of keys": sum(one.running for one in parts.access.usages.values()),
            "tasks": max(0, len(asyncio.all_tasks()) - self.idle_tasks - self._pooled()),
        }
        return [f"{count} {what}" for what, count in counts.items() if count]

    def _pooled(self) -> int:
        """Count the connections that are kept for later: their servers, here too, have a task for each."""
        pools = [site.proxy.proxy.pool for site in self.sites.values()]
        return sum(len(connections) for pool in pools for connections in pool.idle.values())


@asynccontextmanager
async def campaign(folder: Path) -> AsyncGenerator[Campaign]:
    """Run both sites inside the context, their state files in *folder*."""
    async with AsyncExitStack() as stack:
        sites = {
            keyed: await stack.enter_async_context(_site(folder, keyed=keyed)) for keyed in (False, True)
        }
        alarms = stack.enter_context(_listening_in())
        ran = Campaign(sites, alarms)
        ran.idle_tasks = len(asyncio.all_tasks()) + SPARE_TASKS
        yield ran


@asynccontextmanager
async def _site(folder: Path, *, keyed: bool) -> AsyncIterator[Site]:
    studio = _Sturdy(World(SPECS, None, Knobs(load_s=0.002, token_s=0.0002, v0_lag_s=0.0, idle_s=75.0)))
    await studio.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(studio.stop)
        plain = await stack.enter_async_context(fake_backend())
        plain.script = _reply
        text = CONFIG.format(
            studio=studio.url,
            plain=plain.url,
            folder=folder,
            name=f"keyed-{keyed}",
            capture=str(keyed).lower(),
            ring=RING,
        ) + (KEYS if keyed else "")
        daemon = await stack.enter_async_context(listening(parse(text, {})))
        _allow_reload(daemon)
        site = Site(Proxy(daemon), studio, plain)
        studio.world.told = site.count
        yield site


def _allow_reload(daemon: RunningDaemon) -> None:
    """Let `POST /admin/reload` find the file as it was."""
    daemon.proxy.reload = lambda: reload(daemon.proxy, daemon.proxy.config)


@contextlib.contextmanager
def _listening_in() -> Iterator[_Alarms]:
    """Hear every line at INFO, and keep it from everybody else, who would keep it."""
    alarms, loggers = _Alarms(), [logging.getLogger(name) for name in _LOG]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(alarms)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield alarms
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(alarms)
            logger.setLevel(level)
            logger.propagate = propagate
