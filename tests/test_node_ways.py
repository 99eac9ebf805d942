"""The ways between a front and its nodes that are bad in silence, and nodes that are not what they seem."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from dmap.config import advice, parse
from dmap.placement import Standing
from dmap.wire.hop import SILENT_S
from tests.conftest import Proxy, front_of
from tests.cutter import cutter
from tests.fakes import (
    DONE,
    END,
    SSE,
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
from tests.test_relay_nodes import GRANTED, WHOLE, view

SECONDS = 10
ERROR = '{"error": {"message": "words of a node", "type": "t", "code": "%s", "param": null}, "src": "dmap"}'


@pytest.fixture
async def nodes() -> AsyncGenerator[list[FakeBackend]]:
    """Run two nodes, which say what the test says."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(fake_backend()) for _ in range(2)]
        for at, node in enumerate(made):
            node.script, node.listing = node.by_hand, view(run=f"run{at}")
        yield made


@pytest.fixture
async def front(start: Any, nodes: list[FakeBackend]) -> Proxy:
    """Run a front of both."""
    return await front_of(start, [node.url for node in nodes], "server: {heartbeat_s: 60}")


async def asked(nodes: list[FakeBackend]) -> tuple[FakeBackend, FakeBackend, Exchange]:
    """Return the node that was asked first, the other one, and the request."""
    await soon(lambda: any(node.requests for node in nodes), SECONDS)
    first, other = sorted(nodes, key=lambda node: -len(node.requests))
    return first, other, await first.next()


def wait_on(front: Proxy) -> None:
    """Have all exchanges see the time at which a node has told nothing for too long."""
    for each in front.proxy.pool.under_way:
        each.look(each.sent_at + SILENT_S)


# What a node refuses


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "context_length_exceeded"),
        (404, "model_not_found"),
        (404, "unknown_path"),
        (413, "body_too_large"),
        (421, "misdirected"),
        (429, "rate_limit_exceeded"),
        (502, "model_load_failed"),
        (503, "backend_down"),
        (503, "drained"),
        (503, "shutting_down"),
    ],
)
async def test_a_refusal_that_is_about_the_node(front, nodes, status, code):
    """What another node may take goes to that one; if nobody takes it, the words are the last one's own."""
    client = await front.client()
    await client.send(post(chat(stream=False)))
    _, other, exchange = await asked(nodes)
    refusal = answer((ERROR % code).encode(), status=f"{status} x")

    await exchange.end(refusal)
    await (await other.next()).end(refusal)
    told = await client.answer()

    assert told.head.status == status
    assert json.loads(told.body)["error"] == json.loads(ERROR % code)["error"]


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "invalid_request"), (503, "wait_expired"), (503, "cancelled"), (502, "backend_broke")],
)
async def test_a_refusal_that_holds_anywhere(front, nodes, status, code):
    """A wrong request, a wait that is over and an owner who ended it are told at once, and as they are."""
    client = await front.client()
    await client.send(post(chat(stream=False)))
    _, other, exchange = await asked(nodes)

    await exchange.end(answer((ERROR % code).encode(), status=f"{status} x"))
    told = await client.answer()

    assert (told.head.status, json.loads(told.body)["error"]["code"]) == (status, code)
    assert other.requests == []


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, ERROR % "invalid_api_key", "a node refuses the key or the address of this front"),
        (403, ERROR % "access_denied", "a node refuses the key or the address of this front"),
        (502, "<html>10.0.0.7 is away</html>", "a node cannot be reached: what is before it says 502"),
    ],
    ids=["401", "403", "502 of a proxy"],
)
async def test_a_refusal_that_is_no_client_s_business(front, nodes, status, body, words):
    """A client is not told to look after a key that it does not have, nor what is on the way."""
    client = await front.client()
    await client.send(post(chat(stream=False)))
    _, other, exchange = await asked(nodes)
    refusal = answer(body.encode(), status=f"{status} x")

    await exchange.end(refusal)
    await (await other.next()).end(refusal)
    told = await client.answer()

    error = json.loads(told.body)["error"]
    assert (told.head.status, error["code"], error["message"]) == (503, "backend_down", words)
    assert told.head.headers["retry-after"] == "2"


