"""OpenAI's own Node client against the production server, with a backend that is answered for by hand."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import DONE, END, HERE_S, SSE, FakeBackend, answer, chat, chunk, delta, holding, post, served
from tests.npm import install
from tests.once import made_once
from tests.programs import find, why_not

WHOLE = b'{"id": "1", "object": "chat.completion", "model": "m", "choices": []}'
TIMER_S = 0.01
"""How much Node's timers may come early.  Without `Retry-After` it would come back after half a second."""
LEFT_S = 10.0
"""How soon a backend has to feel that Node has left, which is another process."""

pytestmark = pytest.mark.skipif(bool(why_not("node", "npm")), reason=why_not("node", "npm"))

_PRELUDE = """
import OpenAI from "openai";

const say = (...words) => console.log(words.join(" "));
const started = performance.now();
const seconds = () => ((performance.now() - started) / 1000).toFixed(3);
const client = new OpenAI({
  baseURL: process.argv[2] + "/v1",
  apiKey: "none",
  maxRetries: Number(process.argv[3]),
  fetch: async (...request) => {
    const answer = await fetch(...request);
    say("status", answer.status, answer.headers.get("retry-after") ?? "-", seconds());
    return answer;
  },
});
const hello = { model: "m", messages: [{ role: "user", content: "Hello" }] };
"""


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the client into a folder of its own, once; skip where no registry has it."""

    def make(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        install(folder, "openai@>=6 <8")

    return made_once(tmp_path_factory, "node", make)


class Script:
    """A running script; it tells one thing per line."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def line(self) -> list[str]:
        """Return the words of the next line; none at the end."""
        assert self._child.stdout is not None
        async with asyncio.timeout(HERE_S):
            return (await self._child.stdout.readline()).decode().split()

    async def end(self) -> None:
        """Wait for its end, which has to be a good one."""
        async with asyncio.timeout(HERE_S):
            assert await self._child.wait() == 0

    def kill(self) -> None:
        if self._child.returncode is None:
            self._child.kill()


Run = Callable[..., Awaitable[Script]]


@pytest.fixture
async def node(package: Path, tmp_path: Path) -> AsyncGenerator[Run]:
    """Run scripts that have a `client` for the given URL."""
    (tmp_path / "node_modules").symlink_to(package / "node_modules")
    scripts: list[Script] = []

    async def run(url: str, text: str, *, retries: int = 0) -> Script:
        path = tmp_path / f"{len(scripts)}.mjs"
        path.write_text(_PRELUDE + text)
        command = (find("node") or "node", str(path), url, str(retries))
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        scripts.append(Script(child))
        return scripts[-1]

    yield run
    for script in scripts:
        script.kill()
        await script._child.wait()


@pytest.fixture
async def serve(
    start: Any, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> AsyncGenerator[Callable[..., Awaitable[Any]]]:
    """Start proxies in front of the backend; nothing may be left over."""
    async with served(start, backend, caplog) as serve:
        yield serve


STREAM = """
const stream = await client.chat.completions.create({ ...hello, stream: true });
try {
  for await (const chunk of stream) say("got", chunk.choices[0].delta.content);
  say("end");
} catch (error) {
  say("error", error.constructor.name, error.code);
}
"""

PLAIN = """
try {
  say("model", (await client.chat.completions.create(hello)).model);
} catch (error) {
  say("error", error.constructor.name, error.status, error.code, Boolean(error.requestID));
}
"""


async def test_stream(serve: Any, backend: FakeBackend, node: Run) -> None:
    """Node has each chunk while the backend still holds back the next."""
    script = await node((await serve()).url, STREAM)
    exchange = await backend.next()

    await exchange.write(SSE, chunk(delta("one")))
    lines = [await script.line(), await script.line()]
    await exchange.write(chunk(delta("two")))
    lines.append(await script.line())
    await exchange.end(chunk(DONE), END)
    lines.append(await script.line())

    assert lines[0][:2] == ["status", "200"]
    assert lines[1:] == [["got", "one"], ["got", "two"], ["end"]]
    await script.end()


async def test_a_stream_that_breaks(serve: Any, backend: FakeBackend, node: Run) -> None:
    """A stream that broke raises in Node, with dmap's code."""
    script = await node((await serve()).url, STREAM)
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("one")))
    lines = [await script.line(), await script.line()]

    exchange.cut()
    exchange.done.set()

    assert lines[1] == ["got", "one"]
    assert await script.line() == ["error", "APIError", "backend_broke"]
    await script.end()


