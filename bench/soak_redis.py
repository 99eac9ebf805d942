"""
Three dmaps that share a real Redis, under a crowd, while Redis is killed, stopped, cut off or full at random.

    python -m bench.soak_redis --seconds 180

Two bars.  No request fails, whatever becomes of Redis.  And an outage costs each dmap one short wait: what
requests take during it, beyond what they take while Redis is up, is told by how long after its begin they
came.  Others ask beside them with a key without bounds, for which no dmap asks Redis: what those take, too,
is the machine's doing, or that of this program.  At the end the bound of a key is asked of all three at once,
with Redis and without.  The exit code is 1 if something was as it must not be.
"""

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import uvloop

from tests.fakes import answer, chat, fake_backend
from tests.process import Process, daemon
from tests.redis_server import RedisServer, redis_server
from tests.slow_line import Line, slow_line

CLIENTS = {"crowd": 4, "plain": 2}
"""At each dmap, by their keys."""
EARLY_S = 1.0
"""So long after the begin of an outage its price may be paid."""
ADDED_S = 0.15
PAUSE_S = 0.01
RATE = 30
FATES = ("kill", "stop", "cut", "fill")
CONFIG = """
backends: {{fake: {{kind: openai, url: '{backend}', parallel: 64}}}}
access:
  keys:
  - {{name: crowd, sha256: {crowd}, parallel: 999, rate_per_min: 999999}}
  - {{name: plain, sha256: {plain}}}
  - {{name: bound, sha256: {bound}, rate_per_min: {rate}}}
redis: {{url: '{redis}'}}
"""


