"""The load balancers of `ops/`, real ones, before two dmaps."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from dmap.daemon import listening
from tests.conftest import Proxy, config_of
from tests.fakes import DONE, END, HERE_S, SSE, FakeBackend, RawClient, chat, chunk, delta, post, told, within
from tests.ports import deaf, free_port
from tests.programs import find, why_not
from tests.test_recipes import accepting

OPS = Path(__file__).parents[1] / "ops"
CLIENT = "127.0.0.5"
ACCESS = f"access: {{trusted_proxies: [127.0.0.1], allow: [{CLIENT}]}}"


class Door(NamedTuple):
    """A load balancer at *port*, and the *dmaps* behind it; each of *lives* ends the dmap at its place."""

    port: int
    dmaps: list[Proxy]
    lives: list[AsyncExitStack]
    stack: AsyncExitStack

    async def client(self) -> RawClient:
        """Open a connection of a client's own address."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(CLIENT, 0))
        self.stack.callback(writer.close)
        return RawClient(reader, writer)

    async def ask(self) -> int:
        """Ask for an answer in one piece; return its status."""
        client = await self.client()
        await client.send(post(chat(stream=False)))
        return (await client.answer()).status


def haproxy(folder: Path, port: int, ports: list[int]) -> tuple[list[str], dict[str, str]]:
    """The command of HAProxy, and its environment."""
    fronts = {f"FRONT{at}": f"127.0.0.1:{each}" for at, each in enumerate(ports, 1)}
    return ["haproxy", "-db", "-f", str(OPS / "haproxy.cfg")], {"DOOR": f"127.0.0.1:{port}", **fronts}


def nginx(folder: Path, port: int, ports: list[int]) -> tuple[list[str], dict[str, str]]:
    """The command of nginx, whose file has the ports in it."""
    text = (OPS / "nginx.conf").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    for at, each in enumerate(ports, 1):
        text = text.replace(f"127.0.0.1:800{at}", f"127.0.0.1:{each}")
    path = folder / "nginx.conf"
    path.write_text(text)
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(path), "-g", "daemon off;"], {}


@pytest.fixture(params=[haproxy, nginx], ids=["haproxy", "nginx"])
async def door(backend: FakeBackend, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Door]:
    """Two dmaps before one backend, and a load balancer before them."""
    name = request.param.__name__
    if why_not(name):
        pytest.skip(why_not(name))
    backend.script = backend.finish
    text = f"listen: {{port: 0}}\nbackends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n{ACCESS}"
    lives = [AsyncExitStack() for _ in range(2)]
    dmaps = [Proxy(await life.enter_async_context(listening(config_of(text)))) for life in lives]
    port, ports = free_port(), [dmap.daemon.addresses[0][1] for dmap in dmaps]
    command, environment = request.param(tmp_path, port, ports)
    child = await asyncio.create_subprocess_exec(
        find(name) or name, *command[1:], env={**os.environ, **environment}, cwd=tmp_path
    )
    async with AsyncExitStack() as stack:
        try:
            await accepting(port, child)
            yield Door(port, dmaps, lives, stack)
        finally:
            if child.returncode is None:
                child.terminate()
            await asyncio.wait_for(child.wait(), HERE_S)
            for life in lives:
                await life.aclose()


async def test_both_answer(door: Door, backend: FakeBackend) -> None:
    """Requests go to both, each as one of its client's own address."""
    statuses = [await door.ask() for _ in range(8)]

    asked = [sum(e.type == "request.received" for e in d.proxy.bus.since(0, 1000)[0]) for d in door.dmaps]
    assert statuses == [200] * 8
    assert sum(asked) == 8 and all(asked)


async def test_one_is_stopped(door: Door, backend: FakeBackend) -> None:
    """No request is lost while one of the two is stopped, and none goes to it afterwards."""
    await door.ask()
    await door.lives[0].aclose()

    statuses = [await door.ask() for _ in range(20)]

    assert statuses == [200] * 20


@pytest.mark.parametrize("door", [haproxy], ids=["haproxy"], indirect=True)
async def test_none_is_left(door: Door) -> None:
    """Where no dmap is ready the refusal has OpenAI's form, and the time to come again."""
    for life in door.lives:
        await life.aclose()
    client = await door.client()
    await client.send(post(chat()))

    answer = await client.answer()

    assert (answer.status, answer.error["code"]) == (503, "backend_down")
    assert answer.head.headers["retry-after"] == "2"


@pytest.mark.parametrize("door", [haproxy], ids=["haproxy"], indirect=True)
async def test_a_host_is_gone_without_a_word(door: Door) -> None:
    """Who is sent there before that is noticed waits a second for it, and is answered by the other one."""
    dead = door.dmaps[0].daemon.addresses[0][1]
    await door.ask()
    await door.lives[0].aclose()
    with deaf(dead):
        statuses = await within(1.9, asyncio.gather(*(door.ask() for _ in range(4))))

    assert statuses == [200] * 4


async def test_a_stream_comes_as_it_is_made(door: Door, backend: FakeBackend) -> None:
    """Each record is with the client while the backend still holds back the next."""
    backend.script = backend.by_hand
    client = await door.client()
    await client.send(post(chat()))
    exchange = await backend.next()

    await exchange.write(SSE, chunk(delta("one")))
    await client.until(delta("one"))
    await exchange.end(chunk(DONE), END)

    assert DONE in await client.until(b"0\r\n\r\n")


async def test_a_stream_that_broke(door: Door, backend: FakeBackend) -> None:
    """It does not end well behind a load balancer either, and nobody asks for it again."""
    backend.script = backend.by_hand
    client = await door.client()
    await client.send(post(chat()))
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("one")))
    await client.until(delta("one"))

    exchange.cut()
    rest = await client.all()

    assert told(rest)["error"]["code"] == "backend_broke"
    assert not rest.endswith(END) and DONE not in rest
    assert len(backend.requests) == 1


async def test_a_client_that_leaves_early(door: Door, backend: FakeBackend) -> None:
    """A client that leaves before the first byte frees its place."""
    backend.script = backend.by_hand
    client = await door.client()
    await client.send(post(chat(stream=False)))
    exchange = await backend.next()

    client.close()

    await exchange.abandoned(10)
    await asyncio.gather(*(dmap.settled() for dmap in door.dmaps))
