"""
The embedded engine: the GGUF files of one folder.  Each resident model has a child process of its own.

A resident is a process: to unload is to end it, which frees its memory for certain, and a model that
crashes takes nobody with it.  Children listen on loopback, on ports the system chose, each with a key made
for it alone.  Its counterpart is the program they run, `engine`.

Every request can have the whole context that is claimed: llama.cpp shares its context out among the
requests it serves at once, so a child gets `parallel` times as much, and the memory for that is counted.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dmap.backends.base import Loaded, Target, ignore, is_alike
from dmap.backends.gguf.folder import Folder, ModelFile
from dmap.backends.gguf.resident import Resident
from dmap.backends.gguf.section import GGUFSection
from dmap.errors import BackendDown, LoadFailed
from dmap.logfmt import logfmt
from dmap.models import ModelInfo
from dmap.tasks import end, spawn

_log = logging.getLogger(__name__)


class GGUFBackend:
    """
    The `Switcher` over the models of the folder that *section* names.

    As many requests as *parallel* says are served at once per model, each with up to *context_length* tokens
    (less where the model was trained for less).  *threads* are the CPU threads that compute per model, by
    default half of what this process may use: they spin while they wait for each other, and the proxy needs
    room.  *load_s* bounds one load; every *health_s* each resident has to show that it does not hang.
    Nothing is started or read before the first call.

    *contexts* tells the context length that a model will be loaded with, by id, where that is not
    *context_length*: for what `models` tells of those that are not resident.  It may be set anew.
    """

    frees_at_once = True
    url = None

    def __init__(self, name: str, section: GGUFSection, *, health_s: float = 10.0) -> None:
        self.name = name
        self.changed: Callable[[], None] = ignore
        self.in_use: Callable[[str], bool] = lambda model: False
        self.report: Callable[[Sequence[ModelInfo] | BackendDown], None] = ignore
        self.contexts: Mapping[str, int] = {}
        self._section = section
        self._health_s = health_s
        self._folder = Folder(section.path)
        self._residents: dict[str, Resident] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Watch for children that hang.  The end of a child needs no watch: its own task reports it."""
        if self._watch is None and not self._closed:
            self._watch = spawn(self._look_after, f"watch {self.name}")

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """Tell whether *model* was loaded with *options*: nobody else loads here."""
        resident = self._residents.get(model)
        return resident is not None and dict(resident.options) == dict(options)

    async def models(self) -> Sequence[ModelInfo]:
        """
        Look into the folder, and at the children that live.

        A resident is listed even when its file is gone, or the whole folder.  Raises `BackendDown` when the
        folder cannot be read and nothing is resident.
        """
        files: Mapping[str, ModelFile] = {}
        try:
            files = await self._scan()
        except BackendDown:
            if not self._loaded():
                raise
        return [self._describe(file) for _, file in sorted({**self._loaded(), **files}.items())]

    async def load(self, model: str, options: Mapping[str, Any]) -> Loaded:
        """
        Start a child for *model*; return when it answers, with the context that it really gives.

        A resident is left as it is, whatever the options: unload it first to change them.  A second call
        waits for the first.
        """
        file = (await self._scan()).get(model)
        if file is None:
            raise LoadFailed(f"cannot load model {model!r}: no such GGUF file in {self._folder.path}")
        async with self._locks.setdefault(model, asyncio.Lock()):
            resident = self._residents.get(model)
            if resident and resident.child.ending:
                await self.unload(model)
            elif resident and resident.loaded:
                return resident.loaded
            return await self._start(file, options)

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
        if resident is None or not resident.is_up:
            raise BackendDown(f"model {model!r} is not resident on backend {self.name!r}; load it first")
        return resident.target(path)

    async def confirm(self) -> None:
        """Nobody else starts or ends these engines; one that dies is noticed at once."""

    def means(self, model: str, named: str) -> bool:
        """Tell whether *named* is *model*, by its looks."""
        return is_alike(model, named)

    async def close(self) -> None:
        """End the watch and all children at once; loads under way fail, later ones too."""
        self._closed = True
        ends = [resident.child.end() for resident in self._residents.values()]
        await asyncio.gather(end(self._watch), *ends)

    async def _scan(self) -> dict[str, ModelFile]:
        try:
            return await asyncio.to_thread(self._folder.scan)
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise BackendDown(f"cannot read the model folder {self._folder.path}: {reason}") from exc

    def _loaded(self) -> dict[str, ModelFile]:
        return {model: resident.file for model, resident in self._residents.items() if resident.loaded}

    async def _look_after(self) -> None:
        """Ask each resident every *health_s* how it is, and wait half as long; never return."""
        while True:
            up = [resident for resident in self._residents.values() if resident.is_up]
            checks = (resident.check(self.name, self._health_s / 2) for resident in up)
            await asyncio.gather(asyncio.sleep(self._health_s), *checks)

    def _describe(self, file: ModelFile) -> ModelInfo:
        resident = self._residents.get(file.id)
        loaded, parallel = resident.loaded if resident else None, self._section.parallel
        length = file.context_length(self.contexts.get(file.id, self._section.context_length))
        gives = loaded or Loaded(file.memory(length, parallel), length)
        return ModelInfo(
            id=file.id,
            resident=loaded is not None,
            size_bytes=gives.size_bytes,
            context_length=gives.context_length,
            parallel=parallel,
            embedding=file.header.embedding,
            v1=file.listed(),
        )

    async def _start(self, file: ModelFile, wanted: Mapping[str, Any]) -> Loaded:
        if self._closed:
            raise BackendDown(f"cannot load model {file.id!r}: backend {self.name!r} is closed")
        self.start()
        settings = self._settings(file, wanted)
        resident = self._residents[file.id] = Resident(file, settings, wanted, self._forget)
        return await resident.come_up(self._section.load_s)

    def _settings(self, file: ModelFile, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the engine is told: *wanted*, with what stands in the section and in the file."""
        asked = wanted.get("context_length", self._section.context_length)
        context_length = file.context_length(asked)
        if "context_length" in wanted and context_length < asked:
            _log.warning(logfmt("context_cut", {"model": file.id, "asked": asked, "given": context_length}))
        return {
            "cpu_threads": self._section.threads or default_threads(),
            **wanted,
            "context_length": context_length,
            "parallel": self._section.parallel,
            "embedding": file.header.embedding,
        }

    def _forget(self, resident: Resident) -> None:
        """Take note that a child has ended; the log and the gate hear of a resident that nobody ended."""
        model = resident.file.id
        if self._residents.get(model) is resident:
            del self._residents[model]
        child = resident.child
        if resident.loaded and not child.ending:
            fields = {"model": model, "pid": child.pid, "status": child.status, "reason": resident.reason}
            _log.error(logfmt("engine_died", fields))
            self.changed()


def default_threads() -> int:
    """Return half of the CPUs that this process may use, for most have two threads per core; at least 1."""
    return max(1, min(16, len(os.sched_getaffinity(0)) // 2))
