"""A node as a front sees it: for whom it asks is believed, and what waits and what is granted is told."""

import hashlib
import json
from typing import Any

import pytest

from dmap.access import Client
from dmap.catalog import Shown
from dmap.models import Route
from dmap.web.view import Views
from dmap.wire.view import At, line_of, read
from tests.conftest import Proxy
from tests.fakes import DONE, END, SSE, FakeBackend, chunk, delta, soon

KEYS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("front", "plain")}


@pytest.fixture
async def node(start: Any, backend: FakeBackend) -> Proxy:
    """Run a node with one place, at which the test answers by hand."""
    backend.script = backend.by_hand
    proxy: Proxy = await start(
        f"""
        access:
          keys:
            - {{name: fronts, sha256: {KEYS["front"]}, scopes: [front], parallel: 1, rate_per_min: 1}}
            - {{name: plain, sha256: {KEYS["plain"]}}}
        backends: {{fake: {{kind: openai, url: '{backend.url}', parallel: 1}}}}
        server: {{heartbeat_s: 0.1}}
        """
    )
    return proxy


def ask(key: str, *headers: str, model: str = "m", stream: bool = True, version: str = "1.1") -> bytes:
    """Write a request for *model* with these *headers*."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream})
    lines = (
        f"POST /v1/chat/completions HTTP/{version}",
        "Host: x",
        f"Authorization: Bearer {key}",
        *headers,
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*lines, "", body)).encode()


HOP = ("Dmap-Hop: 1", "Dmap-Client: anna", "Dmap-Priority: 3", "Dmap-Waited: 5")


async def test_a_front_is_told_of_the_wait_and_of_the_grant(node, backend):
    """A request of a front that waits gets a 102, then a 103 before its server is asked, and no comment."""
    first, second = await node.client(), await node.client()
    await first.send(ask("front", *HOP))
    granted = await first.head()
    under_way = await backend.next()
    await second.send(ask("front", *HOP))

    waits = await second.head()
    await under_way.end(SSE, chunk(delta("a")), chunk(DONE), END)
    then = await second.head()
    asked = await backend.next()
    await asked.end(SSE, chunk(delta("b")), chunk(DONE), END)
    answer = await second.answer()

    assert (granted.status, granted.headers["dmap-granted"]) == (103, "fake")
    assert (waits.status, json.loads(waits.headers["dmap-place"])["position"]) == (102, 1)
    assert (then.status, answer.head.status) == (103, 200)
    assert answer.body == delta("b") + DONE


async def test_a_client_gets_no_answer_in_between(node, backend):
    """Who has no scope `front` gets comments, whatever it says of hops, and asks under its own name."""
    first, second = await node.client(), await node.client()
    await first.send(ask("plain", *HOP))
    under_way = await backend.next()
    await second.send(ask("plain", *HOP))

    head = await second.head()
    comment = await second.until(b"\n\n")

    assert head.status == 200
    assert b": dmap: position 1" in comment
    assert {visit.record.client for visit in node.proxy.visits.open()} == {"plain"}
    assert not {name for name in under_way.headers if name.startswith("dmap-")}


async def test_a_front_asks_for_its_client(node, backend):
    """Name and priority are those that the front says, and its key has no bounds but the front's own."""
    first, second = await node.client(), await node.client()
    await first.send(ask("front", *HOP))
    await backend.next()
    await second.send(ask("front", "Dmap-Hop: 1", "Dmap-Client: 10.1.2.3"))
    await soon(lambda: node.proxy.gates["backend fake"].snapshot().waiting == 1, 5)

    visits = list(node.proxy.visits.open())

    assert [visit.record.client for visit in visits] == ["anna", "10.1.2.3"]
    assert [visit.record.priority for visit in visits] == [3, 0]


async def test_a_front_that_asks_for_itself_is_a_client(node, backend):
    """Without the mark of a hop the key of a front is a key as any other, with its bounds."""
    client = await node.client()
    await client.send(ask("front", stream=False))
    under_way = await backend.next()
    again = await node.client()
    await again.send(ask("front"))

    assert (await again.answer()).head.status == 429
    assert not under_way.done.is_set()


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (ask("front", *HOP, model="nobody-has-it"), 421, "misdirected"),
        (ask("plain", model="nobody-has-it"), 404, "model_not_found"),
        (ask("front", "Dmap-Hop: 1"), 400, "invalid_request"),
        (ask("front", *HOP, version="1.0"), 400, "invalid_request"),
    ],
)
async def test_refusals(node, request_, status, code):
    """A model that is not here any more is another refusal for a front, which then looks elsewhere."""
    client = await node.client()
    await client.send(request_)

    answer = await client.answer()

    assert answer.head.status == status
    assert json.loads(answer.body)["error"]["code"] == code


def view(key: str, known: str = "") -> bytes:
    """Write a request for the view, of a front that knows the list with the tag *known*."""
    return f"GET /node/view?tag={known} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


async def test_a_view_tells_how_a_node_stands(node, backend):
    """What a newcomer would wait, and which models there are; the list only if the front has another."""
    client, asks = await node.client(), await node.client()
    await asks.send(ask("front", *HOP))
    await backend.next()
    await client.send(view("front"))
    first = read((await client.answer()).body)
    await client.send(view("front", first.models_tag))
    again = read((await client.answer()).body)

    assert [(one.id, one.at) for one in first.models] == [("m", [At("backend fake", "*", 0.0)])]
    assert again.models is None
    assert (again.run, again.models_tag) == (first.run, first.models_tag)
    line, serves = line_of(again, first.models[0])
    assert (line.resident, line.parallel, line.wait_s > 0, serves) == (True, 1, True, True)


async def test_a_view_is_for_fronts(node):
    """Who may only ask models does not learn how the node stands."""
    client = await node.client()
    await client.send(view("plain"))

    assert (await client.answer()).head.status == 403


async def test_an_alias_costs_a_view_nothing(start, backend):
    """A model is looked at once for a view, however many names it has, and is listed with all of them."""
    node = await start(
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\nmodels: {{m: {{aliases: [b, c]}}}}"
    )
    catalog, looked = node.proxy.catalog, list[str]()

    def places(shown: Shown) -> tuple[Route, ...]:
        looked.append(shown.entry.name)
        return catalog.places(shown.entry)

    views = Views(
        {f"backend {name}": gate for name, gate in node.proxy.passages.items()},
        lambda client: catalog.shown(client, ()),
        places,
        lambda route: True,
        lambda backend: "openai",
        lambda routes: "",
    )
    listed = views.of(Client("front"), "", between=False).models

    assert looked == ["m"]
    assert [(one.id, one.names) for one in listed or []] == [("m", ["b", "c"])]
