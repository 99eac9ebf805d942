"""Which models a folder of GGUF files holds, by their headers.  It blocks."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dmap.backends.gguf.file import ModelFile, Part
from dmap.backends.gguf.header import MODEL, PROJECTOR, UNREADABLE, Header, read_header
from dmap.backends.gguf.names import is_fit, names_of
from dmap.backends.gguf.pages import share_in_memory
from dmap.backends.gguf.projectors import is_projector_name, with_projectors
from dmap.backends.gguf.soundness import fault_in
from dmap.backends.gguf.tree import SUFFIX, File, Tree

CACHED = 0.9
"""From this share on a file counts as being in memory: what is left of it is read in no time."""

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})")


@dataclass(frozen=True, slots=True)
class Content:
    """The *models* of a folder by id, and why anything else was left out, by its path."""

    models: Mapping[str, ModelFile] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


class Folder:
    """The models below *path*, at any depth.  Headers are read once per file version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tree = Tree(path)
        self._headers: dict[Part, Header] = {}

    def scan(self) -> Content:
        """
        Return what is there.

        A model's id is its file's name without `.gguf` and part number, behind the folders that it is in.

        Raises OSError when the folder itself cannot be read; what else cannot be read is left out.
        """
        found = self._tree.look()
        skipped = dict(found.skipped)
        seen: dict[str, ModelFile] = {}
        for model, count, files in _grouped(found.files):
            try:
                if model in seen:
                    raise ValueError(f"{seen[model].path.name} is called so already")
                seen[model] = self._look(model, count, files)
            except (OSError, ValueError) as exc:
                skipped[str(files[0].path)] = getattr(exc, "strerror", None) or str(exc)
        self._headers = {each.parts[0]: each.header for each in seen.values()}
        models = list(with_projectors(seen.values()))
        names = names_of({each.id: each.path.name for each in models})
        return Content({each.id: replace(each, names=names[each.id]) for each in models}, skipped)

    def _look(self, model: str, count: int, files: list[File]) -> ModelFile:
        """Raise ValueError, or OSError, with the reason why these *files* are nothing to serve."""
        if not is_fit(model):
            raise ValueError("no client could send its name")
        if len(files) != count:
            raise ValueError(f"{len(files)} of its {count} parts are there")
        parts = tuple(Part.of(file.path) for file in files)
        header = self._headers.get(parts[0]) or _header_of(parts[0])
        if header.type not in (MODEL, PROJECTOR):
            raise ValueError(f"it is no model, but of the type {header.type!r}")
        if header.type == MODEL and is_projector_name(files[0].name):
            raise ValueError("its name is that of a projector, but its header is not")
        cached = all(share_in_memory(file.path) >= CACHED for file in files)
        return ModelFile(model, files[0].place, parts, header, cached)


def _header_of(part: Part) -> Header:
    """Read a header; raise ValueError for a projector that is no use, which its model can do without."""
    header = read_header(part.path) or UNREADABLE
    fault = fault_in(part.path, part.size) if header.type == PROJECTOR else None
    if fault is not None:
        raise ValueError(fault)
    return header


def _grouped(files: Iterable[File]) -> list[tuple[str, int, list[File]]]:
    """
    Return the files of each model behind its id and the number that there should be.

    Where a model lies there in one file and in parts, the parts come first.
    """
    groups: dict[tuple[str, int], list[File]] = {}
    for file in files:
        stem = file.name[: -len(SUFFIX)]
        part = _PART.fullmatch(stem)
        model, count = (part[1], int(part[3])) if part else (stem, 1)
        groups.setdefault(("/".join((*file.place, model)), count), []).append(file)
    ordered = sorted(groups, key=lambda group: (group[0], -group[1]))
    return [(*group, sorted(groups[group], key=lambda file: file.name)) for group in ordered]
