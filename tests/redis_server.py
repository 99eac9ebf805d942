"""A real redis-server of a test's own, which may be killed, stopped, filled and started again."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from dmap.shared.connection import Away, Connection
from tests.fakes import HERE_S
from tests.ports import free_port
from tests.programs import find

PATIENT_MS = 1000 * round(HERE_S)
"""A `timeout_ms` that no owner may set, for what is not about it: the machine may stand still for seconds."""


@dataclass
class RedisServer:
    """The server on *port* of loopback; it keeps nothing on the disk."""

    folder: Path
    port: int
    _child: asyncio.subprocess.Process | None = field(default=None)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        program = find("redis-server")
        assert program is not None, "tests that need it are skipped without"
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self.folder}
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        self._child = await asyncio.create_subprocess_exec(
            program, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(HERE_S):
            while not self._answers():
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """Kill it, with all that it has."""
        assert self._child is not None
        with suppress(ProcessLookupError):
            self._child.kill()
        await self._child.wait()

    def stop(self) -> None:
        """Have it stand still; its connections stay."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on where it stood."""
        self._signal(signal.SIGCONT)

    def fill(self) -> None:
        """Have it refuse to write, as one whose memory is full does."""
        self("CONFIG", "SET", "maxmemory", "1")

    def empty(self) -> None:
        """Have it write again."""
        self("CONFIG", "SET", "maxmemory", "0")

    def __call__(self, *command: Any) -> Any:
        """Return its answer to *command*."""
        with redis.Redis(port=self.port, decode_responses=True, socket_timeout=HERE_S) as client:
            return client.execute_command(*command)

    def _answers(self) -> bool:
        with suppress(redis.RedisError):
            return bool(self("PING"))
        return False

    def _signal(self, number: int) -> None:
        assert self._child is not None
        os.kill(self._child.pid, number)


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncGenerator[RedisServer]:
    """Run a server on a port of its own."""
    server = RedisServer(folder, free_port())
    await server.start()
    try:
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.go_on()
        await server.kill()


async def reach(connection: Connection) -> None:
    """Probe until *connection* is up; one probe may come to nothing where the machine stands still."""
    async with asyncio.timeout(HERE_S):
        while not connection.is_up:
            with suppress(Away):
                await connection.probe("test", "PING")
