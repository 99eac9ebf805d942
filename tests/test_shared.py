"""One connection to a real Redis, behind its breaker: what it does when that hangs, dies, is full or slow."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dmap import tasks
from dmap.config import ConfigProblem, RedisSection, parse
from dmap.shared.connection import BATCH, FAILURES, QUEUE, Away, Connection
from tests.fakes import HERE_S, answer, chat, soon
from tests.programs import why_not
from tests.redis_server import PATIENT_MS, RedisServer, reach, redis_server
from tests.slow_line import slow_line

LACKS = why_not("redis-server")
needs_redis = pytest.mark.skipif(bool(LACKS), reason=LACKS)
CHAT = "/v1/chat/completions"
PING = ("PING",)
EARLY_S = 0.01
"""So much sooner than asked for a timer may come: the time of the loop has milliseconds."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[RedisServer]:
    """Run a Redis."""
    async with redis_server(tmp_path) as made:
        yield made


@asynccontextmanager
async def connected(port: int, **keys: Any) -> AsyncGenerator[Connection]:
    """Run a connection to *port* of loopback that was answered once; without `timeout_ms` it is patient."""
    section = RedisSection(url=f"redis://127.0.0.1:{port}")
    connection = Connection(section.model_copy(update={"timeout_ms": PATIENT_MS, **keys}))
    try:
        async with tasks.running(connection.run, "redis"):
            await reach(connection)
            yield connection
    finally:
        await connection.close()


async def refused(connection: Connection, times: int) -> list[str]:
    """Ask one after the other; return why none was answered."""
    reasons = []
    for _ in range(times):
        with pytest.raises(Away) as caught:
            await connection.ask("test", *PING)
        reasons.append(str(caught.value))
    return reasons


# One connection


@needs_redis
async def test_everybody_gets_the_own_answer(server: RedisServer) -> None:
    """Whoever asks gets the answer to that, however many ask at once, over one connection."""
    async with slow_line(server.port) as line, connected(line.port) as connection:
        asked = [connection.ask("test", "ECHO", str(number)) for number in range(3 * BATCH)]

        answers = await asyncio.gather(*asked)

        assert [int(each) for each in answers] == list(range(3 * BATCH))
        assert line.connections == 1


@needs_redis
async def test_who_leaves_takes_no_answer_along(server: RedisServer) -> None:
    """Of 10,000 who ask a slow Redis two thirds leave at once or later; the others get their own answers."""
    async with slow_line(server.port) as line, connected(line.port) as connection:
        line.delay_s = 0.01
        right = 0
        for start in range(0, 10_000, 500):
            numbers = range(start, start + 500)
            asked = [asyncio.create_task(connection.ask("test", "ECHO", str(each))) for each in numbers]
            await asyncio.sleep(0.002 * (start % 7))
            _ = [task.cancel() for number, task in zip(numbers, asked, strict=True) if number % 3]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            wanted = [(b"%d" % each, answers[each - start]) for each in numbers if each % 3 == 0]
            right += sum(got == sent for sent, got in wanted)

        assert right == len(range(0, 10_000, 3))


@needs_redis
async def test_what_is_told_is_done(server: RedisServer) -> None:
    """What nobody waits for is done all the same, in its turn."""
    async with connected(server.port) as connection:
        told = connection.tell("test", "SET", "key", "value")

        assert (told, await connection.ask("test", "GET", "key")) == (True, b"value")


@needs_redis
async def test_what_waits_is_bounded(server: RedisServer) -> None:
    """More than `QUEUE` commands never wait for a round trip; the newest fail at once."""
    async with connected(server.port) as connection:
        told = [connection.tell("test", *PING) for _ in range(QUEUE + 1)]

        with pytest.raises(Away):
            connection.post("test", *PING)

    assert told == [True] * QUEUE + [False]


# The breaker


@needs_redis
async def test_a_redis_that_hangs_is_asked_no_more(server: RedisServer) -> None:
    """A Redis that stands still costs a few bounded waits; then nobody waits, and its return is noticed."""
    async with connected(server.port, timeout_ms=50) as connection:
        clock = asyncio.get_running_loop().time
        server.stop()
        began = clock()

        await refused(connection, FAILURES)
        spent_s = clock() - began
        later = asyncio.create_task(refused(connection, 1000))
        await asyncio.sleep(0)

        assert FAILURES * 0.05 - EARLY_S < spent_s < HERE_S
        assert len(later.result()) == 1000  # in one turn of the loop
        server.go_on()
        await reach(connection)


@needs_redis
async def test_a_slip_does_not_open_it(server: RedisServer) -> None:
    """One round trip that is late is no outage."""
    async with slow_line(server.port) as line, connected(line.port, timeout_ms=50) as connection:
        line.delay_s = 0.5

        await refused(connection, 1)

        assert connection.is_up


