"""What dmap does not know below /v1, passed on: by OpenAI's own client, and byte by byte."""

import asyncio
import hashlib
import json
import logging
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from dmap.web.reload import reload
from tests.conftest import Proxy
from tests.fakes import HERE_S, Exchange, FakeBackend, answer, soon
from tests.kept_server import KeptServer, kept_server

CONFIG = """
backends:
  server: {{kind: openai, url: '{url}', parallel: 1{more}}}
models:
  guard-v1: {{backend: server, aliases: [guard], defaults: {{temperature: 0.5}}, strip: [user]}}
"""


@pytest.fixture
async def server() -> AsyncGenerator[KeptServer]:
    async with kept_server() as server:
        yield server


@pytest.fixture
async def llama(models: Path) -> AsyncGenerator[str]:
    """Run llama.cpp's own server; return where it answers."""
    program = ("-m", "tests.llama_serve", str(models / "tiny-sea.gguf"), "--port", "0", "--alias", "tiny-sea")
    child = await asyncio.create_subprocess_exec(sys.executable, *program, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    async with asyncio.timeout(60):
        await child.stdout.readline()
        yield (await child.stdout.readline()).decode().split()[-1]
    child.terminate()
    await child.wait()


@pytest.fixture
async def dmap(start: Any, server: KeptServer) -> AsyncGenerator[Proxy]:
    proxy = await start(CONFIG.format(url=server.url, more=""))
    yield proxy
    await proxy.settled()


@pytest.fixture
async def client(dmap: Proxy) -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{dmap.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def ask(
    proxy: Proxy, method: str, path: str, key: str = "", **body: Any
) -> tuple[int, Any, "aiohttp.ClientResponse"]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, proxy.url + path, **body) as answered,
    ):
        raw = await answered.read()
        return (
            answered.status,
            json.loads(raw) if answered.content_type == "application/json" else raw,
            answered,
        )


