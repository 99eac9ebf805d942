"""When OpenAI's own clients try again and when they do not, against the production server."""

import asyncio
import hashlib
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from tests.fakes import DONE, END, HERE_S, SSE, FakeBackend, answer, chat, chunk, delta, holding, post, served
from tests.ports import free_port
from tests.test_node_client import LEFT_S, PLAIN, TIMER_S, WHOLE, Run, node, package, soon_done

__all__ = ["node", "package"]  # fixtures

HELLO: Any = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
LISTED = {"data": [{"id": "m", "object": "model"}]}


@pytest.fixture
async def serve(
    start: Any, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> AsyncGenerator[Callable[..., Awaitable[Any]]]:
    """Start proxies in front of the backend; nothing may be left over."""
    async with served(start, backend, caplog) as serve:
        yield serve


class Tries:
    """The answers that a client got: the status, the seconds of `Retry-After`, and when each came."""

    def __init__(self) -> None:
        self.clock = asyncio.get_running_loop().time
        self.seen: asyncio.Queue[tuple[int, float, float]] = asyncio.Queue()

    async def note(self, response: Any) -> None:
        """Be told of an answer; for the client's hooks."""
        after_s = float(response.headers.get("retry-after", "nan"))
        self.seen.put_nowait((response.status_code, after_s, self.clock()))

    async def next(self) -> tuple[int, float, float]:
        """Return the next one."""
        async with asyncio.timeout(HERE_S):
            return await self.seen.get()


@asynccontextmanager
async def client_of(proxy: Any, tries: Tries, retries: int, key: str = "none") -> AsyncGenerator[AsyncOpenAI]:
    """Make a client whose answers are noted."""
    http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [tries.note]})
    async with AsyncOpenAI(
        base_url=f"{proxy.url}/v1", api_key=key, max_retries=retries, http_client=http
    ) as client:
        yield client


def counted(proxy: Any) -> float:
    """How many requests the proxy has had, let in or not."""
    told = proxy.proxy.metrics.as_dict()
    names = ("dmap_request_duration_seconds_count", "dmap_access_denied_total")
    return float(sum(sample["value"] for name in names for sample in told.get(name, ())))