@needs_redis
async def test_a_crowd_waits_no_longer_than_one(server: RedisServer) -> None:
    """All who ask a Redis that hangs know when one of them does, and not one after the other."""
    async with connected(server.port, timeout_ms=300) as connection:
        server.stop()

        asked = [connection.ask("test", *PING) for _ in range(20 * BATCH)]
        answers = await asyncio.gather(*asked, return_exceptions=True)

        assert {type(each) for each in answers} == {Away}
        assert connection.is_up  # there were no `FAILURES` round trips


@needs_redis
async def test_down_and_up_are_told_once(server: RedisServer, caplog: Any) -> None:
    """The log has one line when Redis goes and one when it is back, without its password."""
    caplog.set_level("INFO", "dmap.shared.connection")
    async with connected(server.port) as connection:
        caplog.clear()
        await server.kill()
        await refused(connection, 2 * FAILURES)
        await refused(connection, 1)
        await server.start()
        await reach(connection)

    assert [line.split()[0] for line in caplog.messages] == ["redis_down", "redis_up"]


@needs_redis
async def test_what_redis_refuses_fails_alone(server: RedisServer, caplog: Any) -> None:
    """Somebody's data under one key fails what needs that key, told once; the rest is answered."""
    server("SET", "ours", "text")
    async with connected(server.port) as connection:
        asked = [connection.ask("events", "XLEN", "ours"), connection.ask("test", "ECHO", "me")]
        bad, good = await asyncio.gather(*asked, return_exceptions=True)
        reasons = [await refusal(connection, "events", "XLEN", "ours") for _ in range(2 * FAILURES)]

        assert isinstance(bad, Away)
        assert good == b"me"
        assert connection.is_up
        assert {reason.split()[1] for reason in reasons} == {"WRONGTYPE"}
    told = [line for line in caplog.messages if line.startswith("redis_refused")]
    assert len(told) == 1
    assert "op=events" in told[0]


async def refusal(connection: Connection, op: str, *command: str) -> str:
    """Ask for what Redis refuses; return why."""
    with pytest.raises(Away) as caught:
        await connection.ask(op, *command)
    return str(caught.value)


@needs_redis
async def test_nobody_waits_for_two_round_trips(server: RedisServer) -> None:
    """Who asks during a round trip that fails waits for its end, and not for one of their own."""
    async with slow_line(server.port) as line, connected(line.port) as connection:
        server.stop()
        first = asyncio.create_task(refused(connection, 1))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(refused(connection, 1))
        await asyncio.sleep(0)

        line.cut()
        line.is_cut = False  # nobody answers who comes again
        await first

        await soon(second.done, 0.1)


@needs_redis
async def test_a_probe_that_is_refused_leads_down(server: RedisServer, caplog: Any) -> None:
    """A Redis that takes no writes, as a replica, is away after one probe; the log has its own words."""
    async with connected(server.port) as connection:
        server("REPLICAOF", "127.0.0.1", "1")

        with pytest.raises(Away, match="read only replica"):
            await connection.probe("beat", "SET", "secret-key", "secret-value")

        assert not connection.is_up
    assert "secret" not in caplog.text


@needs_redis
async def test_a_redis_that_stays_slow_is_down(server: RedisServer, caplog: Any) -> None:
    """A Redis that answers, but later than requests wait, stays down: nobody waits for it again and again."""
    caplog.set_level("INFO", "dmap.shared.connection")
    async with slow_line(server.port) as line, connected(line.port, timeout_ms=50) as connection:
        caplog.clear()
        line.delay_s = 0.3
        await refused(connection, FAILURES)

        for_good = [await probed(connection) for _ in range(3)]

        assert for_good == [False] * 3
    assert [line.split()[0] for line in caplog.messages] == ["redis_down"]


async def probed(connection: Connection) -> bool:
    """Tell whether it is up after a probe."""
    with suppress(Away):
        await connection.probe("test", *PING)
    return connection.is_up


async def test_nobody_listens_there() -> None:
    """Where no Redis is, nobody ever waits for one."""
    connection = Connection(RedisSection(url="redis://u:secret@127.0.0.1:1/0"))

    with pytest.raises(Away) as caught:
        await connection.probe("test", *PING)

    assert not connection.is_up
    assert "secret" not in str(caught.value)
    assert not connection.tell("test", *PING)
    await connection.close()


# The daemon


@pytest.fixture
async def shared(start: Any, backend: Any, server: RedisServer) -> AsyncGenerator[Any]:
    """Run a proxy with a Redis."""
    backend.script = lambda e: e.end(answer(b"{}"))
    proxy = await start(
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\nredis: {{url: '{server.url}'}}"
    )
    yield proxy
    await proxy.close()
    backend.cut_all()
    await proxy.settled()


