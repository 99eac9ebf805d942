"""Who waits for others is not misled by having stood still itself."""

import asyncio
import socket
import time

import pytest

from dmap.standstill import patient
from tests.fakes import within


async def test_it_is_a_bound():
    """What does not come is given up in its time, and not before."""
    clock = asyncio.get_running_loop().time
    began = clock()

    async def given_up() -> None:
        with pytest.raises(TimeoutError):
            async with patient(0.2):
                await asyncio.Event().wait()

    await within(0.3, given_up())

    assert clock() - began > 0.15


async def test_what_came_while_we_stood_still_is_heard():
    """The time that this process has lost is no other's delay."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def heard() -> bytes:
        async with patient(0.2):
            return await asyncio.get_running_loop().sock_recv(ours, 10)

    hearing = asyncio.create_task(heard())
    await asyncio.sleep(0)
    theirs.send(b"here")
    stand_still(0.5)

    assert await hearing == b"here"
    ours.close()
    theirs.close()


async def test_nothing_is_left_of_one_that_was_kept():
    """After the context no timer cancels whoever is at something else."""
    async with patient(0.01):
        pass

    await asyncio.sleep(0.05)


def stand_still(for_s: float) -> None:
    time.sleep(for_s)
