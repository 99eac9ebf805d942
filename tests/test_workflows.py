"""`docs/workflows.md`: each block is run as it stands, and answers as it says."""

import asyncio
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import HERE_S
from tests.lmstudio_emulator import Knobs, emulator
from tests.process import daemon
from tests.programs import why_not

PAGE = (Path(__file__).parents[1] / "docs" / "workflows.md").read_text()
WORKFLOWS = dict(re.findall(r"^## ([^\n]+)\n(.+?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
BLOCKS = re.compile(r"^```(yaml|sh|json|text)\n(.+?)^```$", re.MULTILINE | re.DOTALL)
KEYS = {"WEBUI_KEY": "dmap-of-the-webui", "OWNER_KEY": "dmap-of-the-owner"}
HASHES = {f"{name}_SHA256": hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}


@pytest.mark.skipif(bool(why_not("curl")), reason=why_not("curl"))
@pytest.mark.parametrize("title", WORKFLOWS)
async def test_a_workflow(title: str, tmp_path: Path) -> None:
    """A reader who copies the blocks of a workflow gets what the page says."""
    blocks = BLOCKS.findall(WORKFLOWS[title])
    assert [blocks[0][0], *(kind for kind, _ in blocks[1::2])] == ["yaml"] + ["sh"] * (len(blocks) // 2)

    async with emulator(knobs=Knobs(load_s=0.05)) as server:
        config = blocks[0][1].replace("http://127.0.0.1:1234", server.url)
        async with daemon(tmp_path, config, **HASHES) as process:
            answers = [await run(script, process.url, tmp_path) for _, script in blocks[1::2]]

    for (kind, told), said in zip(blocks[2::2], answers, strict=True):
        assert_like(kind, told, said.replace(server.url, "http://127.0.0.1:1234"))


async def run(script: str, url: str, folder: Path) -> str:
    """Run *script* in *folder*; return what it prints."""
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-c", script.replace("http://127.0.0.1:8000", url)),
        cwd=folder,
        env={**os.environ, **KEYS},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asyncio.wait_for(shell.communicate(), HERE_S)
    return said.decode()


def assert_like(kind: str, told: str, said: str) -> None:
    """Compare what was printed with the page, where `…` stands for anything."""
    if kind == "json":
        assert like(json.loads(told), json.loads(said)) == json.loads(told)
    else:
        assert re.fullmatch(re.escape(told).replace("…", ".+"), said), said


def like(told: Any, said: Any) -> Any:
    """Return *said* with `…` wherever *told* has it."""
    if told == "…":
        return told
    if isinstance(told, dict) and isinstance(said, dict):
        return {name: like(told.get(name), value) for name, value in said.items()}
    return said
