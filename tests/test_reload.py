"""SIGHUP: another configuration for a daemon that runs, and nobody who is served notices."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai import AsyncOpenAI

from tests.fakes import HERE_S
from tests.process import Process, daemon

CONFIG = """
devices:
  gpu0: {{max_models: 1, cooldown_s: 0, wait_s: {wait_s}}}
backends:
  engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 1, context_length: 2048, threads: 1}}
allow_models: [{allowed}]
models:
  tiny-sea: {{defaults: {{max_tokens: {tokens}}}}}
"""
HELLO: Any = [{"role": "user", "content": "Hello"}]


class Running:
    """A daemon, and the file that it reads again."""

    def __init__(self, process: Process, file: Path, models: Path) -> None:
        self.process, self.file, self.models = process, file, models

    def text(self, *, tokens: int = 5, allowed: str = "'*'", wait_s: int = 60) -> str:
        return CONFIG.format(models=self.models, tokens=tokens, allowed=allowed, wait_s=wait_s)

    async def reload(self, text: str, *, times: int = 1) -> None:
        """Write *text* into the file and have it read; return when the daemon has said what came of it."""
        self.file.write_text(f"listen: {{port: 0}}\n{text}")
        for _ in range(times):
            told = len(self.answers)
            self.process.child.send_signal(signal.SIGHUP)
            async with asyncio.timeout(HERE_S):
                while len(self.answers) == told:
                    await asyncio.sleep(0.002)

    @contextmanager
    def at_rest(self) -> Generator[None]:
        """Have its engine stand still: a stream that it gives lasts as long as that."""
        (engine,) = map(psutil.Process, self.process.engines)
        engine.suspend()
        try:
            yield
        finally:
            engine.resume()

    @property
    def answers(self) -> list[str]:
        return [line for line in self.process.log if re.search(r"\breload(ed|_refused)\b", line)]


@pytest.fixture
async def running(models: Path, tmp_path: Path) -> AsyncGenerator[Running]:
    text = CONFIG.format(models=models, tokens=5, allowed="'*'", wait_s=60)
    async with daemon(tmp_path, text) as process:
        yield Running(process, tmp_path / "config.yaml", models)


@pytest.fixture
async def client(running: Running) -> AsyncGenerator[AsyncOpenAI]:
    url = f"{running.process.url}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def tokens(client: AsyncOpenAI, model: str = "tiny-sea") -> int:
    answer = await client.chat.completions.create(model=model, messages=HELLO)
    assert answer.usage is not None
    return answer.usage.completion_tokens


async def test_what_is_new_holds_for_the_next_request(client: AsyncOpenAI, running: Running) -> None:
    """A default that was changed in the file holds from the reload on, and the resident stays."""
    before = await tokens(client)
    engines = running.process.engines

    await running.reload(running.text(tokens=9))

    assert (before, await tokens(client)) == (5, 9)
    assert running.process.engines == engines


async def test_what_its_owner_may_not_want_is_told(running: Running) -> None:
    """A key that has expired already is warned of, as it is at the start."""
    key = f"{{name: old, sha256: {'a' * 64}, expires: 2020-01-01}}"

    await running.reload(running.text() + f"access: {{keys: [{key}]}}\n")

    assert any("'old' expired on 2020-01-01" in line for line in running.process.log)


async def test_the_form_of_the_log(running: Running) -> None:
    """What the file says of the log holds from the reload on."""
    await running.reload(running.text() + "log: {format: json, timestamps: false}\n")

    assert json.loads(running.answers[0]) == {"level": "INFO", "logger": "dmap.daemon", "event": "reloaded"}


async def test_a_file_that_is_wrong_changes_nothing(client: AsyncOpenAI, running: Running) -> None:
    """A file with mistakes is refused whole, each mistake in the log; dmap goes on as before."""
    await running.reload(running.text(tokens=9) + "sever: {}\n")

    assert await tokens(client) == 5
    line = len(running.file.read_text().splitlines())
    assert f"{running.file}:{line}:1: sever: no such key; did you mean server?" in running.answers[0]


@pytest.mark.parametrize("more", ["x", "listen"])
async def test_what_takes_a_restart_is_told(client: AsyncOpenAI, running: Running, more: str) -> None:
    """Another backend or another address is refused with the reason."""
    text = running.text(tokens=9)
    changed = {
        "x": text.replace("backends:", "backends:\n  x: {kind: openai, url: 'http://h'}"),
        "listen": text,
    }[more]
    running.file.write_text(f"listen: {{port: {0 if more == 'x' else 1}}}\n{changed}")

    running.process.child.send_signal(signal.SIGHUP)
    await asyncio.wait_for(told(running), HERE_S)

    assert "takes a restart" in running.answers[0]
    assert await tokens(client) == 5


async def told(running: Running) -> None:
    while not running.answers:
        await asyncio.sleep(0.002)


async def test_who_waits_for_a_model_that_is_gone(client: AsyncOpenAI, running: Running) -> None:
    """When a model is taken out, its stream goes on to its end and those who wait for it get 404."""
    stream = await client.chat.completions.create(model="slow", messages=HELLO, max_tokens=300, stream=True)
    first = await anext(aiter(stream))
    with running.at_rest():
        waiting = asyncio.ensure_future(tokens(client, "slow"))
        await until_waiting(client, 1)

        await running.reload(running.text(allowed="tiny-sea"))

        with pytest.raises(openai.NotFoundError):
            await waiting
    rest = [chunk async for chunk in stream]
    assert first.model == "slow" and rest[-1].choices[0].finish_reason == "length"
    assert await tokens(client) == 5


async def test_a_device_is_configured_anew(client: AsyncOpenAI, running: Running) -> None:
    """Bounds of a device that were changed hold for those who wait already."""
    stream = await client.chat.completions.create(model="slow", messages=HELLO, max_tokens=1500, stream=True)
    await anext(aiter(stream))
    with running.at_rest():
        waiting = asyncio.ensure_future(tokens(client))
        await until_waiting(client, 1)

        await running.reload(running.text(wait_s=1))

        with pytest.raises(openai.InternalServerError) as refused:
            await waiting
    assert refused.value.status_code == 503
    await stream.close()


async def test_a_hundred_reloads_under_load(client: AsyncOpenAI, running: Running) -> None:
    """A hundred reloads touch no stream and refuse no request."""
    stream = await client.chat.completions.create(model="slow", messages=HELLO, max_tokens=300, stream=True)
    streaming = asyncio.ensure_future(anything(stream))
    asking = [asyncio.ensure_future(tokens(client)) for _ in range(20)]

    await running.reload(running.text(), times=100)

    assert (await streaming)[-1].choices[0].finish_reason == "length"
    assert await asyncio.gather(*asking) == [5] * 20
    assert len(running.answers) == 100


async def anything(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


async def until_waiting(client: AsyncOpenAI, count: int) -> None:
    """Wait until *count* requests wait at the device."""
    url = "http://" + str(client.base_url).split("/")[2] + "/ready"
    async with asyncio.timeout(HERE_S):
        while (await client.get(url, cast_to=object))["devices"]["gpu0"]["waiting"] != count:  # type: ignore[index]
            await asyncio.sleep(0.005)
