"""Nodes and fronts that are stopped under load, by a signal, as processes of their own."""

import asyncio
import hashlib
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import Proxy, front_of, nodes_at
from tests.fakes import (
    DONE,
    END,
    HERE_S,
    SSE,
    WHOLE,
    Exchange,
    FakeBackend,
    answer,
    chat,
    chunk,
    delta,
    fake_backend,
    post,
    soon,
)
from tests.process import Process, daemon
from tests.programs import find, why_not
from tests.test_balancers import ACCESS, CLIENT, haproxy
from tests.test_recipes import accepting, free_port

FRONT = hashlib.sha256(b"front").hexdigest()
SECONDS = 20


@dataclass
class Box:
    """A node as a process of its own, and the server behind it, whose answers the test gives."""

    process: Process
    server: FakeBackend


def node_of(server: FakeBackend) -> str:
    """Write the configuration of a node with one place."""
    keys = f"[{{name: fronts, sha256: {FRONT}, scopes: [front]}}]"
    fake = f"{{fake: {{kind: openai, url: '{server.url}', parallel: 1}}}}"
    return f"access: {{keys: {keys}}}\nbackends: {fake}"


@pytest.fixture
async def boxes(tmp_path: Path) -> AsyncGenerator[list[Box]]:
    """Run two nodes."""
    async with AsyncExitStack() as stack:
        made = []
        for at in range(2):
            server = await stack.enter_async_context(fake_backend())
            server.script = server.by_hand
            (folder := tmp_path / f"box{at}").mkdir()
            made.append(Box(await stack.enter_async_context(daemon(folder, node_of(server))), server))
        yield made
        for box in made:
            box.server.cut_all()


@pytest.fixture
async def front(start: Callable[[str], Any], boxes: list[Box]) -> Proxy:
    """Run a front of both."""
    return await front_of(start, [box.process.url for box in boxes])


def waiting(front: Proxy) -> list[str]:
    """Return the nodes of the requests that wait."""
    return [visit.record.backend for visit in front.proxy.visits.open() if visit.record.waits]


async def crowd(front: Proxy, boxes: list[Box]) -> list[Any]:
    """Have both nodes answer a request, and one wait at each; return the clients."""
    clients = [await front.client() for _ in range(4)]
    for at, client in enumerate(clients[:2], 1):
        await client.send(post(chat()))
        await soon(lambda at=at: sum(len(box.server.requests) for box in boxes) == at, SECONDS)
    for at, client in enumerate(clients[2:], 1):
        await client.send(post(chat()))
        await soon(lambda at=at: len(waiting(front)) == at, SECONDS)
    await soon(lambda: sorted(waiting(front)) == ["box0", "box1"], SECONDS)
    return clients


async def finish(exchange: Exchange) -> None:
    await exchange.end(SSE, chunk(delta("whole")), chunk(DONE), END)


async def test_a_node_that_is_told_to_stop(front, boxes):
    """What waits there goes elsewhere at once, what is answered ends whole, and nobody sees an error."""
    clients = await crowd(front, boxes)
    running = await boxes[0].server.next()

    boxes[0].process.child.send_signal(signal.SIGTERM)
    await soon(lambda: waiting(front) == ["box1", "box1"], SECONDS)
    late = await front.client()
    await late.send(post(chat()))
    await soon(lambda: waiting(front) == ["box1"] * 3, SECONDS)
    await finish(running)
    assert await boxes[0].process.ended() == 0
    for _ in range(4):
        await finish(await boxes[1].server.next())

    ends = [await client.until(DONE) for client in (*clients, late)]
    assert all(delta("whole") in end for end in ends)
    assert len(boxes[0].server.requests) == 1
    assert "request.failed" not in [event.type for event in front.proxy.bus.since(0, 999)[0]]


