"""A front and its node, as their client and the node's server see them."""

import asyncio
import hashlib
import json
import re
from typing import Any

import pytest

from dmap.remote.pages import report
from tests.conftest import Proxy
from tests.cutter import cutter
from tests.fakes import DONE, END, SSE, FakeBackend, answer, chunk, delta, soon

FRONT = hashlib.sha256(b"front").hexdigest()
ANNA = hashlib.sha256(b"anna").hexdigest()
SECONDS = 10


@pytest.fixture
async def node(start: Any, backend: FakeBackend) -> Proxy:
    """Run a node with one place, at which the test answers by hand."""
    backend.script = backend.by_hand
    proxy: Proxy = await start(
        f"""
        access: {{keys: [{{name: fronts, sha256: {FRONT}, scopes: [front]}}]}}
        backends: {{fake: {{kind: openai, url: '{backend.url}', parallel: 1, queue: 1}}}}
        """
    )
    return proxy


@pytest.fixture
async def front(start: Any, node: Proxy) -> Proxy:
    """Run a front of that node."""
    proxy: Proxy = await start(
        f"""
        access:
          keys:
            - name: anna
              sha256: {ANNA}
              priority: 2
              permit: [keep_alive]
              scopes: [inference, debug, admin]
        nodes: {{box1: {{url: '{node.url}', api_key: front}}}}
        server: {{heartbeat_s: 0.1}}
        """
    )
    await soon(lambda: proxy.proxy.inventory.answering == ["box1"], SECONDS)
    return proxy


def ask(path: str = "/v1/chat/completions", *headers: str, **fields: Any) -> bytes:
    """Write a request of Anna's for *path*."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})
    lines = (f"POST {path} HTTP/1.1", "Host: x", "Authorization: Bearer anna", *headers)
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", body)).encode()


def order(action: str, **fields: Any) -> bytes:
    """Write an order of Anna's for the model of the node."""
    body = json.dumps({"model": "m", **fields})
    lines = (f"POST /admin/models/{action} HTTP/1.1", "Host: x", "Authorization: Bearer anna")
    size = f"Content-Length: {len(body)}"
    return "\r\n".join((*lines, "Content-Type: application/json", size, "", body)).encode()


def records(body: bytes) -> list[bytes]:
    """Return what a stream says, without the comments that a client hears while it waits."""
    return [said for said in re.findall(rb".*?\n\n", body, re.DOTALL) if not said.startswith(b":")]


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer anna\r\n\r\n".encode()


async def test_a_front_lists_what_its_node_has(front):
    """The models of a node are the front's, each with the node that has it."""
    client = await front.client()
    await client.send(get("/v1/models"))

    (listed,) = json.loads((await client.answer()).body)["data"]

    assert (listed["id"], listed["owned_by"], listed["resident"]) == ("m", "box1", True)


async def test_an_answer_through_a_front(front, node, backend):
    """The node's server gets the very bytes that the client wrote, and the client those that it answers."""
    client = await front.client()
    request = ask("/v1/chat/completions", "x-request-id: mine", stream=True, max_completion_tokens=7)
    await client.send(request)

    asked = await backend.next()
    await asked.end(SSE, chunk(delta("hello")), chunk(DONE), END)
    answer = await client.answer()

    assert request.endswith(asked.body)
    assert asked.headers["x-request-id"] == "mine"
    assert not {name for name in asked.headers if name.startswith("dmap-")}
    assert records(answer.body) == [delta("hello"), DONE]
    assert answer.head.headers["x-request-id"] == "mine"


async def test_a_node_knows_for_whom_a_front_asks(front, node, backend):
    """Name, priority and permits of a front's client hold at the node."""
    client = await front.client()
    await client.send(ask(keep_alive=5))
    await backend.next()

    (visit,) = node.proxy.visits.open()

    assert (visit.record.client, visit.record.priority) == ("anna", 2)
    assert visit.client.permit == {"keep_alive"}
    assert 0 <= visit.hop.waited_s < SECONDS


