"""
One child process from its start until it is reaped.

A child is owned by one task that nobody cancels.  Whoever no longer wants the child calls `end`, and the task
sees it through even when that caller is cancelled too.  So no process is ever left over or left unreaped.
"""

import asyncio
import contextlib
import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from dmap.tasks import errand

END_S = 2.0
"""How long a child may take to end by SIGTERM, before it gets a SIGKILL."""

REAP_S = 30.0
"""How long the kernel may take to free a killed process: its GPU memory goes first."""

_PIECE_BYTES = 16 * 1024
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)


class LastLines:
    """The last `lines` that a child wrote, oldest first, bounded in number and length."""

    LINES = 40
    LINE_BYTES = 500

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=self.LINES)

    async def follow(self, stream: asyncio.StreamReader) -> None:
        """Read *stream* to its end, because a full pipe would block the child.  Long lines are cut."""
        partial = b""
        while chunk := await stream.read(_PIECE_BYTES):
            *whole, partial = (partial + chunk).split(b"\n")
            partial = partial[: self.LINE_BYTES]
            for line in filter(None, whole):
                self.add(line)
        if partial:
            self.add(partial)

    def add(self, line: bytes) -> None:
        """Keep one more line, cut to its bound."""
        self.lines.append(line[: self.LINE_BYTES].decode(errors="replace").strip())


class Child:
    """
    A process that runs *command* in *environment*, in a session of its own.

    *gone* is called from the loop when the process has ended and is reaped, whatever ended it.  `status` is
    then its exit status, negative for a signal.  Its standard input stays open until then.  What it writes
    is in `output`; the first line on its standard output is for `first_line` alone.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], gone: Callable[[], None]
    ) -> None:
        self.output = LastLines()
        self.ending = False
        self.status: int | None = None
        self._gone = gone
        self._process: asyncio.subprocess.Process | None = None
        self._kill: asyncio.TimerHandle | None = None
        self._first: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        # Its owner is end(): whoever makes a child must call that, unless `gone` was called before.
        self._life = errand(self._live(command, environment), f"child {command[0]}")

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return self._process.pid if self._process else None

    async def first_line(self) -> str | None:
        """Wait for the first line on its standard output; return None when the child ended without one."""
        return await asyncio.shield(self._first)

    async def end(self) -> bool:
        """
        End the child; return when it is reaped.  Idempotent.

        False: the process survives a SIGKILL, stuck in the kernel, and still has its memory.
        """
        self.ending = True
        self._stop()
        done, _ = await asyncio.wait([self._life], timeout=END_S + REAP_S)
        return bool(done)

    def kill(self) -> None:
        """Send a SIGKILL at once.  The end that follows counts as one that nobody asked for."""
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _stop(self) -> None:
        if self._process and self._process.returncode is None and not self._kill:
            self._process.terminate()
            self._kill = asyncio.get_running_loop().call_later(END_S, self._process.kill)

    async def _live(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        try:
            await self._run(command, environment)
        except OSError as exc:
            self.output.add(f"cannot start {command[0]}: {exc.strerror}".encode())
        finally:
            if self._kill:
                self._kill.cancel()
            self._hear(None)
            self._gone()

    async def _run(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
        )
        self._process = process
        if self.ending:
            self._stop()
        assert process.stdin and process.stdout and process.stderr
        try:
            await asyncio.gather(
                self._listen(process.stdout), self.output.follow(process.stderr), process.wait()
            )
        finally:
            process.stdin.close()
        self.status = process.returncode

    async def _listen(self, stdout: asyncio.StreamReader) -> None:
        try:
            first = await stdout.readline()
        except ValueError:  # longer than the reader's bound
            first = b""
        if first:
            self._hear(first.decode(errors="replace").strip())
        await self.output.follow(stdout)

    def _hear(self, line: str | None) -> None:
        if not self._first.done():
            self._first.set_result(line)


def clean_environment() -> dict[str, str]:
    """Return our environment without the variables whose names say that they hold a secret."""
    return {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
