"""`dmap serve` as a process of its own, as a service manager would start it."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.fakes import HERE_S


@dataclass
class Process:
    """A running daemon: where it listens, what it logs, and the exit code that it has to end with."""

    child: asyncio.subprocess.Process
    url: str = ""
    ends_with: int = 0
    log: list[str] = field(default_factory=list)
    _reading: asyncio.Task[None] | None = None

    @property
    def engines(self) -> list[int]:
        """The process ids of its engines."""
        return [child.pid for child in psutil.Process(self.child.pid).children()]

    async def until_logged(self, pattern: str) -> str:
        """Read the log until a line matches *pattern*; return that line."""
        assert self.child.stderr is not None
        async with asyncio.timeout(HERE_S):
            while line := (await self.child.stderr.readline()).decode():
                self.log.append(line)
                if re.search(pattern, line):
                    return line
        raise AssertionError(f"the daemon ended without a line like {pattern!r}: {self.log}")

    def keep_reading(self) -> None:
        """Read the log from now on, so that the daemon never waits for us."""
        self._reading = asyncio.create_task(self.drain_log())

    async def ended(self) -> int:
        """Wait for the end of the process and for its last words; return the exit code."""
        code = await self.child.wait()
        if self._reading is not None:
            await self._reading
        return code

    async def drain_log(self) -> None:
        """Read the log to its end."""
        assert self.child.stderr is not None
        while line := (await self.child.stderr.readline()).decode():
            self.log.append(line)


@asynccontextmanager
async def daemon(
    folder: Path,
    config: str | None,
    program: tuple[str, ...] = ("-m", "dmap"),
    listen: str = "{port: 0}",
    options: tuple[str, ...] = (),
    **environment: str,
) -> AsyncGenerator[Process]:
    """
    Run `serve` with *options*, *config* and *listen*, in YAML, its state in *folder*; it must end well.

    With None for *config* there is no file.
    """
    path = folder / "config.yaml"
    path.write_text(f"listen: {listen}\n{config}")
    file = () if config is None else (str(path),)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, *program, "serve", *options, *file),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "STATE_DIRECTORY": str(folder / "state"), **environment},
    )
    process = Process(child)
    line = await process.until_logged(r"listening url=")
    process.url = re.search(r"url=(\S+)", line)[1]  # type: ignore[index]
    process.keep_reading()
    try:
        yield process
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.ended(), HERE_S) == process.ends_with, process.log[-20:]
