"""The programs of `examples/`, run as their README says, against the production server."""

import asyncio
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import DONE, END, HERE_S, SSE, FakeBackend, answer, chat, chunk, delta, post, served
from tests.npm import install
from tests.once import made_once
from tests.programs import find, why_not
from tests.test_node_client import soon_done

EXAMPLES = Path(__file__).parent.parent / "examples"
BUILD_S = 300.0
LEFT_S = 10.0
"""How soon a backend has to feel that another process has left."""
TIMER_S = 0.01
"""How much Node's timers may come early."""

ENGINE = """
devices: {{gpu0: {{cooldown_s: 0}}}}
backends: {{engine: {{kind: gguf, path: {models}, device: gpu0, threads: 1, context_length: 1024}}}}
models: {{tiny-sea: {{defaults: {{max_tokens: 200}}}}}}
"""


def whole(content: object) -> bytes:
    """A whole answer of a backend."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return answer(json.dumps(body).encode())


class Program:
    """A running example."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    async def until(self, text: str) -> str:
        """Return the output up to *text*."""
        assert self.child.stdout is not None
        async with asyncio.timeout(HERE_S):
            return (await self.child.stdout.readuntil(text.encode())).decode()

    async def end(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit status, what was still to read, and the complaints."""
        async with asyncio.timeout(HERE_S):
            out, err = await self.child.communicate()
        assert self.child.returncode is not None
        return self.child.returncode, out.decode(), err.decode()


Run = Callable[..., Awaitable[Program]]


@pytest.fixture
async def run() -> AsyncGenerator[Run]:
    """Start programs that are told where the proxy is."""
    children = []

    async def start(url: str, *command: str) -> Program:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none"},
        )
        children.append(child)
        return Program(child)

    yield start
    for child in children:
        if child.returncode is None:
            child.kill()
        await child.wait()


@pytest.fixture
async def serve(
    start: Any, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> AsyncGenerator[Callable[..., Awaitable[Any]]]:
    """Start proxies in front of the backend; nothing may be left over."""
    async with served(start, backend, caplog) as serve:
        yield serve


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install and build the TypeScript example, once; skip where no registry has what it needs."""
    if why_not("node", "npm"):
        pytest.skip(why_not("node", "npm"))
    left_out = shutil.ignore_patterns("node_modules", "dist", "*-lock.json")

    def make(folder: Path) -> None:
        shutil.copytree(EXAMPLES / "typescript", folder, ignore=left_out, dirs_exist_ok=True)
        install(folder)
        command = (find("npm") or "npm", "run", "build")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=BUILD_S)
        assert done.returncode == 0, done.stdout + done.stderr

    return made_once(tmp_path_factory, "typescript", make) / "dist" / "chat.js"


def python(*arguments: str) -> tuple[str, ...]:
    """The command of the Python example."""
    return sys.executable, str(EXAMPLES / "python" / "chat.py"), "--model", *arguments


def node(built: Path, *arguments: str) -> tuple[str, ...]:
    """The command of the TypeScript example."""
    return find("node") or "node", str(built), "--model", *arguments


Kit = Callable[..., tuple[str, ...]]


@pytest.fixture(params=["python", "typescript"])
def kit(request: pytest.FixtureRequest) -> Kit:
    """The command of one of the kits, given its arguments."""
    if request.param == "python":
        return python
    return functools.partial(node, request.getfixturevalue("built"))


def refusal(status: str, *headers: str) -> bytes:
    """A backend's refusal, with more headers."""
    body = b'{"error": {"message": "no", "code": "c"}}'
    more = "".join(f"{header}\r\n" for header in headers)
    return answer(body, status=status).replace(b"\r\n\r\n", f"\r\n{more}\r\n".encode(), 1)