async def test_a_front_tells_its_client_of_the_wait(front, node, backend):
    """What a node tells of the wait becomes comments for the client, and the wait is the request's."""
    first, second = await front.client(), await front.client()
    await first.send(ask(stream=True))
    under_way = await backend.next()
    await second.send(ask("/v1/chat/completions", "x-request-id: second", stream=True))

    await second.until(b": dmap: position 1 in the queue, ")
    await under_way.end(SSE, chunk(delta("a")), chunk(DONE), END)
    await (await backend.next()).end(SSE, chunk(delta("b")), chunk(DONE), END)
    await second.until(DONE)
    await front.settled()

    assert node.leftovers == 0
    told = [event for event in front.proxy.bus.since(0, 99)[0] if event.fields.get("id") == "second"]
    assert [event.type for event in told] == [
        "request.received",
        "request.routed",
        "request.queued",
        "request.granted",
        "request.first_byte",
        "request.finished",
    ]
    queued, granted, finished = (told[at].fields for at in (2, 3, 5))
    assert (queued["position"], queued["behind"], queued["backend"]) == (1, "parallel", "box1")
    assert granted["queue_s"] > 0
    assert finished["queue_s"] > 0
    assert finished["behind"] == "parallel"


async def test_who_asks_a_front_why_it_is_slow(front, node, backend):
    """Status and queue of a front show who waits at its node, and how the node stands."""
    first, second, asking = await front.client(), await front.client(), await front.client()
    await first.send(ask(stream=True))
    await backend.next()
    await second.send(ask("/v1/chat/completions", "x-request-id: second", stream=False))
    await soon(lambda: [visit.record.waits for visit in front.proxy.visits.open()] == [False, True], SECONDS)

    await asking.send(get("/debug/status"))
    status = json.loads((await asking.answer()).body)
    await asking.send(get("/admin/queue"))
    queue = json.loads((await asking.answer()).body)

    box1 = status["backends"]["box1"]
    (waiting,) = box1["waiting"]
    assert (waiting["id"], waiting["client"], waiting["position"]) == ("second", "anna", 1)
    assert [each["id"] != "second" for each in status["served"]] == [True]
    assert box1["standing"]["trouble"] is None
    assert box1["standing"]["gates"]["backend fake"]["models"]["*"]["resident"] is True
    assert [each["id"] for each in queue["waiting"]["backend box1"]] == ["second"]
    assert "2 open requests, 1 of them waiting" in queue["message"]
    lines = report(front.url, status).splitlines()
    assert [line.split()[:5] for line in lines if line.startswith("box1 ")][-1][:4] == [
        "box1",
        "1",
        "second",
        "anna",
    ]


async def test_the_times_of_a_hop_add_up(start, node, backend):
    """What `Server-Timing` of a front says is where the time went: here, on the way, and at the node."""
    async with cutter(node.url) as wire:
        wire.there.delay_s = wire.back.delay_s = 0.05
        front = await start(f"nodes: {{box1: {{url: '{wire.url}', api_key: front}}}}")
        await soon(lambda: front.proxy.inventory.answering == ["box1"], SECONDS)
        client = await front.client()
        began = asyncio.get_running_loop().time()
        await client.send(ask())
        asked = await backend.next()
        reading = asyncio.create_task(client.answer())
        await asyncio.wait({reading}, timeout=0.2)  # the time that the answer takes
        await asked.end(answer(b'{"object": "chat.completion", "choices": []}'))
        head = (await reading).head
        whole_ms = 1000 * (asyncio.get_running_loop().time() - began)

    told = dict(re.findall(r"(\w+);dur=([0-9.]+)", head.headers["server-timing"]))
    times = {name: float(value) for name, value in told.items()}
    assert list(times) == ["queue", "switch", "first_byte", "route", "hop"]
    assert times["first_byte"] > 190
    assert times["hop"] > 90
    assert 290 < sum(times.values()) - times["switch"] < whole_ms + 1  # uvloop counts milliseconds
    await front.settled()
    (ended,) = [event.fields for event in front.proxy.bus.since(0, 99)[0] if event.type == "request.finished"]
    assert 1000 * ended["hop_s"] == pytest.approx(times["hop"], abs=0.1)


