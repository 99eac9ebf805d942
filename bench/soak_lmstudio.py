"""
dmap before an emulated LM Studio, at length: nothing lost or cut, nobody starved, never the wrong model.

Three processes: the emulator with all its traps, `dmap serve`, and here 24 clients with an address each, who
ask six chat models and one for embeddings in all dialects, three in a hundred of them leaving in the middle.

    python -m bench.soak_lmstudio crowd --seconds 600 --pace 3    # nothing happens but requests
    python -m bench.soak_lmstudio kills --count 20                # the server is killed and started again
    python -m bench.soak_lmstudio hands --count 200 [--no-jit]    # others load and unload at random

At pace 1 a load takes 0.2 to 1 s and an answer 0.05 to 0.4 s; `patience_s` is 5 s then, and no answer may
take over 30 s.
The exit code is 1 if something was as it must not be.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

import uvloop

from tests.lmstudio_outside import PHASES, Hands, Kill, kill
from tests.lmstudio_soak import PATIENCE_S, Scene, scene

HAND_S = 0.6
SERVED_S = 2.0
LONGEST_S = 30.0
"""How long an answer may take at pace 1."""


async def crowd(stage: Scene, options: argparse.Namespace) -> bool:
    """Let the clients ask for a while."""
    await asyncio.sleep(options.seconds)
    tell(stage)
    everything = stage.tally.kinds().total()
    answered = stage.tally.kinds()["answer"]
    untouched = not stage.studio.cuts() and stage.studio.loads("jit") == 0 and stage.studio.most() == 1
    return untouched and everything == answered and stage.tally.longest().seconds < LONGEST_S * stage.pace


async def kills(stage: Scene, options: argparse.Namespace) -> bool:
    """Kill the server at moments of load, drain, stream and idle."""
    await asyncio.sleep(3)
    print("| moment | gone s | first answer after it was back s | `/ready` says so after s |")
    print("|---|---:|---:|---:|")
    found: list[Kill] = []
    for turn in range(options.count):
        found.append(one := await kill(stage, PHASES[turn % len(PHASES)]))
        print(
            f"| {one.phase} | {one.gone_s:.1f} | {_seconds(one.answer_s)} | {_seconds(one.ready_s)} |",
            flush=True,
        )
        await asyncio.sleep(stage.rng.uniform(1, 4))
    waits = [one.answer_s for one in found if one.answer_s is not None]
    print(f"\nfirst answer: median {statistics.median(waits):.2f} s, longest {max(waits):.2f} s")
    tell(stage)
    return len(waits) == len(found) and max(waits) < SERVED_S and not stage.tally.bad


async def hands(stage: Scene, options: argparse.Namespace) -> bool:
    """Load and unload past dmap."""
    await asyncio.sleep(3)
    async with Hands(stage) as other:
        await other.moves(options.count, HAND_S * stage.pace)
    await asyncio.sleep(2)
    tell(stage)
    return not stage.tally.bad and not stage.studio.stacks("rest") and not stage.studio.stacks("jit")


def tell(stage: Scene) -> None:
    """Print what the clients and the server saw."""
    tally, studio, longest = stage.tally, stage.studio, stage.tally.longest()
    makers = ("rest", "jit", "hand")
    print(f"\nclients: {dict(tally.kinds())}, {stage.left} left; fewest answers of one: {tally.fewest()}")
    print(f"longest answer: {longest.seconds:.1f} s of {longest.call.tokens} tokens, {longest.call.model};")
    print(f"  patience_s {PATIENCE_S * stage.pace:g}, at most {LONGEST_S * stage.pace:g} s")
    for why, count in tally.reasons().most_common():
        print(f"  {count} x {why}")
    for verdict in tally.bad[:20]:
        print(f"  BAD {verdict}")
    print(f"server: loads {dict((by, studio.loads(by)) for by in makers)},")
    print(f"  second instances {dict((by, len(studio.stacks(by))) for by in makers)},")
    print(f"  cuts by {dict(Counter(cut['by'] for cut in studio.cuts()))},")
    print(f"  {studio.wrong()} requests taken by a wrong model, {stage.switches()} switches,")
    print(f"  at most {studio.most()} chat models in memory")


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"


async def main(options: argparse.Namespace) -> bool:
    """Run what *options* name."""
    run = {"crowd": crowd, "kills": kills, "hands": hands}[options.run]
    with tempfile.TemporaryDirectory() as folder:
        async with scene(Path(folder), pace=options.pace, seed=options.seed, jit=options.jit) as stage:
            fine = await run(stage, options)
            if options.log is not None:
                options.log.write_text("".join(stage.proxy.log))
            return fine


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="dmap before an emulated LM Studio, for a long time")
    parser.add_argument("run", choices=("crowd", "kills", "hands"))
    parser.add_argument("--seconds", type=float, default=150.0, help="how long the crowd asks (150)")
    parser.add_argument("--count", type=int, default=20, help="how many kills or moves of hands (20)")
    parser.add_argument("--pace", type=float, default=1.0, help="what all times are multiplied with (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--no-jit", dest="jit", action="store_false", help="LM Studio loads nothing on demand"
    )
    parser.add_argument("--log", type=Path, help="where to write dmap's log")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(options())))