class TestBoth:
    async def test_tried_again(self, serve: Any, backend: FakeBackend, run: Run, kit: Kit) -> None:
        """A 503 is tried again, not before the second that `Retry-After` says, and answered then."""
        proxy = await serve(backend_options="parallel: 1, wait_s: 0.05")
        clock, came, refused = asyncio.get_running_loop().time, [], asyncio.Queue[float]()
        proxy.proxy.bus.listen(lambda event: refused.put_nowait(clock()), "request.failed")
        proxy.proxy.bus.listen(lambda event: came.append(clock()), "request.granted")
        await soon_done(proxy, backend)
        other = await proxy.client()
        await other.send(post(chat(stream=False)))
        held = await backend.next()

        program = await run(proxy.url, *kit("m", "--whole", "Hello"))
        async with asyncio.timeout(HERE_S):
            refused_at = await refused.get()
        backend.script = lambda exchange: exchange.write(whole("Hello"))
        await held.end(whole("Hello"))

        assert await program.end() == (0, "Hello\n", "")
        assert came[-1] - refused_at > 1 - TIMER_S

    @pytest.mark.parametrize("status", ["429 Busy", "502 Bad", "503 Away"])
    @pytest.mark.parametrize("option", [(), ("--whole",)], ids=["streamed", "whole"])
    async def test_as_retry_after_says(
        self, backend: FakeBackend, run: Run, kit: Kit, status: str, option: tuple[str, ...]
    ) -> None:
        """What may pass is asked again, not before it was told to, and within the same trace."""
        backend.script, clock = backend.by_hand, asyncio.get_running_loop().time
        program = await run(backend.url, *kit("m", *option, "Hello"))
        first = await backend.next()
        refused_at = clock()
        await first.end(refusal(status, "Retry-After: 1"))

        second = await backend.next()
        waited = clock() - refused_at
        await second.end(refusal("400 Bad"))

        ended, _, err = await program.end()
        spans = [exchange.headers["traceparent"].split("-") for exchange in (first, second)]
        assert waited > 1 - TIMER_S
        assert spans[0][1] == spans[1][1] and spans[0][2] != spans[1][2]
        assert ended == 1 and f"trace {spans[0][1]}" in err

    @pytest.mark.parametrize(
        "refused",
        [
            *(refusal(status) for status in ("400 Bad", "408 Slow", "409 Conflict", "500 Bug", "504 Slow")),
            refusal("502 Bad", "x-should-retry: false"),
        ],
        ids=["400", "408", "409", "500", "504", "502 for good"],
    )
    async def test_not_tried_again(self, backend: FakeBackend, run: Run, kit: Kit, refused: bytes) -> None:
        """What would only fail again, or may have been done, is asked once."""
        backend.script = lambda exchange: exchange.write(refused)

        status, _, err = await (await run(backend.url, *kit("m", "--whole", "Hello"))).end()

        assert (status, len(backend.requests)) == (1, 1)
        assert refused[9:12].decode() in err

    async def test_not_after_the_first_word(
        self, serve: Any, backend: FakeBackend, run: Run, kit: Kit
    ) -> None:
        """An answer that breaks off is not begun again: its words have been said."""
        program = await run((await serve()).url, *kit("m", "Hello"))
        exchange = await backend.next()
        await exchange.write(SSE, chunk(delta("one ")))
        await program.until("one ")

        exchange.cut()
        exchange.done.set()

        assert (await program.end())[0] == 1
        assert len(backend.requests) == 1

    async def test_counted_before_it_is_sent(self, start: Any, models: Path, run: Run, kit: Kit) -> None:
        """A prompt that does not fit is not sent; one whose bytes alone would be too many, but fits, is."""
        proxy = await start(ENGINE.format(models=models))

        too_long = await (await run(proxy.url, *kit("tiny-sea", "sail " * 2000))).end()
        long = await (await run(proxy.url, *kit("tiny-sea", "sail " * 300))).end()

        assert too_long[:2] == (1, "")
        assert re.fullmatch(r"the prompt has \d+ tokens, and tiny-sea takes 1024\n", too_long[2])
        assert (long[0], long[2]) == (0, "")
        assert long[1].split()


