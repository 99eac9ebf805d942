"""The loop of our tests itself: neither it nor its end can hang."""

import asyncio
import signal

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


def test_a_test_whose_time_is_over_is_ended():
    """What pytest-timeout raises where a signal of its comes ends the loop, which hangs else."""
    loop = Loop()
    loop.call_soon(signal.raise_signal, signal.SIGUSR1)
    before = signal.signal(signal.SIGUSR1, lambda *_: pytest.fail("it took too long"))

    try:
        with pytest.raises((RuntimeError, pytest.fail.Exception)):
            loop.run_until_complete(asyncio.wait_for(loop.create_future(), 60))
    finally:
        signal.signal(signal.SIGUSR1, before)
        loop.close()