@asynccontextmanager
async def backend_at(port: int) -> AsyncGenerator[None]:
    """Run a backend with the model `m` that answers at once."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response(LISTED)

    async def completion(request: web.Request) -> web.Response:
        return web.Response(body=WHOLE, content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", completion)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


def down(port: int) -> str:
    """The configuration of a proxy whose backend is not there yet."""
    backend = f"{{kind: openai, url: 'http://127.0.0.1:{port}'}}"
    return f"backends: {{fake: {backend}}}\nmodels: {{m: {{backend: fake}}}}"


PERMANENT = pytest.mark.parametrize(
    ("options", "asked", "status", "code"),
    [
        ({}, {"model": "nope"}, 404, "model_not_found"),
        ({}, {"draft_model": "x"}, 400, "invalid_request"),
        ({"server": "{max_body: 1 KiB}"}, {"user": "x" * 2000}, 413, "body_too_large"),
        ({"server": "{first_byte_s: 0.05}"}, {}, 504, "backend_slow"),
        ({"backend_options": "lease_s: 0.05"}, {}, 504, "lease_expired"),
        ({"rest": "access: {keys: [{name: a, sha256: '%s'}]}" % ("0" * 64)}, {}, 401, "invalid_api_key"),
    ],
    ids=["404", "400", "413", "504 slow", "504 lease", "401"],
)
"""How a proxy is made, what is asked of it, and how it refuses for good."""


class TestPython:
    @pytest.mark.parametrize(
        ("options", "waiting", "status"),
        [("parallel: 1, queue: 1", 1, 429), ("parallel: 1, wait_s: 0.05", 0, 503)],
        ids=["queue is full", "waited too long"],
    )
    async def test_retry_after(
        self, serve: Any, backend: FakeBackend, options: str, waiting: int, status: int
    ) -> None:
        """The client comes back after the seconds that dmap told it, not before, and is answered then."""
        proxy, tries = await serve(backend_options=options), Tries()
        await soon_done(proxy, backend)
        others = [await proxy.client() for _ in range(1 + waiting)]
        for other in others:
            await other.send(post(chat(stream=False)))
        held = await backend.next()
        await holding(proxy, 1 + waiting)

        async with client_of(proxy, tries, retries=1) as client, asyncio.TaskGroup() as group:
            asking = group.create_task(client.chat.completions.create(**HELLO))
            refused, after_s, refused_at = await tries.next()
            backend.script = lambda exchange: exchange.write(answer(WHOLE))
            await held.end(answer(WHOLE))
            answered, _, answered_at = await tries.next()

        assert (refused, answered, asking.result().model) == (status, 200, "m")
        assert after_s >= 1
        assert answered_at - refused_at >= after_s

    async def test_a_backend_that_comes_back(self, start: Any) -> None:
        """A backend that is down is a 503 with the time of the next look, and the client outlasts it."""
        port, tries = free_port(), Tries()
        proxy = await start(down(port))

        async with client_of(proxy, tries, retries=3) as client, asyncio.TaskGroup() as group:
            asking = group.create_task(client.chat.completions.create(**HELLO))
            status, after_s, _ = await tries.next()
            async with backend_at(port):
                answered = await asking

        assert (status, after_s, answered.model) == (503, 2, "m")

    @PERMANENT
    async def test_for_good(
        self, serve: Any, options: dict[str, str], asked: dict[str, Any], status: int, code: str
    ) -> None:
        """What is refused for good is asked once."""
        proxy = await serve(**options)

        async with client_of(proxy, Tries(), retries=3) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(**HELLO | {"extra_body": asked})

        assert (caught.value.status_code, caught.value.code) == (status, code)
        assert counted(proxy) == 1

    async def test_a_load_that_fails(self, start: Any, tmp_path: Any) -> None:
        """A model that cannot be loaded is told as such once, for loading it again would take as long."""
        (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(64))
        proxy = await start(
            "devices: {gpu0: {}}\n"
            f"backends: {{engine: {{kind: gguf, path: {tmp_path}, device: gpu0}}}}\n"
            "models: {broken: {backend: engine}}"
        )

        async with client_of(proxy, Tries(), retries=3) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(**HELLO | {"model": "broken"})

        assert (caught.value.status_code, caught.value.code) == (502, "model_load_failed")
        assert counted(proxy) == 1

    async def test_too_many_of_one_key(self, serve: Any, backend: FakeBackend) -> None:
        """A key over its rate is refused with the time to wait, and the client does wait."""
        digest = hashlib.sha256(b"secret").hexdigest()
        keys = f"access: {{keys: [{{name: app, sha256: '{digest}', parallel: 1}}]}}"
        proxy, tries = await serve(rest=keys), Tries()

        async with client_of(proxy, tries, retries=1, key="secret") as client, asyncio.TaskGroup() as group:
            first = group.create_task(client.chat.completions.create(**HELLO))
            held = await backend.next()
            second = group.create_task(client.chat.completions.create(**HELLO))
            refused, after_s, refused_at = await tries.next()
            backend.script = lambda exchange: exchange.write(answer(WHOLE))
            await held.end(answer(WHOLE))
            assert (await first).model == (await second).model == "m"
            await tries.next()
            _, _, answered_at = await tries.next()

        assert refused == 429
        assert answered_at - refused_at >= after_s >= 1

    async def test_stream(self, serve: Any, backend: FakeBackend) -> None:
        """The client has each chunk while the backend still holds back the next."""
        async with client_of(await serve(), Tries(), retries=0) as client, asyncio.TaskGroup() as group:
            opening = group.create_task(client.chat.completions.create(**HELLO, stream=True))
            exchange = await backend.next()
            await exchange.write(SSE, chunk(delta("one")))
            stream = aiter(await opening)
            first = await anext(stream)
            await exchange.end(chunk(delta("two")), chunk(DONE), END)
            rest = [piece async for piece in stream]

        assert [piece.choices[0].delta.content for piece in (first, *rest)] == ["one", "two"]

    async def test_a_stream_that_breaks(self, serve: Any, backend: FakeBackend) -> None:
        """A stream that broke raises with dmap's code, and is not begun again."""
        async with client_of(await serve(), Tries(), retries=3) as client, asyncio.TaskGroup() as group:
            opening = group.create_task(client.chat.completions.create(**HELLO, stream=True))
            exchange = await backend.next()
            await exchange.write(SSE, chunk(delta("one")))
            stream = aiter(await opening)
            await anext(stream)
            exchange.cut()
            exchange.done.set()
            with pytest.raises(openai.APIError) as caught:
                await anext(stream)

        assert caught.value.code == "backend_broke"
        assert len(backend.requests) == 1

    async def test_a_closed_stream(self, serve: Any, backend: FakeBackend) -> None:
        """A stream that the client closes is cut off at the backend."""
        async with client_of(await serve(), Tries(), retries=0) as client, asyncio.TaskGroup() as group:
            opening = group.create_task(client.chat.completions.create(**HELLO, stream=True))
            exchange = await backend.next()
            await exchange.write(SSE, chunk(delta("one")))
            stream = await opening
            await anext(aiter(stream))

            await stream.close()

            await exchange.abandoned()
            exchange.done.set()

    async def test_a_cancelled_request(self, serve: Any, backend: FakeBackend) -> None:
        """A request that the client cancels before it is answered is cut off at the backend."""
        async with client_of(await serve(), Tries(), retries=3) as client:
            asking = asyncio.create_task(client.chat.completions.create(**HELLO))
            exchange = await backend.next()

            asking.cancel()

            await exchange.abandoned()
            exchange.done.set()
        assert len(backend.requests) == 1


