"""
A whole fleet under a crowd, while any of it is killed: the very processes of `ops/compose.fleet.yaml`.

HAProxy with `ops/haproxy.cfg`, two fronts, two nodes with the embedded engine, and redis-server.  Six models
of which each node has one at a time, 48 clients, every sixth of them OpenAI's own.  Every few seconds one
process other than HAProxy gets a SIGKILL (a front, a node, an engine of a node, Redis), and is started again.

    python -m bench.soak_fleet --seconds 300

The exit code is 1 if an answer was of another model or short, if a client went without an answer for longer
than `HUNGRY_S`, if a process is left over, or if a log tells of a bug.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import uvloop

from bench.crowd import Crowd, Tally
from dmap.process import marks
from tests.models import make
from tests.ports import free_port
from tests.programs import find

OPS = Path(__file__).parents[1] / "ops"
MODELS = ("tiny-sea", "tiny-kitchen", "tiny-brief", "sea-two", "kitchen-two", "brief-two")
"""The last three are the files of the first three under other names."""
CLIENTS, OFFICIAL = 48, 8
HUNGRY_S = 60.0
KEY, FRONT_KEY = "sk-clients", "sk-fronts"
NODE = """
listen: {{port: {port}}}
state: {folder}/{name}/state.json
access: {{keys: [{{name: fronts, sha256: "{front_sha}", scopes: [front]}}]}}
devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 3, wait_s: 60, lease_s: 60}}}}
backends: {{engine: {{kind: gguf, path: {folder}/models, device: gpu0, parallel: 4, threads: 1}}}}
"""
FRONT = """
listen: {{port: {port}}}
state: {folder}/{name}/state.json
access:
  trusted_proxies: [127.0.0.1]
  keys: [{{name: clients, sha256: "{sha}", scopes: [inference, debug], parallel: 500, rate_per_min: 100000}}]
nodes:
  node1: {{url: "http://127.0.0.1:{node1}", api_key: {front_key}}}
  node2: {{url: "http://127.0.0.1:{node2}", api_key: {front_key}}}
redis: {{url: "redis://127.0.0.1:{redis}/0"}}
"""


@dataclass
class Part:
    """One process of the fleet, which may be killed and started again; *pids* are those of all its lives."""

    name: str
    command: list[str]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    pids: list[int] = field(default_factory=list)
    child: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        """What all its lives have written."""
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    async def start(self) -> None:
        """Start it; its log goes on."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.child = await asyncio.create_subprocess_exec(
                *self.command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **self.environment},
            )
        self.pids.append(self.child.pid)

    async def end(self, number: int) -> int:
        """Send it a signal; return its exit status."""
        assert self.child is not None
        with contextlib.suppress(ProcessLookupError):
            self.child.send_signal(number)
        return await self.child.wait()


