"""
dmap before two emulated LM Studios with the same models, of which one is killed again and again under load.

Four processes: the two emulators with all their traps, `dmap serve`, and here 12 clients who ask in all
dialects.  Nothing may be lost that had no byte of its answer, and the other server has to serve at once.

    python -m bench.soak_places --count 20

The exit code is 1 if something was as it must not be.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.twin_soak import Twins, median_and_most, twins

SERVED_S = 2.0


async def kills(stage: Twins, count: int) -> list[float]:
    """Kill the first server at random moments; return how soon the other one had served."""
    await asyncio.sleep(3)
    served_s = []
    for _ in range(count):
        served_s.append(await stage.kill(0, stage.rng.choice((0.0, stage.rng.uniform(0, 4)))))
        await asyncio.sleep(stage.rng.uniform(1, 4))
    return served_s


async def main(options: argparse.Namespace) -> bool:
    """Run it, and print what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        async with twins(Path(folder), pace=options.pace, seed=options.seed) as stage:
            served_s = await kills(stage, options.count)
            if options.log is not None:
                options.log.write_text("".join(stage.proxy.log))
    moved = sum(" moved=" in line for line in stage.proxy.log)
    print(f"clients: {dict(stage.tally.kinds())}; {moved} requests moved; generations {stage.used}")
    print(f"after a kill the other server had answered four more: {median_and_most(served_s)}")
    for verdict in [*stage.tally.bad, *stage.lost][:20]:
        print(f"  LOST {verdict}")
    fine = not stage.tally.bad and not stage.lost and min(stage.used) > 0
    return fine and max(served_s) < SERVED_S


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="two servers with the same models, one of them killed")
    parser.add_argument("--count", type=int, default=20, help="how many kills (20)")
    parser.add_argument("--pace", type=float, default=0.3, help="what all times are multiplied with (0.3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="where to write dmap's log")
    sys.exit(0 if uvloop.run(main(parser.parse_args())) else 1)
