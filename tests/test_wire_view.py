"""What a front makes of a node's view that is not what it should be, in each of its members."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from dmap.wire.view import read
from tests.fakes import Exchange, FakeBackend, answer, fake_backend, soon
from tests.test_relay_nodes import GRANTED, WHOLE, ask

SECONDS = 10
HUGE = 2**70


def view(
    line: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    gate: dict[str, Any] | None = None,
    **members: Any,
) -> dict[str, Any]:
    """Return the view of a node that has the model `m`, with these members of each part."""
    lines = {"m": {"wait_s": 0.0, "answer_s": 0.1, "parallel": 4, "resident": True, **(line or {})}}
    gates = {"gpu0": {"cold_s": 1.0, "answer_s": 0.1, "parallel": 4, "lines": lines, **(gate or {})}}
    listed = {"id": "m", "at": [["gpu0", "m", 1.0]], "names": ["n"], "kind": "openai", **(model or {})}
    said = {"wire": 1, "run": "a", "seq": 1, "gates": gates, "models_tag": "7", "models": [listed]}
    return {**said, **members}


ODD: dict[str, Any] = {
    "run empty": view(run=""),
    "run long": view(run="x" * 1_000_000),
    "run number": view(run=5),
    "seq below": view(seq=-1),
    "seq huge": view(seq=HUGE),
    "seq word": view(seq="1"),
    "gates none": view(gates={}),
    "gates list": view(gates=[]),
    "gates many": view(gates={str(number): {} for number in range(100_000)}),
    "gate empty": view(gates={"gpu0": {}}),
    "gate of lines": view(gate={"lines": []}),
    "cold below": view(gate={"cold_s": -1e300, "lines": {}}),
    "cold above": view(gate={"cold_s": 1e308, "lines": {}}),
    "cold null": view(gate={"cold_s": None}),
    "none at once": view(gate={"parallel": 0, "lines": {}}),
    "wait below": view(line={"wait_s": -1e308}),
    "wait above": view(line={"wait_s": 1e308}),
    "wait a word": view(line={"wait_s": "1"}),
    "answer below": view(line={"answer_s": -1e308}),
    "answer above": view(line={"answer_s": 1e308}),
    "parallel none": view(line={"parallel": 0}),
    "parallel below": view(line={"parallel": -1}),
    "parallel huge": view(line={"parallel": HUGE}),
    "resident word": view(line={"resident": "yes"}),
    "models none": view(models=[]),
    "models null": view(models=None),
    "models many": view(models=[{"id": str(number), "at": []} for number in range(3000)]),
    "id empty": view(model={"id": ""}),
    "id control": view(model={"id": "m\x00\x1b[31m"}),
    "id lines": view(model={"id": "m\r\nSet-Cookie: x"}),
    "id path": view(model={"id": "../../m"}),
    "id star": view(model={"id": "*"}),
    "id backend": view(model={"id": "box1/m"}),
    "names same": view(model={"names": ["m", "m", "n", "n"]}),
    "names empty": view(model={"names": [""]}),
    "names many": view(model={"names": ["x" * 500] * 2000}),
    "at empty": view(model={"at": []}),
    "at elsewhere": view(model={"at": [["gpu9", "m", 1.0]]}),
    "at short": view(model={"at": [["gpu0"]]}),
    "at many": view(model={"at": [["gpu0", "m", 1.0]] * 100_000}),
    "load below": view(gate={"lines": {}}, model={"at": [["gpu0", "m", -1e308]]}),
    "context none": view(model={"context_length": 0}),
    "context below": view(model={"context_length": -5}),
    "context huge": view(model={"context_length": HUGE}),
    "embedding": view(model={"embedding": True}),
    "blind": view(model={"vision": False}),
    "kind unknown": view(model={"kind": "zzz"}),
    "kind node": view(model={"kind": "node"}),
    "kind long": view(model={"kind": "k" * 100_000}),
    "file odd": view(model={"file": "../../../etc/passwd\x00\n" * 1000}),
    "quantization": view(model={"quantization": "q" * 100_000}),
    "size below": view(model={"size": -1}),
    "size huge": view(model={"size": HUGE}),
    "tag empty": view(models_tag=""),
    "tag words": view(models_tag="a b c"),
    "tag lines": view(models_tag="\r\nX-Api-Key: y\r\n\r\n"),
    "tag letters": view(models_tag="ü#&?%"),
    "tag long": view(models_tag="t" * 100_000),
    "wire other": view(wire=2),
    "unknown": view(more={"a": [1, {"b": None}]}),
    "no view": {},
    "a list": [],
}
DEEP = b'{"more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
RAW = {
    "deep": DEEP,
    "deep line": json.dumps(view()).encode().replace(b'"lines": {', b'"lines": {"x": ' + b"[" * 50_000),
    "infinite": json.dumps(view(line={"wait_s": float("inf")})).encode(),
    "no number": json.dumps(view(line={"wait_s": float("nan")})).encode(),
    "half a letter": json.dumps(view(model={"id": "\ud800"})).encode(),
    "half a letter in a tag": json.dumps(view(models_tag="\ud800")).encode(),
    "no text": b"\xff\xfe\x00",
    "nothing": b"",
    "zeros": b"\0" * 1_000_000,
    "digits": b"9" * 1_000_000,
    "long number": json.dumps(view()).encode().replace(b"0.1", b"0." + b"1" * 100_000),
}
VIEWS = {name: json.dumps(said).encode() for name, said in ODD.items()} | RAW


async def at_once(exchange: Exchange) -> None:
    """Grant and answer."""
    await exchange.write(GRANTED, answer(WHOLE))


@pytest.fixture
async def nodes() -> AsyncGenerator[list[FakeBackend]]:
    """Run two nodes with one model, of which one is whole."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(fake_backend()) for _ in range(2)]
        for node in made:
            node.script, node.listing = at_once, answer(json.dumps(view()).encode())
        yield made


