"""
Which name means which model, and which models of one name are copies: pure lookup over what `Catalog` knows.

Only servers of one kind have copies: a model on a server in the cloud may have the name of one in this house,
and no request shall go there by itself.  Of two on servers of one kind nothing may say that they differ.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dmap.models import ModelInfo, ModelKey
from dmap.sections import ModelSection
from dmap.sections.models import ANY


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """
    One model as its backend and the file describe it, or a variant of one.

    A variant has the model *of* which it is, with that one's *key* and *info*; *called* and *settings* are
    its own.  *names* are its own name and those that the file gives it; with *takes_any* it also takes names
    that nobody knows.  *kind* is that of its backend.
    """

    key: ModelKey
    info: ModelInfo
    settings: ModelSection
    of: "Entry | None" = None
    called: str = ""
    kind: str = ""
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        aliases = (alias for alias in self.settings.aliases if alias != ANY)
        object.__setattr__(self, "names", (self.called or self.key.model, *aliases))

    @property
    def name(self) -> str:
        """Its own name: the backend's for a model, the file's for a variant."""
        return self.names[0]

    @property
    def takes_any(self) -> bool:
        """Whether it answers to names that nobody knows."""
        return ANY in self.settings.aliases


class NameIndex:
    """
    The models of *known* and the *variants* under all their names.

    The file's aliases and variants go before models, plain names before backend/model, those before the names
    that only a backend has for a model, and the first of equal ones wins.  *fallback* takes names that nobody
    knows; None if the file has no such alias, or nobody has its model.

    A name means all copies of its model, backend/model that one only.  *differing* are those that have the
    name of a model before them and are no copies of it, with the reason.
    """

    def __init__(self, known: Iterable[Entry], variants: Iterable[Entry] = ()) -> None:
        self.known = tuple(known)
        models, of_models = grouped(self.known)
        changed, of_variants = grouped(variants)
        self._copies = {copies[0]: copies for copies in (*models.values(), *changed.values())}
        self.differing = of_models | of_variants
        self.entries = {name: copies[0] for name, copies in (models | changed).items()}
        heads = (entry for entry in self.entries.values() if entry.of is not None)
        self.variants = tuple(copy for entry in heads for copy in self._copies[entry])
        self.fallback = next((entry for entry in self.entries.values() if entry.takes_any), None)
        self._all: dict[str, Entry] = {}
        aliases = ((alias, entry) for entry in self.entries.values() for alias in entry.names[1:])
        addresses = ((str(entry.key), entry) for entry in self.known)
        for name, entry in (*aliases, *self.entries.items(), *addresses):
            self._all.setdefault(name, entry)
        self._plain = {name.casefold() for entry in self.entries.values() for name in entry.names}
        for entry in self.known:
            for name in entry.info.names:
                self._all.setdefault(name, entry)
        self._folded = {name.casefold(): entry for name, entry in reversed(self._all.items())}
        self._files: dict[str, Entry] = {}
        for entry in self.known:
            self._files.setdefault(entry.info.file.casefold(), entry)

    def find(self, name: str) -> Entry | None:
        """
        Find a model by its name, else in other letters, else without its `@quant`, else by its file.

        Never by a part of a name.
        """
        if name in self._all:
            return self._all[name]
        folded = name.casefold()
        return self._folded.get(folded) or self._without_quant(folded) or self._with_file(folded)

    def places(self, name: str) -> tuple[Entry, ...]:
        """Return all copies of the model that *name* means, the first of the file first; none if none."""
        entry = self.find(name)
        if entry is None:
            return ()
        copies = self.copies(entry)
        if len(copies) == 1 or (folded := name.casefold()) in self._plain:
            return copies
        return tuple(copy for copy in copies if copy is entry or _answers_to(copy, folded))

    def copies(self, entry: Entry) -> tuple[Entry, ...]:
        """Return all copies of the model of *entry*, if that is the first of them; else itself."""
        return self._copies.get(entry, (entry,))

    def spellings(self) -> Iterable[tuple[str, Entry]]:
        """Return all names that mean a model, those of the file first, each with what it means."""
        return self._all.items()

    def listed(self) -> Iterator[tuple[str, Entry]]:
        """Yield each model under its name and its aliases, but no name that means another."""
        for entry in self.entries.values():
            yield from ((name, entry) for name in entry.names if self._all[name] is entry)

    def _without_quant(self, folded: str) -> Entry | None:
        key, at, _ = folded.partition("@")
        entry = self._folded.get(key) if at else None
        return entry if entry is not None and entry.info.any_quant else None

    def _with_file(self, path: str) -> Entry | None:
        """Find the model whose file lies at the end of *path*: some give more folders than are known here."""
        while path and path not in self._files:
            path = path.partition("/")[2]
        return self._files[path] if path else None


def _answers_to(entry: Entry, name: str) -> bool:
    """Tell whether *entry* has the *name*, in small letters, that only its backend has for a model."""
    info = entry.info
    is_file = bool(info.file) and name.endswith(info.file.casefold())
    return is_file or (info.any_quant and "@" in name) or name in map(str.casefold, info.names)


def grouped(
    entries: Iterable[Entry],
) -> tuple[dict[str, tuple[Entry, ...]], dict[Entry, str]]:
    """
    Return the *entries* by name: of each the first one and its copies; and of those that differ, why.

    Of another kind than the first one, an entry is neither.
    """
    groups: dict[str, list[Entry]] = {}
    differing: dict[Entry, str] = {}
    for entry in entries:
        group = groups.setdefault(entry.name, [])
        if not group:
            group.append(entry)
        elif entry.kind == group[0].kind and all(entry.key != copy.key for copy in group):
            reason = difference(group[0], entry)
            if reason is None:
                group.append(entry)
            else:
                differing[entry] = reason
    return {name: tuple(group) for name, group in groups.items()}, differing


def difference(one: Entry, other: Entry) -> str | None:
    """Say what tells *other* from *one*, which has its name; None if nothing does."""
    said = _facts(one), _facts(other)
    told = (
        f"{what} {said[1][what]!r}, not {said[0][what]!r}"
        for what in said[0]
        if said[0][what] and said[1][what] and said[0][what] != said[1][what]
    )
    return next(told, None)


def _facts(entry: Entry) -> dict[str, Any]:
    """Return what a backend may say of the file of a model; nothing that depends on how it is loaded."""
    info, quantization = entry.info, entry.info.v1.get("quantization")
    return {
        "use": "embeddings" if info.embedding else "answers",
        "quantization": quantization.get("name") if isinstance(quantization, dict) else quantization,
        "file": info.file.rpartition("/")[2].casefold(),
        "bytes": info.v1.get("size_bytes"),
    }
