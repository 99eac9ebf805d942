"""
How often a real dmap switches: real engines, real clients, a switch of about 1 s and answers of about 0.1 s.

Two clients ask for a model each, in a closed loop, and the models do not fit together; then two clients
that overlap keep one model busy while a third asks for the other.  A FIFO makes one switch per request.

    python bench/switches.py            # about 7 minutes

Counted is the steady state: not the first seconds, in which dmap learns the gaps of its clients, and not
the switch for the last one that is left waiting.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from dmap.config import parse
from dmap.daemon import Daemon, listening
from tests.models import make

WARM_UP_S = 20.0
SECONDS = 120.0
PATIENCE_S = 7.5
CONFIG = """
listen: {{port: 0}}
devices:
  gpu0: {{max_models: 1, cooldown_s: 0.7, patience_s: {patience}, residency: 4}}
backends:
  engine: {{kind: gguf, path: {folder}, device: gpu0, parallel: 2, context_length: 512, threads: 1}}
"""


async def main() -> None:
    """Run each workload and print a row for it."""
    print("| workload | requests | switches | per request | longest wait s |")
    print("|---|---:|---:|---:|---:|")
    for think_s in (0.0, 0.3):
        await row(f"a and b alternate, think {think_s:g} s", [("a", think_s), ("b", think_s)])
    await row("two overlapping clients of a, one of b", [("a", 0.0), ("a", 0.0), ("b", 0.0)])


async def row(name: str, clients: list[tuple[str, float]]) -> None:
    """Run *clients*, each a model and a think time, against a proxy of their own."""
    switches = Switches()
    logger = logging.getLogger("dmap.gate")
    logger.setLevel(logging.INFO)
    logger.addHandler(switches)
    async with proxy() as daemon, aiohttp.ClientSession(daemon.url) as session:
        waits: list[float] = []
        asking = [asyncio.ensure_future(ask(session, *client, waits)) for client in clients]
        await asyncio.sleep(WARM_UP_S)
        waits.clear()
        switches.count = 0
        await asyncio.sleep(SECONDS)
        served, switched = len(waits), switches.count
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    logger.removeHandler(switches)
    print(f"| {name} | {served} | {switched} | {switched / served:.3f} | {max(waits):.1f} |", flush=True)


async def ask(session: aiohttp.ClientSession, model: str, think_s: float, waits: list[float]) -> None:
    """Ask *model* again and again, and note in *waits* how long each answer took."""
    clock = asyncio.get_running_loop().time
    body = {"model": model, "max_tokens": 14, "messages": [{"role": "user", "content": "Hello"}]}
    while True:
        started = clock()
        async with session.post("/v1/chat/completions", json=body) as answer:
            payload = await answer.json()
            assert answer.status == 200 and payload["model"] == model, payload
        waits.append(clock() - started)
        await asyncio.sleep(think_s)


@asynccontextmanager
async def proxy() -> AsyncGenerator[Daemon]:
    """Run a proxy in front of the models `a` and `b`, which are the same but for their names."""
    with tempfile.TemporaryDirectory() as folder:
        slow = make("slow", Path(folder) / "made")
        for name in ("a", "b"):
            shutil.copy(slow, Path(folder) / f"{name}.gguf")
        shutil.rmtree(Path(folder) / "made")
        async with listening(parse(CONFIG.format(folder=folder, patience=PATIENCE_S), {})) as daemon:
            yield daemon


class Switches(logging.Handler):
    """Counts the switches, by the line that the gate logs for each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count *record* if it tells of a switch."""
        self.count += record.getMessage().startswith("switch ")


if __name__ == "__main__":
    asyncio.run(main())
