"""
What dmap knows of one LM Studio between its looks: what is there, what of it answers, what its loads gave.

It only looks.  `loads` loads and unloads and notes here what came of it, `known` judges what the lists say.

A server without v1 is older than 0.4.0.  dmap cannot load or unload there, says so, and counts it as down.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dmap.backends.ask import entries
from dmap.backends.lmstudio.client import Fault, RestClient
from dmap.backends.lmstudio.known import LOADED, LOADING, Known, State
from dmap.backends.lmstudio.models import Instance, Listed, Look, read_v0, read_v1
from dmap.errors import BackendDown
from dmap.logfmt import Line
from dmap.models import ModelInfo

V1, V0 = "/api/v1/models", "/api/v0/models"

TOO_OLD = (
    f"is too old for dmap to load models there: it has no {V1}, which came with 0.4.0; update it, or "
    "give this backend `kind: openai` and load models by hand (docs/workflows.md)"
)

Entries = Mapping[str, Mapping[str, Any]]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Server:
    """
    The LM Studio behind *client*, whose two lists may contradict each other for *disagree_s*.

    *last* is the last look that was kept, *residents* are the keys of the models that answer.  *expected* are
    the residents of the last turn of the watch, changed as dmap itself has changed them since; None before
    its first turn.  *down* is set by a look that got no answer.  Whoever loads or unloads holds *busy*, and
    counts in *answers* what was answered: a look that began before is out of date.  *own* is the key of the
    model that a load of ours is bringing, whether somebody still waits for it or not.

    *report* is called with the outcome of each look: the models, or the reason why there was no answer.
    *changed* is for whoever finds out that a model may have come or gone without an order of dmap, and
    *in_use* tells whether requests for a model are out.
    """

    client: RestClient
    disagree_s: float
    report: Callable[[Sequence[ModelInfo] | BackendDown], None]
    changed: Callable[[], None]
    in_use: Callable[[str], bool]
    last: Look = field(default_factory=Look)
    residents: frozenset[str] = frozenset()
    expected: frozenset[str] | None = None
    down: asyncio.Event = field(default_factory=asyncio.Event)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    own: str | None = None
    answers: int = 0
    _known: dict[str, Known] = field(default_factory=dict)
    _given: dict[str, tuple[Instance, Instance]] = field(default_factory=dict)

    async def see(self) -> Look:
        """Look; what began before an answer to a load or unload is not kept.  Raises `BackendDown`."""
        answers = self.answers
        try:
            look = await self._look()
        except BackendDown as error:
            self.down.set()
            self.report(error)
            raise
        if answers == self.answers:
            self.last, self.residents = look, look.residents()
            listed = {instance.id for instance in look.instances()}
            self._given = {id: given for id, given in self._given.items() if id in listed}
            self.report(look.described())
        return look

    async def see_others(self) -> Look | None:
        """Look at what others do; None if something of ours was under way.  Raises `BackendDown`."""
        answers, busy = self.answers, self.busy.locked()
        look = await self.see()
        return None if busy or self.busy.locked() or answers != self.answers else look

    def note_loaded(self, key: str, id: str) -> None:
        """Take note that a load of ours made the instance *id* of *key* answer."""
        self._known[id] = Known(State.PROVEN, _now())
        self.residents |= {key}
        self.expected = None if self.expected is None else self.expected | {key}

    def note_gone(self, key: str, id: str) -> None:
        """Take note that the instance *id* of *key* is gone, by our doing."""
        self._known[id] = Known(State.UNLOADED, _now())
        self._given.pop(id, None)
        self.residents -= {key}
        self.expected = None if self.expected is None else self.expected - {key}

    def note_given(self, instance: Instance, wanted: Mapping[str, Any]) -> None:
        """Take note of what a load with *wanted* got."""
        self._given[instance.id] = _asked(instance.key, wanted), instance

    def is_ours(self, instance: Instance) -> bool:
        """Tell whether *instance* is one that dmap uses: it bears the key, or a load of ours made it."""
        return instance.is_named or instance.id in self._given

    def adoptable(self, model: Listed, wanted: Mapping[str, Any]) -> Instance | None:
        """Return the instance that answers to the key of *model*, as *wanted* or as near as it gets."""
        instance, asked = model.serving, _asked(model.key, wanted)
        if instance is None:
            return None
        is_right = instance.id == asked.id if asked.id else self.is_ours(instance)
        is_enough = is_right and instance.suffices(asked)
        return instance if is_enough or self._given.get(instance.id) == (asked, instance) else None

    def warn(self, event: str, model: str | None = None, **fields: Any) -> None:
        """Log a warning about this server, or about a *model* of it."""
        _log.warning(Line(event, {"backend": self.client.name, "model": model, **fields}))

    async def _look(self) -> Look:
        """
        Ask both lists, v1 first: v0 then tells what has become by now of what was listed there.

        Raises `BackendDown` when the server does not answer, or neither list is there.
        """
        began = _now()
        models = await self._list(V1, "models")
        older = await self._list(V0, "data")
        if isinstance(models, Fault):
            if models.missing and not isinstance(older, Fault):
                raise self.client.down(TOO_OLD)
            raise self.client.down(f"does not list its models: {self.client.reason(models)}") from models
        v0 = {} if isinstance(older, Fault) else read_v0(older)
        is_gone = isinstance(older, Fault) and older.missing
        look = Look((self._judged(model, v0, is_gone) for model in read_v1(models)), v0)
        listed = {instance.id for instance in look.instances()}
        self._known = {id: one for id, one in self._known.items() if id in listed or one.since >= began}
        return look

    async def _list(self, path: str, member: str) -> list[Mapping[str, Any]] | Fault:
        """Return the entries of a list, or why there are none."""
        try:
            return entries(await self.client.get(path), member)
        except Fault as fault:
            return fault
        except ValueError as exc:
            return Fault(200, f"{exc}, at {path}")

    def _judged(self, model: Listed, v0: Entries, is_gone: bool) -> Listed:
        """
        Return *model* with word of which of its instances answer, where *v0* says so or *is_gone*.

        A load that v0 knows of and v1 does not, which was asked before, began between the two.
        """
        now, instances, found = _now(), [], model.instances
        if not found and v0.get(model.key.casefold(), {}).get("state") == LOADING:
            found = (Instance(model.key, model.key),)
        for instance in found:
            entry = v0.get(instance.id.casefold()) or v0.get(instance.key.casefold()) or {}
            before = self._known.get(instance.id) or Known(State.DOUBTED, now)
            known = before.after(LOADED if is_gone else entry.get("state"), now, self.disagree_s)
            self._known[instance.id] = known
            answers = known.answers(now, self.disagree_s)
            arriving = not answers and entry.get("state") == LOADING and instance.key != self.own
            instances.append(replace(instance, answers=answers, arriving=arriving))
        return replace(model, instances=tuple(instances))


def _asked(key: str, wanted: Mapping[str, Any]) -> Instance:
    """Return what a load of *key* with *wanted* asks for, as far as v1's list shows it."""
    return Instance(wanted.get("identifier", ""), key, wanted.get("context_length"), wanted.get("parallel"))


def _now() -> float:
    return asyncio.get_running_loop().time()
