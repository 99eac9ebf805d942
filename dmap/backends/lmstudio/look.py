"""
What is really loaded in LM Studio: its two lists, put together.

The v1 list names an instance from the *start* of its load (measured: 0.2 s into 40 s), so it does not say
ready.  The v0 list has a `state`, which says `loading` for as long as that takes, but may lag behind a load
that is done.  So both have to agree, but for three cases:

1. What our own load's 200 proved stays ready while v1 lists it, until v0 has said `loaded` too.  From then on
   v0 has nothing to lag behind: whatever else it says, somebody has unloaded it, or loads it anew.
2. Where the two disagree for `disagree_s`, v1 is right.  `loading` is no disagreement.
3. Where v0 is gone, v1 is right at once.

A server without v1 is older than 0.4.0.  dmap cannot load or unload there, says so, and counts it as down.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dmap.backends.ask import entries
from dmap.backends.lmstudio.client import Fault, RestClient
from dmap.backends.lmstudio.models import (
    LOADED,
    LOADING,
    PARALLEL,
    UNKNOWN,
    Disk,
    Instance,
    Listed,
    loaded_of,
    read_v0,
    read_v1,
    state_of,
)
from dmap.models import ModelInfo

V1, V0 = "/api/v1/models", "/api/v0/models"

TOO_OLD = (
    f"is too old for dmap to load models there: it has no {V1}, which came with 0.4.0; update it, or "
    "give this backend `kind: openai` and load models by hand (docs/workflows.md)"
)

Entries = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Look:
    """What is on *disk*, and the ids of the instances that answer."""

    disk: Disk
    ready: frozenset[str] = frozenset()

    def find(self, name: str) -> Listed | None:
        """Return the model that *name* means."""
        return self.disk.models.get(self.disk.canonical(name) or "")

    def residents(self) -> frozenset[str]:
        """Return the keys of the models that answer."""
        return frozenset(model.key for model, instance in self.disk.instances() if instance.id in self.ready)

    def loading(self) -> Iterator[tuple[Listed, Instance]]:
        """Yield what is listed but does not answer yet."""
        return (found for found in self.disk.instances() if found[1].id not in self.ready)

    def ready_of(self, model: Listed) -> list[Instance]:
        """Return the instances of *model* that answer, the one that bears its key first."""
        ready = [instance for instance in model.instances if instance.id in self.ready]
        return sorted(ready, key=lambda instance: not model.is_named(instance))

    def described(self) -> list[ModelInfo]:
        """Return what was found, as the catalog and the gate want it."""
        return [self._describe(model) for model in self.disk.models.values()]

    def _describe(self, model: Listed) -> ModelInfo:
        instance = next(iter(self.ready_of(model)), None)
        names = model.other_names()
        return ModelInfo(
            id=model.key,
            resident=instance is not None,
            size_bytes=model.size_bytes,
            context_length=instance.context_length if instance else None,
            parallel=instance.parallel if instance else (None if model.embedding else PARALLEL),
            embedding=model.embedding,
            names=names,
            any_quant=not any("@" in name for name in names),
            v0=self.disk.older(model),
            v1={**model.v1, "loaded_instances": self._answering(model)} if model.v1 else {},
        )

    def _answering(self, model: Listed) -> list[Any]:
        """Return the instances of *model* in v1's own words, without those whose load is under way."""
        return [one for one in loaded_of(model.v1) if one.get("id") in self.ready]


@dataclass(slots=True)
class _Proof:
    """Since when an instance is known to answer, and whether v0 has said so too."""

    at: float
    confirmed: bool


@dataclass(slots=True)
class Observer:
    """Looks at the server behind *client*, and remembers what it has seen ready."""

    _client: RestClient
    _disagree_s: float
    _proven: dict[str, _Proof] = field(default_factory=dict)
    _doubted: dict[str, float] = field(default_factory=dict)
    _unloaded: dict[str, float] = field(default_factory=dict)

    async def look(self) -> Look:
        """
        Ask both lists, v1 first: v0 then tells what has become by now of what was listed there.

        Raises `BackendDown` when the server does not answer, or neither list is there.
        """
        began = self._now()
        models = await self._asked(V1, "models")
        listed = await self._asked(V0, "data")
        gone = isinstance(listed, Fault) and listed.missing
        v0 = None if isinstance(listed, Fault) else read_v0(listed)
        if not isinstance(models, Fault):
            disk = Disk(_with_begun(read_v1(models), v0 or {}), v0)
            return self._judge(disk, gone, began)
        if models.missing and v0 is not None:
            raise self._client.down(TOO_OLD)
        raise self._client.down(f"does not list its models: {self._client.reason(models)}") from models

    async def _asked(self, path: str, member: str) -> list[Mapping[str, Any]] | Fault:
        """Return the entries of a list, or why there are none."""
        try:
            return entries(await self._client.get(path), member)
        except Fault as fault:
            return fault
        except ValueError as exc:
            return Fault(200, f"{exc}, at {path}")

    def prove(self, id: str) -> None:
        """Take note that *id* answers: its load's own 200 said so."""
        self._proven[id] = _Proof(self._now(), confirmed=False)
        self._unloaded.pop(id, None)

    def forget(self, id: str) -> None:
        """Take note that *id* was unloaded."""
        self._proven.pop(id, None)
        self._unloaded[id] = self._now()

    def _judge(self, disk: Disk, gone: bool, began: float) -> Look:
        now = self._now()
        ready = frozenset(
            instance.id
            for model, instance in disk.instances()
            if not self._is_leaving(instance, now) and (gone or self._is_ready(model, instance, disk.v0, now))
        )
        listed = {instance.id for _, instance in disk.instances()}
        self._unloaded = {id: at for id, at in self._unloaded.items() if id in listed or at >= began}
        meanwhile = {id: proof for id, proof in self._proven.items() if proof.at >= began}
        seen = {id: self._proven.get(id) or _Proof(now, confirmed=True) for id in ready}
        self._proven = {**seen, **meanwhile}
        self._doubted = {id: since for id, since in self._doubted.items() if id in listed - ready}
        return Look(disk, ready)

    def _is_leaving(self, instance: Instance, now: float) -> bool:
        """Tell whether *instance* was unloaded, and the lists only lag behind."""
        return now - self._unloaded.get(instance.id, -self._disagree_s) < self._disagree_s

    def _is_ready(self, model: Listed, instance: Instance, v0: Entries, now: float) -> bool:
        state = state_of(v0.get(instance.id.casefold()) or v0.get(model.key.casefold()))
        proof = self._proven.get(instance.id)
        if proof is not None:
            proof.confirmed |= state == LOADED
        if state == LOADED or (proof is not None and (state == UNKNOWN or not proof.confirmed)):
            return True
        doubted_s = now - self._doubted.setdefault(instance.id, now)
        return state != LOADING and doubted_s >= self._disagree_s

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _with_begun(models: Iterable[Listed], v0: Entries) -> Iterator[Listed]:
    """Add the loads that v0 knows of and v1 does not, which was asked before: they began between the two."""
    for model in models:
        has_begun = not model.instances and state_of(v0.get(model.key.casefold())) == LOADING
        yield replace(model, instances=(Instance(model.key),)) if has_begun else model
