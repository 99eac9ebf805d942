"""What a front makes of a node that says strange things: of its answers, before the grant and after it."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from dmap.wire.hop import Queued, waits
from tests.conftest import Proxy, front_of
from tests.fakes import (
    DONE,
    END,
    HERE_S,
    SSE,
    Exchange,
    FakeBackend,
    answer,
    chunk,
    delta,
    fake_backend,
    soon,
)

WAITS = b"HTTP/1.1 102 Processing\r\nDmap-Place: position 1 in the queue, about 3600 s to go\r\n\r\n"
GRANTED = b"HTTP/1.1 103 Early Hints\r\nDmap-Granted: gpu0\r\n\r\n"
WHOLE = b'{"id": "1", "object": "chat.completion", "model": "m", "choices": []}'
FULL = b'{"error": {"message": "it is full", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}'


def view(**members: Any) -> bytes:
    """Write the view of a node that has the model `m`, resident, with other *members*."""
    line = {"wait_s": 0.0, "answer_s": 0.1, "parallel": 4, "resident": True}
    model = {"id": "m", "at": [["gpu0", "m", 1.0]]}
    said = {"wire": 1, "run": "a", "seq": 1, "gates": {"gpu0": {"lines": {"m": line}}}, "models_tag": "7"}
    return answer(json.dumps({**said, "models": [model], **members}).encode())


@pytest.fixture
async def nodes() -> AsyncGenerator[list[FakeBackend]]:
    """Run two nodes, which say what the test says."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(fake_backend()) for _ in range(2)]
        for node in made:
            node.script, node.listing = node.by_hand, view()
        yield made


@pytest.fixture
async def front(start: Any, nodes: list[FakeBackend]) -> Proxy:
    """Run a front of both."""
    return await front_of(start, [node.url for node in nodes], "server: {heartbeat_s: 60}")


def ask(stream: bool = True) -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream})
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def asked(nodes: list[FakeBackend]) -> tuple[FakeBackend, FakeBackend, Exchange]:
    """Return the node that was asked first, the other one, and the request."""
    await soon(lambda: any(node.requests for node in nodes), HERE_S)
    first, other = sorted(nodes, key=lambda node: -len(node.requests))
    return first, other, await first.next()


async def test_an_answer_is_its_own_grant(front, nodes):
    """An answer that has begun stays where it is, though no grant came before: a middlebox may eat that."""
    client = await front.client()
    await client.send(ask())
    first, other, exchange = await asked(nodes)
    await exchange.write(SSE, chunk(delta("one")))
    await client.until(delta("one"))

    first.listing = answer(b"{}", status="500 Internal Server Error")
    await soon(lambda: front.proxy.inventory.answering == ["box1" if first is nodes[0] else "box0"], HERE_S)
    await exchange.end(chunk(delta("two")), chunk(DONE), END)

    assert delta("two") in await client.until(DONE)
    assert other.requests == []


async def test_a_wait_of_hours(front, nodes):
    """A request that waits for hours is told of its place thousands of times, and is answered then."""
    client = await front.client()
    await client.send(ask(stream=False))
    _, other, exchange = await asked(nodes)

    for hour in range(40):
        place = Queued(1, 3600.0 * (40 - hour), 3600.0 * 40, "engine/some-model-with-a-long-name")
        await exchange.write(50 * waits(place))
        words = place.words
        await soon(lambda: [each.place for each in front.proxy.pool.under_way] == [words], HERE_S)  # noqa: B023
    await exchange.end(GRANTED, answer(WHOLE))

    assert (await client.answer()).body == WHOLE
    assert other.requests == []


async def test_a_flood_of_waits(front, nodes):
    """A node that tells of a wait without end is left, and the other one is asked."""
    client = await front.client()
    await client.send(ask(stream=False))
    _, other, exchange = await asked(nodes)

    flood = asyncio.create_task(exchange.pour(200 * WAITS, 1000))
    second = await other.next()
    await second.end(GRANTED, answer(WHOLE))

    assert (await client.answer()).body == WHOLE
    await flood
    exchange.done.set()


