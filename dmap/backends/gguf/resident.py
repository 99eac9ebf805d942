"""
A model that is resident, or on its way there: the child process that serves it.

One that lives but answers no more is killed.  A crash needs no look, for the kernel tells of it.  A child
that is stopped or stuck keeps its connections open and its memory, and every request to it would wait for
ever.  llama.cpp answers /health from another thread than the one that computes, so however long a prompt is,
a child at work is not taken for a hung one.
"""

import asyncio
import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dmap.backends.ask import Unheard, ask, decoded
from dmap.backends.base import Loaded, Target
from dmap.backends.gguf import engine
from dmap.backends.gguf.folder import ModelFile
from dmap.errors import LoadFailed
from dmap.logfmt import logfmt
from dmap.process import Child, clean_environment

ANSWER_S = 10.0
"""How long a loaded child may take to answer /health and /props."""

ANSWER_BYTES = 4 * 2**20
"""Of /props, which has the chat template."""

MISSES = 3
"""So many questions in a row have to stay without an answer: one may be this process's own delay."""

_log = logging.getLogger(__name__)

_ERROR = re.compile(
    r"^[\d.]+ E (?:\w+ +)?\w+: +(.+)"  # llama.cpp's log: time, level, module, function, text
    r"|(GGML_ASSERT.+|CUDA error.+|.*out of memory.*)"
    r"|^dmap\.engine: (.+)"
)
_HOLLOW = re.compile(
    r"^failed to load model|^exiting due to|failed to load model from|^Failed to init server"
)


class Resident:
    """
    A child that serves *file* by *settings*, with a key made for it alone.

    *options* are those that it was loaded with, and *gone* is called at its end.  `port` and `loaded`, what
    it gives, are known once it answers.  `misses` counts the questions in a row whether it is well that it
    has left without an answer.
    """

    def __init__(
        self,
        file: ModelFile,
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
        gone: Callable[["Resident"], None],
    ) -> None:
        self.file = file
        self.options = dict(options)
        self.port = 0
        self.loaded: Loaded | None = None
        self.misses = 0
        self._key = secrets.token_urlsafe(32)
        whole = {**settings, "model": str(file.path), "alias": file.id, "parent": os.getpid()}
        # By its path, so that a child imports nothing of dmap but that one file.
        # -P: neither the working directory nor the program's own folder is a place to import from.
        command = [sys.executable, "-P", engine.__file__, json.dumps(whole)]
        environment = {**clean_environment(), engine.KEY_VARIABLE: self._key}
        self.child = Child(command, environment, lambda: gone(self))

    @property
    def is_up(self) -> bool:
        """Whether it answers, and nobody has asked it to end."""
        return self.loaded is not None and not self.child.ending

    def target(self, path: str) -> Target:
        """Return where *path* is on it."""
        return Target(engine.HOST, self.port, False, path, (("Authorization", f"Bearer {self._key}"),))

    @property
    def reason(self) -> str:
        """What most likely went wrong in the child; empty if it said nothing."""
        return reason_in(self.child.output.lines)

    async def come_up(self, within_s: float) -> Loaded:
        """
        Wait until it answers; return what it really gives.

        Raises `LoadFailed`.  Unless it has come up, the child is ended before this returns.
        """
        try:
            async with asyncio.timeout(within_s):
                self.loaded = await self._answered()
        except TimeoutError as exc:
            raise self._failure(f"no answer in time (load_s is {within_s:g})") from exc
        except (Unheard, LookupError, TypeError, ValueError) as exc:
            raise self._failure(f"its answers make no sense: {exc!r}") from exc
        finally:
            if self.loaded is None:
                await self.child.end()
        return self.loaded

    async def check(self, backend: str, within_s: float) -> None:
        """Kill the child if it hangs, which is logged; its death is noticed like any other."""
        self.misses = 0 if await self.says_anything(within_s) else self.misses + 1
        child = self.child
        if self.misses == MISSES and not child.ending and child.status is None:
            fields = {"backend": backend, "model": self.file.id, "pid": child.pid, "misses": MISSES}
            _log.error(logfmt("engine_hung", fields))
            child.kill()

    async def says_anything(self, within_s: float) -> bool:
        """Tell whether the child answers: one that says that it is not well does not hang."""
        try:
            await self._ask("/health", within_s)
        except (Unheard, TimeoutError):
            return False
        return True

    async def _answered(self) -> Loaded:
        """Wait for the child's port, then ask whether it is well and what it gives."""
        word, _, port = (await self.child.first_line() or "").partition(" ")
        if word != "READY" or not port.isdecimal():
            raise self._failure(f"the engine ended with status {self.child.status}")
        self.port = int(port)
        for path in ("/health", "/props"):
            status, body = await self._ask(path, ANSWER_S)
            if status != 200:
                raise ValueError(f"{path} answers with status {status}")
        props = decoded(body)
        context_length, parallel = props["default_generation_settings"]["n_ctx"], props["total_slots"]
        return Loaded(self.file.memory(context_length, parallel), context_length, parallel)

    async def _ask(self, path: str, within_s: float) -> tuple[int, bytes]:
        return await ask(self.target(path), within_s=within_s, most_bytes=ANSWER_BYTES)

    def _failure(self, what: str) -> LoadFailed:
        reason = "it was unloaded meanwhile" if self.child.ending else self.reason or what
        return LoadFailed(f"cannot load model {self.file.id!r} from {self.file.path}: {reason}")


def reason_in(lines: Sequence[str]) -> str:
    """
    Return what most likely went wrong, by the last *lines* of an engine, or an empty string.

    llama.cpp tells the cause first and then, function by function, that it failed.
    """
    errors = [found[found.lastindex or 0] for line in lines if (found := _ERROR.search(line))]
    texts = [text.removeprefix("error loading model: ") for text in errors]
    telling = [text for text in texts if not _HOLLOW.search(text)] or texts
    return "; ".join(telling[:2]) or (lines[-1] if lines else "")
