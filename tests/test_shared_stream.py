"""The events of several dmaps in the debug stream of each, over a real Redis."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dmap import tasks
from dmap.config import RedisSection
from dmap.events import Bus
from dmap.shared.connection import Connection
from dmap.shared.stream import PIECE, EventStream
from tests.fakes import HERE_S, answer, soon
from tests.programs import why_not
from tests.redis_server import PATIENT_MS, RedisServer, reach, redis_server
from tests.test_shared import status_of_chat

LACKS = why_not("redis-server")
pytestmark = pytest.mark.skipif(bool(LACKS), reason=LACKS)
KEY = "dmap:events"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[RedisServer]:
    """Run a Redis."""
    async with redis_server(tmp_path) as made:
        yield made


@asynccontextmanager
async def dmap(server: RedisServer, name: str, ring: int = 1000) -> AsyncGenerator[Bus]:
    """Run what shares the events of one dmap, which somebody watches."""
    section = RedisSection(url=server.url)
    connection = Connection(section.model_copy(update={"timeout_ms": PATIENT_MS}))
    bus = Bus(ring, lambda: 7.0)
    bus.readers = 1
    async with tasks.running(connection.run, "redis"):
        await reach(connection)
        stream = EventStream(connection, KEY, name, f"run of {name}", bus)
        async with tasks.running(stream.run, "events"):
            await soon(lambda: stream.follows, HERE_S)
            yield bus
    await connection.close()


def seen(bus: Bus) -> list[tuple[str | None, str, Any]]:
    """Return the events of *bus*, each with its origin."""
    return [(event.origin, event.type, dict(event.fields)) for event in bus.since(0, 10_000)[0]]


async def test_each_sees_what_happens_at_the_other(server: RedisServer) -> None:
    """An event is told at the other dmap once, with where and when it happened, and never comes back."""
    async with dmap(server, "one") as one, dmap(server, "two") as two:
        one.tell("config.reloaded", {})
        await soon(lambda: ("one", "config.reloaded", {}) in seen(two), HERE_S)

        two.tell("access.denied", {"client": "a"})

        await soon(lambda: ("two", "access.denied", {"client": "a"}) in seen(one), HERE_S)
        assert len(seen(one)) == len(seen(two)) == 2
        told = json.loads(two.since(0, 1)[0][0].data)
        assert (told["dmap"], told["at"], told["type"]) == ("one", 7.0, "config.reloaded")


async def test_nobody_here_counts_it(server: RedisServer) -> None:
    """What listens at a dmap, as the metrics do, hears its own events alone."""
    async with dmap(server, "one") as one, dmap(server, "two") as two:
        heard = list[str]()
        two.listen(lambda event: heard.append(event.type), "config.reloaded", "config.refused")
        one.tell("config.reloaded", {})
        await soon(lambda: len(seen(two)) == 1, HERE_S)

        two.tell("config.refused", {"problems": []})

        assert heard == ["config.refused"]


async def test_who_begins_to_watch_sees_what_comes(server: RedisServer) -> None:
    """What happened before somebody began to watch is not fetched."""
    async with dmap(server, "one") as one:
        one.tell("config.reloaded", {})
        await soon(lambda: server("XLEN", KEY) == 1, HERE_S)
        async with dmap(server, "two") as two:
            one.tell("access.denied", {"client": "a"})

            await soon(lambda: len(seen(two)) > 0, HERE_S)

            assert seen(two) == [("one", "access.denied", {"client": "a"})]


async def test_more_than_fits_in_one_entry(server: RedisServer) -> None:
    """A burst arrives whole and in order."""
    async with dmap(server, "one") as one, dmap(server, "two") as two:
        one.tell("config.reloaded", {"at_number": -1})
        await soon(lambda: len(seen(two)) == 1, HERE_S)

        _ = [one.tell("config.reloaded", {"at_number": each}) for each in range(3 * PIECE)]

        await soon(lambda: len(seen(two)) == 3 * PIECE + 1, HERE_S)
        assert [fields["at_number"] for _, _, fields in seen(two)] == list(range(-1, 3 * PIECE))


async def test_what_is_lost_is_told(server: RedisServer) -> None:
    """What a ring has forgotten before it could be sent is counted for the readers of the others."""
    async with dmap(server, "one", ring=10) as one, dmap(server, "two") as two:
        one.tell("config.reloaded", {})
        await soon(lambda: len(seen(two)) == 1, HERE_S)

        _ = [one.tell("config.reloaded", {}) for _ in range(25)]

        await soon(lambda: len(seen(two)) == 12, HERE_S)
        assert seen(two)[1] == ("one", "debug.missed", {"missed": 15})


async def test_events_that_nobody_understands(server: RedisServer, caplog: Any) -> None:
    """What is no event, or one that is not known here, is passed over."""
    async with dmap(server, "one") as one, dmap(server, "two") as two:
        one.tell("config.reloaded", {})
        await soon(lambda: len(seen(two)) == 1, HERE_S)

        server("XADD", KEY, "*", "from", "three", "run", "x", "first", "x", "events", "{")
        server(
            "XADD", KEY, "*", "from", "three", "run", "x", "first", "0", "events", '{"type":"new.one","at":1}'
        )
        server("XADD", KEY, "*", b"\xff", b"\xff")
        words = ("[1]", '["a"]', "[" * 100_000, '{"type":"switch.started","at":1,"unload":7}')
        _ = [
            server("XADD", KEY, "*", "from", "three", "run", each, "first", "0", "events", each)
            for each in (*words, '{"type":"request.finished","at":1,"model":"m"}', '"text"')
        ]
        one.tell("config.refused", {"problems": []})

        await soon(lambda: len(seen(two)) == 2, HERE_S)
        assert [type for _, type, _ in seen(two)] == ["config.reloaded", "config.refused"]
        assert "bug" not in caplog.text


async def test_the_stream_of_a_daemon(start: Any, backend: Any, server: RedisServer) -> None:
    """`GET /debug/stream` of one daemon shows a request at the other one; metrics do not count it."""
    backend.script = lambda e: e.end(answer(b"{}"))
    redis = f"redis: {{url: '{server.url}', timeout_ms: 1000}}"
    text = f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n{redis}"
    one, two = await start(text), await start(text)
    async with (
        aiohttp.ClientSession(one.url) as session,
        session.get("/debug/stream?type=request.finished") as stream,
        asyncio.timeout(HERE_S),
    ):
        await stream.content.readuntil(b"\n\n")
        await soon(lambda: one.proxy.shared.stream.follows, HERE_S)

        assert await status_of_chat(two) == 200

        event = await stream.content.readuntil(b"\n\n")
    assert b'"dmap":' in event and b"event: request.finished" in event
    assert "dmap_request_duration_seconds_count" not in one.proxy.metrics.as_dict()
