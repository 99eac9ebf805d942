"""Two nodes with one model behind a front: which is asked, and what becomes of requests when one is lost."""

import asyncio
import hashlib
import json
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from dmap.web.reload import reload
from tests.conftest import Proxy
from tests.cutter import Cutter, cutter
from tests.fakes import DONE, END, SSE, Exchange, FakeBackend, answer, chunk, delta, fake_backend, soon
from tests.process import daemon

FRONT = hashlib.sha256(b"front").hexdigest()
SECONDS = 10
HEARTBEAT_S = 0.1


@dataclass
class Box:
    """A node with one place, the server behind it, and the wire that leads to it."""

    node: Proxy
    server: FakeBackend
    wire: Cutter

    @property
    def waiting(self) -> int:
        return self.node.proxy.gates["backend fake"].snapshot().waiting

    @property
    def leases(self) -> int:
        return self.node.proxy.gates["backend fake"].snapshot().leases


@pytest.fixture
async def boxes(start: Any) -> AsyncGenerator[list[Box]]:
    """Run two nodes, whose answers the test gives by hand."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            server = await stack.enter_async_context(fake_backend())
            server.script = server.by_hand
            node = await start(
                f"""
                access: {{keys: [{{name: fronts, sha256: {FRONT}, scopes: [front]}}]}}
                backends: {{fake: {{kind: openai, url: '{server.url}', parallel: 1}}}}
                """
            )
            found.append(Box(node, server, await stack.enter_async_context(cutter(node.url))))
        yield found


@pytest.fixture
async def front(start: Any, boxes: list[Box]) -> Proxy:
    """Run a front of both."""
    nodes = ", ".join(f"box{at}: {{url: '{box.wire.url}', api_key: front}}" for at, box in enumerate(boxes))
    proxy: Proxy = await start(f"nodes: {{{nodes}}}\nserver: {{heartbeat_s: {HEARTBEAT_S}}}")
    await soon(lambda: len(proxy.proxy.inventory.answering) == 2, SECONDS)
    return proxy


def ask(stream: bool = True, name: str = "some") -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nx-request-id: {name}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def under_way(boxes: list[Box], box: int) -> None:
    """Wait until a request is being answered there."""
    await soon(lambda: boxes[box].leases == 1, SECONDS)


async def test_both_are_asked(front, boxes):
    """Two requests at once go to two nodes, for the second would wait at the first."""
    clients = [await front.client() for _ in boxes]
    await clients[0].send(ask())
    await soon(lambda: sum(box.leases for box in boxes) == 1, SECONDS)
    await clients[1].send(ask())

    for each in [await box.server.next() for box in boxes]:
        await each.end(SSE, chunk(delta("a")), chunk(DONE), END)

    assert [await client.until(DONE) is not None for client in clients] == [True, True]


async def test_a_box_that_is_a_front_and_answers(start, boxes):
    """The servers of a front's own box are places beside its nodes."""
    own = f"backends: {{own: {{kind: openai, url: '{boxes[1].server.url}', parallel: 1}}}}"
    front = await start(f"{own}\nnodes: {{box: {{url: '{boxes[0].node.url}', api_key: front}}}}")
    await soon(lambda: len(front.proxy.inventory.answering) == 2, SECONDS)
    clients = [await front.client() for _ in boxes]
    await clients[0].send(ask())
    await soon(lambda: sum(len(box.server.requests) for box in boxes) == 1, SECONDS)
    await clients[1].send(ask())

    for each in [await box.server.next() for box in boxes]:
        await each.end(SSE, chunk(delta("a")), chunk(DONE), END)

    assert [await client.until(DONE) is not None for client in clients] == [True, True]


async def busy(front: Proxy, boxes: list[Box]) -> list[Any]:
    """Have both nodes answer a request; return their clients, the one at the first node first."""
    clients = {}
    for at in range(2):
        client = await front.client()
        await client.send(ask(name=f"busy{at}"))
        await soon(lambda at=at: sum(box.leases for box in boxes) == at + 1, SECONDS)
        clients[f"busy{at}"] = client
    return [clients[next(box.node.proxy.visits.open()).record.id] for box in boxes]