class TestNode:
    async def test_a_backend_that_comes_back(self, start: Any, node: Run) -> None:
        """A backend that is down is a 503 with the time of the next look, and the client outlasts it."""
        port = free_port()
        script = await node((await start(down(port))).url, PLAIN, retries=3)
        _, status, after_s, refused_at = await script.line()

        async with backend_at(port):
            lines = [line async for line in lines_of(script)]
            await script.end()

        assert (status, after_s) == ("503", "2")
        assert (lines[-2][1], lines[-1]) == ("200", ["model", "m"])
        assert float(lines[-2][3]) - float(refused_at) > 2 - TIMER_S

    @PERMANENT
    async def test_for_good(
        self, serve: Any, node: Run, options: dict[str, str], asked: dict[str, Any], status: int, code: str
    ) -> None:
        """What is refused for good is asked once."""
        proxy = await serve(**options)

        script = await node(proxy.url, PLAIN.replace("(hello)", f"({{...hello, ...{asked!r}}})"), retries=3)
        lines = [line async for line in lines_of(script)]

        assert [line[1] for line in lines if line[0] == "status"] == [str(status)]
        assert lines[-1][2:4] == [str(status), code]
        assert counted(proxy) == 1
        await script.end()

    async def test_an_aborted_request(self, serve: Any, backend: FakeBackend, node: Run) -> None:
        """A request that Node aborts before it is answered is cut off at the backend."""
        script = await node(
            (await serve()).url,
            """
            const stop = new AbortController();
            process.once("SIGUSR2", () => stop.abort());
            try {
              await client.chat.completions.create(hello, { signal: stop.signal });
            } catch (error) {
              say("error", error.constructor.name);
            }
            """,
            retries=3,
        )
        exchange = await backend.next()

        script._child.send_signal(signal.SIGUSR2)

        await exchange.abandoned(LEFT_S)
        exchange.done.set()

        assert await script.line() == ["error", "APIUserAbortError"]
        assert len(backend.requests) == 1
        await script.end()


async def lines_of(script: Any) -> AsyncGenerator[list[str]]:
    """Yield the lines of *script* up to its end."""
    while line := await script.line():
        yield line
