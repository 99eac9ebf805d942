"""
How a GGUF file is served: the command of its child, the wait for its answer, and what its last words mean.

llama.cpp answers /health from another thread than the one that computes, so however long a prompt is, a child
at work is not taken for a hung one.
"""

import json
import re
import secrets
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dmap.backends.ask import ask, decoded
from dmap.backends.base import Loaded, Target
from dmap.backends.gguf import engine
from dmap.backends.gguf.file import ModelFile
from dmap.backends.resident import ANSWER_BYTES, Recipe
from dmap.process import Child, secrets_in

ANSWER_S = 10.0
"""How long a loaded child may take to answer /health and /props."""

_ERROR = re.compile(
    r"^[\d.]+ E (?:\w+ +)?\w+: +(.+)"  # llama.cpp's log: time, level, module, function, text
    r"|(GGML_ASSERT.+|CUDA error.+|.*out of memory.*)"
    r"|^dmap\.engine: (.+)"
)
_CHATTER = re.compile(r"^[\d.]+ [DIW] |^\.+$")
"""What llama.cpp says while it loads, without an error: levels below that, and the dots of its progress."""
_DEVICE = re.compile(r"using device (\S+ \(.*\)) \([^()]*\) - ")
_LAYERS = re.compile(r"offloaded (\d+/\d+) layers to GPU")
_BUFFER = re.compile(r"(\w+): +(\S+) +(\w+) buffer size = +([\d.]+) MiB")
_HOLLOW = re.compile(
    r"^failed to load model|^exiting due to|failed to load model from|^Failed to init server"
)


def recipe_of(file: ModelFile, settings: Mapping[str, Any], environment: Mapping[str, str]) -> Recipe:
    """Return how *file* is served by *settings* in *environment*, with a key made for this child alone."""
    key = secrets.token_urlsafe(32)
    whole = {**settings, "model": str(file.path), "alias": file.id}
    if file.projector is not None:
        whole["projector"] = str(file.projector.path)

    async def come_up(child: Child) -> tuple[Target, Loaded]:
        return await _answered(child, file, key)

    return Recipe(
        file.id,
        # By its path, so that a child imports nothing of dmap but that one file.
        # -P: neither the working directory nor the program's own folder is a place to import from.
        (sys.executable, "-P", engine.__file__, json.dumps(whole)),
        {**environment, engine.KEY_VARIABLE: key},
        come_up,
        "/health",
        lambda what, lines: reason_in(lines) or what,
        place=f" from {file.path}",
        secrets=[key, *secrets_in({}, ())],
    )


async def _answered(child: Child, file: ModelFile, key: str) -> tuple[Target, Loaded]:
    """Wait for the child's port, then ask whether it is well and what it gives."""
    word, _, port = (await child.first_line()).partition(" ")
    if word != engine.READY or not port.isdecimal():
        raise ValueError("no port on its first line")
    server = Target(engine.HOST, int(port), False, "", (("Authorization", f"Bearer {key}"),))
    for path in ("/health", "/props"):
        status, body = await ask(server.at(path), within_s=ANSWER_S, most_bytes=ANSWER_BYTES)
        if status != 200:
            raise ValueError(f"{path} answers with status {status}")
    props = decoded(body)
    context_length, parallel = props["default_generation_settings"]["n_ctx"], props["total_slots"]
    size, said = file.memory(context_length, parallel), child.said
    return server, Loaded(size, context_length, parallel, placed_by(said), buffers_by(said))


def reason_in(lines: Sequence[str]) -> str:
    """
    Return what most likely went wrong, by the last *lines* of an engine, or an empty string.

    llama.cpp tells the cause first and then, function by function, that it failed.
    """
    errors = [found[found.lastindex or 0] for line in lines if (found := _ERROR.search(line))]
    texts = [text.removeprefix("error loading model: ") for text in errors]
    telling = [text for text in texts if not _HOLLOW.search(text)] or texts
    chatter = [at for at, line in enumerate(lines) if _CHATTER.search(line)]
    rest = [line for line in lines[max(chatter, default=-1) + 1 :] if not line.startswith(engine.READY)]
    return "; ".join(telling[:2]) or (rest[-1] if rest else "")


def is_error(line: str) -> bool:
    """Tell whether *line* of an engine is an error; what each load says takes several lines at times."""
    return _ERROR.search(line) is not None


def placed_by(lines: Sequence[str]) -> str | None:
    """
    Return where a model's layers are, by the *lines* of its load; None if the engine does not tell.

    A build or a host without a GPU says nothing of layers (llama.cpp's `load_tensors`).
    """
    if not any(map(_CHATTER.search, lines)):
        return None
    devices = [found[1] for line in lines if (found := _DEVICE.search(line))]
    layers = [found[1] for line in lines if (found := _LAYERS.search(line))]
    return f"{layers[0]} layers on {', '.join(devices)}" if layers and devices else "CPU"


def buffers_by(lines: Sequence[str]) -> int | None:
    """
    Return the bytes of all buffers on GPUs, by the *lines* of a load; without any, of those on the CPU.

    They are the weights, the cache and what is computed in.  The latter may be told again, when it is made
    anew; a model may have several caches.  What the driver takes for itself is not told.
    """
    sizes = Counter[tuple[str, ...]]()
    for found in filter(None, map(_BUFFER.search, lines)):
        function, device, what, mib = found.groups()
        place = (function, device, what)
        sizes[place] = int(float(mib) * 2**20) + (0 if what == "compute" else sizes[place])
    on_gpu = [size for place, size in sizes.items() if not _is_of_host(place[1])]
    return sum(on_gpu or sizes.values()) or None


def _is_of_host(buffer: str) -> bool:
    """Tell whether a buffer is in the memory of the host: `CPU`, `CPU_Mapped`, `CUDA_Host`."""
    return buffer.startswith("CPU") or buffer.endswith("_Host")
