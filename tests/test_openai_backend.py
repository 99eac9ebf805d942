"""A server that speaks OpenAI's API, asked for its models: whatever it says, a list or `BackendDown`."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from dmap.backends import Target
from dmap.backends.openai.backend import OpenAIBackend
from dmap.backends.openai.section import OpenAISection
from dmap.errors import BackendDown
from dmap.models import ModelInfo
from tests.fakes import HERE_S, answer

LIST = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'

Ask = Callable[..., Awaitable[OpenAIBackend]]


def listed(*items: object) -> bytes:
    """A whole answer that lists *items*."""
    return answer(json.dumps({"object": "list", "data": items}).encode())


def backend_at(url: str, api_key: str | None = None) -> OpenAIBackend:
    """The backend for the server at *url*."""
    return OpenAIBackend("box", OpenAISection(kind="openai", url=url, api_key=api_key), HERE_S)


@pytest.fixture
async def heard() -> list[bytes]:
    """The heads that reached the server."""
    return []


@pytest.fixture
async def saying(heard: list[bytes]) -> AsyncGenerator[Ask]:
    """Start a server that says given bytes and closes; return a backend for it."""
    servers = []

    async def start(said: bytes, path: str = "", api_key: str | None = None) -> OpenAIBackend:
        async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(said)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(say, "127.0.0.1", 0)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        return backend_at(f"http://127.0.0.1:{port}{path}", api_key)

    yield start
    for server in servers:
        server.close()


# What exists


async def test_models_are_listed(saying):
    """Every model in the list is resident; its context is read in vLLM's and in llama-server's words."""
    backend = await saying(
        listed({"id": "a"}, {"id": "b", "max_model_len": 4096}, {"id": "c", "meta": {"n_ctx": 2048}})
    )

    assert await backend.models() == [
        ModelInfo("a", resident=True),
        ModelInfo("b", resident=True, context_length=4096),
        ModelInfo("c", resident=True, context_length=2048),
    ]


@pytest.mark.parametrize(
    "item", [5, None, "m", [], {}, {"id": 5}, {"id": None}, {"id": ""}, {"id": "m" * 513}, {"name": "m"}]
)
async def test_what_is_no_model_is_passed_over(saying, item):
    """An item without an id, or with an absurd one, is none; the others still count."""
    backend = await saying(listed(item, {"id": "m", "max_model_len": "long", "meta": 5}))

    assert await backend.models() == [ModelInfo("m", resident=True)]


async def test_a_list_may_come_in_many_pieces(saying):
    """A list that is longer than one read is read whole."""
    backend = await saying(listed(*({"id": f"model-{i}", "padding": "x" * 1000} for i in range(2000))))

    models = await backend.models()

    assert [models[0].id, models[-1].id, len(models)] == ["model-0", "model-1999", 2000]


async def test_an_answer_may_be_chunked(saying):
    """However the list is framed, it is read."""
    pieces = b"".join(b"%x\r\n%b\r\n" % (1, LIST[at : at + 1]) for at in range(len(LIST)))
    head = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    backend = await saying(head + pieces + b"0\r\n\r\n")

    assert await backend.models() == [ModelInfo("m", resident=True)]


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_the_list_is_asked_for(saying, heard, path):
    """The list is at /v1/models, whether the URL has the /v1 or not; the backend's token goes along."""
    await (await saying(answer(LIST), path, "sk-backend")).models()

    assert heard[0].startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"Authorization: Bearer sk-backend\r\n" in heard[0]


