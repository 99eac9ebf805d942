"""
A front and two nodes with real engines under a crowd, while one node after the other gets a SIGKILL.

    python -m bench.soak_nodes --count 100

Two models, of which each node has one at a time, and 16 clients, streams and whole answers.  The other node
lives, so no request that has not been granted may be lost: the only failures that a client may see are those
of answers that had begun.  The exit code is 1 if there is another one, if an answer was short or of another
model, if a process is left over, or if a log tells of a bug.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil
import uvloop

from bench.crowd import Crowd, Tally
from bench.soak_fleet import Part
from dmap.process import marks
from tests.fakes import HERE_S
from tests.models import make
from tests.ports import free_port

MODELS = ("tiny-sea", "tiny-kitchen")
CLIENTS = 16
KEY = "front"
MAY = ("502 backend_died", "502 backend_broke", "in the stream: backend_broke", "ClientPayloadError")
"""What a client may see: its answer had begun when the node was killed.  The last is a cut stream's."""
NODE = """
listen: {{port: {port}}}
state: {folder}/{name}/state.json
access: {{keys: [{{name: front, sha256: {sha}, scopes: [front]}}]}}
devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 3}}}}
backends: {{engine: {{kind: gguf, path: {folder}/models, device: gpu0, parallel: 2, threads: 1}}}}
"""
FRONT = """
listen: {{port: {port}}}
state: {folder}/{name}/state.json
nodes:
  node1: {{url: "http://127.0.0.1:{node1}", api_key: {key}}}
  node2: {{url: "http://127.0.0.1:{node2}", api_key: {key}}}
"""


class Nodes:
    """The three processes, in *folder*."""

    def __init__(self, folder: Path) -> None:
        ports = {name: free_port() for name in ("front", "node1", "node2")}
        sha = hashlib.sha256(KEY.encode()).hexdigest()
        for model in MODELS:
            make(model, folder / "models")
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        self.url = self.urls["front"]
        self.parts: dict[str, Part] = {}
        for name, text in (("node1", NODE), ("node2", NODE), ("front", FRONT)):
            (folder / name).mkdir()
            config = folder / f"{name}.yaml"
            config.write_text(
                text.format(**ports, port=ports[name], folder=folder, name=name, sha=sha, key=KEY)
            )
            self.parts[name] = Part(name, [sys.executable, "-m", "dmap", "serve", str(config)], folder)

    async def start(self) -> None:
        """Start all three; return when the front has both nodes."""
        for part in self.parts.values():
            await part.start()
        await self.all_up()

    async def all_up(self) -> None:
        """Wait until both nodes answer and the front has them; it may not have missed a killed one yet."""
        async with asyncio.timeout(5 * HERE_S), aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    for url in self.urls.values():
                        async with session.get(f"{url}/health"):
                            pass
                    async with session.get(f"{self.url}/ready") as answer:
                        backends = (await answer.json())["backends"]
                    if all(each["answers"] for each in backends.values()):
                        return
                await asyncio.sleep(0.1)

    async def kill(self, count: int, rng: random.Random) -> None:
        """Kill one node after the other, each when both are there."""
        for _ in range(count):
            await asyncio.sleep(rng.uniform(0.2, 1.5))
            victim = self.parts[rng.choice(("node1", "node2"))]
            await victim.end(signal.SIGKILL)
            await asyncio.sleep(rng.uniform(0, 0.5))
            await victim.start()
            await self.all_up()

    async def stop(self) -> dict[str, int]:
        """Ask all to end; return their exit statuses."""
        return {name: await part.end(signal.SIGTERM) for name, part in self.parts.items()}

    def engines(self) -> list[int]:
        """List the engines that are left of any life of a node."""
        pids = {pid for part in self.parts.values() for pid in part.pids}
        owned = ((each.pid, marks.mark_of(each.pid)) for each in psutil.process_iter())
        return [pid for pid, mark in owned if mark is not None and mark.owner in pids]


def faults(tally: Tally, nodes: Nodes, statuses: dict[str, int], left: list[int]) -> list[str]:
    """Return all that was not as it must be."""
    found = [f"bad answer: {verdict}" for verdict in tally.bad]
    found += [f"{count} x {why}" for why, count in tally.errors.items() if why not in MAY]
    found += [f"{name} ended with {status}" for name, status in statuses.items() if status]
    found += [f"left over: {left}"] if left else []
    words = (" bug ", "Traceback", "CRITICAL")
    lines = (line for part in nodes.parts.values() for line in part.log.splitlines())
    return found + [line for line in lines if any(word in line for word in words)]


async def run(folder: Path, count: int, seed: int) -> tuple[Tally, list[str]]:
    """Kill nodes *count* times; return what clients saw, and all that was not as it must be."""
    nodes = Nodes(folder)
    await nodes.start()
    try:
        async with Crowd(nodes.url, MODELS).asking(seed, CLIENTS) as tally:
            await nodes.kill(count, random.Random(seed))
    finally:
        statuses = await nodes.stop()
    return tally, faults(tally, nodes, statuses, nodes.engines())


async def main(options: argparse.Namespace) -> bool:
    """Run it, and print what was."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally, found = await run(Path(folder), options.count, options.seed)
    print(f"{options.count} kills in {time.monotonic() - began:.0f} s: {dict(tally.kinds)}")
    print(f"the longest without an answer: {tally.hungry_s:.1f} s; errors: {dict(tally.errors)}")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("\n".join(found[:20]))
    return not found and tally.begun > options.count


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="a front and two nodes, one of which is killed again and again"
    )
    parser.add_argument("--count", type=int, default=100, help="how often (100)")
    parser.add_argument("--seed", type=int, default=os.getpid())
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(options())))
