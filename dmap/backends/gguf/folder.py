"""Which models a folder of GGUF files holds, by their headers.  It blocks."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmap.backends.gguf.header import UNREADABLE, Header, read_header
from dmap.backends.gguf.pages import share_in_memory

CACHED = 0.9
"""From this share on a file counts as being in memory: what is left of it is read in no time."""

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """
    A model on disk: *path* is its first part, *file_bytes* the size of all its parts.

    It is *cached* if nearly all of it is in the system's memory, so that a load does not wait for the disk.
    """

    id: str
    path: Path
    file_bytes: int
    header: Header
    cached: bool = False

    def context_length(self, wanted: int) -> int:
        """Return *wanted* tokens, or what the model was trained for if that is less."""
        return min(wanted, self.header.context_length or wanted)

    def listed(self) -> dict[str, Any]:
        """Return what the file tells, in the words of LM Studio's native list."""
        trained = self.header.context_length
        entry = {"size_bytes": self.file_bytes, "format": "gguf"}
        return {**entry, "max_context_length": trained} if trained else entry

    def memory(self, context_length: int, parallel: int) -> int:
        """Estimate the resident's bytes: its weights and the attention cache of *parallel* requests."""
        return self.file_bytes + self.header.cache_bytes * context_length * parallel


class Folder:
    """The models right in *path* and in its subfolders.  Headers are read once per file version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._headers: dict[tuple[str, int, int], Header] = {}

    def scan(self) -> dict[str, ModelFile]:
        """
        Return the models by id: the file's name, with its subfolder's, without `.gguf` and part number.

        Raises OSError when the folder itself cannot be read; what else cannot be read is left out.
        """
        headers: dict[tuple[str, int, int], Header] = {}
        found: dict[str, ModelFile] = {}
        for model, parts in _group(_files(self.path)):
            try:
                stats = [part.stat() for part in parts]
                cached = all(share_in_memory(part) >= CACHED for part in parts)
            except OSError:
                continue
            key = (str(parts[0]), stats[0].st_mtime_ns, stats[0].st_size)
            header = headers[key] = self._headers.get(key) or read_header(parts[0]) or UNREADABLE
            if not header.projector:
                found[model] = ModelFile(model, parts[0], sum(stat.st_size for stat in stats), header, cached)
        self._headers = headers
        return found


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the names, relative to *folder* and without suffix, of what may be a model or a part of one."""
    for entry in _entries(folder):
        with contextlib.suppress(OSError):
            for path in _entries(entry) if entry.is_dir() else [entry]:
                name = path.name.lower()
                if name.endswith(".gguf") and "mmproj" not in name and path.is_file():
                    yield str(path.relative_to(folder))[:-5], path


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _group(files: Iterator[tuple[str, Path]]) -> Iterator[tuple[str, list[Path]]]:
    """Yield each model's parts, the first one first; parts without a first one are no model."""
    several: dict[str, list[Path]] = {}
    for name, path in files:
        part = _PART.fullmatch(name)
        if part is None:
            yield name, [path]
        elif int(part[2]) == 1:
            several[part[1]] = [path]
        elif part[1] in several:
            several[part[1]].append(path)
    yield from several.items()