async def test_a_node_that_stands_still(front, boxes):
    """A node under SIGSTOP is left within seconds by who waits there, and keeps what it had granted."""
    clients = await crowd(front, boxes)

    boxes[0].process.child.send_signal(signal.SIGSTOP)
    try:
        await soon(lambda: waiting(front) == ["box1", "box1"], SECONDS)
        assert len(boxes[0].server.requests) == 1
    finally:
        boxes[0].process.child.send_signal(signal.SIGCONT)
    await soon(lambda: len(front.proxy.inventory.answering) == 2, SECONDS)
    for client in clients:
        client.close()


@asynccontextmanager
async def running(*command: str, port: int, **environment: str) -> AsyncGenerator[None]:
    """Run a program of Debian that listens on *port*."""
    child = await asyncio.create_subprocess_exec(
        find(command[0]) or "", *command[1:], env=environment or None
    )
    try:
        await accepting(port, child)
        yield
    finally:
        child.terminate()
        await asyncio.wait_for(child.wait(), HERE_S)


@pytest.mark.skipif(bool(why_not("haproxy")), reason=why_not("haproxy"))
async def test_fronts_behind_a_load_balancer(tmp_path, boxes):
    """No client sees anything of a front that is told to stop while all of them ask."""
    for box in boxes:
        box.server.script = lambda exchange: exchange.end(answer(WHOLE))
    nodes = nodes_at([box.process.url for box in boxes])
    async with AsyncExitStack() as stack:
        fronts = []
        for name in ("left", "right"):
            (tmp_path / name).mkdir()
            fronts.append(await stack.enter_async_context(daemon(tmp_path / name, f"{nodes}\n{ACCESS}")))
        port = free_port()
        command, environment = haproxy(tmp_path, port, [int(each.url.rpartition(":")[2]) for each in fronts])
        await stack.enter_async_context(running(*command, port=port, **environment))
        seen, over = Counter[int](), asyncio.Event()
        asking = [asyncio.create_task(ask(f"http://127.0.0.1:{port}", seen, over)) for _ in range(8)]
        await soon(lambda: seen[200] >= 50, SECONDS)

        fronts[0].child.send_signal(signal.SIGTERM)
        assert await fronts[0].ended() == 0
        before = seen[200]
        await soon(lambda: seen[200] >= before + 50, SECONDS)
        over.set()
        await asyncio.gather(*asking)

    assert list(seen) == [200]


async def ask(url: str, seen: Counter[int], until: asyncio.Event) -> None:
    """Ask one question after the other, and count what is answered."""
    connector = aiohttp.TCPConnector(local_addr=(CLIENT, 0))
    async with aiohttp.ClientSession(url, connector=connector) as session:
        while not until.is_set():
            async with session.post("/v1/chat/completions", json=chat(stream=False)) as answered:
                await answered.read()
                seen[answered.status] += 1


BETWEEN = """
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen way
  bind 127.0.0.1:{port}
  http-reuse safe
  server node 127.0.0.1:{node}
"""


@pytest.mark.skipif(bool(why_not("haproxy")), reason=why_not("haproxy"))
async def test_a_proxy_before_a_node(start, tmp_path, boxes):
    """Through HAProxy a front is told that a request waits, though not where, and that it was granted."""
    port, path = free_port(), tmp_path / "way.cfg"
    path.write_text(BETWEEN.format(port=port, node=boxes[0].process.url.rpartition(":")[2]))
    async with running("haproxy", "-db", "-f", str(path), port=port):
        front = await start(f"nodes: {{box0: {{url: 'http://127.0.0.1:{port}', api_key: front}}}}")
        await soon(lambda: front.proxy.inventory.answering == ["box0"], SECONDS)
        clients = [await front.client() for _ in range(2)]
        await clients[0].send(post(chat()))
        first = await boxes[0].server.next()
        await clients[1].send(post(chat()))
        await soon(lambda: waiting(front) == ["box0"], SECONDS)

        await finish(first)
        await finish(await boxes[0].server.next())

        assert [delta("whole") in await client.until(DONE) for client in clients] == [True, True]
        assert front.proxy.nodes["box0"].tells is True
        told = [event.type for event in front.proxy.bus.since(0, 99)[0] if event.type.startswith("request.")]
        assert (told.count("request.queued"), told.count("request.granted")) == (1, 2)
