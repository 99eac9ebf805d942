"""What freezes it: single requests, single answers, gzip bombs; each measured from the outside."""

import asyncio
import contextlib
import gzip
import io
import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.attack import hostile as servers
from bench.attack.attack import CHAT
from bench.attack.gauge import Gauge, Reading, gauge
from bench.attack.house import House, house, key, request
from bench.attack.shapes import shapes

MOST_MS, MOST_CPU_S = 100.0, 0.2
MOST_MIB = 1500.0
"""What the process may take at most: all bodies together may take 1 GiB (`server.bodies`)."""
PATIENCE_S = 4.0
"""How long an answer without end is looked at."""
BOMBS = 10
TOGETHER = 3
"""Daemons at once where each mostly waits."""
START_S = 15.0
"""How long it may take until it listens, on a busy machine."""


@dataclass(frozen=True)
class Freeze:
    """One attack and what it cost."""

    name: str
    reading: Reading
    outcome: str

    @property
    def is_bad(self) -> bool:
        """Tell whether it was more than may be."""
        return (
            self.reading.net_ms > MOST_MS or self.reading.peak_mib > MOST_MIB or bool("bug" in self.outcome)
        )


def _config(backends: str, rest: str = "") -> str:
    return f"access:\n  keys:\n{key('all', 'inference, debug, admin')}backends:\n{backends}server: {{first_byte_s: 20}}\n{rest}"


@asynccontextmanager
async def _measured(config: str) -> AsyncGenerator[Gauge]:
    async with house(config) as found, gauge(found) as measure:
        yield measure


async def requests(*, capture: bool = False) -> list[Freeze]:
    """Send each of `shapes`, with *capture* one in four; return what each cost."""
    frozen = []
    async with servers.hostile() as port:
        sink = f"  sink: {{kind: openai, url: 'http://127.0.0.1:{port}/sink'}}\n"
        async with _measured(_config(sink, f"debug: {{capture: {str(capture).lower()}}}\n")) as measure:
            for name, raw in itertools.islice(shapes(), 0, None, 4 if capture else 1):
                frozen.append(await _one(measure, name, lambda raw=raw: _outcome(measure.house, raw)))  # type: ignore[misc]
    return frozen


async def answers() -> list[Freeze]:
    """Have each of the hostile servers answer one request; return what each cost."""
    frozen = []
    async with servers.hostile() as port:
        lines = "".join(
            f"  h{number}: {{kind: openai, url: 'http://127.0.0.1:{port}/{number}'}}\n"
            for number in range(len(servers.ANSWERS))
        )
        async with _measured(_config(lines)) as measure:
            for number, name in enumerate(servers.ANSWERS):
                body = b'{"model":"m%d","messages":[],"stream":true}' % number
                raw = request("POST", CHAT, body, bearer="sk-all")
                frozen.append(await _one(measure, name, lambda raw=raw: _outcome(measure.house, raw)))  # type: ignore[misc]
    return frozen


async def lists() -> list[Freeze]:
    """Start in front of each server whose list of models hurts; the start counts, and a list asked for."""
    servers.prepare()
    room = asyncio.Semaphore(TOGETHER)
    async with servers.hostile() as port:

        async def one(number: int, name: str, kind: str) -> Freeze:
            device = ", device: gpu0" if kind == "lmstudio" else ""
            line = f"  h: {{kind: {kind}, url: 'http://127.0.0.1:{port}/{number}'{device}}}\n"
            async with room:
                return await _listed(f"{name} ({kind})", _config(line, "devices: {gpu0: {}}\n"))

        numbered = enumerate(servers.LISTS, len(servers.ANSWERS))
        each = [(number, name, kind) for number, name in numbered for kind in ("openai", "lmstudio")]
        return await asyncio.gather(*(one(*chosen) for chosen in each))


async def _listed(name: str, config: str) -> Freeze:
    began = time.monotonic()
    try:
        async with _measured(config) as measure:
            starting_s = time.monotonic() - began
            raw = request("GET", "/v1/models", bearer="sk-all")
            found = await _one(measure, name, lambda: _outcome(measure.house, raw))
    except TimeoutError:
        return Freeze(name, Reading(), f"bug: does not listen after {time.monotonic() - began:.0f} s")
    late = f", bug: listens after {starting_s:.1f} s" if starting_s > START_S else ""
    return Freeze(found.name, found.reading, found.outcome + late)


