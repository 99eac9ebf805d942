"""A daemon whose models are commands: asked as an app asks, with servers of two makes, and killed."""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psutil
import pytest
from openai import AsyncOpenAI

from tests.models import SPECS, subjects
from tests.process import Process, daemon
from tests.projectors import make_projector
from tests.test_vision import PICTURE
from tests.test_vision import ask as ask_about

ROOT = Path(__file__).parent.parent
FIRST = 10_000 + 100 * (os.getpid() % 200)
HELLO: Any = [{"role": "user", "content": "Hello"}]
SPEECH = '''
"""Says in which voice it would speak, and takes forms; it has no chat, and tells nothing of itself."""
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Speech(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.path == "/up" else 404, b"{}")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/audio/speech" and b"nobody" not in body:
            return self.answer(200, json.loads(body)["input"].encode(), "audio/wav")
        if self.path == "/v1/audio/transcriptions":
            return self.answer(200, json.dumps({"text": f"{len(body)} bytes"}).encode())
        self.answer(404, b'{"detail":"Not Found"}')

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

print("speech", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Speech).serve_forever()
'''
CONFIG = """
devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 2}}}}
backends:
  box: {{kind: process, device: gpu0, ports: {first}-{last}, parallel: 2, stop_s: 5, load_s: 60}}
macros:
  llama: '{python} -m tests.llama_serve --port {{port}} -c {{context_length}} -np {{parallel}}'
models:
  sea: {{backend: box, cmd: '{{llama}} {models}/tiny-sea.gguf', env: {{PYTHONPATH: '{root}'}}}}
  kitchen: {{backend: box, cmd: '{{llama}} {models}/tiny-kitchen.gguf', env: {{PYTHONPATH: '{root}'}}}}
  slow: {{backend: box, cmd: '{{llama}} {models}/slow.gguf', env: {{PYTHONPATH: '{root}'}}}}
  speech: {{backend: box, cmd: '{python} {speech} {{port}}', ready: /up}}
  broken: {{backend: box, cmd: '{python} -c "print(1/0)"'}}
"""


def config(models: Path, tmp_path: Path) -> str:
    speech = tmp_path / "speech.py"
    speech.write_text(SPEECH)
    places = {"models": models, "root": ROOT, "python": sys.executable, "speech": speech}
    return CONFIG.format(first=FIRST, last=FIRST + 49, **places)


@asynccontextmanager
async def running(models: Path, tmp_path: Path) -> AsyncGenerator[tuple[Process, AsyncOpenAI]]:
    async with (
        asyncio.timeout(100),
        daemon(tmp_path, config(models, tmp_path)) as process,
        AsyncOpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield process, client


async def said(client: AsyncOpenAI, model: str) -> set[str]:
    """Ask *model* for a stream; return what its words are about."""
    stream = await client.chat.completions.create(model=model, messages=HELLO, max_tokens=40, stream=True)
    return subjects("".join([chunk.choices[0].delta.content or "" async for chunk in stream]))


async def test_commands_are_models_like_others(models, tmp_path):
    """They are listed, switched, asked by OpenAI's client, and each answers for itself."""
    async with running(models, tmp_path) as (process, client):
        listed = [model.id async for model in client.models.list()]
        answers = [await said(client, model) for model in ("sea", "kitchen", "sea")]
        children = process.engines

    assert listed == ["sea", "kitchen", "slow", "speech", "broken"]
    assert answers == [{"sea"}, {"kitchen"}, {"sea"}]
    assert len(children) == 1


async def test_servers_of_another_make(models, tmp_path):
    """A server for speech takes JSON and forms on its own routes."""
    async with running(models, tmp_path) as (_, client):
        spoken = await client.audio.speech.create(model="speech", voice="alloy", input="hear, hear")
        heard = await client.audio.transcriptions.create(model="speech", file=("a.wav", b"RIFF" * 100))

    assert spoken.content == b"hear, hear"
    assert heard.text.endswith(" bytes")


OTHERS = """\
  eyes:
    backend: box
    cmd: '{{llama}} {models}/tiny-sea.gguf --mmproj {eyes}'
    env: {{PYTHONPATH: '{root}'}}
  vectors:
    backend: box
    cmd: '{{llama}} {models}/tiny-embed.gguf --embeddings'
    env: {{PYTHONPATH: '{root}'}}
"""


async def test_pictures_and_vectors(models, tmp_path):
    """llama.cpp as a command is shown a picture, and makes embeddings, each by OpenAI's client."""
    eyes = make_projector(tmp_path / "eyes.gguf", SPECS["tiny-sea"].width)
    text = config(models, tmp_path) + OTHERS.format(models=models, eyes=eyes, root=ROOT)
    async with (
        asyncio.timeout(100),
        daemon(tmp_path, text) as process,
        AsyncOpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0) as client,
    ):
        seen = [
            await client.chat.completions.create(model="eyes", messages=ask_about(*images), max_tokens=30)
            for images in ((), (PICTURE,))
        ]
        made = await client.embeddings.create(model="vectors", input=["the sea", "a ship"])

    plain, shown = (answer.usage.prompt_tokens for answer in seen if answer.usage is not None)
    assert subjects(seen[1].choices[0].message.content) == {"sea"}
    assert shown - plain >= 4
    assert [len(each.embedding) for each in made.data] == [SPECS["tiny-embed"].width] * 2


