"""
What LM Studio says it has, read from its lists.  Pure: it asks nobody.

The fields come and go with versions and engines (MLX instances lack most of the configuration, embedding
models have no architecture, lists gain keys), so whatever is missing or odd reads as unknown; only an entry
without a name is passed over.  The counterpart is `server`, which asks for the lists.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from types import MappingProxyType
from typing import Any

from dmap.backends.ask import count, is_name
from dmap.models import ModelInfo

PARALLEL = 4
"""LM Studio's Max Concurrent Predictions where nothing else is said (bug-tracker #2061)."""


@dataclass(frozen=True, slots=True)
class Instance:
    """
    One copy of the model *key* in memory, or on its way there: v1 lists it from the start of its load.

    It may also stand for what a load asks for; *id* is then the identifier, empty if any will do.  One that
    somebody else loads now is *arriving*.
    """

    id: str
    key: str
    context_length: int | None = None
    parallel: int | None = None
    answers: bool = field(default=False, compare=False)
    arriving: bool = field(default=False, compare=False)

    @property
    def is_named(self) -> bool:
        """
        Whether a request that names the key gets this instance for certain.

        The key matches in any letter case; an id of its own (`key:2`, or one that `lms load --identifier`
        gave) is only matched by itself.
        """
        return self.id.casefold() == self.key.casefold()

    @property
    def is_copy(self) -> bool:
        """Whether it has the name of a second one, such as `key:2`."""
        base, _, number = self.id.rpartition(":")
        return number.isdecimal() and base.casefold() == self.key.casefold()

    def suffices(self, asked: "Instance") -> bool:
        """Tell whether it has at least what was *asked*; what its entry does not tell is enough."""
        pairs = ((self.context_length, asked.context_length), (self.parallel, asked.parallel))
        return all(got is None or least is None or got >= least for got, least in pairs)


@dataclass(frozen=True, slots=True)
class Listed:
    """
    One model on disk with its instances; *info* describes it as if none of them answered.

    Its id is the *key*, its one true name.  Its other names are its variants and the ids of its instances.
    """

    info: ModelInfo
    instances: tuple[Instance, ...] = ()

    @property
    def key(self) -> str:
        """The name to load and to ask by."""
        return self.info.id

    @property
    def serving(self) -> Instance | None:
        """The instance that answers: if there are several, the one that bears the key."""
        ready = (instance for instance in self.instances if instance.answers)
        return min(ready, key=lambda instance: not instance.is_named, default=None)


class Look:
    """All that LM Studio has, under every name; *v0* are the entries of that list, by folded ids."""

    def __init__(
        self, models: Iterable[Listed] = (), v0: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    ) -> None:
        self.models = {model.key: model for model in models}
        self._v0 = v0
        self._keys: dict[str, str] = {}
        others = ((name, model.key) for model in self.models.values() for name in model.info.names)
        for name, key in (*((key, key) for key in self.models), *others):  # a key means its own model
            self._keys.setdefault(name.casefold(), key)

    def canonical(self, name: str) -> str | None:
        """Return the key of the model called *name*: a key, an instance id or a `@quant`, in any case."""
        folded = name.casefold()
        return self._keys.get(folded) or self._keys.get(folded.partition("@")[0])

    def find(self, name: str) -> Listed | None:
        """Return the model that *name* means."""
        return self.models.get(self.canonical(name) or "")

    def instances(self) -> Iterator[Instance]:
        """Yield every instance of every model."""
        return chain.from_iterable(model.instances for model in self.models.values())

    def residents(self) -> frozenset[str]:
        """Return the keys of the models that answer."""
        return frozenset(instance.key for instance in self.instances() if instance.answers)

    def described(self) -> list[ModelInfo]:
        """Return what was found, as the catalog and the gate want it."""
        return [self._describe(model) for model in self.models.values()]

    def _describe(self, model: Listed) -> ModelInfo:
        ready = {instance.id for instance in model.instances if instance.answers}
        answering = [one for one in _loaded_of(model.info.v1) if one.get("id") in ready]
        v1 = {**model.info.v1, "loaded_instances": answering}
        arriving = any(one.arriving for one in model.instances)
        info, instance = replace(model.info, v0=self._older(model), v1=v1, arriving=arriving), model.serving
        if instance is None:
            return info
        length, parallel = instance.context_length, instance.parallel
        return replace(info, resident=True, context_length=length, parallel=parallel)

    def _older(self, model: Listed) -> Mapping[str, Any]:
        """Return v0's entry of *model*, which may bear the id of an instance; nothing if there is none."""
        ids = (model.key, *(one.id for one in model.instances if self.canonical(one.id) == model.key))
        return next((self._v0[id.casefold()] for id in ids if id.casefold() in self._v0), {})


def read_v1(items: Iterable[Mapping[str, Any]]) -> list[Listed]:
    """Read the `models` of `GET /api/v1/models` (LM Studio's docs, 2_rest/list.md)."""
    return [_listed(item) for item in items if is_name(item.get("key"))]


def read_v0(items: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Read the `data` of `GET /api/v0/models` as its entries by their ids, ids folded."""
    return {item["id"].casefold(): item for item in items if is_name(item.get("id"))}


def _listed(item: Mapping[str, Any]) -> Listed:
    key, variants = item["key"], item.get("variants")
    embedding = str(item.get("type")).startswith("embedding")  # v0 says `embeddings`
    parallel = None if embedding else PARALLEL
    instances = [_instance(key, one, parallel) for one in _loaded_of(item) if is_name(one.get("id"))]
    named = [item.get("selected_variant"), *(variants if isinstance(variants, list) else ())]
    named += [one.id for one in instances]
    names = tuple(dict.fromkeys(name for name in named if is_name(name) and name != key))
    info = ModelInfo(
        key,
        resident=False,
        size_bytes=count(item.get("size_bytes")),
        embedding=embedding,
        names=names,
        any_quant=not any("@" in name for name in names),
        v1=item,
    )
    return Listed(info, tuple(instances))


def _loaded_of(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the instances that v1's entry *item* has, as they came."""
    loaded = item.get("loaded_instances")
    return [one for one in (loaded if isinstance(loaded, list) else ()) if isinstance(one, dict)]


def _instance(key: str, loaded: Mapping[str, Any], parallel: int | None) -> Instance:
    given = loaded.get("config")
    config = given if isinstance(given, dict) else {}
    length = count(config.get("context_length"))
    return Instance(loaded["id"], key, length, count(config.get("parallel")) or parallel)