async def bombs() -> list[Freeze]:
    """Send gzip bombs of 1 GiB, all at once and without a key; then with one, and on other routes."""
    frozen, bomb = [], _bomb()
    async with servers.hostile() as port:
        sink = f"  sink: {{kind: openai, url: 'http://127.0.0.1:{port}/sink'}}\n"
        async with _measured(_config(sink)) as measure:
            for path, bearer, kind in (
                (CHAT, "", "gzip"), ("/admin/reload", "", "deflate"), ("/health", "", "gzip"), ("/nowhere", "", "gzip"),
                (CHAT, "sk-all", "gzip"), ("/v1/models", "sk-all", "gzip"), ("/admin/models/load", "sk-all", "gzip"), (CHAT, "sk-all", "br"),
            ):  # fmt: skip
                raw = request("POST", path, bomb, bearer=bearer, headers=(f"Content-Encoding: {kind}",))
                name = f"{BOMBS} x {kind} of 1 GiB to {path} {'with' if bearer else 'without'} key"
                frozen.append(await _one(measure, name, lambda raw=raw: _all(measure.house, raw)))  # type: ignore[misc]
    return frozen


async def _all(found: House, raw: bytes) -> str:
    return "; ".join(sorted(set(await asyncio.gather(*(_outcome(found, raw) for _ in range(BOMBS))))))


def _bomb() -> bytes:
    """Return 1 GiB of blanks in gzip."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as file:
        for _ in range(64):
            file.write(b" " * 2**24)
    return packed.getvalue()


async def _one(measure: Gauge, name: str, attack: Callable[[], Awaitable[str]]) -> Freeze:
    bugs = len(measure.house.bugs())
    async with measure.measuring() as reading:
        outcome = await attack()
        await asyncio.sleep(0.05)
    told = measure.house.bugs()[bugs:]
    return Freeze(name, reading, outcome + (f", bug: {told[0][:160]}" if told else ""))


async def _outcome(found: House, raw: bytes) -> str:
    """Send *raw*, read what comes and tell how it ended; nothing is kept of it."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port, limit=2**20)
    except OSError as exc:
        return f"bug: {exc}"
    first, size, end = b"", 0, "closed"
    sending = asyncio.ensure_future(_sent(writer, raw))
    try:
        async with asyncio.timeout(PATIENCE_S):
            await sending
            while piece := await reader.read(2**20):
                first, size = first or piece, size + len(piece)
                if first[:12] != b"HTTP/1.1 200" or b"\r\n0\r\n\r\n" in piece[-9:] or size >= _whole(first):
                    break
    except TimeoutError:
        end = "still open"
    except ConnectionError:
        end = "reset"
    sending.cancel()
    writer.transport.abort()
    status = first[9:12].decode() or "no answer"
    return f"{status}, {end}" + (f" after {size >> 20} MiB" if size > 2**20 else "")


def _whole(first: bytes) -> int:
    head, _, _ = first.partition(b"\r\n\r\n")
    _, found, rest = head.lower().partition(b"content-length: ")
    return len(head) + 4 + int(rest.split(b"\r\n")[0]) if found else 2**62


async def _sent(writer: asyncio.StreamWriter, raw: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        for at in range(0, len(raw), 2**20):
            writer.write(raw[at : at + 2**20])
            await writer.drain()


def table(frozen: list[Freeze]) -> Iterator[str]:
    """Yield the lines of a table of *frozen*."""
    yield "| attack | came of it | worst /health ms | without waiting for a core | CPU s | peak MiB |"
    yield "|---|---|---:|---:|---:|---:|"
    for each in frozen:
        reading, mark = each.reading, " **" if each.is_bad else ""
        figures = f"{reading.worst_ms:.0f} | {reading.net_ms:.0f}{mark} | {reading.cpu_s:.2f} | {reading.peak_mib:.0f}"
        yield f"| {each.name} | {each.outcome} | {figures} |"
