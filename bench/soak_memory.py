"""
A day of switches in minutes: what is left of the memory of each, by what can be measured without a GPU.

    python -m bench.soak_memory --count 600

Real llama.cpp engines take turns on a device for one of them.  After each switch, when the newcomer has
answered, this looks at the memory of that engine, at what else dmap has started and should be gone, and at
dmap itself.  A stand-in for NVIDIA's library (`tests.nvml`) has the engines' memory as that of a GPU, so
dmap's own account of it runs along: `unaccounted` has to stay what it was.

The exit code is 1 if the last tenth of the switches has more of anything than the second, beyond `GROWN`.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil
import uvloop

from tests.models import make
from tests.nvml import described, gpu
from tests.process import Process, daemon

MIB = 2**20
MODELS = ("tiny-sea", "tiny-kitchen", "tiny-brief")
BESIDE_BYTES = 3 * 2**30
"""What the GPU has used beside the engines: nobody accounts for it."""
GROWN = {"engine": 2.0, "left": 0.0, "unaccounted": 1.0, "dmap": 2.0, "files": 2.0}
"""So much more is no growth, in MiB but for files: an allocator takes and gives back in pieces."""
CONFIG = """
devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 0.01, residency: 0, gpus: [0]}}}}
backends: {{engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 1, threads: 1}}}}
debug: {{ring: 100}}
"""


class Sample(NamedTuple):
    """After one switch, in MiB: the engine, what is *left* of others, dmap and what it cannot account for."""

    engine: float
    left: float
    unaccounted: float
    dmap: float
    files: int


async def main(options: argparse.Namespace) -> bool:
    """Run, and print a line for each tenth."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in MODELS:
            make(model, folder / "models")
        variables = described(folder, gpu(BESIDE_BYTES, children=1))
        text = CONFIG.format(models=folder / "models")
        began = time.monotonic()
        async with (
            daemon(folder, text, **variables) as process,
            aiohttp.ClientSession(process.url) as session,
        ):
            samples = [await switched(process, session, at) for at in range(options.count)]
        took_s = time.monotonic() - began
    print(f"{options.count} switches in {took_s:.0f} s; medians of each tenth, in MiB")
    print("tenth ", *(f"{name:>12}" for name in Sample._fields))
    tenths = [medians(samples[at * len(samples) // 10 : (at + 1) * len(samples) // 10]) for at in range(10)]
    for number, tenth in enumerate(tenths, 1):
        print(f"{number:5} ", *(f"{value:12.1f}" for value in tenth))
    grown = {name: getattr(tenths[-1], name) - getattr(tenths[1], name) for name in Sample._fields}
    bad = {name: round(more, 2) for name, more in grown.items() if more > GROWN[name]}
    unknown = [line.strip() for line in process.log if "memory_unknown" in line]
    print(f"the memory was not known {len(unknown)} times", *unknown[:3], sep="\n  ")
    print(f"grown: {bad}" if bad else "nothing has grown")
    return not bad


async def switched(process: Process, session: aiohttp.ClientSession, at: int) -> Sample:
    """Have the next model answer; return what is there then."""
    body = {"model": MODELS[at % len(MODELS)], "prompt": "the", "max_tokens": 8}
    async with session.post("/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
    return await asyncio.to_thread(sample, process.child.pid, await unaccounted(session))


async def unaccounted(session: aiohttp.ClientSession) -> int:
    """Return what dmap cannot account for, once it knows that."""
    async with asyncio.timeout(60):
        while True:
            async with session.get("/debug/metrics") as answer:
                told = (await answer.json()).get("dmap_device_memory_bytes", ())
            if found := [each["value"] for each in told if each["kind"] == "unaccounted"]:
                return int(found[0])
            await asyncio.sleep(0.1)


def sample(pid: int, unaccounted: int) -> Sample:
    """Measure dmap, which is *pid*, and what it has started: the youngest is the engine that has answered."""
    dmap = psutil.Process(pid)
    engines = sorted(dmap.children(recursive=True), key=psutil.Process.create_time)
    *left, engine = map(bytes_of, engines)
    return Sample(engine / MIB, sum(left) / MIB, unaccounted / MIB, bytes_of(dmap) / MIB, dmap.num_fds())


def bytes_of(process: psutil.Process) -> int:
    """Return the memory of a process, its share of what it shares; 0 if it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def medians(samples: Sequence[Sample]) -> Sample:
    """Return the median of each column."""
    return Sample(*(statistics.median(column) for column in zip(*samples, strict=True)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="what a day of switches leaves of memory")
    parser.add_argument("--count", type=int, default=600, help="how many switches (600)")
    sys.exit(not uvloop.run(main(parser.parse_args())))