async def test_a_waiting_request_goes_on_elsewhere(front, boxes):
    """A request that waits at a node that dies keeps its age, and is answered by another one."""
    await busy(front, boxes)
    client = await front.client()
    await client.send(ask(name="third"))
    await soon(lambda: sum(box.waiting for box in boxes) == 1, SECONDS)
    lost, left = sorted(boxes, key=lambda box: -box.waiting)
    await client.until(b": dmap: ")

    lost.wire.cut()
    await soon(lambda: left.waiting == 1, SECONDS)
    (third,) = [visit for visit in left.node.proxy.visits.open() if visit.record.id == "third"]
    await (await left.server.next()).end(SSE, chunk(delta("a")), chunk(DONE), END)
    await (await left.server.next()).end(SSE, chunk(delta("b")), chunk(DONE), END)

    assert third.hop.waited_s > 0.9 * HEARTBEAT_S  # after which the comment came; timers may come early
    assert delta("b") in await client.until(DONE)
    assert [event.type for event in front.proxy.bus.since(0, 999)[0]].count("request.moved") == 1


async def test_a_granted_request_goes_nowhere_else(front, boxes):
    """A request whose node dies after the grant is an error that its client may repeat."""
    client = await front.client()
    await client.send(ask(stream=False))
    await soon(lambda: sum(len(box.server.requests) for box in boxes) == 1, SECONDS)
    (lost,) = [box for box in boxes if box.server.requests]

    lost.wire.cut()
    told = await client.answer()

    assert told.head.status == 502
    assert json.loads(told.body)["error"]["code"] == "backend_died"
    assert told.head.headers["x-should-retry"] == "true"
    assert sum(len(box.server.requests) for box in boxes) == 1


async def test_a_stream_that_is_cut_is_no_whole_one(front, boxes):
    """A node that dies in mid-answer leaves an error and a cut, and never what looks like an end."""
    client = await front.client()
    await client.send(ask())
    await soon(lambda: sum(len(box.server.requests) for box in boxes) == 1, SECONDS)
    (lost,) = [box for box in boxes if box.server.requests]
    await (await lost.server.next()).write(SSE, chunk(delta("begun")))
    await client.until(delta("begun"))

    lost.wire.cut()
    rest = await client.all()

    assert b'"code":"backend_broke"' in rest.replace(b" ", b"")
    assert DONE not in rest
    assert not rest.endswith(END)


async def test_a_frozen_link(front, boxes):
    """A node behind a link that says nothing is asked no more, and again within a second after it is back."""
    boxes[0].wire.freeze()
    await soon(lambda: len(front.proxy.inventory.answering) == 1, SECONDS)
    client = await front.client()
    await client.send(ask())
    await (await boxes[1].server.next()).end(SSE, chunk(delta("a")), chunk(DONE), END)
    await client.until(DONE)

    boxes[0].wire.thaw()

    await soon(lambda: len(front.proxy.inventory.answering) == 2, 1)


async def test_another_front_is_unharmed(start, front, boxes):
    """A link that is cut concerns the front that it leads to, and no other one."""
    nodes = ", ".join(f"box{at}: {{url: '{box.node.url}', api_key: front}}" for at, box in enumerate(boxes))
    other = await start(f"nodes: {{{nodes}}}")
    boxes[0].wire.freeze()
    await soon(lambda: len(front.proxy.inventory.answering) == 1, SECONDS)
    clients = [await other.client() for _ in boxes]
    await clients[0].send(ask())
    await soon(lambda: sum(box.leases for box in boxes) == 1, SECONDS)
    await clients[1].send(ask())

    for each in [await box.server.next() for box in boxes]:
        await each.end(SSE, chunk(delta("a")), chunk(DONE), END)

    assert [await client.until(DONE) is not None for client in clients] == [True, True]


