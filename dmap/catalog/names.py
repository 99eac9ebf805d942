"""Which name means which model: pure lookup over what `Catalog` knows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dmap.models import ModelInfo, ModelKey
from dmap.sections import ModelSection
from dmap.sections.models import ANY


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """
    One model as its backend and the file describe it, or a variant of one.

    A variant has the model *of* which it is, with that one's *key* and *info*; *called* and *settings* are
    its own.  *names* are its own name and those that the file gives it; with *takes_any* it also takes names
    that nobody knows.
    """

    key: ModelKey
    info: ModelInfo
    settings: ModelSection
    of: "Entry | None" = None
    called: str = ""
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
    """

    def __init__(self, known: Iterable[Entry], variants: Iterable[Entry] = ()) -> None:
        self.known = tuple(known)
        self.entries: dict[str, Entry] = {}
        for entry in self.known:
            self.entries.setdefault(entry.name, entry)
        self.entries |= {entry.name: entry for entry in variants}
        self.variants = tuple(entry for entry in self.entries.values() if entry.of is not None)
        self.fallback = next((entry for entry in self.entries.values() if entry.takes_any), None)
        self._all: dict[str, Entry] = {}
        aliases = ((alias, entry) for entry in self.entries.values() for alias in entry.names[1:])
        addresses = ((str(entry.key), entry) for entry in self.known)
        for name, entry in (*aliases, *self.entries.items(), *addresses):
            self._all.setdefault(name, entry)
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
        folded = name.casefold()
        found = self._all.get(name) or self._folded.get(folded)
        return found or self._without_quant(folded) or self._with_file(folded)

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
