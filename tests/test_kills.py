"""Engines that die, clients that vanish: what the others get, and what is left behind."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from dmap.process import launch, marks
from tests.fakes import HERE_S
from tests.process import Process, daemon

CONFIG = """
devices:
  gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 2}}
backends:
  engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 1, context_length: 2048, threads: 1}}
"""
HELLO: Any = [{"role": "user", "content": "Hello"}]
MARK = (sys.executable, "-c", "from dmap.process import marks; print(marks.new().limit)")
STILL_S = 10
"""How long this machine may stand still meanwhile; who is starved waits until the others end."""
POINTS = random.Random(7).sample(range(1, 120), 10)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Process]:
    """Run a daemon whose models serve one request at a time, for all tests of a worker."""
    async with daemon(tmp_path_factory.mktemp("daemon"), CONFIG.format(models=models)) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(running: Process) -> AsyncGenerator[AsyncOpenAI]:
    async with client_of(running) as client:
        yield client


def client_of(process: Process) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("chunks", POINTS)
async def test_engine_killed_in_mid_stream(client: AsyncOpenAI, running: Process, chunks: int) -> None:
    """The client of a stream whose engine is killed gets an error, never a short answer; others go on."""
    stream = await long_stream(client)
    for _ in range(chunks):
        await anext(aiter(stream))

    engine = running.engines[0]
    os.kill(engine, signal.SIGKILL)

    with pytest.raises(openai.APIError):
        [chunk async for chunk in stream]
    await until(lambda: engine not in running.engines)
    assert await answered_by(client, "slow") == "slow"


async def test_engine_killed_in_mid_load(models: Path, tmp_path: Path) -> None:
    """A load whose engine is killed is told as a failed load with its reason; other models go on."""
    async with daemon(tmp_path, CONFIG.format(models=models)) as own, client_of(own) as client:
        asking = asyncio.ensure_future(answered_by(client, "slow"))
        await until(lambda: bool(own.engines))

        os.kill(own.engines[0], signal.SIGKILL)

        with pytest.raises(openai.InternalServerError) as caught:
            await asking
        assert caught.value.status_code == 502 and caught.value.code == "model_load_failed"
        assert await answered_by(client, "tiny-sea") == "tiny-sea"


async def test_client_that_leaves_frees_its_slot(client: AsyncOpenAI, running: Process) -> None:
    """The slot of a client that leaves in mid-stream is free for the next within 0.1 s."""
    freed_s = [await left(client) for _ in range(5)]

    assert min(freed_s) < 0.1  # of four processes and this machine some may be late, but not each time


async def test_client_that_leaves_the_queue_causes_no_switch(client: AsyncOpenAI, running: Process) -> None:
    """A client that leaves while it waits for another model takes its wish along."""
    stream = await long_stream(client)
    await anext(aiter(stream))
    before = len(running.log)
    waiting = asyncio.ensure_future(answered_by(client, "tiny-sea"))
    await until_waiting(client, 1)

    waiting.cancel()
    await until_waiting(client, 0)
    await stream.close()

    assert await answered_by(client, "slow") == "slow"
    assert not [line for line in running.log[before:] if "load=engine/tiny-sea" in line]


async def test_lone_client_beside_two_overlapping_ones(client: AsyncOpenAI) -> None:
    """One client of B is served within patience + drain + load beside two that keep A busy without a gap."""
    stop = asyncio.Event()
    await answered_by(client, "tiny-sea")
    there_s = await timed(answered_by(client, "slow"))  # a load and an answer, on this machine
    busy = [asyncio.ensure_future(ask_until(client, "slow", stop)) for _ in range(2)]
    await until_waiting(client, 1)

    waits = [await timed(answered_by(client, "tiny-sea")) for _ in range(3)]
    stop.set()
    await asyncio.gather(*busy)

    served_s = 2 + 3 * max(there_s, 1.5)  # patience; answers of `slow` that drain and precede; loads
    assert max(waits) < served_s + STILL_S


async def test_nothing_outlives_the_daemon(models: Path, tmp_path: Path) -> None:
    """When the daemon is ended its engines end too."""
    async with daemon(tmp_path, CONFIG.format(models=models)) as own, client_of(own) as client:
        await answered_by(client, "tiny-sea")
        engines = [psutil.Process(pid) for pid in own.engines]

        own.child.send_signal(signal.SIGTERM)
        await own.child.wait()

    assert engines
    assert psutil.wait_procs(engines, timeout=10)[1] == []


async def test_what_a_killed_daemon_left_is_ended(models: Path, tmp_path: Path) -> None:
    """A start ends what the children of a dmap that is dead have left, before it serves anybody."""
    mark = subprocess.run(MARK, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    launched = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(marks.LIMIT), mark)
    command = (*launched, sys.executable, "-c", "print(1, flush=True); import time; time.sleep(300)")
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as orphan:
        assert orphan.stdout is not None
        orphan.stdout.readline()
        async with daemon(tmp_path, CONFIG.format(models=models)):
            assert orphan.poll() == -signal.SIGKILL


async def long_stream(client: AsyncOpenAI) -> Any:
    """Begin a stream that lasts seconds."""
    return await client.chat.completions.create(model="slow", messages=HELLO, max_tokens=1500, stream=True)


async def answered_by(client: AsyncOpenAI, model: str) -> str:
    """Ask *model* for a little; return who answered."""
    return (await client.chat.completions.create(model=model, messages=HELLO, max_tokens=20)).model


async def ask_until(client: AsyncOpenAI, model: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await answered_by(client, model)


async def left(client: AsyncOpenAI) -> float:
    """Leave a stream for which another waits; return after how long that one does not wait any more."""
    stream = await long_stream(client)
    await anext(aiter(stream))
    waiting = asyncio.ensure_future(answered_by(client, "slow"))
    await until_waiting(client, 1)
    began = asyncio.get_running_loop().time()
    await stream.close()
    await until_waiting(client, 0)
    freed_s = asyncio.get_running_loop().time() - began
    assert await waiting == "slow"
    return freed_s


async def timed(work: Any) -> float:
    started = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - started


async def until(ready: Callable[[], bool]) -> None:
    """Wait for what only the process table shows."""
    async with asyncio.timeout(HERE_S):
        while not ready():
            await asyncio.sleep(0.001)


async def until_waiting(client: AsyncOpenAI, count: int) -> None:
    """Wait until *count* requests wait at the device."""
    async with asyncio.timeout(HERE_S):
        while (await state(client))["waiting"] != count:
            await asyncio.sleep(0.002)


async def state(client: AsyncOpenAI) -> dict[str, Any]:
    answer = await client.get("http://" + str(client.base_url).split("/")[2] + "/ready", cast_to=object)
    assert isinstance(answer, dict)
    return answer["devices"]["gpu0"]  # type: ignore[no-any-return]