class TestPython:
    async def test_a_real_model(self, start: Any, models: Path, run: Run) -> None:
        """The answer of a model is printed."""
        proxy = await start(ENGINE.format(models=models))

        status, out, err = await (await run(proxy.url, *python("tiny-sea", "Hello"))).end()

        assert (status, err) == (0, "")
        assert len(out.split()) > 3

    async def test_as_it_is_made(self, serve: Any, backend: FakeBackend, run: Run) -> None:
        """A word is printed while the backend still holds back the next."""
        program = await run((await serve()).url, *python("m", "Hello"))
        exchange = await backend.next()

        await exchange.write(SSE, chunk(delta("one ")))
        assert await program.until("one ") == "one "
        await exchange.end(chunk(delta("two")), chunk(DONE), END)

        assert await program.end() == (0, "two\n", "")

    async def test_a_refusal(self, serve: Any, run: Run) -> None:
        """A refusal is told with its status, its code and the request's id."""
        program = await run((await serve()).url, *python("nope", "Hello"))

        status, out, err = await program.end()

        assert (status, out) == (1, "")
        assert err.startswith("404 model_not_found: ") and "req_" in err

    async def test_a_stream_that_breaks(self, serve: Any, backend: FakeBackend, run: Run) -> None:
        """An answer that broke off is told as such."""
        program = await run((await serve()).url, *python("m", "Hello"))
        exchange = await backend.next()
        await exchange.write(SSE, chunk(delta("one ")))
        await program.until("one ")

        exchange.cut()
        exchange.done.set()

        status, _, err = await program.end()
        assert (status, err[:21]) == (1, "the answer broke off:")

    async def test_interrupted(self, serve: Any, backend: FakeBackend, run: Run) -> None:
        """Ctrl-C stops the model."""
        program = await run((await serve()).url, *python("m", "Hello"))
        exchange = await backend.next()
        await exchange.write(SSE, chunk(delta("one ")))
        await program.until("one ")

        program.child.send_signal(signal.SIGINT)

        await exchange.abandoned(LEFT_S)
        exchange.done.set()
        assert (await program.end())[0] == 130


class TestTypeScript:
    async def test_a_real_model(self, start: Any, models: Path, run: Run, built: Path) -> None:
        """A model is bound to a schema, and its answer is a value of that type."""
        proxy = await start(ENGINE.format(models=models))

        status, out, err = await (await run(proxy.url, *node(built, "tiny-sea", "--port", "Where?"))).end()

        assert (status, err) == (0, "")
        assert out in ("Bergen\n", "Porto\n")

    async def test_as_it_is_made(self, serve: Any, backend: FakeBackend, run: Run, built: Path) -> None:
        """A word is printed while the backend still holds back the next."""
        program = await run((await serve()).url, *node(built, "m", "Hello"))
        exchange = await backend.next()

        await exchange.write(SSE, chunk(delta("one ")))
        assert await program.until("one ") == "one "
        await exchange.end(chunk(delta("two")), chunk(DONE), END)

        assert await program.end() == (0, "two\n", "")

    async def test_whole(self, serve: Any, backend: FakeBackend, run: Run, built: Path) -> None:
        """A whole answer is printed at once."""
        program = await run((await serve()).url, *node(built, "m", "--whole", "Hello"))

        await (await backend.next()).end(whole("Hello to you"))

        assert await program.end() == (0, "Hello to you\n", "")

    @pytest.mark.parametrize(
        ("option", "told"),
        [
            ("--whole", whole(None)),
            ("--whole", answer(b'{"model": "m", "choices": []}')),
            ("--port", whole("Somewhere")),
            ("--port", whole('{"port": "Atlantis"}')),
        ],
        ids=["no text", "no choice", "no JSON", "not in the schema"],
    )
    async def test_a_wrong_answer(
        self, serve: Any, backend: FakeBackend, run: Run, built: Path, option: str, told: bytes
    ) -> None:
        """An answer that is not what its type says is refused, whoever made it."""
        program = await run((await serve()).url, *node(built, "m", option, "Hello"))

        await (await backend.next()).end(told)

        status, out, err = await program.end()
        assert (status, out) == (1, "")
        assert err.startswith("the answer is not what it had to be: ")

    async def test_never_twice(self, serve: Any, backend: FakeBackend, run: Run, built: Path) -> None:
        """A 502 after which the work may have been done is not tried again: dmap says so."""
        program = await run((await serve()).url, *node(built, "m", "--whole", "Hello"))
        exchange = await backend.next()

        exchange.close()
        exchange.done.set()

        status, _, err = await program.end()
        assert (status, len(backend.requests)) == (1, 1)
        assert "502" in err and "backend_broke" in err

    @pytest.mark.parametrize("option", [(), ("--whole",)], ids=["streamed", "whole"])
    async def test_interrupted(
        self, serve: Any, backend: FakeBackend, run: Run, built: Path, option: tuple[str, ...]
    ) -> None:
        """Ctrl-C stops the model, whether it has begun to answer or not."""
        program = await run((await serve()).url, *node(built, "m", *option, "Hello"))
        exchange = await backend.next()

        program.child.send_signal(signal.SIGINT)

        await exchange.abandoned(LEFT_S)
        exchange.done.set()
        assert (await program.end())[0] == 130