async def test_a_node_that_stands_still(front, boxes):
    """A request that waits at a node that is given up goes on elsewhere at once."""
    await busy(front, boxes)
    client = await front.client()
    await client.send(ask(name="third"))
    await soon(lambda: sum(box.waiting for box in boxes) == 1, SECONDS)
    lost, left = sorted(boxes, key=lambda box: -box.waiting)

    lost.wire.freeze()

    await soon(lambda: left.waiting == 1, 6)


async def test_a_front_that_is_killed(tmp_path, boxes, connect):
    """The tickets and the answers of a front that dies are gone at the nodes within a second."""
    nodes = ", ".join(f"box{at}: {{url: '{box.node.url}', api_key: front}}" for at, box in enumerate(boxes))
    async with daemon(tmp_path, f"nodes: {{{nodes}}}") as process:
        for count in range(1, 5):
            await (await connect(process)).send(ask(name=f"ask{count}"))
            await soon(lambda count=count: sum(box.leases + box.waiting for box in boxes) == count, SECONDS)
        process.ends_with = -signal.SIGKILL

        process.child.kill()
        await process.child.wait()

        await soon(lambda: not any(box.leases + box.waiting for box in boxes), 1)


async def answers(key: str, front: Proxy, counts: Counter[str]) -> None:
    """Ask one question after the other with *key*; count how many were answered."""
    client = await front.client()
    request = ask(stream=False).replace(b"Host:", f"Authorization: Bearer {key}\r\nHost:".encode())
    while True:
        await client.send(request)
        await client.answer()
        counts[key] += 1


@asynccontextmanager
async def crowd(start: Any, box: Box) -> AsyncGenerator[Counter[str]]:
    """
    Have Anna ask by three fronts and Bert by one, each so that somebody always waits.

    Yield how many answers each has got so far.
    """
    keys = ", ".join(
        f"{{name: {name}, sha256: {hashlib.sha256(name.encode()).hexdigest()}}}" for name in ("anna", "bert")
    )
    config = f"access: {{keys: [{keys}]}}\nnodes: {{box: {{url: '{box.node.url}', api_key: front}}}}"
    fronts = [await start(config) for _ in range(3)]
    places = [("anna", front) for front in fronts for _ in range(4)] + [("bert", fronts[0])] * 4
    counts = Counter[str]()
    asking = asyncio.gather(*(answers(name, front, counts) for name, front in places))
    try:
        yield counts
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_client_has_one_share_over_all_fronts(start, boxes):
    """
    Who asks by three fronts gets half of a device beside one who asks by one, and not three fourths.

    It is half of the time: whoever has the device while all stand still lets the other catch up.
    """
    body = b'{"object": "chat.completion", "choices": [{"message": {"content": "hi"}}]}'

    async def work(exchange: Exchange) -> None:
        await asyncio.sleep(0.01)
        await exchange.write(answer(body))

    boxes[0].server.script = work

    async with crowd(start, boxes[0]) as counts:
        await soon(lambda: counts.total() >= 400 and 0.4 < counts["anna"] / counts.total() < 0.6, 2 * SECONDS)


async def test_a_node_that_loses_a_model_by_a_reload(front, boxes):
    """Who waits at a node whose configuration loses the model goes to one that has it."""
    await busy(front, boxes)
    client = await front.client()
    await client.send(ask(name="third"))
    await soon(lambda: sum(box.waiting for box in boxes) == 1, SECONDS)
    lost, left = sorted(boxes, key=lambda box: -box.waiting)
    proxy = lost.node.proxy

    reload(proxy, proxy.config.model_copy(update={"allow_models": ("other",)}))
    await soon(lambda: left.waiting == 1, SECONDS)
    await (await left.server.next()).end(SSE, chunk(delta("a")), chunk(DONE), END)
    await (await left.server.next()).end(SSE, chunk(delta("b")), chunk(DONE), END)

    assert delta("b") in await client.until(DONE)
