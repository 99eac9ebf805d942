"""
Let the same clients loose on dmap and its peers, all at the same moment, and print what they got.

    python -m bench.switches --llama-server BIN --llama-swap BIN --ollama BIN     # 33 minutes
    python -m bench.switches --seconds 60 --rounds 1 --workloads '1A 1B'          # a first look, dmap alone

The exit code is 1 if dmap misses a bar.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from bench.switches import contenders, models, pace, place, report
from bench.switches.clients import TOKENS, play
from bench.switches.contenders import Contender
from bench.switches.figures import Figures, Window, figures
from bench.switches.workloads import EVERY, PAUSE_S, Workload

Job = tuple[Workload, Contender, contenders.Place]
RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Read the command line, run the rounds and print the tables."""
    options = _options()
    present = [make() for name, make in _makers(options).items() if name in options.contenders.split(",")]
    workloads = [each for each in EVERY if each.name in options.workloads.split(",")]
    with tempfile.TemporaryDirectory(prefix="switches") as folder:
        before, began = _cpu_s(), time.monotonic()
        results, busy = asyncio.run(_rounds(options, workloads, present, Path(folder)))
        own = (_cpu_s() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)
    for contender in present:
        print(f"- {contender.name}: {contender.version}")
    print(f"- loads {options.load:g} s, answers {options.answer:g} s, windows {options.seconds:g} s")
    shares = ", ".join(f"{part:.0%}" for part in busy)
    print(f"- CPU of {os.cpu_count()} cores in use: {shares} in the rounds; by all of this {own:.0%}\n")
    print("\n".join(report.table(results)))
    _keep(results)
    sys.exit(_print_bars(results, options.seconds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("llama-server", "llama-swap", "ollama"):
        parser.add_argument(f"--{name}", type=Path, default=shutil.which(name), help="where the program is")
    parser.add_argument("--seconds", type=float, default=360.0, help="the length of a window")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load", type=float, default=2.0, help="the seconds that a load takes")
    parser.add_argument("--answer", type=float, default=1.05, help="the seconds of an answer of mean length")
    parser.add_argument("--contenders", default="dmap,llama-swap,router,ollama")
    parser.add_argument("--workloads", default=",".join(each.name for each in EVERY))
    return parser.parse_args()


def _makers(options: argparse.Namespace) -> dict[str, Callable[[], Contender]]:
    """Return how to make each contender whose programs are there; say which are not."""
    engine, swap, ollama = (
        path and Path(path).absolute() for path in (options.llama_server, options.llama_swap, options.ollama)
    )
    quantizer = engine and engine.with_name(contenders.QUANTIZER).exists()
    makers: dict[str, Callable[[], Contender] | None] = {
        "dmap": contenders.dmap,
        "llama-swap": (lambda: contenders.llama_swap(swap, engine)) if swap and engine else None,
        "router": (lambda: contenders.router(engine)) if engine else None,
        "ollama": (lambda: contenders.ollama(ollama, engine)) if ollama and quantizer else None,
    }
    for name in (name for name, make in makers.items() if make is None):
        print(f"- {name}: absent")
    return {name: make for name, make in makers.items() if make is not None}


async def _rounds(
    options: argparse.Namespace, workloads: list[Workload], present: list[Contender], folder: Path
) -> tuple[dict[Workload, dict[str, list[Figures]]], list[float]]:
    """Run all rounds; return the figures, and the part of the machine's CPU time that each round took."""
    slow = pace.Pace(pace.build(folder), options.load, options.answer / TOKENS)
    made = models.make_all(folder / "models")
    results: dict[Workload, dict[str, list[Figures]]] = {
        workload: {each.name: [] for each in present} for workload in workloads
    }
    busy = []
    for turn in range(options.rounds):
        ports = place.free_ports()
        jobs = [
            (workload, each, place.place(folder / f"{turn}/{index}/{each.name}", made, ports))
            for index, workload in enumerate(workloads)
            for each in present
        ]
        found, used = await _round(jobs, slow, options.seconds)
        busy.append(used)
        for (workload, contender, _), each in zip(jobs, found, strict=True):
            results[workload][contender.name].append(each)
        print(f"round {turn + 1} of {options.rounds} is over", file=sys.stderr)
    return results, busy


async def _round(jobs: list[Job], slow: pace.Pace, seconds: float) -> tuple[list[Figures], float]:
    """Play all jobs side by side, each with a fresh contender."""
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as starts:
            for _, contender, where in jobs:
                starts.create_task(stack.enter_async_context(place.running(contender, where, slow)))
        start = asyncio.get_running_loop().time() + PAUSE_S + 1
        psutil.cpu_percent()
        found = await asyncio.gather(*(_window(job, start, seconds) for job in jobs))
        return found, psutil.cpu_percent() / 100


async def _window(job: Job, start: float, seconds: float) -> Figures:
    """Play one job from *start* on; what its contender logs while it is stopped is of no interest."""
    workload, _, where = job
    window = Window(start, start + min(seconds, workload.most_s))
    asks = await play(where.url, workload, window.start, window.end)
    return figures(workload, window, asks, pace.loads(place.load_log(where)))


def _cpu_s() -> float:
    """Return the CPU seconds of this process, and of all that came from it and has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _keep(results: Mapping[Workload, Mapping[str, list[Figures]]]) -> None:
    """Write every figure of every round to a file, and say where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "switches.json"
    rows = {
        workload.name: {name: [each.as_json() for each in rounds] for name, rounds in by_name.items()}
        for workload, by_name in results.items()
    }
    path.write_text(json.dumps(rows, indent=1))
    print(f"\nAll figures: {path}\n")


def _print_bars(results: report.Results, seconds: float) -> bool:
    """Print the bars; tell whether one is missed."""
    bars = list(report.bars(results, seconds))
    print("| bar | measured | needed | |\n|---|---:|---:|---|")
    for bar in bars:
        print(f"| {bar.what} | {bar.figure} | {bar.needed} | {'met' if bar.met else '**missed**'} |")
    return not all(bar.met for bar in bars)


if __name__ == "__main__":
    main()
