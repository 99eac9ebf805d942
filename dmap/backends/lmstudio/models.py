"""
What LM Studio says it has, read from its lists.  Pure: it asks nobody.

The fields come and go with versions and engines (MLX instances lack most of the configuration, embedding
models have no architecture, lists gain keys), so whatever is missing or odd reads as unknown; only an entry
without a name is passed over.  The counterpart is `look`, which asks for the lists.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dmap.backends.ask import is_name

PARALLEL = 4
"""LM Studio's Max Concurrent Predictions where nothing else is said (bug-tracker #2061)."""

LOADED, LOADING, UNKNOWN = "loaded", "loading", "unknown"


@dataclass(frozen=True, slots=True)
class Instance:
    """One copy of a model in memory, or on its way there: v1 lists it from the start of its load."""

    id: str
    context_length: int | None = None
    parallel: int | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """
    One model on disk with its instances; *key* is its one true name, *names* are all its other names.

    *v1* is its entry in that list as it came, for clients that ask for that list.
    """

    key: str
    embedding: bool = False
    size_bytes: int | None = None
    names: tuple[str, ...] = ()
    instances: tuple[Instance, ...] = ()
    v1: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def other_names(self) -> tuple[str, ...]:
        """Return every name but the key: its variants, and the ids of its instances."""
        ids = (instance.id for instance in self.instances)
        return tuple(name for name in dict.fromkeys((*self.names, *ids)) if name != self.key)

    def is_named(self, instance: Instance) -> bool:
        """
        Tell whether a request that names the key gets *instance* for certain.

        The key matches in any letter case; an id of its own (`key:2`, or one that `lms load --identifier`
        gave) is only matched by itself.
        """
        return instance.id.casefold() == self.key.casefold()

    def is_copy(self, instance: Instance) -> bool:
        """Tell whether *instance* has the name of a second one, such as `key:2`."""
        base, _, number = instance.id.rpartition(":")
        return number.isdecimal() and base.casefold() == self.key.casefold()


class Disk:
    """All that LM Studio has on disk, under every name; *v0* are the entries of that list, by folded ids."""

    def __init__(self, models: Iterable[Listed], v0: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.models = {model.key: model for model in models}
        self.v0: Mapping[str, Mapping[str, Any]] = v0 or {}
        self._keys: dict[str, str] = {}
        others = ((name, model.key) for model in self.models.values() for name in model.other_names())
        for name, key in (*((key, key) for key in self.models), *others):  # a key means its own model
            self._keys.setdefault(name.casefold(), key)

    def canonical(self, name: str) -> str | None:
        """Return the key of the model called *name*: a key, an instance id or a `@quant`, in any case."""
        folded = name.casefold()
        return self._keys.get(folded) or self._keys.get(folded.partition("@")[0])

    def older(self, model: Listed) -> Mapping[str, Any]:
        """Return v0's entry of *model*, which may bear the id of an instance; nothing if there is none."""
        ids = (model.key, *(one.id for one in model.instances if self.canonical(one.id) == model.key))
        return next((self.v0[id.casefold()] for id in ids if id.casefold() in self.v0), {})

    def instances(self) -> Iterator[tuple[Listed, Instance]]:
        """Yield every instance with its model."""
        for model in self.models.values():
            for instance in model.instances:
                yield model, instance


def objection(
    wanted: Listed, kept: Instance | None, late: frozenset[str], model: Listed, instance: Instance
) -> str:
    """Tell why *instance* of *model* cannot stay when *wanted* is loaded; nothing if it can."""
    if instance is kept:
        return ""
    if model.key == wanted.key:
        return "surplus" if kept is not None or not model.is_named(instance) else "too little context"
    if instance.id.casefold() == wanted.key.casefold():
        return f"it bears the name of {wanted.key}"
    return "loaded by others during a switch" if model.key in late else ""


def read_v1(items: Iterable[Mapping[str, Any]]) -> list[Listed]:
    """Read the `models` of `GET /api/v1/models` (LM Studio's docs, 2_rest/list.md)."""
    return [_listed(item) for item in items if is_name(item.get("key"))]


def read_v0(items: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Read the `data` of `GET /api/v0/models` as its entries by their ids, ids folded."""
    return {item["id"].casefold(): item for item in items if is_name(item.get("id"))}


def loaded_of(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the instances that v1's entry *item* has, as they came."""
    loaded = item.get("loaded_instances")
    return [one for one in (loaded if isinstance(loaded, list) else ()) if isinstance(one, dict)]


def state_of(entry: Mapping[str, Any] | None) -> str:
    """Return v0's word on an entry: `loaded`, `loading` (not documented, measured), `not-loaded`, ..."""
    return str(entry.get("state", UNKNOWN)) if entry is not None else UNKNOWN


def _listed(item: Mapping[str, Any]) -> Listed:
    variants = item.get("variants")
    names = [item.get("selected_variant"), *(variants if isinstance(variants, list) else ())]
    embedding = str(item.get("type")).startswith("embedding")  # v0 says `embeddings`
    return Listed(
        key=item["key"],
        embedding=embedding,
        size_bytes=_count(item.get("size_bytes")),
        names=tuple(dict.fromkeys(filter(is_name, names))),
        instances=tuple(_instance(one, embedding) for one in loaded_of(item) if is_name(one.get("id"))),
        v1=item,
    )


def _instance(loaded: Mapping[str, Any], embedding: bool) -> Instance:
    given = loaded.get("config")
    config = given if isinstance(given, dict) else {}
    parallel = _count(config.get("parallel")) or (None if embedding else PARALLEL)
    return Instance(loaded["id"], _count(config.get("context_length")), parallel)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