class TestOpenAIClient:
    async def test_moderations(self, client: AsyncOpenAI, server: KeptServer) -> None:
        """An alias becomes the model's own name; nothing is filled in, taken out or written anew."""
        answer = await client.moderations.create(model="guard", input="Hello", extra_body={"user": "u"})

        assert (answer.model, answer.results[0].flagged) == ("guard-v1", False)
        assert json.loads(server.last[1]) == {"input": "Hello", "model": "guard-v1", "user": "u"}

    async def test_without_a_model(self, client: AsyncOpenAI, server: KeptServer) -> None:
        """A request that names no model goes to the only server, without one."""
        answer = await client.moderations.create(input="Hello")

        assert (answer.model, json.loads(server.last[1])) == ("default", {"input": "Hello"})

    async def test_a_batch(self, client: AsyncOpenAI, server: KeptServer) -> None:
        """A file is put there, made a batch, looked at, cancelled, read again, listed and deleted."""
        lines = b'{"custom_id": "1", "method": "POST"}\n'

        file = await client.files.create(file=("batch.jsonl", lines), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        status = (await client.batches.retrieve(batch.id)).status
        cancelled = (await client.batches.cancel(batch.id)).status
        content = (await client.files.content(file.id)).content
        names = [each.filename async for each in client.files.list(limit=20)]
        gone = await client.files.delete(file.id)

        assert (status, cancelled, content, names) == ("validating", "cancelling", lines, ["batch.jsonl"])
        assert (gone.deleted, server.files) == (True, {})
        assert server.asked == [
            "POST /v1/files",
            "POST /v1/batches",
            "GET /v1/batches/batch_0",
            "POST /v1/batches/batch_0/cancel",
            "GET /v1/files/file-0/content",
            "GET /v1/files?limit=20",
            "DELETE /v1/files/file-0",
        ]

    async def test_an_unknown_model(self, client: AsyncOpenAI, server: KeptServer) -> None:
        """A model that nobody has is refused, as everywhere."""
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.moderations.create(model="gpt-9", input="Hello")

        assert server.asked == []


class TestLlama:
    async def test_its_own_routes(self, start: Any, llama: str) -> None:
        """llama.cpp's server counts tokens at paths that dmap does not know; it cannot be controlled."""
        proxy = await start(
            f"backends: {{llama: {{kind: openai, url: '{llama}'}}}}\n"
            "models: {tiny-sea: {backend: llama, aliases: [sea]}}"
        )
        body = {"model": "sea", "messages": [{"role": "user", "content": "Hello"}], "input": "Hello"}

        paths = (
            "chat/completions/input_tokens",
            "responses/input_tokens",
            "chat/completions/control",
            "nothing",
        )
        told = [(await ask(proxy, "POST", f"/v1/{path}", json=body))[:2] for path in paths]

        assert [status for status, _ in told] == [200, 200, 404, 404]
        assert told[0][1]["input_tokens"] == told[1][1]["input_tokens"] > 0
        assert ["src" in answer for _, answer in told[2:]] == [True, False]


class TestAnswers:
    async def test_a_sound(self, dmap: Proxy) -> None:
        """Bytes of any kind and length come as they are."""
        status, body, answered = await ask(dmap, "POST", "/v1/sound", json={})

        assert (status, body, answered.content_type) == (200, bytes(range(256)) * 1000, "audio/wav")

    async def test_nothing(self, dmap: Proxy) -> None:
        """An answer without a body is one."""
        assert (await ask(dmap, "POST", "/v1/nothing"))[:2] == (204, b"")

    async def test_a_stream(self, dmap: Proxy) -> None:
        """A stream needs no end mark, for nobody knows its own."""
        status, body, _ = await ask(dmap, "POST", "/v1/stream", json={"stream": True})

        assert (status, body) == (200, b"event: one\ndata: 1\n\nevent: two\ndata: 2\n\n")

    async def test_a_stream_that_breaks(self, dmap: Proxy) -> None:
        """A stream that is cut never looks complete."""
        with pytest.raises(aiohttp.ClientPayloadError):
            await ask(dmap, "POST", "/v1/stream", json={"stream": True, "breaks": True})

    async def test_a_stream_that_ends_inside_a_record(self, start: Any, backend: FakeBackend) -> None:
        """Where only the connection tells of the end, a record that is cut tells that it was none."""
        proxy = await start(f"backends: {{server: {{kind: openai, url: '{backend.url}'}}}}")
        backend.script = torn

        with pytest.raises(aiohttp.ClientPayloadError):
            await ask(proxy, "POST", "/v1/stream", json={"stream": True})

    async def test_an_error(self, dmap: Proxy) -> None:
        """An error in a form of the server's own keeps its status, in OpenAI's shape."""
        status, told, _ = await ask(dmap, "POST", "/v1/unprocessable", json={})

        assert (status, "prompt is missing" in told["error"]["message"]) == (422, True)

    async def test_where_it_is(self, dmap: Proxy) -> None:
        """The address of what was made there is the server's, so it stays behind."""
        status, _, answered = await ask(dmap, "POST", "/v1/made", json={})

        assert (status, "10.0.0.1" in str(answered.headers)) == (201, False)

    @pytest.mark.parametrize("path", ["page", "elsewhere"])
    async def test_no_answer(self, dmap: Proxy, path: str) -> None:
        """A web page, or the address of another host, is no answer to an app."""
        status, told, answered = await ask(dmap, "POST", f"/v1/{path}", json={}, allow_redirects=False)

        assert (status, told["error"]["code"]) == (502, "backend_broke")
        assert "10.0.0.1" not in f"{told}{answered.headers}"

    @pytest.mark.parametrize(
        ("name", "content"), [("a.html", b"<html>"), ("a.json", b'{"cut'), ("b.json", b'{"error": "x"}')]
    )
    async def test_what_was_put_there(
        self, dmap: Proxy, server: KeptServer, name: str, content: bytes
    ) -> None:
        """What a client has put there comes back as it is, whatever it looks like."""
        server.files["file-0"] = (name, content)

        async with (
            aiohttp.ClientSession(dmap.url) as session,
            session.get("/v1/files/file-0/content") as answered,
        ):
            assert (answered.status, await answered.read()) == (200, content)

    async def test_a_route_that_the_server_lacks(self, dmap: Proxy) -> None:
        """The server's own 404 is told."""
        assert (await ask(dmap, "POST", "/v1/something", json={}))[0] == 404


class TestRequests:
    async def test_the_very_same_bytes(self, dmap: Proxy, server: KeptServer) -> None:
        """A body that needs no change goes on byte for byte, and never the client's key."""
        body = b'{ "prompt" : "h\\u00e9",\n"model":"guard-v1", "x": 1.0e0 }'

        await ask(dmap, "POST", "/v1/tokenize", key="sk-mine", data=body)

        headers, sent = server.last
        assert (sent, headers["content-type"]) == (body, "application/json")
        assert "sk-mine" not in str(headers)

    @pytest.mark.parametrize(
        "body",
        [
            b"[]",
            b"nonsense",
            b'"text"',
            b"prompt=x&model=guard",
            b'{"model": "guard", "model": "other"}',
            b'{"Model": "other"}',
            b'{"model": 5}',
            b'{"model": ["guard"]}',
            b'{"keep_alive": -1}',
            b'{"draft_model": "x"}',
            b'{"options": {"num_ctx": 1}}',
            b'{"models": ["other"]}',
            b'{"mcp_servers": ["http://x"]}',
            b'{"url": "http://10.0.0.1/"}',
            b'{"image": "file:///etc/passwd"}',
            b'{"background": true}',
            b'{"input": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}]}',
            b'{"stream": "yes"}',
            b"[" * 10_000,
            b"\xff\xfe",
        ],
        ids=lambda body: body[:40].decode("latin-1"),
    )
    async def test_a_body_that_is_not_passed_on(self, dmap: Proxy, server: KeptServer, body: bytes) -> None:
        """What can be read in two ways, and what takes a permit, is refused before anybody is asked."""
        status, told, _ = await ask(dmap, "POST", "/v1/moderations", data=body)

        assert (status, told["error"]["type"], server.asked) == (400, "invalid_request_error", [])

    @pytest.mark.parametrize(
        ("name", "value"), [("model[]", "other"), ("Model", "other"), ("url", "http://10.0.0.1/")]
    )
    async def test_a_form_that_is_not_passed_on(
        self, dmap: Proxy, server: KeptServer, name: str, value: str
    ) -> None:
        """The same holds for forms."""
        form = aiohttp.FormData({"purpose": "batch", name: value}, default_to_multipart=True)

        status, *_ = await ask(dmap, "POST", "/v1/files", data=form)

        assert (status, server.asked) == (400, [])

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/v1/load_lora_adapter", 404),
            ("POST", "/v1/l%6fad_lora_adapter", 404),
            ("POST", "/v1/x/../load", 404),
            ("POST", "/v1/x/%2e%2e/load", 404),
            ("POST", "/v1//load", 404),
            ("POST", "/v1/moderations/", 404),
            ("POST", "/v1/models/guard", 405),
            ("DELETE", "/v1/models/guard", 405),
            ("GET", "/v1/model/unload", 404),
            ("POST", "/v1/hardware/deactivate", 404),
            ("GET", "/v1/moderations", 404),
            ("PUT", "/v1/files/file-0", 404),
            ("HEAD", "/v1/files/file-0", 404),
            ("GET", "/v1/files?model=guard&model=other", 400),
            ("GET", "/v1/files?model=nobody", 404),
            ("POST", "/v1/moderations?keep_alive=-1", 400),
            ("GET", "/v1/files/file-0?x=%0d%0a", 400),
        ],
    )
    async def test_a_path_that_is_not_passed_on(
        self, dmap: Proxy, server: KeptServer, method: str, path: str, status: int
    ) -> None:
        """Paths and queries are taken literally, on the wire too: no server hears of the others."""
        raw = await dmap.client()
        await raw.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())

        assert ((await raw.head()).status, server.asked) == (status, [])

    async def test_a_fetch_with_a_body(self, dmap: Proxy, server: KeptServer) -> None:
        """A GET with a body is read in different ways, so it is refused."""
        assert (await ask(dmap, "GET", "/v1/files", json={"model": "guard"}))[0] == 400
        assert server.asked == []

    async def test_a_model_in_body_and_query(self, dmap: Proxy, server: KeptServer) -> None:
        """The model is named once."""
        status, *_ = await ask(
            dmap, "POST", "/v1/tokenize?model=other", json={"model": "guard", "prompt": "x"}
        )

        assert (status, server.asked) == (400, [])

    async def test_too_long(self, start: Any, server: KeptServer) -> None:
        """The bounds of bodies hold."""
        proxy = await start(CONFIG.format(url=server.url, more="") + "server: {max_body: 1000}")

        status, told, _ = await ask(proxy, "POST", "/v1/files", data=b"x" * 2000)

        assert (status, told["error"]["code"], server.asked) == (413, "body_too_large", [])