async def test_without_a_token_none_is_sent(saying, heard):
    """A server that asks for no token gets none."""
    await (await saying(answer(LIST))).models()

    assert b"authorization" not in heard[0].lower()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        answer(LIST, status="500 Internal Server Error"),
        answer(LIST, status="401 Unauthorized"),
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
        answer(b""),
        answer(b"<html>"),
        answer(b"\xff\xfe"),
        answer(b"[]"),
        answer(b'{"data": {}}'),
        answer(b'{"error": "Unexpected endpoint"}'),
        answer(b"[" * 100_000),
        answer(b'{"data": [' + b" " * 2**22 + b"]}"),
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot a zip",
    ],
    ids=lambda said: repr(said[:60]),
)
async def test_what_is_no_list(saying, said):
    """A server that says anything else is down, and the error has its name and a time to try again."""
    backend = await saying(said)

    with pytest.raises(BackendDown, match="'box'") as refused:
        await backend.models()

    assert refused.value.retry_after_s == 5


FLOOD = 4 * 2**20
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (answer(gzip.compress(LIST)).replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1), "compressed"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * (FLOOD // 28), "too much comes beside its body"),
        (CHUNKED + b"0\r\n" + b"x: y\r\n" * (FLOOD // 6), "too much comes beside its body"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (FLOOD // 6), "too much comes beside its body"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * (3 * FLOOD), "too much comes beside its body"),
        (CHUNKED + b"1\r\n \r\n" * (FLOOD // 2), "too much comes beside its body"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (3 * FLOOD), "its answer is over 4194304 bytes"),
        (listed(*({"id": f"m{n}"} for n in range(60_000))), "over 2500 models"),
        (listed({"id": "m", "more": [0] * 300_000}), "over 200000 values"),
    ],
    ids=["zip", "1xx", "trailers", "heads", "one head", "chunks", "endless", "models", "values"],
)
async def test_whatever_comes_has_a_bound(saying, said, why):
    """No flood of any part of an answer is read to its end, or holds the loop for long."""
    backend = await saying(said)
    turns = [time.process_time()]

    async def turn() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(time.process_time())

    turning = asyncio.ensure_future(turn())
    with pytest.raises(BackendDown, match=why):
        await backend.models()
    turning.cancel()

    assert max(map(float.__sub__, turns[1:], turns)) < 0.5


async def test_nobody_listens(saying):
    """A server that is not there is down; its token stands in no error."""
    backend = backend_at("http://127.0.0.1:1", "sk-SECRET")

    with pytest.raises(BackendDown) as refused:
        await backend.models()

    assert "sk-SECRET" not in f"{refused.value} {refused.value!r} {refused.value.__cause__!r}"


# Where requests go


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h:1234", Target("h", 1234, False, "/v1/x")),
        ("http://h", Target("h", 80, False, "/v1/x")),
        ("https://h", Target("h", 443, True, "/v1/x")),
        ("http://h/v1", Target("h", 80, False, "/v1/x")),
        ("http://h/v1/", Target("h", 80, False, "/v1/x")),
        ("http://h/llm", Target("h", 80, False, "/llm/v1/x")),
        ("https://H:8443/llm/v1", Target("h", 8443, True, "/llm/v1/x")),
        ("http://[::1]:5", Target("::1", 5, False, "/v1/x")),
    ],
)
def test_requests_go_under_the_url(url, target):
    """A route of ours is put after the configured URL, whose own /v1 is not repeated."""
    assert backend_at(url).target("m", "/v1/x") == target


def test_requests_carry_the_token():
    """The backend's token goes with every request."""
    target = backend_at("http://h", "sk-b").target("m", "/v1/x")

    assert target.headers == (("Authorization", "Bearer sk-b"),)


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "501 Not Implemented"])
async def test_a_server_without_a_list(saying, status):
    """A server that answers but keeps no list is up: its models are those that the file names."""
    backend = await saying(answer(b"{}", status=status))

    assert await backend.models() == []


async def test_another_dmap(saying):
    """What another dmap says of its models is taken over: what is resident, its context, what it is for."""
    backend = await saying(listed({"id": "e", "resident": False, "context_length": 512, "embedding": True}))

    assert await backend.models() == [
        ModelInfo("e", resident=False, context_length=512, embedding=True),
    ]
