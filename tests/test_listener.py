"""Where clients come in: those for whom there is no room wait, and are served when others have left."""

import asyncio
import contextlib
import resource

import pytest

from tests.process import daemon

pytestmark = pytest.mark.timeout(90)

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
FEW = 200
"""Descriptors that the daemon may have; there is room for 68 clients then."""


@pytest.fixture
async def process(tmp_path):
    """Run a daemon that may have few descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with daemon(tmp_path, "backends: {fake: {kind: openai, url: 'http://127.0.0.1:9'}}") as process:
        resource.prlimit(process.child.pid, resource.RLIMIT_NOFILE, (FEW, before[1]))
        yield process


async def test_a_client_waits_until_there_is_room(process):
    """With all places taken by idle clients another one waits, and is served when they leave."""
    port = int(process.url.rpartition(":")[2])
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3 * FEW)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEALTH)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 1)
    for _, other in idle:
        other.close()
    answer = await asyncio.wait_for(reader.read(), 20)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert sum("clients_wait" in line for line in process.log) == 1
    with contextlib.suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()