async def test_an_error_is_told_once(front, backend):
    """An error that a node tells in mid-stream reaches the client as it is, and no second one behind it."""
    client = await front.client()
    await client.send(ask(stream=True))
    asked = await backend.next()
    await asked.write(SSE, chunk(delta("a")))
    await client.until(delta("a"))

    asked.cut()
    asked.done.set()
    rest = await client.all()

    assert rest.count(b'"error"') == 1
    assert b"backend_broke" in rest
    assert not rest.endswith(END)
    await front.settled()
    (ended,) = [event.fields for event in front.proxy.bus.since(0, 99)[0] if event.type == "request.failed"]
    assert ended["outcome"] == "backend_error"
    assert "in mid-answer" in ended["reason"]


async def test_a_client_that_leaves_the_front_leaves_the_node(front, node, backend):
    """A ticket at a node goes with the front's client."""
    first, second = await front.client(), await front.client()
    await first.send(ask(stream=True))
    await backend.next()
    await second.send(ask(stream=True))
    gate = node.proxy.gates["backend fake"]
    await soon(lambda: gate.snapshot().waiting == 1, SECONDS)

    second.close()

    await soon(lambda: gate.snapshot().waiting == 0, SECONDS)
    assert gate.snapshot().leases == 1


async def test_what_a_node_refuses_is_told(front, node, backend):
    """A refusal of the node's own reaches the client with its status, its code, its words and its time."""
    first, second, third = await front.client(), await front.client(), await front.client()
    await first.send(ask(stream=True))
    await backend.next()
    await second.send(ask(stream=True))
    await soon(lambda: node.proxy.gates["backend fake"].snapshot().waiting == 1, SECONDS)
    await third.send(ask(stream=True))

    answer = await third.answer()

    error = json.loads(answer.body)["error"]
    assert (answer.head.status, error["code"]) == (429, "rate_limit_exceeded")
    assert error["message"].startswith("the queue of 'fake' is full")
    assert answer.head.headers["retry-after"].isdecimal()


async def test_no_request_makes_two_hops(start, front, node):
    """A front that is somebody's node serves its own models to it, and no other box's."""
    client = await front.client()
    await client.send(get("/v1/models"))
    await client.answer()
    further = await start(
        f"""
        access: {{keys: [{{name: fronts, sha256: {FRONT}, scopes: [front]}}]}}
        nodes: {{box1: {{url: '{node.url}', api_key: front}}}}
        """
    )
    outer = await further.client()
    await outer.send(ask("/v1/chat/completions", "Dmap-Hop: 1", "Dmap-Client: x").replace(b"anna", b"front"))

    answer = await outer.answer()

    assert answer.head.status == 421
    assert json.loads(answer.body)["error"]["code"] == "misdirected"


@pytest.mark.parametrize(
    ("action", "fields", "status", "words"),
    [
        ("activate", {}, "activated", "'m' from now on; its node 'box1' loads it by itself"),
        ("load", {}, "activated", "'m' is set; its node 'box1' loads it by itself"),
        ("load", {"activate": False}, "noted", "its requests; its node 'box1' loads it by itself"),
        ("unload", {}, "cleared", "'m' stays until its node 'box1' unloads it"),
    ],
)
async def test_an_order_for_what_a_node_has(front, action, fields, status, words):
    """An order at a front asks nobody to load or unload by hand what a node loads and unloads itself."""
    client = await front.client()
    await client.send(order(action, **fields))

    told = json.loads((await client.answer()).body)

    assert told["status"] == status
    assert words in told["message"]
    assert "workflow" not in told and "by hand" not in str(told)


async def test_options_of_a_load_at_a_node(front):
    """What a node is loaded with is said in its own file, and the answer to an order says so."""
    client = await front.client()
    await client.send(order("load", loadConfig={"contextLength": 4096}))

    told = json.loads((await client.answer()).body)

    why = "the node loads its models; say it in its configuration"
    assert told["load_config"] == {"applied": {}, "not_applied": {"context_length": why}}
    assert "Not applied: context_length; load_config says why." in told["message"]


async def test_a_trace_goes_on(front, backend):
    """The server behind the node is in the trace of the front's client."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    client = await front.client()
    await client.send(ask("/v1/chat/completions", f"traceparent: 00-{trace}-00f067aa0ba902b7-01"))

    asked = await backend.next()

    assert asked.headers["traceparent"].startswith(f"00-{trace}-")