@pytest.mark.parametrize("name", ["at many", "gates many", "tag words", "tag lines", "tag long", "kind long"])
def test_a_view_that_would_cost_much_is_none(name: str) -> None:
    """What each request or each look would walk over, or what goes back to the node, has a bound."""
    with pytest.raises(ValueError, match="no view of a node"):
        read(VIEWS[name])


async def said(front: Any, request: bytes) -> Any:
    """Return the front's answer to *request*."""
    client = await front.client()
    await client.send(request)
    return await client.answer()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


@pytest.mark.parametrize("odd", VIEWS.values(), ids=VIEWS)
async def test_an_odd_view(start: Any, nodes: list[FakeBackend], caplog: Any, odd: bytes) -> None:
    """A node that says anything of itself harms no request, no page, and is in again once it is mended."""
    whole, nodes[0].listing = nodes[0].listing, answer(odd)
    front = await start(
        f"nodes: {{box0: {{url: '{nodes[0].url}', api_key: f}}, box1: {{url: '{nodes[1].url}', api_key: f}}}}"
    )
    await soon(lambda: "box1" in front.proxy.inventory.answering, SECONDS)

    answers = [await said(front, ask(stream=False)) for _ in range(6)]
    pages = [await said(front, get(path)) for path in ("/v1/models", "/debug/status", "/metrics", "/ready")]
    nodes[0].listing = whole.replace(b'"seq": 1', b'"seq": 9')
    box0, clock = front.proxy.backends["box0"], asyncio.get_running_loop().time
    await soon(lambda: box0.place("m", clock(), 0, 0).wait_s == 0.0, SECONDS)

    assert [(each.head.status, each.body) for each in answers] == 6 * [(200, WHOLE)]
    assert [page.head.status for page in pages] == 4 * [200]
    assert [line for line in caplog.messages if line.startswith("bug")] == []
