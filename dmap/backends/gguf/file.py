"""One model on disk, as far as its files tell."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dmap.backends.gguf.header import Header


class Part(NamedTuple):
    """One version of one file: whatever was learned of it holds until one of these changes."""

    path: Path
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "Part":
        """Return the file *path* as it is now; a pipe, whose reader waits for ever, is none.  It blocks."""
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return cls(path, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """
    A model on disk: *parts* are its files, the first one first.

    *place* are the folders that it is known by, *names* what it is called beside its id.  It is *cached* if
    nearly all of it is in the system's memory, so that a load does not wait for the disk.  With a *projector*
    it takes images, or sounds.
    """

    id: str
    place: tuple[str, ...]
    parts: tuple[Part, ...]
    header: Header
    cached: bool = False
    names: tuple[str, ...] = ()
    projector: "ModelFile | None" = None

    @property
    def path(self) -> Path:
        """Its first file, which is the one that an engine is told of."""
        return self.parts[0].path

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """All that a load reads."""
        return self.parts + (self.projector.parts if self.projector is not None else ())

    @property
    def file_bytes(self) -> int:
        """The size of all that a load reads."""
        return sum(part.size for part in self.all_parts)

    @property
    def vision(self) -> bool:
        """Whether it takes images."""
        return self.projector is not None and self.projector.header.sees

    def context_length(self, wanted: int) -> int:
        """Return *wanted* tokens, or what the model was trained for if that is less."""
        return min(wanted, self.header.context_length or wanted)

    def listed(self) -> dict[str, Any]:
        """Return what the file tells, in the words of LM Studio's native list."""
        entry: dict[str, Any] = {"size_bytes": self.file_bytes, "format": "gguf"}
        if not self.header.embedding:
            entry["capabilities"] = {"vision": self.vision}
        if self.header.context_length:
            entry["max_context_length"] = self.header.context_length
        return entry

    def memory(self, context_length: int, parallel: int) -> int:
        """Estimate the resident's bytes: its weights and the attention cache of *parallel* requests."""
        return self.file_bytes + self.header.cache_bytes * context_length * parallel
