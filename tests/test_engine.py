"""The engine's process by itself: its one line, its ends, its refusals."""

import asyncio
import json
import os
import signal
import sys

import aiohttp
import pytest

from dmap.backends.gguf import engine
from dmap.backends.gguf.engine import KEY_VARIABLE
from dmap.extras import how
from tests.fakes import HERE_S

KEY = "a-key-for-tests"


@pytest.fixture
async def start():
    started = []

    async def run(model, **environment):
        served = {"model": str(model), "alias": "it", "embedding": False}
        options = {"context_length": 2048, "parallel": 1, "cpu_threads": 1}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", engine.__file__, json.dumps(served | options)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, KEY_VARIABLE: KEY, **environment},
        )
        started.append(process)
        return process

    async with asyncio.timeout(HERE_S):
        yield run
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ready_port(process) -> int:
    word, port = (await process.stdout.readline()).split()
    assert word == b"READY"
    return int(port)


async def test_the_end_of_its_input_ends_it(start, models):
    """An engine whose parent lets go of its standard input ends by itself."""
    process = await start(models / "tiny-sea.gguf")
    await ready_port(process)

    process.stdin.close()

    assert await process.wait() == 0


async def test_sigterm_ends_it_on_the_spot_while_it_streams(start, models):
    """SIGTERM does not wait for a stream."""
    process = await start(models / "slow.gguf")
    url = f"http://127.0.0.1:{await ready_port(process)}/v1/completions"
    body = {"prompt": "soup", "stream": True, "max_tokens": 2000}
    async with aiohttp.ClientSession() as session:
        answer = await session.post(url, json=body, headers={"Authorization": f"Bearer {KEY}"})
        assert (await answer.content.readline()).startswith(b"data: ")

        process.terminate()

        assert await process.wait() == -signal.SIGTERM
        answer.close()


async def test_ctrl_c_is_left_to_the_parent(start, models):
    """SIGINT does not end an engine."""
    process = await start(models / "tiny-sea.gguf")
    port = await ready_port(process)

    process.send_signal(signal.SIGINT)

    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/health") as answer:
        assert answer.status == 200


async def refused(*options, **environment) -> str:
    """Have an engine look at its devices where it cannot; return what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", *options, engine.__file__),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    stdout, stderr = await process.communicate()
    assert (process.returncode, stdout) == (engine.UNUSABLE, b"")
    return stderr.decode()


async def test_a_missing_engine_says_what_to_install():
    """Without xllamacpp the reason names the command that installs it, the one for all extras."""
    assert await refused("-S") == f"dmap.engine: the engine is not installed; {how('engine')}\n"


async def test_a_missing_engine_loads_nothing(start, models, tmp_path):
    """A load says the same as a look."""
    (tmp_path / "xllamacpp.py").write_text("raise ModuleNotFoundError('gone', name='xllamacpp')")

    process = await start(models / "tiny-sea.gguf", PYTHONPATH=str(tmp_path))
    _, stderr = await process.communicate()

    assert process.returncode == engine.UNUSABLE
    assert stderr.decode() == f"dmap.engine: the engine is not installed; {how('engine')}\n"


async def test_a_broken_wheel(tmp_path):
    """An engine whose library the linker refuses is told with the linker's reason."""
    broken = tmp_path / "xllamacpp"
    broken.mkdir()
    (broken / "__init__.py").write_text("from xllamacpp.xllamacpp import *")
    (broken / "xllamacpp.abi3.so").write_text("half a download")

    said = await refused(PYTHONPATH=str(tmp_path))

    assert said.startswith(f"dmap.engine: the engine cannot be imported ({broken}/xllamacpp.abi3.so: ")
    assert said.endswith("); docs/gpu.md tells which build fits this host\n")


async def test_another_version(tmp_path):
    """An engine without the words that dmap uses is told with its version, before anything is loaded."""
    (tmp_path / "xllamacpp.py").write_text("__version__ = '0.0.1'\nclass CommonParams: __slots__ = ()")

    said = await refused(PYTHONPATH=str(tmp_path))

    assert said.startswith("dmap.engine: xllamacpp 0.0.1 is not one that dmap can use (")
    assert said.endswith(f"); {how('engine')}\n")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/slots"), ("POST", "/props"), ("GET", "/metrics"), ("GET", "/"), ("GET", "/tools")],
)
async def test_doors_that_nobody_needs_are_closed(start, models, method, path):
    """Even with the key there is no web page, no view of slots and no way to change the server."""
    process = await start(models / "tiny-sea.gguf")
    url = f"http://127.0.0.1:{await ready_port(process)}{path}"
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.request(method, url) as answer:
        assert answer.status in (403, 404, 405, 501)


async def test_the_key_is_nowhere_on_the_command_line(start, models):
    """Who lists the processes of the machine does not see the key."""
    process = await start(models / "tiny-sea.gguf")
    await ready_port(process)

    with open(f"/proc/{process.pid}/cmdline", "rb") as file:
        assert KEY.encode() not in file.read()