KEYS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("all", "some", "lists", "slow")}
ACCESS = f"""
access:
  keys:
    - {{name: all, sha256: {KEYS["all"]}}}
    - {{name: some, sha256: {KEYS["some"]}, models: [guard*]}}
    - {{name: lists, sha256: {KEYS["lists"]}, scopes: [debug]}}
    - {{name: slow, sha256: {KEYS["slow"]}, rate_per_min: 1}}
"""


class TestWhoMay:
    @pytest.mark.parametrize(
        ("key", "path", "body", "status"),
        [
            ("all", "/v1/moderations", {"input": "x"}, 200),
            ("all", "/v1/batches", {"input_file_id": "f"}, 200),
            ("some", "/v1/moderations", {"model": "guard", "input": "x"}, 200),
            ("some", "/v1/tokenize", {"model": "guard-v1", "prompt": "x"}, 200),
            ("some", "/v1/moderations", {"model": "other", "input": "x"}, 404),
            ("some", "/v1/moderations", {"input": "x"}, 403),
            ("some", "/v1/moderations?model=guard", {"input": "x"}, 403),
            ("some", "/v1/moderations?model_id=other", {"model": "guard", "input": "x"}, 403),
            ("some", "/v1/batches", {"input_file_id": "f"}, 403),
            ("some", "/v1/batches", {"model": "guard", "input_file_id": "f"}, 403),
            ("some", "/v1/stream", {"model": "guard", "model_id": "other"}, 403),
            ("lists", "/v1/moderations", {"input": "x"}, 403),
            ("", "/v1/moderations", {"input": "x"}, 401),
            ("nobody", "/v1/moderations", {"input": "x"}, 401),
        ],
    )
    async def test_a_key(
        self, start: Any, server: KeptServer, key: str, path: str, body: Any, status: int
    ) -> None:
        """A key for some models gets what has the named one answer, and nothing that may reach the others."""
        proxy = await start(CONFIG.format(url=server.url, more="") + ACCESS)

        told, *_ = await ask(proxy, "POST", path, key=key, json=body)

        assert (told, len(server.asked)) == (status, int(status == 200))

    async def test_what_is_kept(self, start: Any, server: KeptServer) -> None:
        """A key for some models does not read or delete what others have put there either."""
        server.files["file-0"] = ("a", b"secret")
        proxy = await start(CONFIG.format(url=server.url, more="") + ACCESS)

        asked = (("GET", "/v1/files/file-0/content"), ("DELETE", "/v1/files/file-0"), ("GET", "/v1/files"))
        statuses = [(await ask(proxy, method, path, key="some"))[0] for method, path in asked]

        assert (statuses, server.asked) == ([403, 403, 403], [])

    async def test_where_some_models_are_not_served(self, start: Any, server: KeptServer) -> None:
        """The same holds for everybody where `allow_models` leaves models out."""
        proxy = await start(CONFIG.format(url=server.url, more="") + "allow_models: [guard*]")

        batch, *_ = await ask(proxy, "POST", "/v1/batches", json={"input_file_id": "f"})
        moderation, *_ = await ask(proxy, "POST", "/v1/moderations", json={"model": "guard", "input": "x"})

        assert (batch, moderation) == (403, 200)

    async def test_a_quota(self, start: Any, server: KeptServer) -> None:
        """The bounds of a key hold, also for what is fetched."""
        proxy = await start(CONFIG.format(url=server.url, more="") + ACCESS)

        first, *_ = await ask(proxy, "POST", "/v1/moderations", key="slow", json={"input": "x"})
        second, *_ = await ask(proxy, "GET", "/v1/files", key="slow")

        assert (first, second) == (200, 429)


