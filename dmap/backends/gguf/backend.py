"""
The embedded engine: the GGUF files below one folder.  Each resident model has a child process of its own.

Children listen on loopback, on ports the system chose, each with a key made for it alone.  Their life is that
of all `Residents`; `recipe` tells how they begin.  Its counterpart is the program they run, `engine`.

Every request can have the whole context that is claimed: llama.cpp shares its context out among the
requests it serves at once, so a child gets `parallel` times as much, and the memory for that is counted.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dmap.backends.base import Loaded, ignore, is_alike
from dmap.backends.gguf.file import ModelFile
from dmap.backends.gguf.folder import Content, Folder
from dmap.backends.gguf.recipe import is_error, recipe_of
from dmap.backends.gguf.section import GGUFSection
from dmap.backends.gguf.soundness import Soundness
from dmap.backends.resident import Recipe
from dmap.backends.residents import Residents
from dmap.errors import BackendDown, LoadFailed, ModelNotFound
from dmap.logfmt import Line
from dmap.models import ModelInfo
from dmap.reads import Reads
from dmap.sections import ModelSection

CHECK_S = 5.0
"""A disk that takes longer to show the head of a file leaves it to the load to find out."""
SCAN_S = 15.0
"""A disk that sleeps takes ten seconds to wake up; one that takes longer for a folder counts as down."""
MOST_TOLD = 10
"""So many files that are left out are told by name at one look."""

_HINT = "no NAME.gguf there, nor in a folder below; put one in, or let path name the folder that has them"
_UNKNOWN = "unknown model architecture"
"""What llama.cpp says (src/llama-model-loader.cpp)."""
_NOTHING = Content()
_log = logging.getLogger(__name__)


class GGUFBackend:
    """
    The `Switcher` over the models of the folder that *section* names.

    As many requests as *parallel* says are served at once per model, each with up to *context_length* tokens
    (less where the model was trained for less).  *threads* are the CPU threads that compute per model, by
    default half of what this process may use: they spin while they wait for each other, and the proxy needs
    room.  *load_s* bounds one load; every *health_s* each resident has to show that it does not hang.  A
    folder that takes longer than *scan_s* to read counts as one that cannot be read.
    Nothing is started or read before the first call.

    *contexts* tells the context length that a model will be loaded with, by id, where that is not
    *context_length*: for what `models` tells of those that are not resident.  It may be set anew.
    """

    frees_at_once = True
    url = None

    def __init__(
        self, name: str, section: GGUFSection, *, health_s: float = 10.0, scan_s: float = SCAN_S
    ) -> None:
        self.name = name
        self.changed: Callable[[], None] = ignore
        self.in_use: Callable[[str], bool] = lambda model: False
        self.report: Callable[[Sequence[ModelInfo] | BackendDown], None] = ignore
        self.contexts: Mapping[str, int] = {}
        self.commands: Mapping[str, ModelSection] = {}
        self._section = section
        self._folder = Folder(section.path)
        self._files: dict[str, ModelFile] = {}
        self._told = _NOTHING
        self._soundness = Soundness()
        self._folders, self._heads = Reads(), Reads()
        self._scan_s = scan_s
        self._unknown: set[str] = set()
        self._residents = residents = Residents(
            name,
            section.load_s,
            health_s,
            lambda: self.changed(),
            lambda model: self.in_use(model),
            is_error,
        )
        self.start, self.close, self.log = residents.start, residents.close, residents.log
        self.unload, self.target, self.doubt = residents.unload, residents.target, residents.doubt

    async def models(self) -> Sequence[ModelInfo]:
        """
        Look into the folder, and at the children that live.

        A resident is listed even when its file is gone, or the whole folder.  One in doubt is asked first
        whether it lives.  Raises `BackendDown` when the folder cannot be read and nothing is resident.
        """
        files: Mapping[str, ModelFile] = {}
        await self._residents.cleared()
        try:
            files = (await self._scan()).models
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
        file = (await self._scan()).models.get(model)
        if file is None:
            raise LoadFailed(f"cannot load model {model!r}: no such GGUF file in {self._folder.path}")
        if self._residents.loaded(model) is None:
            self._files[model] = file

        async def recipe() -> Recipe:
            return recipe_of(file, self._settings(file, options), self._section.environment())

        try:
            return await self._residents.load(model, _asked(file, options), recipe)
        except LoadFailed as error:
            if _UNKNOWN in error.message:
                self._unknown.add(file.header.architecture)
            raise

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """Tell whether *model* was loaded with *options*, and with the projector that it has by now."""
        file = self._told.models.get(model) or self._files.get(model)
        return file is not None and self._residents.satisfies(model, _asked(file, options))

    async def check(self, model: str) -> None:
        """
        Look whether the files of *model* are whole, and of an architecture that the engine knows.

        If they are others than those that the folder had, it is looked through again.
        """
        file = self._told.models.get(model) or (await self._scan()).models.get(model)
        try:
            if file is None:
                raise FileNotFoundError
            async with asyncio.timeout(CHECK_S):
                fault = await self._heads.read(partial(self._soundness.fault_of, file))
        except FileNotFoundError:
            text = f"the model {model!r} is gone: its file is there no more"
            raise ModelNotFound(text, param="model") from None
        except TimeoutError:
            return
        if self._soundness.has_changed(file):
            file = (await self._scan()).models.get(model, file)
        if fault is None and file.header.architecture in self._unknown:
            fault = f"its architecture {file.header.architecture!r} is unknown to the engine"
        if fault is not None:
            raise LoadFailed(f"cannot load model {model!r}: {fault}")

    async def confirm(self) -> None:
        """Nobody else starts or ends these engines; one that dies is noticed at once."""

    def means(self, model: str, named: str) -> bool:
        """Tell whether *named* is *model*, by its looks."""
        return is_alike(model, named)

    def made_of(self, model: str) -> str | None:
        """Return the files: those of the resident, which may be gone by now, else those that are there."""
        is_loaded = self._residents.loaded(model) is not None
        file = (self._files if is_loaded else self._told.models).get(model)
        return repr(file.all_parts) if file is not None else None

    async def _scan(self) -> Content:
        try:
            async with asyncio.timeout(self._scan_s):
                content = await self._folders.read(self._folder.scan)
        except OSError as exc:  # a TimeoutError is one
            reason = exc.strerror or str(exc) or f"no answer within {self._scan_s:g} s"
            raise BackendDown(f"cannot read the model folder {self._folder.path}: {reason}") from exc
        self._tell(content)
        return content

    def _tell(self, content: Content) -> None:
        """Log what is there when that changes, and once why a file is left out."""
        before, self._told = self._told, content
        self._soundness.forget({part.path for file in content.models.values() for part in file.all_parts})
        new = [path for path in content.skipped if path not in before.skipped]
        for path in new[:MOST_TOLD]:
            fields = {"backend": self.name, "path": path, "reason": content.skipped[path]}
            _log.warning(Line("model_skipped", fields))
        now = len(content.models), len(content.skipped)
        if before is _NOTHING or now != (len(before.models), len(before.skipped)):
            told = {"backend": self.name, "models": now[0], "skipped": now[1], "path": self._folder.path}
            if content.models:
                _log.info(Line("models_found", told))
            else:
                _log.warning(Line("models_found", told | {"hint": _HINT}))

    def _loaded(self) -> dict[str, ModelFile]:
        return {each.recipe.model: self._files[each.recipe.model] for each in self._residents}

    def _describe(self, file: ModelFile) -> ModelInfo:
        loaded, parallel = self._residents.loaded(file.id), self._section.parallel
        length = file.context_length(self.contexts.get(file.id, self._section.context_length))
        gives = loaded or Loaded(file.memory(length, parallel), length)
        return ModelInfo(
            id=file.id,
            resident=loaded is not None,
            size_bytes=gives.size_bytes,
            context_length=gives.context_length,
            parallel=parallel,
            embedding=file.header.embedding,
            vision=(self._files[file.id] if loaded is not None else file).vision,
            cached=file.cached,
            file="/".join((*file.place, file.path.name)),
            names=file.names,
            v1=file.listed(),
        )

    def _settings(self, file: ModelFile, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the engine is told: *wanted*, with what stands in the section and in the file."""
        asked = wanted.get("context_length", self._section.context_length)
        context_length = file.context_length(asked)
        if "context_length" in wanted and context_length < asked:
            _log.warning(Line("context_cut", {"model": file.id, "asked": asked, "given": context_length}))
        return {
            "cpu_threads": self._section.threads or default_threads(),
            **wanted,
            "context_length": context_length,
            "parallel": self._section.parallel,
            "embedding": file.header.embedding,
        }


def _asked(file: ModelFile, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a load of *file* is told apart by."""
    projector = str(file.projector.path) if file.projector is not None else None
    return {**options, "projector": projector}


def default_threads() -> int:
    """Return half of the CPUs that this process may use, for most have two threads per core; at least 1."""
    return max(1, min(16, len(os.sched_getaffinity(0)) // 2))
