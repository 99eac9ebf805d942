"""
Send dmap rubbish, at length: 10,000 connections of requests from well-formed to noise, at two proxies.

    python -m bench.fuzz --count 10000 --seed 1

Memory is measured after a fifth, when rings and caches are full, and at the end.  Each finding is told with
what was sent; the same seed sends the same.  The exit code is 1 if something was as it must not be.
`tests/test_fuzz.py` is the same on a small scale.
"""

import argparse
import logging
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import psutil
import uvloop

from tests.fuzzing import Campaign, campaign
from tests.rubbish import requests

SHOWN = 20
MOST_GROWTH_BYTES = 4 * 2**20


async def main(options: argparse.Namespace) -> int:
    """Run the campaign and print what came of it."""
    asks = requests(options.count, options.seed)
    first = options.count // 5
    with tempfile.TemporaryDirectory() as folder:
        async with campaign(Path(folder)) as ran:
            tracemalloc.start()
            began = time.monotonic()
            await ran.run(asks[:first])
            before, rss_before = ran.held_bytes(), _rss_bytes()
            await ran.run(asks[first:])
            after, rss_after = ran.held_bytes(), _rss_bytes()
            spent_s = time.monotonic() - began
    print(f"{options.count} connections, seed {options.seed}, {options.count / spent_s:.0f} per second")
    _tell(ran)
    print(f"| memory | after {first} | after {options.count} |\n|---|---:|---:|")
    print(f"| Python's, KiB | {before // 1024} | {after // 1024} |")
    print(f"| of the process, KiB | {rss_before // 1024} | {rss_after // 1024} |")
    return int(bool(ran.findings) or after - before > MOST_GROWTH_BYTES)


def _tell(ran: Campaign) -> None:
    sites = ran.sites.values()
    loads, answers = sum(site.loads for site in sites), sum(site.answers for site in sites)
    print(f"LM Studio loaded {loads} times and gave {answers} answers\n")
    print("| answer | times |\n|---|---:|")
    for outcome, times in ran.outcomes.most_common():
        print(f"| {outcome} | {times} |")
    print(f"\n{len(ran.findings)} findings")
    for finding in ran.findings[:SHOWN]:
        print(f"- {finding}")


def _rss_bytes() -> int:
    rss: int = psutil.Process().memory_info().rss
    return rss


if __name__ == "__main__":
    logging.getLogger().addHandler(logging.NullHandler())  # the campaign listens by itself
    parser = argparse.ArgumentParser(description="Send dmap rubbish and look at what comes of it.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(uvloop.run(main(parser.parse_args())))
