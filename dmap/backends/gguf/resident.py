"""A model that is resident, or on its way there: the child process that serves it."""

import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmap.backends.base import Loaded, Target
from dmap.backends.gguf import engine
from dmap.backends.gguf.folder import ModelFile
from dmap.process import Child, clean_environment

_ERROR = re.compile(
    r"^[\d.]+ E (?:\w+ +)?\w+: +(.+)"  # llama.cpp's log: time, level, module, function, text
    r"|(GGML_ASSERT.+|CUDA error.+|.*out of memory.*)"
    r"|^dmap\.engine: (.+)"
)
_HOLLOW = re.compile(
    r"^failed to load model|^exiting due to|failed to load model from|^Failed to init server"
)


@dataclass(slots=True)
class Resident:
    """
    A child that serves *file* and asks for *key*, and the *options* that it was loaded with.

    *port* and *loaded*, what it gives, are known once it answers.  *misses* counts the questions in a row
    whether it is well that it has left without an answer.
    """

    child: Child
    key: str
    file: ModelFile
    options: Mapping[str, Any] = field(default_factory=dict)
    port: int = 0
    loaded: Loaded | None = None
    misses: int = 0

    @property
    def is_up(self) -> bool:
        """Whether it answers, and nobody has asked it to end."""
        return self.loaded is not None and not self.child.ending

    def target(self, path: str) -> Target:
        """Return where *path* is on it."""
        return Target(engine.HOST, self.port, False, path, (("Authorization", f"Bearer {self.key}"),))

    @property
    def reason(self) -> str:
        """What most likely went wrong in the child; empty if it said nothing."""
        return reason_in(self.child.output.lines)


def begin(
    file: ModelFile, settings: Mapping[str, Any], options: Mapping[str, Any], gone: Callable[[Child], None]
) -> Resident:
    """
    Start the engine on *file* by *settings*, with a key made for it alone; *gone* is called at its end.

    The program is run by its path: a child then imports nothing of dmap but that one file.
    """
    key = secrets.token_urlsafe(32)
    # -P: neither the working directory nor the program's own folder is a place to import from.
    whole = {**settings, "model": str(file.path), "alias": file.id, "parent": os.getpid()}
    command = [sys.executable, "-P", engine.__file__, json.dumps(whole)]
    environment = {**clean_environment(), engine.KEY_VARIABLE: key}
    return Resident(Child(command, environment, gone), key, file, dict(options))


async def port_of(child: Child) -> int:
    """Wait until the child's model is loaded; return its port, or 0 when the child ended instead."""
    word, _, port = (await child.first_line() or "").partition(" ")
    return int(port) if word == "READY" and port.isdecimal() else 0


def reason_in(lines: Sequence[str]) -> str:
    """
    Return what most likely went wrong, by the last *lines* of an engine, or an empty string.

    llama.cpp tells the cause first and then, function by function, that it failed.
    """
    errors = [found[found.lastindex or 0] for line in lines if (found := _ERROR.search(line))]
    texts = [text.removeprefix("error loading model: ") for text in errors]
    telling = [text for text in texts if not _HOLLOW.search(text)] or texts
    return "; ".join(telling[:2]) or (lines[-1] if lines else "")
