"""
The embedded engine: GGUF files of one folder, each resident one served by a child process of its own.

A resident is a process: to unload is to end it, which frees its memory for certain, and a model that
crashes takes nobody with it.  Children listen on loopback, on ports the system chose, each with a key made
for it alone.  Its counterpart is the program they run, `dmap.engine`.

Every request can have the whole context that is claimed: llama.cpp shares its context out among the
requests it serves at once, so a child gets `parallel` times as much, and the memory for that is counted.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from dmap.backends import Loaded, ModelInfo, Target
from dmap.backends.gguf_child import Child
from dmap.backends.gguf_folder import Folder, ModelFile
from dmap.errors import BackendDown, LoadFailed

__all__ = ["GGUFBackend"]

HOST = "127.0.0.1"
ANSWER_S = 10.0
"""How long a loaded child may take to answer /health and /props."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Resident:
    """A child and, once it answers, what it gives."""

    child: Child
    port: int = 0
    loaded: Loaded | None = None


class GGUFBackend:
    """
    The `Switcher` over the models of *directory*.

    *parallel* requests are served at once per model, each with up to *context_length* tokens (less where
    the model was trained for less).  *threads* are the CPU threads that compute per model, by default half
    of what this process may use: they spin while they wait for each other, and the proxy needs room.
    *load_s* bounds one load.  Nothing is started or read before the first call.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        parallel: int = 4,
        context_length: int = 4096,
        threads: int | None = None,
        load_s: float = 600.0,
    ) -> None:
        self.name = name
        self.changed: Callable[[], None] = _nothing
        self.in_use: Callable[[str], bool] = lambda model: False
        self._parallel = parallel
        self._context_length = context_length
        self._threads = threads or default_threads()
        self._load_s = load_s
        self._folder = Folder(directory)
        self._residents: dict[str, _Resident] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._closed = False

    def start(self) -> None:
        """Nothing but dmap loads here, and each child has a task that waits for its end."""

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """Tell that a resident is as it was asked for: nobody else loads here."""
        return True

    async def models(self) -> Sequence[ModelInfo]:
        """
        Look into the folder, and at the children that live.

        A resident is listed even when its file is gone.  Raises `BackendDown` when the folder cannot be read.
        """
        files = await self._scan()
        return [self._describe(model, files.get(model)) for model in sorted({*files, *self._up()})]

    async def load(self, model: str, options: Mapping[str, Any]) -> Loaded:
        """
        Start a child for *model*; return when it answers, with the context that it really gives.

        A resident is left as it is, whatever the options: unload it first to change them.  A second call
        waits for the first.  Known options: `context_length`, `flash_attention`.
        """
        wanted = self._check(model, options)
        file = (await self._scan()).get(model)
        if file is None:
            raise LoadFailed(f"cannot load model {model!r}: no such GGUF file in {self._folder.path}")
        async with self._locks.setdefault(model, asyncio.Lock()):
            resident = self._residents.get(model)
            if resident and resident.child.ending:
                await self.unload(model)
            elif resident and resident.loaded:
                return resident.loaded
            return await self._start(file, wanted)

    async def unload(self, model: str) -> None:
        """
        End the child of *model*, also one that is loading; return when the kernel has its memory back.

        Raises `BackendDown` if the process cannot be killed.
        """
        resident = self._residents.get(model)
        if resident and not await resident.child.end():
            pid = resident.child.pid
            raise BackendDown(f"model {model!r} is not out of memory: process {pid} survives a SIGKILL")

    def target(self, model: str, path: str) -> Target:
        """Tell where the child of *model* listens; the path is the same there."""
        resident = self._residents.get(model)
        if resident is None or resident.loaded is None or resident.child.ending:
            raise BackendDown(f"model {model!r} is not resident on backend {self.name!r}; load it first")
        headers = (("Authorization", f"Bearer {resident.child.key}"),)
        return Target(host=HOST, port=resident.port, tls=False, path=path, headers=headers)

    async def close(self) -> None:
        """End all children at once; loads under way fail, later ones too."""
        self._closed = True
        await asyncio.gather(*(resident.child.end() for resident in list(self._residents.values())))

    async def _scan(self) -> dict[str, ModelFile]:
        try:
            return await asyncio.to_thread(self._folder.scan)
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise BackendDown(f"cannot read the model folder {self._folder.path}: {reason}") from exc

    def _up(self) -> list[str]:
        return [model for model, resident in self._residents.items() if resident.loaded]

    def _describe(self, model: str, file: ModelFile | None) -> ModelInfo:
        resident = self._residents.get(model)
        loaded = resident.loaded if resident else None
        context_length = file.context_length(self._context_length) if file else None
        size_bytes = file.memory(context_length, self._parallel) if file else None
        return ModelInfo(
            id=model,
            resident=loaded is not None,
            size_bytes=loaded.size_bytes if loaded else size_bytes,
            context_length=loaded.context_length if loaded else context_length,
            parallel=self._parallel,
            embedding=file is not None and file.embedding,
        )

    def _check(self, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that are set, refusing what an engine cannot be told."""
        for option, value in options.items():
            if option not in _OPTIONS:
                known = ", ".join(_OPTIONS)
                raise LoadFailed(f"cannot load model {model!r}: unknown option {option!r}; known are {known}")
            if type(value) is not _OPTIONS[option] or (type(value) is int and value < 1):
                raise LoadFailed(f"cannot load model {model!r}: {option} may not be {value!r}")
        return dict(options)

    async def _start(self, file: ModelFile, wanted: Mapping[str, Any]) -> Loaded:
        if self._closed:
            raise BackendDown(f"cannot load model {file.id!r}: backend {self.name!r} is closed")
        child = Child(self._arguments(file, wanted), lambda _: self._forget(file.id, resident))
        resident = self._residents[file.id] = _Resident(child)
        try:
            async with asyncio.timeout(self._load_s):
                resident.loaded = await self._come_up(file, resident)
        except TimeoutError as exc:
            raise self._failure(file, child, f"no answer in time (load_s is {self._load_s:g})") from exc
        except (aiohttp.ClientError, LookupError, ValueError) as exc:
            raise self._failure(file, child, f"its answers make no sense: {exc!r}") from exc
        finally:
            if resident.loaded is None:
                await child.end()
        return resident.loaded

    def _arguments(self, file: ModelFile, wanted: Mapping[str, Any]) -> list[str]:
        context_length = file.context_length(wanted.get("context_length", self._context_length))
        flash = {None: "auto", True: "on", False: "off"}[wanted.get("flash_attention")]
        arguments = [
            f"--alias={file.id}",
            *("--context", str(context_length)),
            *("--parallel", str(self._parallel)),
            *("--threads", str(self._threads)),
            *("--flash-attention", flash),
        ]
        return [*arguments, *(["--embedding"] if file.embedding else []), "--", str(file.path)]

    async def _come_up(self, file: ModelFile, resident: _Resident) -> Loaded:
        """Wait for the child's port, then ask it whether it is well and what it gives."""
        child = resident.child
        port = await child.port()
        if port is None:
            raise self._failure(file, child, f"the engine ended with status {child.status}")
        headers = {"Authorization": f"Bearer {child.key}"}
        url, timeout = f"http://{HOST}:{port}", aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(url, headers=headers, timeout=timeout) as session:
            async with session.get("/health", raise_for_status=True):
                pass
            async with session.get("/props", raise_for_status=True) as answer:
                props = await answer.json()
        resident.port = port
        context_length = props["default_generation_settings"]["n_ctx"]
        return Loaded(file.memory(context_length, self._parallel), context_length, props["total_slots"])

    def _failure(self, file: ModelFile, child: Child, what: str) -> LoadFailed:
        reason = "it was unloaded meanwhile" if child.ending else child.tail.reason() or what
        return LoadFailed(f"cannot load model {file.id!r} from {file.path}: {reason}")

    def _forget(self, model: str, resident: _Resident) -> None:
        """Take note that a child has ended; a resident that nobody ended is told to the log and the gate."""
        if self._residents.get(model) is resident:
            del self._residents[model]
        child = resident.child
        if resident.loaded and not child.ending:
            told = (model, child.pid, child.status, child.tail.reason())
            _log.error("engine_died model=%s pid=%s status=%s reason=%r", *told)
            self.changed()


_OPTIONS: Mapping[str, type] = {"context_length": int, "flash_attention": bool}


def default_threads() -> int:
    """Return half of the CPUs that this process may use, for most have two threads per core; at least 1."""
    return max(1, min(16, len(os.sched_getaffinity(0)) // 2))


def _nothing() -> None:
    """Stand in for the gate until there is one."""
