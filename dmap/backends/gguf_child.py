"""
One engine process from its start until it is reaped: a part of `gguf.py`, whose counterpart is `dmap.engine`.

A child is owned by one task that nobody cancels.  Who no longer wants the child calls `end`, and the task
sees it through even when that caller is cancelled too; so no process is ever left over or left unreaped.
"""

import asyncio
import contextlib
import os
import re
import secrets
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from dmap.engine import KEY_VARIABLE

HOST = "127.0.0.1"
"""Where every child listens."""

END_S = 2.0
"""SIGTERM ends an engine on the spot; only a stopped one needs the SIGKILL that follows."""

REAP_S = 30.0
"""How long the kernel may take to free a killed process: its GPU memory goes first."""

IMPORT_ROOT = str(Path(__file__).resolve().parents[2])


class Tail:
    """The last lines a child wrote to standard error, bounded in number and length."""

    LINES = 40
    LINE_BYTES = 500

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=self.LINES)

    @property
    def lines(self) -> list[str]:
        """The lines, oldest first."""
        return list(self._lines)

    async def follow(self, stream: asyncio.StreamReader) -> None:
        """Read *stream* to its end, for a full pipe would block the child.  Long lines are cut."""
        partial = b""
        while chunk := await stream.read(16_384):
            *whole, partial = (partial + chunk).split(b"\n")
            partial = partial[: self.LINE_BYTES]
            self._lines.extend(map(self._clean, filter(None, whole)))
        if partial:
            self.add(partial)

    def add(self, line: bytes) -> None:
        """Keep one more line, cut to its bound."""
        self._lines.append(self._clean(line))

    def _clean(self, line: bytes) -> str:
        return line[: self.LINE_BYTES].decode(errors="replace").strip()

    def reason(self) -> str:
        """
        Return what most likely went wrong, or an empty string.

        llama.cpp tells the cause first and then, function by function, that it failed.
        """
        errors = [found[found.lastindex or 0] for line in self._lines if (found := _ERROR.search(line))]
        texts = [text.removeprefix("error loading model: ") for text in errors]
        telling = [text for text in texts if not _HOLLOW.search(text)] or texts
        return "; ".join(telling[:2]) or (self._lines[-1] if self._lines else "")


_ERROR = re.compile(
    r"^[\d.]+ E (?:\w+ +)?\w+: +(.+)"  # llama.cpp's log: time, level, module, function, text
    r"|(GGML_ASSERT.+|CUDA error.+|.*out of memory.*)"
    r"|^dmap\.engine: (.+)"
)
_HOLLOW = re.compile(
    r"^failed to load model|^exiting due to|failed to load model from|^Failed to init server"
)


class Child:
    """
    One `python -m dmap.engine`.

    *gone* is called from the loop when the process has ended and is reaped, whatever ended it.  `status` is
    then its exit status, negative for a signal.
    """

    def __init__(self, arguments: Sequence[str], gone: Callable[["Child"], None]) -> None:
        loop = asyncio.get_running_loop()
        self.key = secrets.token_urlsafe(32)
        self.tail = Tail()
        self.ending = False
        self.status: int | None = None
        self._gone = gone
        self._process: asyncio.subprocess.Process | None = None
        self._kill: asyncio.TimerHandle | None = None
        self._port: asyncio.Future[int | None] = loop.create_future()
        # Its owner is end(): who makes a child must call that, unless `gone` was called before.
        self._life = loop.create_task(self._live(arguments), name="gguf child")

    @property
    def pid(self) -> int | None:
        """The process id, None before the start."""
        return self._process.pid if self._process else None

    async def port(self) -> int | None:
        """Wait until the model is loaded; return the port, or None when the child ended instead."""
        return await asyncio.shield(self._port)

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

    async def _live(self, arguments: Sequence[str]) -> None:
        try:
            await self._run(arguments)
        except OSError as exc:
            self.tail.add(f"dmap.engine: cannot start {sys.executable}: {exc.strerror}".encode())
        finally:
            if self._kill:
                self._kill.cancel()
            if not self._port.done():
                self._port.set_result(None)
            self._gone(self)

    async def _run(self, arguments: Sequence[str]) -> None:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *_command(arguments),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=_environment(self.key),
            start_new_session=True,
        )
        self._process = process
        if self.ending:
            self._stop()
        assert process.stdin and process.stdout and process.stderr
        try:
            await asyncio.gather(self._hear(process.stdout), self.tail.follow(process.stderr), process.wait())
        finally:
            process.stdin.close()
        self.status = process.returncode

    async def _hear(self, stdout: asyncio.StreamReader) -> None:
        word, _, port = (await stdout.readline()).decode(errors="replace").strip().partition(" ")
        if word == "READY" and port.isdecimal() and not self._port.done():
            self._port.set_result(int(port))


def _command(arguments: Sequence[str]) -> list[str]:
    # -P: the working directory is no place to import from.
    return [sys.executable, "-P", "-m", "dmap.engine", "--parent", str(os.getpid()), *arguments]


def _environment(key: str) -> dict[str, str]:
    """Return our environment without its secrets, with the child's key, able to import this very dmap."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), IMPORT_ROOT]))
    ours = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    return {**ours, "PYTHONPATH": path, KEY_VARIABLE: key}


_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
