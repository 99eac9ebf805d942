"""Names of hosts whose name server takes its time, or says nothing."""

import asyncio
import socket
import threading
from collections.abc import Generator

import pytest

from dmap.hosts import Hosts
from tests.fakes import HERE_S, soon

HERE = ["127.0.0.1"]
NOT_NOW = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NOBODY = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class NameServer:
    """Answers for every name with what it is told; for those that *hang* once they are let go."""

    def __init__(self) -> None:
        self.says: list[str] | OSError = HERE
        self.hang: set[str] = set()
        self.go_on = threading.Event()
        self.asked: list[str] = []

    def find(self, name: str) -> list[str]:
        """Return the addresses of *name*."""
        self.asked.append(name)
        if name in self.hang:
            assert self.go_on.wait(60)
        if isinstance(self.says, OSError):
            raise self.says
        return self.says


@pytest.fixture
def server() -> Generator[NameServer]:
    """Make a name server that holds nobody beyond the test."""
    made = NameServer()
    yield made
    made.go_on.set()


async def test_dead_names_hold_no_other(server: NameServer) -> None:
    """As many names as a pool of threads could have wait for their answer, and another one is found."""
    hosts = Hosts(server.find)
    server.hang = {f"dead{number}" for number in range(50)}
    dead = [asyncio.create_task(hosts.addresses(name)) for name in server.hang]

    async with asyncio.timeout(30):
        assert await hosts.addresses("live") == HERE

    server.go_on.set()
    assert await asyncio.gather(*dead) == [HERE] * 50


async def test_a_dead_name_has_one_thread(server: NameServer) -> None:
    """Who asks for it again, or leaves, begins nothing new."""
    hosts = Hosts(server.find)
    server.hang = {"dead"}
    leaver, *stay = [asyncio.create_task(hosts.addresses("dead")) for _ in range(20)]
    await soon(lambda: server.asked == ["dead"], 10)

    leaver.cancel()
    server.go_on.set()

    assert await asyncio.gather(*stay) == [HERE] * 19
    assert server.asked == ["dead"]


async def test_a_name_is_remembered_for_a_while(server: NameServer) -> None:
    """A front asks each node twice a second; its name server is left in peace."""
    hosts = Hosts(server.find)

    assert [await hosts.addresses("box") for _ in range(5)] == [HERE] * 5
    assert server.asked == ["box"]


async def test_a_host_that_has_moved_is_found(server: NameServer) -> None:
    """A container that was started anew has another address."""
    hosts = Hosts(server.find, fresh_s=0)
    await hosts.addresses("box")
    server.says = ["127.0.0.2"]

    assert await hosts.addresses("box") == ["127.0.0.2"]


async def test_without_an_answer_the_last_one_holds(server: NameServer) -> None:
    """While the name server has no answer for now, hosts are where they were."""
    hosts = Hosts(server.find, fresh_s=0)
    await hosts.addresses("box")
    server.says = NOT_NOW

    assert await hosts.addresses("box") == HERE


async def test_while_nobody_answers_the_last_one_holds(server: NameServer) -> None:
    """While the name server hangs hosts are where they were; one waits for it, and a hundred do not."""
    hosts = Hosts(server.find, fresh_s=0)
    await hosts.addresses("box")
    server.hang = {"box"}

    async with asyncio.timeout(20):
        assert [await hosts.addresses("box") for _ in range(100)] == [HERE] * 100
    await soon(lambda: len(server.asked) > 1, HERE_S)
    assert server.asked == ["box"] * 2


@pytest.mark.parametrize("says", [NOBODY, NOT_NOW])
async def test_a_name_that_is_none(server: NameServer, says: OSError) -> None:
    """What was never found is told; so is what is known to be no more."""
    hosts = Hosts(server.find, fresh_s=0)
    server.says = says
    with pytest.raises(socket.gaierror):
        await hosts.addresses("box")
    server.says = HERE
    await hosts.addresses("box")
    server.says = NOBODY

    with pytest.raises(socket.gaierror):
        await hosts.addresses("box")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%lo"])
async def test_an_address_is_no_name(server: NameServer, address: str) -> None:
    """Nobody is asked for it."""
    assert await Hosts(server.find).addresses(address) == [address]
    assert server.asked == []


async def test_each_address_is_tried(server: NameServer) -> None:
    """A server that listens on one of its addresses only is reached; else the last says why."""
    hosts, tried = Hosts(server.find), list[str]()
    server.says = ["::1", "127.0.0.1"]

    async def attempt(address: str) -> str:
        tried.append(address)
        if address == "::1":
            raise ConnectionRefusedError(address)
        return address

    assert await hosts.connect("localhost", attempt) == "127.0.0.1"
    assert tried == ["::1", "127.0.0.1"]
    server.says = ["::1"]
    with pytest.raises(ConnectionRefusedError):
        await Hosts(server.find).connect("localhost", attempt)
