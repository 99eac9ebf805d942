"""Which name means which model: pure lookup over what `Catalog` knows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dmap.models import ModelInfo, ModelKey
from dmap.sections import ModelSection


@dataclass(frozen=True, slots=True)
class Entry:
    """One model as its backend and the file describe it."""

    key: ModelKey
    info: ModelInfo
    settings: ModelSection

    @property
    def name(self) -> str:
        return self.key.model

    @property
    def names(self) -> tuple[str, ...]:
        """Its own name and those that the file gives it."""
        return (self.name, *self.settings.aliases)


class NameIndex:
    """
    The models of *known* under all their names.

    The file's aliases go before models, plain names before backend/model, those before the names that only a
    backend has for a model, and the first of equal ones wins.
    """

    def __init__(self, known: Iterable[Entry]) -> None:
        self.known = tuple(known)
        self.entries: dict[str, Entry] = {}
        for entry in self.known:
            self.entries.setdefault(entry.name, entry)
        self._all = {alias: entry for entry in self.entries.values() for alias in entry.settings.aliases}
        for name, entry in (*self.entries.items(), *((str(entry.key), entry) for entry in self.known)):
            self._all.setdefault(name, entry)
        for entry in self.known:
            for name in entry.info.names:
                self._all.setdefault(name, entry)
        self._folded = {name.casefold(): entry for name, entry in reversed(self._all.items())}

    def find(self, name: str) -> Entry | None:
        """Find a model by its name, else in other letters, else without its `@quant`; never by a part."""
        folded = name.casefold()
        return self._all.get(name) or self._folded.get(folded) or self._without_quant(folded)

    def listed(self) -> Iterator[tuple[str, Entry]]:
        """Yield each model under its name and its aliases, but no name that means another."""
        for entry in self.entries.values():
            yield from ((name, entry) for name in entry.names if self._all[name] is entry)

    def _without_quant(self, folded: str) -> Entry | None:
        key, at, _ = folded.partition("@")
        entry = self._folded.get(key) if at else None
        return entry if entry is not None and entry.info.any_quant else None