# Silence


async def test_a_first_look_that_stalls(start, nodes, caplog):
    """One look that is late is no reason to give a node up, though nothing is known of it yet."""
    late = nodes[0]
    late.hangs = True
    starting = asyncio.create_task(start(f"nodes: {{box0: {{url: '{late.url}', api_key: front}}}}"))
    await soon(lambda: late.connections == 2, SECONDS)

    late.hold.set()
    front = await starting
    client = await front.client()
    await client.send(post(chat(stream=False)))
    await (await late.next()).end(GRANTED, answer(WHOLE))

    assert (await client.answer()).body == WHOLE
    assert "backend_down" not in caplog.text


async def test_a_node_that_tells_nothing_of_a_request(front, nodes, caplog):
    """It may tell how it stands: the request goes elsewhere, and others are asked before it for a while."""
    client = await front.client()
    await client.send(post(chat(stream=False)))
    first, other, silent = await asked(nodes)
    silent.done.set()

    wait_on(front)
    await (await other.next()).end(GRANTED, answer(WHOLE))
    answered = await client.answer()
    other.listing = view(run="b", gates={"gpu0": {"lines": {"m": {"wait_s": 99.0, "answer_s": 9.0}}}})
    (name,) = (each for each, node in zip(("box0", "box1"), nodes, strict=True) if node is first)
    await client.send(post(chat(stream=False)))
    await (await other.next()).end(GRANTED, answer(WHOLE))

    assert answered.body == (await client.answer()).body == WHOLE
    now = asyncio.get_running_loop().time()
    assert front.proxy.nodes[name].place("m", now, 0, 0).standing is Standing.DOUBTFUL
    assert sorted(front.proxy.inventory.answering) == ["box0", "box1"]
    assert caplog.text.count(f"node_silent node={name}") == 1


async def test_nodes_that_all_tell_nothing(front, nodes):
    """Where no node tells anything the client hears so, once each has had its time, and when to try again."""
    client = await front.client()
    await client.send(post(chat(stream=False)))
    _, other, _ = await asked(nodes)

    wait_on(front)
    await other.next()
    wait_on(front)
    told = await client.answer()

    assert (told.head.status, told.head.headers["retry-after"]) == (503, "2")
    assert json.loads(told.body)["error"]["message"] == "its node has told nothing for 10 s"
    assert [len(node.requests) for node in nodes] == [1, 1]


async def viewed(front: Proxy, nodes: list[FakeBackend], tag: str) -> None:
    """Wait until each node has told two times how it stands, the second of which was asked for later."""
    known, clock = front.proxy.nodes.values(), asyncio.get_running_loop().time
    for each in (f"{tag}1", f"{tag}2"):
        models = [{"id": name, "at": [["gpu0", name, 1.0]]} for name in ("m", each)]
        for at, node in enumerate(nodes):
            node.listing = view(run=f"run{at}", models_tag=each, models=models)
        await soon(
            lambda each=each: all(one.place(each, clock(), 0, 0).wait_s is not None for one in known), SECONDS
        )


async def test_a_request_that_a_node_has_not_told_of_is_not_in_its_view(front, nodes):
    """A body may take longer than a view: until the node has told of a request, that is to come yet."""
    client, clock = await front.client(), asyncio.get_running_loop().time
    await client.send(post(chat(stream=False)))
    first, _, exchange = await asked(nodes)
    node = front.proxy.nodes[f"box{nodes.index(first)}"]

    await viewed(front, nodes, "a")
    before = node.place("m", clock(), 0, 0).sent
    await exchange.write(GRANTED)
    told = front.proxy.bus
    await soon(lambda: "request.granted" in [event.type for event in told.since(0, 99)[0]], SECONDS)
    await viewed(front, nodes, "b")

    assert (before, node.place("m", clock(), 0, 0).sent) == (1, 0)
    await exchange.end(answer(WHOLE))
    assert (await client.answer()).body == WHOLE