class TestWhere:
    async def test_two_servers(self, start: Any, server: KeptServer) -> None:
        """Where two servers may be meant, a model in body or query tells; else the active one."""
        async with kept_server() as second:
            proxy = await start(
                f"""
                backends:
                  one: {{kind: openai, url: '{server.url}'}}
                  two: {{kind: openai, url: '{second.url}'}}
                models: {{mine: {{backend: two}}}}
                """
            )
            nobody, told, _ = await ask(proxy, "GET", "/v1/files")
            named, *_ = await ask(proxy, "GET", "/v1/files?model=mine&limit=2")
            posted, *_ = await ask(proxy, "POST", "/v1/tokenize", json={"model": "mine", "prompt": "x"})
            await ask(proxy, "POST", "/admin/models/activate", json={"modelKey": "two/guard-v1"})
            active, *_ = await ask(proxy, "GET", "/v1/files")

            assert (nobody, told["error"]["param"]) == (400, "model")
            assert (named, posted, active, server.asked) == (200, 200, 200, [])
            assert second.asked == ["GET /v1/files?model=mine&limit=2", "POST /v1/tokenize", "GET /v1/files"]

    async def test_a_model_of_another_kind(self, start: Any, server: KeptServer, models: Any) -> None:
        """A model on a server of another kind has no such routes."""
        proxy = await start(
            f"""
            devices: {{gpu0: {{}}}}
            backends:
              server: {{kind: openai, url: '{server.url}'}}
              engine: {{kind: gguf, path: {models}, device: gpu0}}
            """
        )

        status, told, _ = await ask(
            proxy, "POST", "/v1/moderations", json={"model": "tiny-sea", "input": "x"}
        )

        assert (status, told["error"]["code"], server.asked) == (404, "unknown_path", [])
        assert (
            "is passed on to servers of openai only; 'tiny-sea' is on a backend of gguf"
            in told["error"]["message"]
        )

    async def test_no_such_server(self, start: Any, models: Any) -> None:
        """Without a server that takes it, such a path is unknown, and counts for nothing."""
        proxy = await start(
            f"devices: {{gpu0: {{}}}}\nbackends: {{engine: {{kind: gguf, path: {models}, device: gpu0}}}}"
        )

        status, told, _ = await ask(proxy, "POST", "/v1/moderations", json={"input": "x"})

        assert (status, told["error"]["code"]) == (404, "unknown_path")

    async def test_a_server_that_is_down(self, start: Any) -> None:
        """A server that is known to be down is not even asked."""
        proxy = await start("backends: {server: {kind: openai, url: 'http://127.0.0.1:1'}}")

        status, told, answered = await ask(proxy, "POST", "/v1/moderations", json={"input": "x"})

        assert (status, told["error"]["code"]) == (503, "backend_down")
        assert "the backend 'server' does not list its models" in told["error"]["message"]
        assert "Retry-After" in answered.headers

    async def test_a_path_in_the_url(self, start: Any, server: KeptServer) -> None:
        """The server's URL may have a path of its own."""
        proxy = await start(CONFIG.format(url=f"{server.url}/v1", more=""))

        assert (await ask(proxy, "POST", "/v1/moderations", json={"input": "x"}))[0] == 200