class Fleet:
    """The processes of `compose.fleet.yaml` that requests pass, in *folder*."""

    def __init__(self, folder: Path) -> None:
        names = ("door", "front1", "front2", "node1", "node2", "redis")
        ports = {name: free_port() for name in names}
        shas = {"sha": _sha(KEY), "front_sha": _sha(FRONT_KEY), "front_key": FRONT_KEY}
        _make_models(folder / "models")
        self.url = f"http://127.0.0.1:{ports['door']}"
        self.parts: dict[str, Part] = {}
        for name, text in (("node1", NODE), ("node2", NODE), ("front1", FRONT), ("front2", FRONT)):
            (folder / name).mkdir()
            config = folder / f"{name}.yaml"
            config.write_text(text.format(**ports, **shas, port=ports[name], folder=folder, name=name))
            command = [sys.executable, "-m", "dmap", "serve", str(config)]
            self.parts[name] = Part(name, command, folder)
        redis = ["--port", str(ports["redis"]), "--save", "", "--maxmemory-policy", "volatile-lru"]
        self.parts["redis"] = Part("redis", [find("redis-server") or "redis-server", *redis], folder)
        given = {name.upper(): f"127.0.0.1:{ports[name]}" for name in ("door", "front1", "front2")}
        haproxy = [find("haproxy") or "haproxy", "-db", "-f", str(OPS / "haproxy.cfg")]
        self.parts["haproxy"] = Part("haproxy", haproxy, folder, given)

    async def start(self) -> None:
        """Start all; return when the door answers for a model."""
        for part in self.parts.values():
            await part.start()
        async with asyncio.timeout(60):
            crowd = Crowd(self.url, MODELS[:1], {"Authorization": f"Bearer {KEY}"})
            while not crowd.tally.kinds["answer"]:
                async with crowd.asking(0, 1):
                    await asyncio.sleep(0.5)
                self._all_live()
                crowd = Crowd(self.url, crowd.models, crowd.headers, crowd.tally)

    def _all_live(self) -> None:
        for part in self.parts.values():
            if part.child is not None and part.child.returncode is not None:
                raise SystemExit(f"{part.name} has ended:\n{part.log}")

    async def stop(self) -> dict[str, int]:
        """Ask all to end; return their exit statuses."""
        return {name: await part.end(signal.SIGTERM) for name, part in self.parts.items()}

    def engines(self) -> list[psutil.Process]:
        """List the engines that run, of whichever life of a node."""
        return [each for each in psutil.process_iter() if self._owns(each.pid)]

    def _owns(self, pid: int) -> bool:
        mark = marks.mark_of(pid)
        nodes = (self.parts["node1"], self.parts["node2"])
        return mark is not None and any(mark.owner in part.pids for part in nodes)


async def kill(fleet: Fleet, rng: random.Random, seconds: float) -> Counter[str]:
    """Kill parts for so many *seconds*, each started again after a while; return which, and how often."""
    killed: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(rng.uniform(1, 6))
        victim = rng.choice(("node1", "node2", "front1", "front2", "redis", "engine"))
        killed[victim] += 1
        if victim == "engine":
            for engine in rng.sample(found := await asyncio.to_thread(fleet.engines), min(1, len(found))):
                with contextlib.suppress(psutil.Error):
                    engine.kill()
            continue
        await fleet.parts[victim].end(signal.SIGKILL)
        await asyncio.sleep(rng.uniform(0, 3))
        await fleet.parts[victim].start()
    return killed


def _sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _make_models(folder: Path) -> None:
    for first, second in zip(MODELS[:3], MODELS[3:], strict=True):
        shutil.copy(make(first, folder), folder / f"{second}.gguf")


def report(fleet: Fleet, tally: Tally, statuses: dict[str, int], left: list[int]) -> bool:
    """Print what was; tell whether it was as it must be."""
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"clients: {dict(tally.kinds)}; the longest without an answer: {tally.hungry_s:.1f} s")
    print(f"exit statuses: {statuses}; left over: {left}")
    for why, count in tally.errors.most_common():
        print(f"  {count} x {why}")
    for verdict in tally.bad[:20]:
        print(f"  BAD {verdict}")
    words = (" bug ", "Traceback", "CRITICAL")
    dmaps = [part for part in fleet.parts.values() if part.name.startswith(("node", "front"))]
    lines = [f"{part.name}: {line}" for part in dmaps for line in part.log.splitlines()]
    bugs = [line for line in lines if any(word in line for word in words)]
    print("\n".join(bugs[:20]))
    ended = all(statuses[part.name] == 0 for part in dmaps)
    return ended and not (tally.bad or left or bugs) and tally.hungry_s < HUNGRY_S and bool(tally.begun)


async def main(options: argparse.Namespace) -> bool:
    """Run the fleet, the crowd and the kills."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder))
        try:
            await fleet.start()
            crowd = Crowd(fleet.url, MODELS, {"Authorization": f"Bearer {KEY}"})
            async with crowd.asking(options.seed, CLIENTS, OFFICIAL) as tally:
                killed = await kill(fleet, random.Random(options.seed), options.seconds)
        finally:
            statuses = await fleet.stop()
        left = [each.pid for each in fleet.engines()]
        print(f"killed in {options.seconds:g} s: {dict(killed)}")
        return report(fleet, tally, statuses, left)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="a fleet, of which something is killed every few seconds")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long (300)")
    parser.add_argument("--seed", type=int, default=os.getpid())
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(options())))