async def test_a_refusal_without_end(front, nodes):
    """A refusal of which no end comes is a refusal: the other node is asked."""
    client = await front.client()
    await client.send(ask(stream=False))
    _, other, exchange = await asked(nodes)

    await exchange.write(b"HTTP/1.1 429 x\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
    exchange.close()
    second = await other.next()
    await second.end(GRANTED, answer(WHOLE))

    assert (await client.answer()).body == WHOLE
    exchange.done.set()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 103 Early Hints",
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 099 What\r\n\r\n",
        b"",
    ],
    ids=["1xx with a body", "101", "half of a 103", "rubbish", "099", "nothing"],
)
async def test_what_is_said_before_the_grant(front, nodes, said):
    """Whatever breaks before the grant, the request goes to the other node, once, and is answered whole."""
    client = await front.client()
    await client.send(ask(stream=False))
    first, other, exchange = await asked(nodes)

    await exchange.write(said)
    exchange.close()
    exchange.done.set()
    second = await other.next()
    await second.end(GRANTED, GRANTED, answer(WHOLE))

    assert (await client.answer()).body == WHOLE
    assert (len(first.requests), len(other.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (GRANTED, 502),
        (GRANTED + GRANTED, 502),
        (GRANTED + b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", 502),
        (GRANTED + b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 502),
        (GRANTED + answer(FULL, status="429 Too Many Requests"), 429),
        (GRANTED + answer(FULL, status="421 Misdirected Request"), 421),
        (GRANTED + 2000 * WAITS, 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 502),
    ],
    ids=["no more", "twice", "no length, no body", "no body", "429", "421", "waits again", "never granted"],
)
async def test_what_is_said_after_the_grant(front, nodes, said, status):
    """Whatever breaks after the grant is told, and the request goes nowhere else."""
    client = await front.client()
    await client.send(ask(stream=False))
    _, other, exchange = await asked(nodes)

    await exchange.write(said)
    exchange.close()
    exchange.done.set()

    assert (await client.answer()).head.status == status
    assert other.requests == []


async def test_both_refuse(front, nodes):
    """Where all nodes refuse, each is asked once, under one id, and the last one's words are told."""
    client = await front.client()
    await client.send(ask(stream=False))
    first, other, exchange = await asked(nodes)
    retry = b"HTTP/1.1 503 x\r\nRetry-After: 7\r\nContent-Type: application/json\r\nContent-Length: "

    await exchange.end(answer(FULL, status="429 Too Many Requests"))
    await (await other.next()).end(retry + b"%d\r\n\r\n%b" % (len(FULL), FULL))
    told = await client.answer()

    assert (told.head.status, told.head.headers["retry-after"]) == (503, "7")
    assert json.loads(told.body)["error"]["message"] == "it is full"
    assert (len(first.requests), len(other.requests)) == (1, 1)
    assert first.requests[0].headers["x-request-id"] == other.requests[0].headers["x-request-id"]


async def test_a_front_that_stood_still(front, nodes):
    """After a front has stood still it hears its nodes first: nobody who waits there is moved, or refused."""
    client = await front.client()
    await client.send(ask(stream=False))
    _, _, exchange = await asked(nodes)
    for node in nodes:
        node.hangs = True
    await asyncio.sleep(0.6)  # so that a view is being asked for

    time.sleep(4)  # noqa: ASYNC251 - it is the loop that has to stand still
    for node in nodes:
        node.hangs = False
    await asyncio.sleep(0.3)
    await exchange.end(GRANTED, answer(WHOLE))

    assert (await client.answer()).body == WHOLE
    assert [each.type for each in front.proxy.bus.since(0, 99)[0]].count("request.moved") == 0


@pytest.mark.parametrize(("code", "count"), [("model_load_failed", 1), ("backend_broke", 0)])
async def test_a_load_that_fails_at_a_node(front, nodes, code, count):
    """A load that failed before the grant is tried elsewhere; nothing else that a server has broken is."""
    client = await front.client()
    await client.send(ask(stream=False))
    _, other, exchange = await asked(nodes)
    other.script = lambda second: second.end(GRANTED, answer(WHOLE))

    error = {"message": "no memory", "type": "backend_error", "code": code}
    body = json.dumps({"error": error, "src": "dmap"}).encode()
    await exchange.end(answer(body, status="502 Bad Gateway"))
    told = await client.answer()

    assert (told.head.status, len(other.requests)) == (200 if count else 502, count)
    assert count or json.loads(told.body)["error"]["code"] == code
