"""The loop of our tests itself: its end cannot hang."""

import asyncio

import psutil
import pytest

from tests.loops import Loop


async def a_server(loop):
    return await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)


async def a_connection(loop):
    server = await a_server(loop)
    connection = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    server.close()
    return connection


async def a_process(loop):
    return await loop.subprocess_exec(asyncio.SubprocessProtocol, "cat")


@pytest.mark.parametrize("opened", [a_server, a_connection, a_process])
def test_what_is_left_open_is_told(opened):
    """Whatever a test leaves open is told, and the loop ends all the same: uvloop's own would hang."""
    loop = Loop()
    left = loop.run_until_complete(opened(loop))

    with pytest.raises(ResourceWarning, match="unclosed resource"):
        loop.close()

    assert left
    assert loop.is_closed()
    psutil.wait_procs(psutil.Process().children(), 5)  # else a test after it finds one that nobody reaped
