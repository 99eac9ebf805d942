"""The daemon under attack: a process of its own, with its keys, its figures and its log."""

import asyncio
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

START_S = 60.0
_LAG = re.compile(r'^dmap_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', re.MULTILINE)


@dataclass
class House:
    """A running daemon: its process, its port, and the lines that it has logged."""

    child: asyncio.subprocess.Process
    port: int = 0
    log: list[str] = field(default_factory=list)
    listening: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def process(self) -> psutil.Process:
        """The daemon as psutil sees it."""
        return psutil.Process(self.child.pid)

    def cpu_s(self) -> float:
        """Return the seconds of CPU that the daemon has taken, without its children."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def peak_bytes(self) -> int:
        """Return the most memory that the daemon has had since `forget_peak`."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def forget_peak(self) -> None:
        """Count the peak of memory from now on (`clear_refs`, man 5 proc)."""
        Path(f"/proc/{self.child.pid}/clear_refs").write_text("5")

    async def read_log(self) -> None:
        """Keep what it logs, and learn its port from it."""
        assert self.child.stderr is not None
        while line := (await self.child.stderr.readline()).decode(errors="replace"):
            self.log.append(line)
            if found := re.search(r"listening url=https?://\S+:(\d+)", line):
                self.port = int(found[1])
                self.listening.set()

    def bugs(self) -> list[str]:
        """List the lines that tell of a bug of dmap's own."""
        marks = ("Traceback", "level=error", "level=critical", " bug ")
        return [line.strip() for line in self.log if any(mark in line for mark in marks)]


@asynccontextmanager
async def house(config: str, *, folder: Path | None = None, **environment: str) -> AsyncGenerator[House]:
    """Run `dmap serve` with *config*, which does not say where to listen; it is killed in the end."""
    with tempfile.TemporaryDirectory() as spare:
        path = (folder or Path(spare)) / "config.yaml"
        path.write_text(f"listen: {{port: 0}}\nstate: {spare}/state.json\n{config}")
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dmap", "serve", str(path)),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **environment},
            limit=2**24,
        )
        found = House(child)
        reading = asyncio.create_task(found.read_log())
        try:
            await asyncio.wait_for(found.listening.wait(), START_S)
            yield found
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
            await reading


def key(name: str, scopes: str, more: str = "") -> str:
    """Return the line of the configuration for a key whose secret is `sk-NAME`."""
    digest = hashlib.sha256(f"sk-{name}".encode()).hexdigest()
    return f"  - {{name: {name}, sha256: {digest}, scopes: [{scopes}]{more}}}\n"


async def lag_s(port: int, bearer: str = "") -> float:
    """Return the bound of the highest bucket of `dmap_loop_lag_seconds` that has anything in it."""
    page = (await ask(port, request("GET", "/metrics", bearer=bearer))).body.decode()
    buckets = [(float(bound), float(count)) for bound, count in _LAG.findall(page)]
    total = max((count for _, count in buckets), default=0.0)
    return min((bound for bound, count in buckets if count >= total), default=0.0)


@dataclass(frozen=True)
class Answer:
    """What came back; *status* is 0 when the connection ended without an answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def payload(self) -> dict[str, object]:
        """The body as a JSON object; empty if it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def request(
    method: str, path: str, body: bytes = b"", *, bearer: str = "", headers: tuple[str, ...] = ()
) -> bytes:
    """Write one well-framed request; *headers* are lines, and replace our own Content-Type."""
    own = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    own += [f"Authorization: Bearer {bearer}"] if bearer else []
    is_typed = any(line.lower().startswith("content-type") for line in headers)
    own += [] if is_typed else ["Content-Type: application/json"]
    return "\r\n".join([*own, *headers, "", ""]).encode("utf-8", "surrogateescape") + body


async def ask(port: int, raw: bytes, *, within_s: float = 10.0) -> Answer:
    """Send *raw* on a connection of its own and return the first answer that comes."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    except OSError:
        return Answer(0)
    try:
        async with asyncio.timeout(within_s):
            writer.write(raw)
            return await answer(reader)
    except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
        return Answer(0)
    finally:
        writer.transport.abort()


async def answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer by the book; 1xx are passed over."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    if status < 200:
        return await answer(reader)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    if headers.get("transfer-encoding") == "chunked":
        return Answer(status, headers, await _chunks(reader))
    return Answer(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    await reader.readuntil(b"\r\n")
    return b"".join(pieces)
