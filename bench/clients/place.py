"""A daemon with real engines, and what happens to it while a client asks."""

import asyncio
import hashlib
import os
import re
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from tests.models import SPECS
from tests.process import Process, daemon
from tests.projectors import make_projector

KEY, CROWD = "driver-key", "crowd-key"
"""Of the client that is looked at, and of those who are in its way."""
MODELS = ("tiny-sea", "tiny-kitchen", "tiny-embed", "slow")
CONFIG = """
devices:
  gpu0: {{max_models: 1, cooldown_s: 0, queue: 1}}
  gpu1: {{max_models: 1, cooldown_s: 0, wait_s: 3}}
backends:
  engine: {{kind: gguf, path: {folder}/one, device: gpu0, context_length: 2048, threads: 1, parallel: 2}}
  other: {{kind: gguf, path: {folder}/two, device: gpu1, context_length: 2048, threads: 1, parallel: 2}}
server: {{heartbeat_s: 0.2}}
access:
  cors: ["*"]
  keys: [{{name: driver, sha256: "{driver}"}}, {{name: crowd, sha256: "{crowd}"}}]
"""
WAIT_S = 60.0
LONG = 1800
"""Tokens of an answer that holds its device."""


class Place:
    """The daemon *process*, and those who are in a client's way."""

    def __init__(self, process: Process, session: aiohttp.ClientSession) -> None:
        self.process = process
        self._session = session

    @asynccontextmanager
    async def held(self, model: str) -> AsyncGenerator[None]:
        """Have somebody's long answer by *model* under way, which ends with the context."""
        async with self._session.post("/v1/chat/completions", json=_long(model)) as answer:
            while not (await answer.content.readline()).startswith(b"data:"):
                assert not answer.content.at_eof()
            yield
            answer.close()

    @asynccontextmanager
    async def waiting(self, model: str) -> AsyncGenerator[None]:
        """Have somebody wait for *model*."""
        task = asyncio.create_task(self._ask(model))
        await self.until(self.has_waiter)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _ask(self, model: str) -> None:
        async with self._session.post("/v1/chat/completions", json=_long(model)) as answer:
            await answer.read()

    async def has_waiter(self) -> bool:
        """Tell whether anybody waits."""
        async with self._session.get("/ready") as answer:
            told = await answer.json()
        return any(device["waiting"] for device in told["devices"].values())

    async def until(self, holds) -> None:  # type: ignore[no-untyped-def]
        """Wait until *holds* does."""
        async with asyncio.timeout(WAIT_S):
            while not await holds():
                await asyncio.sleep(0.05)

    def since(self, mark: int, pattern: str) -> list[re.Match[str]]:
        """Return what the log, after *mark* lines, tells of the client's requests that fits *pattern*."""
        lines = (line for line in self.process.log[mark:] if " client=driver " in line)
        return [found for line in lines if (found := re.search(pattern, line))]

    async def until_logged(self, mark: int, pattern: str) -> None:
        """Wait for a line after *mark* that fits *pattern*."""

        async def logged() -> bool:
            return bool(self.since(mark, pattern))

        await self.until(logged)

    def kill_engines(self) -> None:
        """Kill the engines as the kernel does where memory runs out."""
        for pid in self.process.engines:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _long(model: str) -> dict[str, object]:
    hello = [{"role": "user", "content": "Hello"}]
    return {"model": model, "messages": hello, "max_tokens": LONG, "stream": True}


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@asynccontextmanager
async def place(folder: Path, models: Path) -> AsyncGenerator[Place]:
    """Run a daemon over `MODELS`, whose files are in *models*; what it needs is written to *folder*."""
    one, two = folder / "one", folder / "two"
    (one / "eyes").mkdir(parents=True)
    for name in MODELS:
        (one / f"{name}.gguf").symlink_to(models / f"{name}.gguf")
    (one / "eyes/seeing.gguf").symlink_to(one / "tiny-sea.gguf")
    make_projector(one / "eyes/mmproj-f32.gguf", SPECS["tiny-sea"].width)
    two.mkdir()
    (two / "late.gguf").symlink_to(one / "tiny-sea.gguf")
    (two / "holder.gguf").symlink_to(one / "slow.gguf")
    config = CONFIG.format(folder=folder, driver=_digest(KEY), crowd=_digest(CROWD))
    headers = {"Authorization": f"Bearer {CROWD}"}
    async with (
        daemon(folder, config) as process,
        aiohttp.ClientSession(process.url, headers=headers) as session,
    ):
        yield Place(process, session)