async def test_a_request_that_has_left_is_waited_for_in_no_view(front, nodes):
    """Of a request whose client has left a node tells nothing more."""
    client, clock = await front.client(), asyncio.get_running_loop().time
    await client.send(post(chat(stream=False)))
    first, _, exchange = await asked(nodes)

    client.close()
    await exchange.abandoned(SECONDS)
    await front.settled()
    await viewed(front, nodes, "a")

    assert front.proxy.nodes[f"box{nodes.index(first)}"].place("m", clock(), 0, 0).sent == 0


@asynccontextmanager
async def middlebox(url: str) -> AsyncGenerator[str]:
    """Run a reverse proxy before *url* that drops answers in between, as many do; yield its URL."""
    async with aiohttp.ClientSession(url, auto_decompress=False) as session:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            body, headers = await request.read(), {**request.headers, "Host": "node"}
            async with session.request(request.method, request.rel_url, data=body, headers=headers) as came:
                response = web.StreamResponse(status=came.status)
                response.content_type = came.content_type
                await response.prepare(request)
                async for piece in came.content.iter_any():
                    await response.write(piece)
                return response

        runner = web.ServerRunner(web.Server(pass_on), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def test_a_way_that_drops_answers_in_between(start, backend, caplog):
    """It is told once, by the first view; requests count as granted, and none wanders from node to node."""
    backend.script = backend.by_hand
    node = await start(f"backends: {{fake: {{kind: openai, url: '{backend.url}', parallel: 1}}}}")
    async with middlebox(node.url) as one, middlebox(node.url) as two:
        listed = ", ".join(f"{name}: {{url: '{url}', api_key: x}}" for name, url in (("a", one), ("b", two)))
        front = await start(f"nodes: {{{listed}}}\nserver: {{first_byte_s: 60}}")
        await soon(lambda: len(front.proxy.inventory.answering) == 2, SECONDS)
        clients = [await front.client() for _ in range(2)]
        await clients[0].send(post(chat()))
        under_way = await backend.next()
        await clients[1].send(post(chat()))
        gate = node.proxy.gates["backend fake"]
        await soon(lambda: gate.snapshot().waiting == 1, SECONDS)

        wait_on(front)
        await under_way.end(SSE, chunk(delta("a")), chunk(DONE), END)
        await (await backend.next()).end(SSE, chunk(delta("b")), chunk(DONE), END)

        assert delta("a") in await clients[0].until(DONE)
        assert delta("b") in await clients[1].until(DONE)
        assert caplog.text.count("node_untold") == 2
        assert "node_silent" not in caplog.text
        await front.settled()
    assert len(backend.requests) == 2


async def test_a_way_that_drops_nothing(front, nodes, caplog):
    """A node that sends none before its view, being older, is not taken for one whose way drops them."""
    assert [node.tells for node in front.proxy.nodes.values()] == [True, True]
    assert "node_untold" not in caplog.text


# Nodes that are not what they seem


async def test_a_front_that_is_its_own_node(start, backend, caplog):
    """It notices, says so, and answers by its own servers alone."""
    backend.script = lambda exchange: exchange.end(answer(WHOLE))
    async with cutter("http://127.0.0.1:1") as wire:
        own = f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}"
        front = await start(f"{own}\nnodes: {{me: {{url: '{wire.url}', api_key: x}}}}")
        wire.port = front.daemon.addresses[0][1]
        client = await front.client()

        itself, down = "it is this dmap itself; take it out of nodes", front.proxy.inventory.down
        await soon(lambda: itself in down.get("me", ""), SECONDS)
        await client.send(post(chat(stream=False)))

        assert (await client.answer()).body == WHOLE
        await client.send(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        listed = json.loads((await client.answer()).body)["data"]
        assert [each["owned_by"] for each in listed] == ["fake"]


async def test_a_node_without_keys(start, backend):
    """On one host, where nobody needs a key, a front is told that its request waits, as by any node."""
    backend.script = backend.by_hand
    node = await start(f"backends: {{fake: {{kind: openai, url: '{backend.url}', parallel: 1}}}}")
    front = await start(f"nodes: {{box1: {{url: '{node.url}', api_key: x}}}}")
    clients = [await front.client() for _ in range(2)]
    await clients[0].send(post(chat()))
    await backend.next()
    await clients[1].send(post(chat()))

    await soon(lambda: [visit.record.waits for visit in front.proxy.visits.open()] == [False, True], SECONDS)

    assert [visit.record.client for visit in node.proxy.visits.open()] == ["127.0.0.1", "127.0.0.1"]


async def test_one_node_under_two_names(start, nodes, caplog):
    """That is told once: two names would count for two boxes."""
    twice = ", ".join(f"box{at}: {{url: '{nodes[0].url}', api_key: front}}" for at in range(2))
    front = await start(f"nodes: {{{twice}}}")
    await soon(lambda: len(front.proxy.inventory.answering) == 2, SECONDS)

    nodes[0].listing = view(
        run="run0", models_tag="ee", seq=2, models=[{"id": "n", "at": [["gpu0", "n", 1.0]]}]
    )
    known, clock = front.proxy.nodes.values(), asyncio.get_running_loop().time
    await soon(lambda: all(node.place("n", clock(), 0, 0).wait_s is not None for node in known), SECONDS)

    assert caplog.text.count("node_twice") == 1


def test_what_the_file_alone_shows():
    """`check-config` warns of a node that is dmap itself, and of one server under two names."""
    config = parse(
        """
        nodes:
          me: {url: "http://localhost:8000", api_key: x}
          box1: {url: "https://box1:8000", api_key: x}
          box2: {url: "https://BOX1:8000/v1", api_key: x}
        """,
        {},
    )

    assert list(advice._about_servers(config)) == [
        "nodes.me.url: this is where dmap itself listens; it would ask itself for ever",
        "nodes.box2.url: the server of nodes.box1 too; it counts for two boxes",
    ]


async def test_two_fronts_that_name_each_other(start, backend):
    """Each answers what it has itself, by one hop at most, and nothing goes round."""
    backend.script = lambda exchange: exchange.end(answer(WHOLE))
    own = f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}"
    async with cutter("http://127.0.0.1:1") as wire:
        left = await start(f"nodes: {{right: {{url: '{wire.url}', api_key: x}}}}")
        right = await start(f"{own}\nnodes: {{left: {{url: '{left.url}', api_key: x}}}}")
        wire.port = right.daemon.addresses[0][1]
        await soon(lambda: left.proxy.inventory.answering == ["right"], SECONDS)
        client, other = await left.client(), await right.client()

        await client.send(post(chat(stream=False)))
        await other.send(post(chat(stream=False)))

        assert (await client.answer()).body == (await other.answer()).body == WHOLE
        assert len(backend.requests) == 2
        await client.send(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert [each["owned_by"] for each in json.loads((await client.answer()).body)["data"]] == ["right"]


# Other releases


async def test_a_node_of_the_next_release(front, nodes):
    """What it says beside what is known is passed over, in its view and in its answers."""
    gate = {"lines": {"m": {"wait_s": 0.0, "answer_s": 0.1, "moon": 1}}, "tides": []}
    model = {"id": "n", "at": [["gpu0", "n", 1.0, "more"]], "colour": "blue"}
    for at, node in enumerate(nodes):
        node.listing = view(
            run=f"next{at}", wire=2, models_tag="dd", models=[model], gates={"gpu0": gate}, x={"y": 1}
        )
    await soon(lambda: all(node.run.startswith("next") for node in front.proxy.nodes.values()), SECONDS)
    client = await front.client()

    await client.send(post(chat(model="n", stream=False)))
    _, _, exchange = await asked(nodes)
    head = b"HTTP/1.1 103 Early Hints\r\nDmap-Granted: gpu0\r\nDmap-Moon: full\r\n\r\n"
    await exchange.end(b"HTTP/1.1 199 What\r\n\r\n", head, answer(WHOLE))

    assert (await client.answer()).body == WHOLE


async def test_a_node_of_a_far_release(front, nodes):
    """One that is more than a release away is no node for this front, and that is said."""
    for node in nodes:
        node.listing = view(wire=3)
    await soon(lambda: len(front.proxy.inventory.down) == 2, SECONDS)

    assert "it is a newer dmap, more than one release away" in front.proxy.inventory.down["box0"]
