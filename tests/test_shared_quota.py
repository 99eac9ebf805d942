"""The bounds of keys over several dmaps: real processes and a real Redis, and what holds without it."""

import asyncio
import hashlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dmap.access.quota import Pace, Usage, Verdict
from dmap.config import Key
from dmap.errors import Overloaded
from dmap.shared import quota as scripts
from dmap.shared.connection import CONNECT_S
from dmap.shared.core import BEAT_S, RENEW_S
from tests.conftest import LONGEST_MS
from tests.cutter import cutter
from tests.fakes import HERE_S, answer, chat, soon
from tests.process import daemon
from tests.programs import why_not
from tests.redis_server import RedisServer, redis_server
from tests.slow_line import slow_line
from tests.test_quota import begun, bounded
from tests.test_shared import CHAT, connected

LACKS = why_not("redis-server")
pytestmark = pytest.mark.skipif(bool(LACKS), reason=LACKS)
SECRET = "dmap-secret"
SHA = hashlib.sha256(SECRET.encode()).hexdigest()
OURS = {"x-api-key": SECRET}
FREED_S = RENEW_S / 3
"""How soon a place is free again; what nobody gives back is found out by the next renewal."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[RedisServer]:
    """Run a Redis."""
    async with redis_server(tmp_path) as made:
        yield made


def config_of(backend: Any, url: str, bounds: str, timeout_ms: int = LONGEST_MS) -> str:
    """Return the configuration of one of several dmaps that share the Redis at *url*."""
    return (
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n"
        f"access: {{failures_per_min: 3, keys: [{{name: k, sha256: {SHA}, {bounds}}}]}}\n"
        f"redis: {{url: '{url}', timeout_ms: {timeout_ms}}}"
    )


@pytest.fixture
async def three(start: Any, backend: Any, server: RedisServer) -> AsyncGenerator[Any]:
    """Return what starts three dmaps whose one key has *bounds*, and waits until they know of each other."""
    stack = AsyncExitStack()

    async def begin(bounds: str, url: str = "", timeout_ms: int = LONGEST_MS) -> list[Any]:
        text = config_of(backend, url or server.url, bounds, timeout_ms)
        made = [await start(text) for _ in range(3)]
        await soon(lambda: all(each.proxy.shared.dmaps == 3 for each in made), HERE_S)
        return made

    yield begin
    await stack.aclose()


async def asked(proxy: Any, headers: Any = OURS) -> int:
    """Ask one of them for one answer; return the status."""
    async with (
        aiohttp.ClientSession(proxy.url) as session,
        session.post(CHAT, json=chat(stream=False), headers=headers) as answered,
    ):
        await answered.read()
        return answered.status


async def asked_by_turns(proxies: list[Any], times: int) -> Counter[int]:
    """Ask all of them at once, *times* in all; count the statuses."""
    turns = itertools.islice(itertools.cycle(proxies), times)
    return Counter(await asyncio.gather(*map(asked, turns)))


async def test_a_rate_over_three(three: Any, backend: Any) -> None:
    """A minute's worth begins over all three together, and not one more."""
    backend.script = lambda e: e.end(answer(b"{}"))
    proxies = await three("rate_per_min: 10")
    began = now()

    counted = await asked_by_turns(proxies, 24)

    assert 10 <= counted[200] <= 10 + (now() - began) / 6
    assert counted[200] + counted[429] == 24


async def test_so_many_at_once_over_three(three: Any, backend: Any, server: RedisServer) -> None:
    """`parallel` bounds what runs on all three together; what has ended makes room on any of them."""
    backend.script = backend.by_hand
    proxies = await three("parallel: 2")
    first = [asyncio.create_task(asked(each)) for each in proxies[:2]]
    running = [await backend.next() for _ in first]

    refused = await asked(proxies[2])
    _ = [await each.end(answer(b"{}")) for each in running]
    ended = await asyncio.gather(*first)
    await soon(lambda: server("ZCARD", "dmap:{k}:busy") == 0, FREED_S)
    next_one = asyncio.create_task(asked(proxies[2]))
    await (await backend.next()).end(answer(b"{}"))

    assert (refused, ended, await next_one) == (429, [200, 200], 200)


async def test_who_leaves_while_redis_is_asked(three: Any, backend: Any, server: RedisServer) -> None:
    """Clients that leave while Redis is slow hold no place, and the next one has its own."""
    backend.script = lambda e: e.end(answer(b"{}"))
    async with cutter(f"http://127.0.0.1:{server.port}") as wire:
        proxies = await three("parallel: 50", wire.url.replace("http", "redis"))
        wire.freeze()
        left = [asyncio.create_task(asked(proxies[0])) for _ in range(20)]
        await soon(lambda: len(proxies[0].proxy.visits) == 20, HERE_S)

        _ = [each.cancel() for each in left]
        await asyncio.gather(*left, return_exceptions=True)
        wire.thaw()

        assert await asked(proxies[0]) == 200
        await soon(lambda: server("ZCARD", "dmap:{k}:busy") == 0, FREED_S)