async def test_an_unknown_model(serve: Any, node: Run) -> None:
    """An unknown model is a NotFoundError with its code and the request's id, and is not tried again."""
    script = await node(
        (await serve()).url, PLAIN.replace("(hello)", '({...hello, model: "nope"})'), retries=2
    )

    assert (await script.line())[:2] == ["status", "404"]
    assert await script.line() == ["error", "NotFoundError", "404", "model_not_found", "true"]
    await script.end()


async def test_a_failure_that_is_not_tried_again(serve: Any, backend: FakeBackend, node: Run) -> None:
    """A backend that broke may have done its work: Node is told not to repeat the request."""
    script = await node((await serve()).url, PLAIN, retries=2)
    exchange = await backend.next()

    exchange.close()
    exchange.done.set()

    assert (await script.line())[:2] == ["status", "502"]
    assert await script.line() == ["error", "InternalServerError", "502", "backend_broke", "true"]
    assert len(backend.requests) == 1
    await script.end()


@pytest.mark.parametrize(
    ("options", "waiting", "status"),
    [("parallel: 1, queue: 1", 1, "429"), ("parallel: 1, wait_s: 0.05", 0, "503")],
    ids=["queue is full", "waited too long"],
)
async def test_retry_after(
    serve: Any, backend: FakeBackend, node: Run, options: str, waiting: int, status: str
) -> None:
    """Node comes back after the seconds that dmap told it, not before, and is answered then."""
    proxy = await serve(backend_options=options)
    await soon_done(proxy, backend)
    others = [await proxy.client() for _ in range(1 + waiting)]
    for other in others:
        await other.send(post(chat(stream=False)))
    held = await backend.next()
    await holding(proxy, 1 + waiting)
    script = await node(proxy.url, PLAIN, retries=1)

    _, refused, after_s, refused_at = await script.line()
    backend.script = lambda exchange: exchange.write(answer(WHOLE))
    await held.end(answer(WHOLE))
    _, answered, _, answered_at = await script.line()

    assert (refused, answered) == (status, "200")
    assert float(answered_at) - float(refused_at) > int(after_s) - TIMER_S
    assert int(after_s) >= 1
    assert await script.line() == ["model", "m"]
    await script.end()


async def soon_done(proxy: Any, backend: FakeBackend) -> None:
    """Have one request answered at once: dmap then expects the next to take no longer."""
    client = await proxy.client()
    await client.send(post(chat(stream=False)))
    await (await backend.next()).end(answer(WHOLE))
    await client.answer()


async def test_cancel(serve: Any, backend: FakeBackend, node: Run) -> None:
    """A stream that Node aborts frees its place, and the backend stops."""
    script = await node(
        (await serve()).url,
        """
        const stream = await client.chat.completions.create({ ...hello, stream: true });
        for await (const chunk of stream) {
          say("got", chunk.choices[0].delta.content);
          stream.controller.abort();
        }
        say("end");
        """,
    )
    exchange = await backend.next()

    await exchange.write(SSE, chunk(delta("one")))

    await exchange.abandoned(LEFT_S)
    exchange.done.set()
    assert [(await script.line())[0], await script.line(), await script.line()] == [
        "status",
        ["got", "one"],
        ["end"],
    ]
    await script.end()
