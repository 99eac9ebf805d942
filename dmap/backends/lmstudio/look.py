"""
What is really loaded in LM Studio: its two lists, put together.

The v1 list names an instance from the *start* of its load (measured: 0.2 s into 40 s), so it does not say
ready.  The v0 list has a `state`, which says `loading` for as long as that takes, but may lag behind a load
that is done.  So both have to agree, but for three cases:

1. What our own load's 200 proved stays ready while v1 lists it, until v0 has said `loaded` too.  From then on
   v0 has nothing to lag behind: whatever else it says, somebody has unloaded it, or loads it anew.
2. Where the two disagree for `disagree_s`, v1 is right from then on.  `loading` is no disagreement.
3. Where v0 is gone, v1 is right at once.

A server without v1 is older than 0.4.0.  dmap cannot load or unload there, says so, and counts it as down.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, NamedTuple

from dmap.backends.ask import entries
from dmap.backends.lmstudio.client import Fault, RestClient
from dmap.backends.lmstudio.models import Instance, Listed, Look, read_v0, read_v1

V1, V0 = "/api/v1/models", "/api/v0/models"

TOO_OLD = (
    f"is too old for dmap to load models there: it has no {V1}, which came with 0.4.0; update it, or "
    "give this backend `kind: openai` and load models by hand (docs/workflows.md)"
)

Entries = Mapping[str, Mapping[str, Any]]

LOADED, LOADING = "loaded", "loading"
"""What v0 calls the state of an instance; `loading` is not documented, but measured."""


class State(Enum):
    """What is known of an instance: a load or an unload of ours that has ended, or what v0 says."""

    PROVEN = auto()
    CONFIRMED = auto()
    DOUBTED = auto()
    UNLOADED = auto()


class Known(NamedTuple):
    """What is known of an instance, and since when."""

    state: State
    since: float

    def after(self, word: object, now: float, disagree_s: float) -> "Known":
        """Return what is known once v1 lists the instance, and v0 has this *word* on it, or None."""
        if self.state is State.UNLOADED and now - self.since < disagree_s:
            return self  # the lists lag behind
        if word == LOADED:
            return self if self.state is State.CONFIRMED else Known(State.CONFIRMED, now)
        if self.state is State.PROVEN or (self.state is State.CONFIRMED and word is None):
            return self
        return self if self.state is State.DOUBTED and word != LOADING else Known(State.DOUBTED, now)

    def answers(self, now: float, disagree_s: float) -> bool:
        """Tell whether the instance answers."""
        is_old = self.state is State.DOUBTED and now - self.since >= disagree_s
        return is_old or self.state in (State.PROVEN, State.CONFIRMED)


@dataclass(slots=True)
class Observer:
    """Looks at the server behind *client*, and remembers what it knows of each instance."""

    _client: RestClient
    _disagree_s: float
    _known: dict[str, Known] = field(default_factory=dict)

    async def look(self) -> Look:
        """
        Ask both lists, v1 first: v0 then tells what has become by now of what was listed there.

        Raises `BackendDown` when the server does not answer, or neither list is there.
        """
        began = self._now()
        models = await self._asked(V1, "models")
        older = await self._asked(V0, "data")
        if isinstance(models, Fault):
            if models.missing and not isinstance(older, Fault):
                raise self._client.down(TOO_OLD)
            raise self._client.down(f"does not list its models: {self._client.reason(models)}") from models
        v0 = {} if isinstance(older, Fault) else read_v0(older)
        is_gone = isinstance(older, Fault) and older.missing
        look = Look((self._judged(model, v0, is_gone) for model in _with_begun(read_v1(models), v0)), v0)
        listed = {instance.id for instance in look.instances()}
        self._known = {id: one for id, one in self._known.items() if id in listed or one.since >= began}
        return look

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
        self._known[id] = Known(State.PROVEN, self._now())

    def forget(self, id: str) -> None:
        """Take note that *id* was unloaded."""
        self._known[id] = Known(State.UNLOADED, self._now())

    def _judged(self, model: Listed, v0: Entries, is_gone: bool) -> Listed:
        """Return *model* with word of which of its instances answer, where *v0* says so or *is_gone*."""
        now, instances = self._now(), []
        for instance in model.instances:
            entry = v0.get(instance.id.casefold()) or v0.get(instance.key.casefold()) or {}
            before = self._known.get(instance.id) or Known(State.DOUBTED, now)
            known = before.after(LOADED if is_gone else entry.get("state"), now, self._disagree_s)
            self._known[instance.id] = known
            instances.append(replace(instance, answers=known.answers(now, self._disagree_s)))
        return replace(model, instances=tuple(instances))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _with_begun(models: Iterable[Listed], v0: Entries) -> Iterator[Listed]:
    """Add the loads that v0 knows of and v1 does not, which was asked before: they began between the two."""
    for model in models:
        has_begun = not model.instances and v0.get(model.key.casefold(), {}).get("state") == LOADING
        yield replace(model, instances=(Instance(model.key, model.key),)) if has_begun else model