async def test_no_request_waits_for_round_trips_of_others(server: RedisServer) -> None:
    """A Redis that is slow, but answers, keeps a request no longer than `timeout_ms`: not for two of them."""
    async with slow_line(server.port) as line, connected(line.port, timeout_ms=1000) as connection:
        quotas, key = scripts.Quotas(connection, "dmap:", "me"), bounded(parallel=2)
        line.delay_s = 0.8
        first = asyncio.create_task(quotas.begin(key, "first"))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(quotas.begin(key, "second"))

        await soon(second.done, 1.2)

        assert second.result() is None
        await first


async def test_a_killed_dmap_frees_its_places(backend: Any, server: RedisServer, tmp_path: Path) -> None:
    """What a killed dmap had under way is counted for 30 s less a margin, and no longer."""
    backend.script = backend.by_hand
    config = config_of(backend, server.url, "parallel: 2")
    async with daemon(tmp_path, config) as process:
        process.ends_with = -9
        asking = asyncio.create_task(asked(process))
        await backend.next()
        process.child.kill()
        await asyncio.gather(asking, return_exceptions=True)

    [slot] = server("ZRANGE", "dmap:{k}:busy", 0, -1)
    left_us = float(server("ZSCORE", "dmap:{k}:busy", slot)) - 1e6 * int(server("TIME")[0])
    assert 0 < left_us / 1e6 < 27
    assert 0 < server("TTL", "dmap:{k}:busy") < 27


def test_a_renewal_may_be_lost() -> None:
    """What runs stays counted although one renewal was lost, each a beat late and a connection made."""
    assert 2 * (RENEW_S + BEAT_S) + CONNECT_S < scripts.BUSY_S


async def test_what_runs_is_counted_again(three: Any, backend: Any, server: RedisServer) -> None:
    """A Redis that has lost all its data learns from each dmap what runs there."""
    backend.script = backend.by_hand
    proxies = await three("parallel: 2")
    running = asyncio.create_task(asked(proxies[0]))
    exchange = await backend.next()
    await server.kill()
    await soon(lambda: not proxies[0].proxy.shared.is_up, HERE_S)

    await server.start()

    await soon(lambda: server("ZCARD", "dmap:{k}:busy") == 1, HERE_S)
    await exchange.end(answer(b"{}"))
    assert await running == 200


async def test_what_ended_meanwhile_is_counted_no_more(three: Any, backend: Any, server: RedisServer) -> None:
    """What ended while Redis stood still holds no place once it is back, and others' places stay."""
    backend.script = backend.by_hand
    proxies = await three("parallel: 2", timeout_ms=500)
    ending, staying = [asyncio.create_task(asked(each)) for each in proxies[:2]]
    exchanges = [await backend.next() for _ in range(2)]
    server.stop()
    await soon(lambda: not any(each.proxy.shared.is_up for each in proxies), HERE_S)
    at_first = [visit.record.id for visit in proxies[0].proxy.visits.open()]
    exchanges.sort(key=lambda each: each.headers["x-request-id"] not in at_first)
    await exchanges[0].end(answer(b"{}"))
    assert await ending == 200

    server.go_on()

    await soon(lambda: server("ZCARD", "dmap:{k}:busy") == 1, HERE_S)
    await exchanges[1].end(answer(b"{}"))
    assert await staying == 200


async def test_what_is_not_let_in_yet_is_not_renewed(server: RedisServer) -> None:
    """A request that Redis is asked about takes no place by a renewal meanwhile, and loses none."""
    key = bounded(parallel=1)
    async with slow_line(server.port) as line, connected(line.port) as connection:
        quotas = scripts.Quotas(connection, "dmap:", "me")
        first, second = quotas.place(key), quotas.place(key)
        line.delay_s = 0.1
        asked = [asyncio.create_task(quotas.begin(key, slot)) for slot in (first, second)]
        await asyncio.sleep(0)
        quotas.renew()

        said = await asyncio.gather(*asked)
        await connection.ask("test", "PING")

        assert said == [Verdict(), Verdict(running=1)]
        assert server("ZRANGE", "dmap:{k}:busy", 0, -1) == [first]


@pytest.mark.parametrize(("bound", "let_in"), [(9, 9), (10, 9), (2, 3)])
async def test_without_redis_each_has_its_share(
    three: Any, backend: Any, server: RedisServer, bound: int, let_in: int
) -> None:
    """Without Redis all together let in no more than the larger of the bound and their number."""
    backend.script = lambda e: e.end(answer(b"{}"))
    proxies = await three(f"rate_per_min: {bound}")
    await server.kill()
    await soon(lambda: not any(each.proxy.shared.is_up for each in proxies), HERE_S)

    counted = await asked_by_turns(proxies, 30)

    assert counted == {200: let_in, 429: 30 - let_in}


