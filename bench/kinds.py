"""
The same four models through kind `gguf` and through kind `process`, whose commands are the same llama.cpp.

Eight clients in closed loops ask each model in turn, one model fits; the kinds take turns, round by round.
Every answer is greedy, so the two have to say the same.

    python -m bench.kinds --rounds 5

The exit code is 1 if answers differ, or if switches or waits are over 15 % apart.
"""

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import aiohttp
import uvloop

from tests.models import make
from tests.process import Process, daemon

MODELS = ("tiny-sea", "tiny-kitchen", "tiny-brief", "slow")
CLIENTS, ASKS = 8, 12
CONTEXT, SLOTS = 1024, 4
APART = 0.15
ROOT = Path(__file__).parent.parent
CONFIG = """
devices: {gpu0: {max_models: 1, cooldown_s: 0, patience_s: 2}}
"""
GGUF = """
backends:
  box: {{kind: gguf, device: gpu0, path: {models}, context_length: {context}, parallel: {slots}, threads: 1}}
"""
PROCESS = """
backends: {{box: {{kind: process, device: gpu0, ports: {ports}, context_length: {all}, parallel: {slots}}}}}
macros: {{llama: '{python} -m tests.llama_serve --port {{port}} -c {{context_length}} -np {{parallel}}'}}
models:
"""
_SWITCH = re.compile(r" switch .*unload_s=(\S+) .*load_s=(\S+)")
_UNLOADED = re.compile(r" switch .*unload=box/")


@dataclass
class Seen:
    """What one kind gave: the *answers* by question, the seconds of *waits*, *loads* and *unloads*."""

    answers: dict[tuple[int, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    waits: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    unloads: list[float] = field(default_factory=list)
    switches: list[int] = field(default_factory=list)


async def client(url: str, number: int, seen: Seen) -> None:
    """Ask `ASKS` times, each model in turn, beginning with another one than the neighbour."""
    async with aiohttp.ClientSession(url) as session:
        for turn, model in enumerate(islice(cycle(MODELS), number, number + ASKS)):
            messages = [{"role": "user", "content": f"question {number}"}]
            sampling = {"temperature": 0, "seed": 1, "max_tokens": 24}
            began = asyncio.get_running_loop().time()
            async with session.post(
                "/v1/chat/completions", json={"model": model, "messages": messages, **sampling}
            ) as answer:
                said = await answer.json()
                assert answer.status == 200, said
            seen.waits.append(asyncio.get_running_loop().time() - began)
            seen.answers[number, turn].add(said["choices"][0]["message"]["content"])


async def play(config: str, seen: Seen) -> None:
    """Run a daemon of *config* and let the clients loose on it."""
    with tempfile.TemporaryDirectory() as folder:
        async with daemon(Path(folder), config) as process:
            await asyncio.gather(*(client(process.url, number, seen) for number in range(CLIENTS)))
        _note(process, seen)


def _note(process: Process, seen: Seen) -> None:
    """Take the switches out of the log."""
    lines = [(line, found) for line in process.log if (found := _SWITCH.search(line))]
    seen.switches.append(len(lines))
    seen.loads += [float(found[2]) for _, found in lines]
    seen.unloads += [float(found[1]) for line, found in lines if _UNLOADED.search(line)]


def configs(models: Path, port: int) -> dict[str, str]:
    """Return the configuration of each kind."""
    places = {"models": models, "context": CONTEXT, "slots": SLOTS, "python": sys.executable}
    commands = PROCESS.format(ports=f"{port}-{port + 40}", all=CONTEXT * SLOTS, **places)
    for name in MODELS:
        command = f"'{{llama}} {models / name}.gguf'"
        commands += f"  {name}: {{backend: box, cmd: {command}, env: {{PYTHONPATH: '{ROOT}'}}}}\n"
    return {"gguf": CONFIG + GGUF.format(**places), "process": CONFIG + commands}


def table(kinds: Mapping[str, Seen]) -> list[tuple[str, list[float]]]:
    """Return the rows: what is told, and the figure of each kind."""
    seen = list(kinds.values())
    p95 = [statistics.quantiles(each.waits, n=20)[-1] for each in seen]
    return [
        ("switches", [statistics.mean(each.switches) for each in seen]),
        ("wait, mean s", [statistics.mean(each.waits) for each in seen]),
        ("wait, p95 s", p95),
        ("load, median s", [statistics.median(each.loads) for each in seen]),
        ("unload, median s", [statistics.median(each.unloads) for each in seen]),
    ]


def _apart(figures: Sequence[float]) -> float:
    return max(figures) / min(figures) - 1


async def main(options: argparse.Namespace) -> bool:
    """Play the rounds and print the table; tell whether the kinds are alike."""
    kinds = {"gguf": Seen(), "process": Seen()}
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            make(name, Path(folder))
        for _ in range(options.rounds):
            for kind, config in configs(Path(folder), options.port).items():
                await play(config, kinds[kind])
    rows = table(kinds)
    print("| | gguf | process | apart |\n|---|---:|---:|---:|")
    for what, figures in rows:
        print(f"| {what} | {' | '.join(f'{each:.2f}' for each in figures)} | {_apart(figures):.0%} |")
    gguf, process = (each.answers for each in kinds.values())
    same = sum(gguf[question] == process[question] and len(gguf[question]) == 1 for question in gguf)
    print(f"\n{same} of {len(gguf)} answers are the same; {options.rounds} rounds")
    return same == len(gguf) and all(_apart(figures) <= APART for _, figures in rows[:3])


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="the same models through gguf and through process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=9460, help="the first of 40 for the servers")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(options())))