class TestQueue:
    async def test_it_waits_like_others(self, dmap: Proxy, server: KeptServer) -> None:
        """With `parallel: 1` the second waits, is seen, and a reload does not throw it out."""
        held = asyncio.Event()
        server.hold = held.wait  # type: ignore[assignment]
        first = asyncio.ensure_future(ask(dmap, "POST", "/v1/moderations", json={"input": "x"}))
        await soon(lambda: len(server.asked) == 1, HERE_S)
        second = asyncio.ensure_future(ask(dmap, "POST", "/v1/batches", json={"input_file_id": "f"}))
        await soon(lambda: dmap.proxy.passages["server"].snapshot().waiting == 1, HERE_S)

        _, queue, _ = await ask(dmap, "GET", "/admin/queue")
        reload(dmap.proxy, dmap.proxy.config)
        asked = len(server.asked)
        held.set()

        assert [(waiting["model"], waiting["backend"]) for waiting in queue["waiting"]["backend server"]] == [
            ("", "server")
        ]
        assert (asked, (await first)[0], (await second)[0]) == (1, 200, 200)

    async def test_a_client_that_leaves(self, dmap: Proxy, server: KeptServer) -> None:
        """Who leaves gives the place back."""
        server.hold = asyncio.Event().wait  # type: ignore[assignment]
        raw = await dmap.client()
        await raw.send(b"POST /v1/moderations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        await soon(lambda: len(server.asked) == 1, HERE_S)

        raw.reset()

        await dmap.settled()

    async def test_a_lease_that_is_over(self, start: Any, server: KeptServer) -> None:
        """The bound of a lease holds."""
        proxy = await start(CONFIG.format(url=server.url, more=", lease_s: 0.2"))
        server.hold = asyncio.Event().wait  # type: ignore[assignment]

        status, told, _ = await ask(proxy, "POST", "/v1/moderations", json={"input": "x"})

        assert (status, told["error"]["code"]) == (504, "lease_expired")

    async def test_it_is_never_sent_twice(self, start: Any, backend: FakeBackend) -> None:
        """A POST may have changed something, so it takes no idle connection, whose end tells nothing."""
        proxy = await start(f"backends: {{server: {{kind: openai, url: '{backend.url}'}}}}")
        scripts = [answering, cut, answering]
        backend.script = lambda exchange: scripts.pop(0)(exchange)

        statuses = [(await ask(proxy, "POST", "/v1/files", json={}))[0] for _ in range(2)]

        assert (statuses, len(backend.requests)) == ([200, 502], 2)

    async def test_what_changes_nothing(self, start: Any, backend: FakeBackend) -> None:
        """What only has a model answer takes an idle connection, and is sent again where that has ended."""
        proxy = await start(f"backends: {{server: {{kind: openai, url: '{backend.url}'}}}}")

        async def cut_at_once(exchange: Exchange) -> None:
            [sent] = proxy.proxy.pool.under_way
            sent.sent_at += HERE_S  # this is at once, however long the machine stands still
            exchange.cut()

        scripts = [answering, cut_at_once, answering]
        backend.script = lambda exchange: scripts.pop(0)(exchange)

        statuses = [(await ask(proxy, "POST", "/v1/tokenize", json={}))[0] for _ in range(2)]

        assert (statuses, len(backend.requests)) == ([200, 200], 3)


async def answering(exchange: Exchange) -> None:
    """Answer, and stay connected."""
    await exchange.write(answer(b"{}"))


async def torn(exchange: Exchange) -> None:
    """Send an event stream without a length, and end in its second record."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    await exchange.write(head, b'data: 1\n\ndata: {"a')
    exchange.close()


async def cut(exchange: Exchange) -> None:
    """Break the connection instead of an answer."""
    exchange.cut()


class TestWhatIsTold:
    async def test_line_and_metrics(
        self, dmap: Proxy, server: KeptServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """There is one line with the path; no label of a metric has what a client made up."""
        caplog.set_level(logging.INFO)
        await ask(dmap, "POST", "/v1/made-up-by-me?secret=s3cr3t", json={"prompt": "x"})
        await ask(dmap, "POST", "/v1/tokenize", json={"model": "guard", "prompt": "x"})

        lines = [each.getMessage() for each in caplog.records if each.name == "dmap.requests"]
        _, metrics, _ = await ask(dmap, "GET", "/metrics")

        assert ["path=/v1/made-up-by-me" in lines[0], "path=/v1/tokenize" in lines[1]] == [True, True]
        assert "s3cr3t" not in f"{lines}{metrics}" and b"made-up" not in metrics
        assert b'dmap_request_duration_seconds_count{model="(none)"' in metrics
        assert b'dmap_request_duration_seconds_count{model="guard-v1",status="success"} 1.0' in metrics

    async def test_captures(self, start: Any, server: KeptServer) -> None:
        """Bodies are captured as those of known routes are."""
        proxy = await start(CONFIG.format(url=server.url, more="") + "debug: {capture: true}")
        await ask(proxy, "POST", "/v1/moderations", json={"input": "x", "api_key": "s3cr3t"})

        _, told, _ = await ask(proxy, "GET", "/debug/captures")

        [kept] = told["captures"]
        assert (kept["path"], json.loads(kept["body"])) == (
            "/v1/moderations",
            {"input": "x", "api_key": "***"},
        )
