"""Where clients come in: those for whom there is no room wait, and nobody who asks nothing keeps them out."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from tests.fakes import HERE_S, RawClient, soon
from tests.process import Process, daemon
from tests.test_tls import made

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
HALF = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
FEW = 200
"""Descriptors that the daemon may have; there is room for 68 clients then."""
ROOM = 68
MANY = 100
"""More than are taken in one turn of the loop."""
CONFIG = "backends: {fake: {kind: openai, url: 'http://127.0.0.1:9'}}\n"

Connect = Callable[[], Awaitable[RawClient]]


@pytest.fixture
async def process(tmp_path) -> AsyncGenerator[Process]:
    """Run a daemon that may have few descriptors."""
    async with daemon(tmp_path, CONFIG) as process:
        restrict(process)
        yield process


@pytest.fixture
async def connect(process) -> AsyncGenerator[Connect]:
    """Connect to the daemon; all connections are closed in the end."""
    async with AsyncExitStack() as stack:

        async def connect() -> RawClient:
            client = RawClient(*await asyncio.open_connection("127.0.0.1", port_of(process)))
            stack.callback(client.close)
            return client

        yield connect


def restrict(process: Process) -> None:
    """Take most descriptors from the daemon."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.prlimit(process.child.pid, resource.RLIMIT_NOFILE, (FEW, most))


def port_of(process: Process) -> int:
    return int(process.url.rpartition(":")[2])


async def test_a_client_waits_until_there_is_room(process, connect):
    """With all places taken by requests another client waits, and is served when they have left."""
    busy = [await connect() for _ in range(ROOM)]
    for client in busy:
        await client.send(HALF)
    waiting = await connect()
    await waiting.send(HEALTH)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting.reader.read(1), 2.5)
    for client in busy:
        client.close()

    assert (await waiting.answer()).status == 200
    await soon(lambda: any("clients_wait" in line for line in process.log), HERE_S)
    assert sum("clients_wait" in line for line in process.log) == 1


async def test_idle_connections_make_room(connect):
    """Connections that were idle for longest give way to clients who ask, and no more of them than must."""
    busy = await connect()
    await busy.send(HALF)
    idle = [await connect() for _ in range(2 * ROOM)]
    asking = await connect()

    await asking.send(HEALTH)

    assert (await asking.answer()).status == 200
    assert await idle[0].all() == b""
    busy.writer.write(b" " * 97 + b"}")
    assert (await busy.answer()).status == 400  # it names no model


async def test_heads_that_never_end_lock_nobody_out(connect):
    """Clients that send their heads a byte at a time, and come again when cut, delay others by seconds."""
    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(trickle(connect)) for _ in range(2 * ROOM)]
        waits = [await served_after(connect) for _ in range(5)]
        for task in slow:
            task.cancel()

    assert max(waits) < 10


async def test_who_is_connected_when_dmap_is_told_to_stop_is_served(start):
    """A client whom the kernel has let in is not cut, though nobody has taken its connection yet."""
    proxy = await start(CONFIG)
    early = [socket.create_connection(proxy.daemon.addresses[0]) for _ in range(MANY)]
    for each in early:
        each.sendall(HEALTH)

    await proxy.daemon.drain(asyncio.Event())

    clients = [RawClient(*await asyncio.open_connection(sock=each)) for each in early]
    assert [(await client.answer()).status for client in clients] == [200] * MANY
    for client in clients:
        client.close()


async def trickle(connect: Connect) -> None:
    """Send a head a byte a second, again and again."""
    while True:
        client = await connect()
        end = asyncio.create_task(client.reader.read())
        with contextlib.suppress(ConnectionError):
            await client.send(b"GET / HTTP/1.1\r\nX: ")
            while not end.done():
                await client.send(b"x")
                await asyncio.wait({end}, timeout=1)
        end.cancel()
        await asyncio.gather(end, return_exceptions=True)


async def served_after(connect: Connect) -> float:
    """Return how long a new client waits for its answer."""
    clock = asyncio.get_running_loop().time
    began_at = clock()
    client = await connect()
    await client.send(HEALTH)
    assert (await client.answer()).status == 200
    return clock() - began_at


async def test_handshakes_that_never_begin_lock_nobody_out(tmp_path):
    """Connections on which nobody speaks TLS give way as idle ones do."""
    pair = made(tmp_path, "own")
    tls = f"{{port: 0, tls: {{cert: '{pair.cert}', key: '{pair.key}'}}}}"
    async with daemon(tmp_path, CONFIG, listen=tls) as process:
        restrict(process)
        silent = [await asyncio.open_connection("127.0.0.1", port_of(process)) for _ in range(2 * ROOM)]

        async with asyncio.timeout(15):  # `HANDSHAKE_S` is longer
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port_of(process), ssl=pair.trusted, server_hostname="localhost"
            )
        writer.write(HEALTH)

        assert (await RawClient(reader, writer).answer()).status == 200
        assert await silent[0][0].read() == b""
        for _, other in [*silent, (reader, writer)]:
            other.close()