async def test_a_route_that_a_server_lacks_is_remembered(models, tmp_path):
    """A server is loaded once to find out that it lacks a route; after that the route is refused before."""
    async with running(models, tmp_path) as (process, client):
        with pytest.raises(openai.NotFoundError):
            await said(client, "speech")
        assert await said(client, "sea") == {"sea"}
        with pytest.raises(openai.NotFoundError, match="has no /v1/chat/completions") as caught:
            await said(client, "speech")
        async with aiohttp.ClientSession(process.url) as session:
            ready = await get(session, "/ready")
        spoken = await client.audio.speech.create(model="speech", voice="alloy", input="still here")

    assert caught.value.code == "unknown_path"
    assert ready["devices"]["gpu0"]["residents"] == ["box/sea"]
    assert spoken.content == b"still here"


async def test_a_route_that_has_answered_is_not_taken_for_lacking(models, tmp_path):
    """Some servers say of a voice that they lack what others say of a route; that harms nobody else."""
    async with running(models, tmp_path) as (_, client):
        await client.audio.speech.create(model="speech", voice="alloy", input="one")
        with pytest.raises(openai.NotFoundError):
            await client.audio.speech.create(model="speech", voice="nobody", input="two")
        spoken = await client.audio.speech.create(model="speech", voice="alloy", input="three")

    assert spoken.content == b"three"


async def test_a_command_that_fails_is_told(models, tmp_path):
    """A client learns what the command said last, and that there is no use in trying again."""
    async with running(models, tmp_path) as (_, client):
        with pytest.raises(openai.InternalServerError) as caught:
            await said(client, "broken")

    assert (caught.value.status_code, caught.value.code) == (502, "model_load_failed")
    assert "it ended with status 1" in caught.value.message
    assert "ZeroDivisionError" in caught.value.message


LEAKY = """
access:
  keys:
    - {{name: app, sha256: {app}}}
    - {{name: owner, sha256: {owner}, scopes: [inference, debug]}}
devices: {{gpu0: {{max_models: 1}}}}
backends: {{box: {{kind: process, device: gpu0}}}}
models:
  leaky:
    backend: box
    cmd: >-
      {python} -c "import os, sys; print(os.environ['HF_TOKEN'], sys.argv); exit(1)" --api-key sk-of-box
    env: {{HF_TOKEN: "${{HF_TOKEN}}"}}
"""