@dataclass
class Tally:
    """
    Statuses, and seconds by the key of a request and by when it came.

    That is while Redis was up, early in an outage, or later in it.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    took_s: dict[tuple[str, str], list[float]] = field(
        default_factory=lambda: {each: [] for each in itertools.product(CLIENTS, ("up", "early", "later"))}
    )
    away_since: float | None = None

    def phase(self, now: float) -> str:
        if self.away_since is None:
            return "up"
        return "early" if now - self.away_since < EARLY_S else "later"


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def ask(session: aiohttp.ClientSession, key: str) -> int:
    """Ask for one answer; return its status, 0 if there was none."""
    try:
        async with session.post(
            "/v1/chat/completions", json=chat(stream=False), headers={"x-api-key": key}
        ) as answered:
            await answered.read()
            return answered.status
    except aiohttp.ClientError:
        return 0


async def client(url: str, key: str, tally: Tally, stop: asyncio.Event) -> None:
    """Ask again and again with *key*."""
    clock = asyncio.get_running_loop().time
    async with aiohttp.ClientSession(url) as session:
        while not stop.is_set():
            began = clock()
            phase = tally.phase(began)
            tally.statuses[await ask(session, key)] += 1
            if phase == tally.phase(clock()) or phase != "up":
                tally.took_s[key, phase].append(clock() - began)
            await asyncio.sleep(PAUSE_S)


async def torment(redis: RedisServer, line: Line, tally: Tally, chance: random.Random, seconds: float) -> int:
    """Take Redis away again and again, for *seconds*; return how often."""
    clock, outages = asyncio.get_running_loop().time, 0
    until = clock() + seconds
    while clock() < until:
        await asyncio.sleep(chance.uniform(1, 3))
        fate = chance.choice(FATES)
        tally.away_since = clock()
        await away(redis, line, fate)
        await asyncio.sleep(chance.uniform(0.5, 4))
        await back(redis, line, fate)
        await asyncio.sleep(1)  # until the next beat has found it
        tally.away_since = None
        outages += 1
    return outages


async def away(redis: RedisServer, line: Line, fate: str) -> None:
    """Take Redis away by *fate*."""
    match fate:
        case "kill":
            await redis.kill()
        case "stop":
            redis.stop()
        case "cut":
            line.cut()
        case "fill":
            await asyncio.to_thread(redis.fill)


async def back(redis: RedisServer, line: Line, fate: str) -> None:
    """Give it back."""
    match fate:
        case "kill":
            await redis.start()
        case "stop":
            redis.go_on()
        case "cut":
            line.is_cut = False
        case "fill":
            await asyncio.to_thread(redis.empty)


async def let_in(urls: list[str]) -> int:
    """Ask all dmaps at once, more often than the bound lets; return how many were let in."""
    async with contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(aiohttp.ClientSession(url)) for url in urls]
        turns = itertools.islice(itertools.cycle(sessions), 4 * RATE)
        return Counter(await asyncio.gather(*(ask(each, "bound") for each in turns)))[200]


async def bounds(urls: list[str], redis: RedisServer) -> tuple[int, float, int]:
    """Return how many were let in with Redis, in how many seconds, and how many at once without it."""
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(2)
    began = clock()
    with_redis, spent_s = await let_in(urls), clock() - began
    await asyncio.sleep(62)  # so that each has its whole share again
    await redis.kill()
    await asyncio.sleep(2)
    without = await let_in(urls)
    await redis.start()
    return with_redis, spent_s, without


async def started(stack: contextlib.AsyncExitStack, folder: Path, config: str, count: int) -> list[Process]:
    """Start *count* dmaps."""
    made = []
    for number in range(count):
        own = folder / str(number)
        own.mkdir()
        made.append(await stack.enter_async_context(daemon(own, config)))
    return made


async def main(options: argparse.Namespace) -> bool:
    """Run what *options* name."""
    tally, stop = Tally(), asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = await stack.enter_async_context(redis_server(folder))
        line = await stack.enter_async_context(slow_line(redis.port))
        backend = await stack.enter_async_context(fake_backend())
        backend.script = lambda exchange: exchange.end(answer(b'{"choices": []}'))
        named = {"backend": backend.url, "redis": f"redis://127.0.0.1:{line.port}/0", "rate": RATE}
        config = CONFIG.format(**named, **{key: sha(key) for key in (*CLIENTS, "bound")})
        urls = [each.url for each in await started(stack, folder, config, 3)]
        await asyncio.sleep(2)
        keys = Counter(CLIENTS).elements()
        each = itertools.product(urls, keys)
        asking = [asyncio.create_task(client(url, key, tally, stop)) for url, key in each]
        outages = await torment(redis, line, tally, random.Random(options.seed), options.seconds)
        stop.set()
        await asyncio.gather(*asking)
        with_redis, spent_s, without = await bounds(urls, redis)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; seed {options.seed}")
    print(f"{outages} outages, {tally.statuses.total()} requests, by status: {dict(tally.statuses)}")
    usual = statistics.median(tally.took_s["crowd", "up"])
    for (key, phase), took in tally.took_s.items():
        print(f"{key:6} {phase:6} {len(took):7} requests, ms: {_quantiles(took)}")
    slow = sum(each > usual + ADDED_S for each in tally.took_s["crowd", "later"])
    print(f"{slow} requests later in an outage took {ADDED_S} s more than the median")
    most = RATE + spent_s * RATE / 60
    print(f"bound {RATE} a minute over 3: {with_redis} let in in {spent_s:.1f} s, without Redis {without}")
    return set(tally.statuses) == {200} and RATE <= with_redis <= most + 1 and without <= RATE


def _quantiles(took_s: list[float]) -> str:
    cuts = statistics.quantiles(took_s, n=1000)
    named = {"p50": cuts[499], "p99": cuts[989], "p99.9": cuts[998], "max": max(took_s)}
    return "  ".join(f"{name} {1000 * value:.1f}" for name, value in named.items())


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="three dmaps, and a Redis that comes and goes")
    parser.add_argument("--seconds", type=float, default=180.0, help="how long it comes and goes (180)")
    parser.add_argument("--seed", type=int, default=os.getpid())
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(options())))