async def ready(proxy: Any) -> tuple[int, Any]:
    """Return the status of `/ready`, and what it says of Redis."""
    async with aiohttp.ClientSession(proxy.url) as session, session.get("/ready") as answered:
        return answered.status, (await answered.json()).get("redis")


async def status_of_chat(proxy: Any) -> int:
    """Ask for one answer; return its status."""
    async with (
        aiohttp.ClientSession(proxy.url) as session,
        session.post(CHAT, json=chat(stream=False)) as answered,
    ):
        await answered.read()
        return answered.status


@needs_redis
@pytest.mark.parametrize("fate", ["kill", "stop", "fill"])
async def test_requests_go_on_without(shared: Any, server: RedisServer, fate: str) -> None:
    """Whatever becomes of Redis, requests are answered, `/ready` stays 200, and says it."""
    up = await ready(shared)
    happened = getattr(server, fate)()
    await (happened if fate == "kill" else asyncio.sleep(0))

    await soon(lambda: not shared.proxy.shared.is_up, HERE_S)

    assert up == (200, "up")
    assert await ready(shared) == (200, "down")
    assert await status_of_chat(shared) == 200
    assert shared.proxy.metrics.as_dict()["dmap_redis_up"] == [{"value": 0.0}]


@needs_redis
async def test_it_is_back(shared: Any, server: RedisServer) -> None:
    """A Redis that comes back is used again, without a request that has to try."""
    server.fill()
    await soon(lambda: not shared.proxy.shared.is_up, HERE_S)

    server.empty()

    await soon(lambda: shared.proxy.shared.is_up, HERE_S)
    assert await ready(shared) == (200, "up")


@needs_redis
async def test_dmaps_count_each_other(shared: Any, start: Any, backend: Any, server: RedisServer) -> None:
    """Each dmap knows how many share the Redis."""
    text = f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\nredis: {{url: '{server.url}'}}"

    second = await start(text)

    await soon(lambda: shared.proxy.shared.dmaps == second.proxy.shared.dmaps == 2, HERE_S)


@needs_redis
async def test_a_dead_dmap_of_a_clock_that_went_back(shared: Any, server: RedisServer) -> None:
    """A dmap that said it is there by a clock of Redis that has gone back since is not counted."""
    server("ZADD", "dmap:dmaps", 9e9, "dead")

    await soon(lambda: server("ZSCORE", "dmap:dmaps", "dead") is None, HERE_S)

    assert shared.proxy.shared.dmaps == 1


async def test_without_redis_nothing_is_told(proxy: Any) -> None:
    """A dmap by itself says nothing of Redis."""
    assert await ready(proxy) == (200, None)
    assert "dmap_redis_up" not in proxy.proxy.metrics.as_dict()


def test_without_redis_nothing_is_imported() -> None:
    """A daemon without `redis` imports nothing of it."""
    code = (
        "import sys, dmap.daemon, dmap.shared; print([m for m in sys.modules if m.split('.')[0] == 'redis'])"
    )

    said = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True).stdout

    assert said.strip() == "[]"


# The configuration


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("{url: 'redis://10.0.0.5:6379/0'}", "redis.url: plain text beyond this host"),
        ("{url: 'http://127.0.0.1'}", "redis.url: not the URL of a Redis"),
        ("{url: 'redis://127.0.0.1/0?socket_timeout=9'}", "redis.url: not the URL of a Redis"),
        ("{url: 'redis://127.0.0.1/zero'}", "redis.url: not the URL of a Redis"),
        ("{url: 'redis://127.0.0.1', ca: ca.pem}", "redis.ca: has no effect"),
        ("{url: 'redis://127.0.0.1', timeout_ms: 1}", "redis.timeout_ms: must be 5 or more"),
        ("{url: 'redis://127.0.0.1', prefix: 'a b'}", "redis.prefix: not a prefix"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(section: str, complaint: str) -> None:
    """What would be unsafe, or mean nothing, is told with its path and never with the URL."""
    with pytest.raises(ConfigProblem) as caught:
        parse(f"backends: {{s: {{kind: openai, url: 'http://h'}}}}\nredis: {section}", {})

    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "section",
    [
        "{url: 'rediss://u:p@10.0.0.5:6379/0', ca: ca.pem}",
        "{url: 'redis://10.0.0.5', insecure: true}",
        "{url: 'redis://localhost:6379'}",
        "{url: 'unix:///run/redis.sock'}",
    ],
)
def test_sections_that_are_fine(section: str) -> None:
    """TLS, this host, a socket, and plain text where its owner takes it upon himself."""
    config = parse(f"backends: {{s: {{kind: openai, url: 'http://h'}}}}\nredis: {section}", {})

    assert config.redis is not None
    assert "p@" not in repr(config)
