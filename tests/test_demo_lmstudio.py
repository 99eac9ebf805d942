"""`make demo-lmstudio` as a process, as a person would start it."""

import asyncio
import json
import re
import shlex
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import pytest

from tests.demo_lmstudio import MODELS
from tests.fakes import HERE_S

ROOT = Path(__file__).parents[1]


@pytest.fixture
async def demo() -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run the demo on a free port; it must end well."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.demo_lmstudio", "--port", "0", "--load-s", "0.1"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield child
        child.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), HERE_S) == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def until(child: asyncio.subprocess.Process, pattern: str) -> list[str]:
    """Read up to a line that matches *pattern*; return all lines."""
    assert child.stdout is not None
    lines = [""]
    async with asyncio.timeout(HERE_S):
        while not re.search(pattern, lines[-1]):
            line = await child.stdout.readline()
            assert line, f"no line like {pattern!r} in {lines}"
            lines.append(line.decode())
    return lines


async def test_its_two_lines(demo: asyncio.subprocess.Process) -> None:
    """Each of the two curl lines is answered by its model, and one line tells of the switch."""
    lines = await until(demo, "Ctrl-C")
    curls = [shlex.split(line) for line in lines if line.strip().startswith("curl")]

    for (*_, url, _, _, _, body), model in zip(curls, MODELS, strict=True):
        asked = {**json.loads(body), "max_tokens": 2}
        async with aiohttp.ClientSession() as session, session.post(url, json=asked) as answer:
            text = await answer.text()
        switches = await until(demo, "switch device")

        assert (answer.status, text.endswith("data: [DONE]\n\n")) == (200, True)
        assert f'"content": "{model} "' in text
        assert f"load=studio/{model} " in switches[-1]


def test_make_has_it() -> None:
    """The target starts this very module, and is phony."""
    makefile = (ROOT / "Makefile").read_text()

    assert re.search(
        r"^demo-lmstudio:.*\n\t\$\(BIN\)/python -m tests.demo_lmstudio --port", makefile, re.MULTILINE
    )
    assert re.search(r"^\.PHONY:.* demo-lmstudio ", makefile, re.MULTILINE)
