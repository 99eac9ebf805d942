"""Two dmaps of different hosts that are meant for one LM Studio: the lease in a real Redis."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dmap import tasks
from dmap.config import ConfigProblem, RedisSection
from dmap.events import Bus
from dmap.shared.connection import Connection
from dmap.shared.core import Shared
from dmap.shared.leases import LEASE_S, Leases
from tests.cutter import cutter
from tests.fakes import HERE_S, soon
from tests.programs import why_not
from tests.redis_server import PATIENT_MS, RedisServer, reach, redis_server
from tests.slow_line import slow_line

LACKS = why_not("redis-server")
pytestmark = pytest.mark.skipif(bool(LACKS), reason=LACKS)
SERVERS = {"studio": "http://studio.example:1234"}
LEASE = "dmap:owner:studio.example:1234"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[RedisServer]:
    """Run a Redis."""
    async with redis_server(tmp_path) as made:
        yield made


@asynccontextmanager
async def shared_by(
    host: str,
    server: RedisServer,
    servers: Mapping[str, str] = SERVERS,
    observe: Callable[[float, str], None] = lambda *_: None,
) -> AsyncGenerator[Shared]:
    """Run what a dmap of *host* shares."""
    section = RedisSection(url=server.url).model_copy(update={"timeout_ms": PATIENT_MS})
    shared = Shared(section, observe, servers, Bus(9, time.time), host)
    async with shared.running():
        yield shared


async def test_the_second_host_does_not_start(server: RedisServer) -> None:
    """Where another host's dmap has the server and lives, a second one is refused, and told which."""
    async with shared_by("box1", server):
        with pytest.raises(
            ConfigProblem, match=r"^backends.studio.url: another dmap .* pid \d+; only one may"
        ):
            async with shared_by("box2", server):
                pass


async def test_the_next_host_may_start_at_once(server: RedisServer) -> None:
    """A dmap that ends gives its lease back."""
    async with shared_by("box1", server):
        assert server("EXISTS", LEASE) == 1

    assert server("EXISTS", LEASE) == 0
    async with shared_by("box2", server):
        assert server("HGET", LEASE, "owner") == "box2"


async def test_a_restart_on_the_same_host(server: RedisServer) -> None:
    """A killed dmap is followed by the next one of its host at once, and by another host's in time."""
    clock, times_asked = asyncio.get_running_loop().time, Counter[str]()
    killed = await left_behind("box1", server)

    async with shared_by("box1", server, observe=lambda _, op: times_asked.update([op])):
        at_once = times_asked["owner"]
    await left_behind("box1", server)
    began = clock()
    async with shared_by("box2", server) as other:
        waited_s = clock() - began

    assert at_once == 1  # who waits for a lease looks after it again and again
    assert waited_s > LEASE_S / 2
    assert (killed.leases.others, other.leases.others) == ({}, {})


async def left_behind(host: str, server: RedisServer) -> Shared:
    """Leave a lease behind as a killed dmap does."""
    async with shared_by(host, server) as shared:
        fields = server("HGETALL", LEASE)
        pairs = [each for pair in fields.items() for each in pair]
    server("HSET", LEASE, *pairs)
    server("EXPIRE", LEASE, LEASE_S)
    return shared


async def test_each_host_has_a_server_of_its_own(server: RedisServer) -> None:
    """Two hosts of one name or address, each with a server on itself, are in nobody's way."""
    own = {"studio": "http://127.0.0.1:1234"}
    async with shared_by("ubuntu/1", server, own) as one, shared_by("ubuntu/2", server, own) as two:
        assert (one.leases.others, two.leases.others) == ({}, {})
    assert server("KEYS", "dmap:owner:*") == []


async def test_a_server_on_another_host_that_has_it(server: RedisServer) -> None:
    """Who is meant for a server on another host is refused where a dmap of that host has it."""
    async with shared_by("box1", server):
        server("HSET", LEASE, "own", 1)
        with pytest.raises(ConfigProblem, match="only one may"):
            async with shared_by("box2", server):
                pass


async def test_a_lease_that_never_ends(server: RedisServer) -> None:
    """A lease without a living dmap is taken over, also one that a clock gone back keeps for an hour."""
    await left_behind("box1", server)
    server("PERSIST", LEASE)

    async with shared_by("box2", server):
        assert server("HGET", LEASE, "owner") == "box2"
        assert 0 < server("TTL", LEASE) <= LEASE_S


async def test_a_lease_that_is_none(server: RedisServer) -> None:
    """What somebody else has put under the name of a lease keeps nobody from starting."""
    server("HSET", LEASE, "owner", "somebody", "beats", "many")

    async with shared_by("box1", server):
        assert server("HGET", LEASE, "owner") == "box1"


async def test_another_type_under_the_name_of_a_lease(server: RedisServer, caplog: Any) -> None:
    """Where the lease cannot be asked for, nothing is checked, and all else goes on."""
    server("SET", LEASE, "text")

    async with shared_by("box1", server) as shared:
        assert shared.is_up

    assert any("server_unchecked backend=studio" in line for line in caplog.messages)


async def test_who_loses_it_goes_on_and_says_so(server: RedisServer, caplog: Any) -> None:
    """A dmap whose lease went to another one while it was cut off goes on, with a warning."""
    async with shared_by("box1", server) as first:
        server("HSET", LEASE, "owner", "box2", "told", "on box2, pid 7")

        await soon(lambda: bool(first.leases.others), HERE_S)

        assert first.leases.others == {"studio": "on box2, pid 7"}
        assert any("server_of_another backend=studio" in line for line in caplog.messages)


async def test_a_first_beat_that_is_lost(server: RedisServer, caplog: Any) -> None:
    """Where the first word to Redis comes to nothing, it is asked again, and nothing is left unchecked."""
    async with slow_line(server.port) as line:
        line.is_cut = True

        def mend(record: logging.LogRecord) -> bool:
            line.is_cut = False
            return True

        with caplog.filtering(mend):
            async with shared_by("box1", RedisServer(server.folder, line.port)) as shared:
                assert shared.is_up
                assert server("HGET", LEASE, "owner") == "box1"

    assert "redis_down" in caplog.text
    assert "server_unchecked" not in caplog.text


async def test_a_lease_whose_answer_is_lost(server: RedisServer, caplog: Any) -> None:
    """Where Redis is up, a lease whose answer does not come is asked for again."""
    async with cutter(f"http://127.0.0.1:{server.port}") as wire:
        url = wire.url.replace("http", "redis")
        section = RedisSection(url=url).model_copy(update={"timeout_ms": PATIENT_MS})
        connection = Connection(section)
        async with tasks.running(connection.run, "redis"):
            await reach(connection)
            before = wire.connections
            wire.back.open.clear()
            leases = Leases(connection, section.prefix, SERVERS, "box1", "on box1")
            taking = asyncio.create_task(leases.take())
            await soon(lambda: server("EXISTS", LEASE) == 1, HERE_S)
            wire.cut()
            wire.mend()
            wire.back.open.set()
            await taking
            assert wire.connections == before + 1
        await connection.close()

    assert "server_unchecked" not in caplog.text


async def test_without_redis_it_is_unchecked(server: RedisServer, caplog: Any) -> None:
    """Where Redis does not answer nobody is refused; the log says that nothing was checked."""
    await server.kill()

    async with shared_by("box1", server) as shared:
        assert not shared.is_up

    assert any("server_unchecked backend=studio" in line for line in caplog.messages)
    await server.start()