async def test_what_a_server_says_is_its_owners(tmp_path):
    """A failed load tells an app why, and who may debug the last lines too; secrets in them reach nobody."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("app", "owner")}
    text = LEAKY.format(python=sys.executable, **digests)
    async with asyncio.timeout(100), daemon(tmp_path, text, HF_TOKEN="hf_secret") as process:
        told = {name: await refused(process, name) for name in digests}
        async with aiohttp.ClientSession(process.url, headers={"Authorization": "Bearer owner"}) as session:
            log = await get(session, "/debug/logs/leaky")

    assert told["app"].startswith("could not load box/leaky on 'gpu0': cannot load model 'leaky': it ended ")
    assert told["app"].endswith("; 'dmap logs' shows dmap's owner what its server has written")
    assert "; its last lines: *** ['-c', '--api-key', '***']" in told["owner"]
    assert "'--api-key', '***']" in log["lines"][-1]
    everything = "".join((*process.log, *told.values(), *log["lines"]))
    assert [secret for secret in ("hf_secret", "sk-of-box") if secret in everything] == []


async def refused(process: Process, key: str) -> str:
    """Ask for the model that does not load, with *key*; return the error."""
    async with AsyncOpenAI(base_url=f"{process.url}/v1", api_key=key, max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await said(client, "leaky")
    message: str = caught.value.body["message"]  # type: ignore[index]
    return message


async def test_the_log_of_a_model(models, tmp_path):
    """What a server has written is there over HTTP and in a terminal, and follows; others have no log."""
    async with running(models, tmp_path) as (process, client), aiohttp.ClientSession(process.url) as session:
        await client.audio.speech.create(model="speech", voice="alloy", input="hear")
        with pytest.raises(openai.InternalServerError):
            await said(client, "broken")
        first = await get(session, "/debug/logs/speech")
        none = await get(session, "/debug/logs/box%2Fspeech?after=1")
        absent = [await get(session, f"/debug/logs/{name}") for name in ("sea", "nobody", "sea?after=x")]
        broken = await get(session, "/debug/logs/broken")
        lines = await followed(process, client)

    assert (first, none) == (
        {"model": "speech", "backend": "box", "last": 1, "lines": ["speech"]},
        {"model": "speech", "backend": "box", "last": 1, "lines": []},
    )
    assert [answer["error"]["code"] for answer in absent] == [
        "model_not_found",
        "model_not_found",
        "invalid_request",
    ]
    assert broken["lines"][-1].startswith("ZeroDivisionError")
    assert lines == [b"speech\n", b"speech\n"]


async def followed(process: Process, client: AsyncOpenAI) -> list[bytes]:
    """Return the first line of `dmap logs -f` for a model, and one of its next start."""
    shown = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dmap", "logs", "-f", "speech"),
        env={"DMAP_URL": process.url},
        stdout=asyncio.subprocess.PIPE,
    )
    assert shown.stdout is not None
    lines = [await shown.stdout.readline()]
    await said(client, "sea")
    await client.audio.speech.create(model="speech", voice="alloy", input="hear")
    lines.append(await shown.stdout.readline())
    shown.send_signal(signal.SIGINT)
    assert await shown.wait() == 130
    return lines


async def get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as answer:
        return await answer.json()


async def test_a_killed_server_is_replaced(models, tmp_path):
    """A stream whose server is killed is an error, never a short answer; the next request is served."""
    async with running(models, tmp_path) as (process, client):
        stream = await client.chat.completions.create(
            model="slow", messages=HELLO, max_tokens=1500, stream=True
        )
        await anext(aiter(stream))

        os.kill(process.engines[0], signal.SIGKILL)

        with pytest.raises(openai.APIError):
            [chunk async for chunk in stream]
        assert await said(client, "slow") == {"kitchen"}


async def test_another_command_takes_no_restart(models, tmp_path):
    """After a reload a model whose command has changed is started anew with its next request."""
    async with running(models, tmp_path) as (process, client):
        assert await said(client, "sea") == {"sea"}
        path = tmp_path / "config.yaml"
        path.write_text(path.read_text().replace("tiny-sea.gguf", "tiny-kitchen.gguf"))

        process.child.send_signal(signal.SIGHUP)
        while not [line for line in process.log if " reloaded" in line]:
            await asyncio.sleep(0.01)

        assert await said(client, "sea") == {"kitchen"}


async def test_a_model_taken_out_is_ended(models, tmp_path):
    """After a reload nothing is left of a model that the file has no more, and no list has it."""
    async with running(models, tmp_path) as (process, client):
        assert await said(client, "sea") == {"sea"}
        (server,) = map(psutil.Process, process.engines)
        path = tmp_path / "config.yaml"
        path.write_text(path.read_text().replace("  sea:", "  lake:"))

        process.child.send_signal(signal.SIGHUP)

        assert await asyncio.to_thread(psutil.wait_procs, [server], 20) == ([server], [])
        while "sea" in (listed := [model.id async for model in client.models.list()]):
            await asyncio.sleep(0.05)
        assert "lake" in listed and await said(client, "lake") == {"sea"}


async def test_nothing_outlives_a_killed_daemon(models, tmp_path):
    """A kill -9 of dmap ends its servers at once, and the next dmap serves the same ports."""
    text = config(models, tmp_path)
    async with asyncio.timeout(100):
        with pytest.raises(AssertionError):  # of the context: the daemon has not ended well
            async with daemon(tmp_path, text) as first:
                await ask(first, "sea")
                servers = [psutil.Process(pid) for pid in first.engines]
                first.child.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, servers, 30)
        async with daemon(tmp_path, text) as second:
            await ask(second, "sea")

    assert (len(servers), alive) == (1, [])


async def ask(process: Process, model: str) -> None:
    body = {"model": model, "messages": HELLO, "max_tokens": 5}
    url = f"{process.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        assert answer.status == 200, await answer.text()
