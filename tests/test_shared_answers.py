"""Answers in a real Redis: found within a bound, kept one after the other, lost without harm."""

import asyncio
from typing import Any

import pytest

from dmap.config import CacheSection
from dmap.shared.answers import WAITING, WAITING_BYTES, Answers
from dmap.shared.connection import Away
from tests.fakes import HERE_S, soon
from tests.redis_server import RedisServer, reach
from tests.slow_line import slow_line
from tests.test_shared import connected, needs_redis
from tests.test_shared import server as server

pytestmark = needs_redis
MOST = 2**20


def answers_of(connection: Any, within_s: float = HERE_S) -> Answers:
    return Answers(connection, "p:", CacheSection(max_entry=MOST), within_s)


async def test_there_and_back(server: RedisServer) -> None:
    """What was kept is found, for as long as it was to be kept."""
    async with connected(server.port) as connection:
        answers = answers_of(connection)
        answers.keep("a", b"\x00data", 60_000)
        await soon(lambda: server("EXISTS", "p:cache:a") == 1, HERE_S)

        found = await answers.find("a", MOST)

        assert found is not None
        assert found[0] == b"\x00data"
        assert 0 < found[1] <= 60_000
        assert await answers.find("b", MOST) is None


async def test_what_is_too_long_is_not_fetched(server: RedisServer) -> None:
    """What somebody else has put there does not fill dmap's memory."""
    server("SET", "p:cache:a", "x" * 11)
    async with connected(server.port) as connection:
        assert await answers_of(connection).find("a", 10) is None
        assert await answers_of(connection).find("a", 11) == (b"x" * 11, -1)


async def test_what_is_no_text(server: RedisServer) -> None:
    """Other data under the name of an answer is as none."""
    server("RPUSH", "p:cache:a", "x")
    async with connected(server.port) as connection:
        with pytest.raises(Away):
            await answers_of(connection).find("a", MOST)

        assert connection.is_up


async def test_a_crowd_waits_no_longer_than_one(server: RedisServer) -> None:
    """Whoever waits for its turn beside a slow Redis waits no longer than one answer may take."""
    async with slow_line(server.port) as line, connected(line.port) as connection:
        answers, clock = answers_of(connection, 0.1), asyncio.get_running_loop().time
        line.delay_s = 0.4
        began = clock()

        found = await asyncio.gather(*(answers.find("a", MOST) for _ in range(100)), return_exceptions=True)

        assert {type(each) for each in found} == {Away}
        assert clock() - began < 8  # one after the other it would be ten


async def test_one_after_the_other(server: RedisServer) -> None:
    """What is to be kept never fills a round trip, for requests wait behind it."""
    async with connected(server.port) as connection:
        answers = answers_of(connection)

        _ = [answers.keep(str(number), b"x", 60_000) for number in range(9)]
        await connection.ask("test", "PING")

        assert server("DBSIZE") < 4
        await soon(lambda: server("DBSIZE") == 9, HERE_S)


async def test_what_waits_to_be_kept_is_bounded(server: RedisServer) -> None:
    """Beyond `WAITING_BYTES` nothing waits to be kept."""
    async with connected(server.port) as connection:
        answers = answers_of(connection)
        most = WAITING_BYTES // MOST

        _ = [answers.keep(str(number), b"x" * MOST, 60_000) for number in range(most + 5)]

        await soon(lambda: server("DBSIZE") >= most, HERE_S)
        await soon(lambda: answers.waiting_bytes == 0, HERE_S)
        assert server("DBSIZE") == most + 1  # one was under way at once


async def test_so_many_wait_to_be_kept(server: RedisServer) -> None:
    """Small ones are bounded by their number."""
    async with connected(server.port) as connection:
        answers = answers_of(connection)

        _ = [answers.keep(str(number), b"x", 60_000) for number in range(WAITING + 9)]

        assert answers.waiting_bytes == WAITING


async def test_a_redis_that_went_away(server: RedisServer) -> None:
    """What was to be kept is forgotten, and what comes after its return is kept."""
    async with connected(server.port) as connection:
        answers = answers_of(connection)
        await server.kill()
        _ = [answers.keep(str(number), b"x", 60_000) for number in range(9)]
        await soon(lambda: not connection.is_up, HERE_S)
        await soon(lambda: answers.waiting_bytes == 0, HERE_S)
        answers.keep("lost", b"x", 60_000)

        await server.start()
        await reach(connection)
        answers.keep("kept", b"x", 60_000)

        await soon(lambda: server("KEYS", "*") == ["p:cache:kept"], HERE_S)