async def test_a_key_without_bounds_asks_nobody(three: Any, backend: Any) -> None:
    """A request whose key has no bound never goes to Redis."""
    backend.script = lambda e: e.end(answer(b"{}"))
    proxies = await three("priority: 1")

    counted = await asked_by_turns(proxies, 6)

    ops = {each["op"] for each in proxies[0].proxy.metrics.as_dict()["dmap_redis_seconds_count"]}
    assert (counted, ops - {"beat", "events"}) == ({200: 6}, set())


async def test_wrong_keys_count_for_all(three: Any, server: RedisServer) -> None:
    """An address that has guessed at one dmap is told to wait by the next one, after one more guess there."""
    proxies = await three("priority: 1")
    wrong = {"x-api-key": "wrong"}
    at_one = [await asked(proxies[0], wrong) for _ in range(4)]

    at_two = [await asked(proxies[1], wrong)]
    await soon(lambda: bool(proxies[1].proxy.access.failures.wait_s("127.0.0.1", 3, now())), HERE_S)
    at_two.append(await asked(proxies[1]))

    assert (at_one, at_two) == ([401, 401, 401, 429], [401, 429])
    assert [key for key in server("KEYS", "*") if "127.0.0.1" in key] == []


def now() -> float:
    """Return the time of access's clock."""
    return asyncio.get_running_loop().time()


async def test_no_prompt_is_in_redis(three: Any, backend: Any, server: RedisServer) -> None:
    """Neither keys nor values in Redis have anything of a request."""
    backend.script = lambda e: e.end(answer(b"{}"))
    proxies = await three("parallel: 2, rate_per_min: 10")

    await asked_by_turns(proxies, 6)

    kept = [server("KEYS", "*"), server("GET", "dmap:{k}:rate"), server("ZRANGE", "dmap:dmaps", 0, -1)]
    assert SECRET not in str(kept)
    assert "messages" not in str(kept)


# The arithmetic, in Lua and in Python


def played(server: RedisServer, per_min: int, times: list[float]) -> list[float]:
    """Return those of *times* at which the script lets something begin, its clock being ours."""
    script = scripts._BEGIN.replace("redis.call('TIME')", "{ARGV[5], ARGV[6]}")
    free = []
    for now in times:
        clock = (int(now), round(now % 1 * 1e6))
        if server("EVAL", script, 2, "rate", "busy", per_min, 0, "slot", 30, *clock) == [0, 0]:
            free.append(now)
    return free


@pytest.mark.parametrize("per_min", [1, 7, 20, 59])
async def test_lua_lets_in_what_python_does(server: RedisServer, per_min: int) -> None:
    """The script that Redis runs lets in the very requests that `Pace` does, at whatever times they come."""
    pauses = random.Random(per_min)
    times = list(itertools.accumulate((pauses.expovariate(per_min / 30) for _ in range(150)), initial=1e6))

    let_in = played(server, per_min, times)

    assert let_in == begun(Pace(), per_min, times)
    assert 0 < len(let_in) < len(times)


async def test_a_clock_of_redis_that_went_back(server: RedisServer) -> None:
    """What was counted by a clock that has gone back since is no reason to refuse anybody for long."""
    server("ZADD", "busy", (time.time() + 3600) * 1e6, "left behind")

    begin = ("EVAL", scripts._BEGIN, 2, "rate", "busy", 0, 1)
    said = [server(*begin, slot, scripts.BUSY_S) for slot in ("a", "b")]

    assert said == [[0, 0], [1, 0]]
    assert server("ZRANGE", "busy", 0, -1) == ["a"]


def test_what_all_have_said_counts() -> None:
    """The word of all dmaps goes before the own count, both ways."""
    usage, key = Usage(), bounded(parallel=1)
    usage.begin(key, 0.0)

    usage.begin(key, 0.0, Verdict())

    with pytest.raises(Overloaded, match="'k' has 7 under way, its most is 1"):
        usage.begin(key, 0.0, Verdict(running=7))


def test_a_share_counts_what_was_let_in_before() -> None:
    """What all had let in here is part of this one's share when Redis goes."""
    usage, key = Usage(), Key(name="k", sha256="1" * 64, rate_per_min=6)
    usage.begin(key, 0.0, Verdict(), 3)
    usage.begin(key, 0.0, Verdict(), 3)

    with pytest.raises(Overloaded, match="its share of 3 while Redis is away"):
        usage.begin(key, 0.0, None, 3)


def test_a_pace_forgets_what_is_over_a_minute() -> None:
    """However much all have let in here, its share is free again after a minute."""
    usage, key = Usage(), Key(name="k", sha256="1" * 64, rate_per_min=300)
    for _ in range(300):
        usage.begin(key, 0.0, Verdict(), 3)

    usage.begin(key, 60.0, None, 3)
