"""
What dmap knows of one LM Studio between its looks, and the loads and unloads that it sends there.

It knows the last look, which models are resident, and what each load was given.
`look` asks the server what is there, `loads` makes one whole load or unload of what is here.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmap.backends.lmstudio.client import Fault, RestClient
from dmap.backends.lmstudio.lms import Lms
from dmap.backends.lmstudio.look import V1, Observer
from dmap.backends.lmstudio.models import Instance, Listed, Look
from dmap.backends.lmstudio.section import goes_by_lms
from dmap.errors import BackendDown
from dmap.logfmt import logfmt
from dmap.models import ModelInfo
from dmap.tasks import attempt, end, errand

UNLOAD_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Server:
    """
    The LM Studio behind *client*, which *observer* looks at; *lms* is its command, if there is one.

    It is given one load or unload at a time, each once; a load takes *load_s* at most.  *last* is the last
    look that was kept, *residents* are the keys of the models that answer.  *expected* are the residents of
    the last turn of the watch, changed as dmap itself has changed them since; None before its first turn.
    *down* is set by a look that got no answer.

    *report* is called with the outcome of each look: the models, or the reason why there was no answer.
    *changed* is called when the caller of a load leaves, and once more when that load ends.
    """

    client: RestClient
    observer: Observer
    lms: Lms | None
    load_s: float
    report: Callable[[Sequence[ModelInfo] | BackendDown], None]
    changed: Callable[[], None]
    last: Look = field(default_factory=Look)
    residents: frozenset[str] = frozenset()
    expected: frozenset[str] | None = None
    down: asyncio.Event = field(default_factory=asyncio.Event)
    _given: dict[str, tuple[Instance, Instance]] = field(default_factory=dict)
    _answers: int = 0  # to loads and unloads of ours: a look that began before one is out of date
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _loading: asyncio.Task[dict[str, Any]] | None = None

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait for a turn to load or unload, and for the end of a load whose caller has left."""
        async with self._lock:
            if self._loading is not None:
                await asyncio.wait((self._loading,))
            yield

    # What there is

    async def see(self) -> Look:
        """Look; what began before an answer to a load or unload is not kept.  Raises `BackendDown`."""
        answers = self._answers
        try:
            look = await self.observer.look()
        except BackendDown as error:
            self.down.set()
            self.report(error)
            raise
        if answers == self._answers:
            self.last, self.residents = look, look.residents()
            listed = {instance.id for instance in look.instances()}
            self._given = {id: given for id, given in self._given.items() if id in listed}
            self.report(look.described())
        return look

    async def see_others(self) -> Look | None:
        """Look at what others do; None if something of ours was under way.  Raises `BackendDown`."""
        answers, busy = self._answers, self._lock.locked()
        look = await self.see()
        return None if busy or self._lock.locked() or answers != self._answers else look

    def note_loaded(self, key: str, id: str) -> None:
        """Take note that a load of ours made the instance *id* of *key* answer."""
        self.observer.prove(id)
        self.residents |= {key}
        self.expected = None if self.expected is None else self.expected | {key}

    def note_gone(self, key: str, id: str) -> None:
        """Take note that the instance *id* of *key* is gone, by our doing."""
        self.observer.forget(id)
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

    # What is sent

    async def load(self, key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """
        Have *key* loaded, and return LM Studio's answer.  It loads on when the caller is cancelled; only a
        load by `lms` is called off then, which takes a moment too.

        Raises `Fault`, `BackendDown`, and TimeoutError after `load_s`.
        """
        lms = self.lms if goes_by_lms(options) else None
        name, expected = f"load {self.client.name}/{key}", (Fault, BackendDown, TimeoutError)
        self._loading = task = errand(self._load(lms, key, options), name, expected=expected)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                task.add_done_callback(lambda _: attempt("a look after a load", self.changed))
                if lms is not None:
                    task.cancel()
            self.changed()
            raise

    async def _load(self, lms: Lms | None, key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        body = {"model": key, **options, "echo_load_config": True}
        try:
            if lms is not None:
                answer = await lms.load(key, options, self.load_s)
            else:
                answer = await self.client.post(f"{V1}/load", body, self.load_s)
            self.note_loaded(key, str(answer.get("instance_id") or key))
            return answer
        finally:
            self._loading = None
            self._answers += 1

    async def unload(self, id: str) -> None:
        """Have the instance *id* unloaded.  Raises `Fault` and `BackendDown`."""
        try:
            await self.client.post(f"{V1}/unload", {"instance_id": id}, UNLOAD_S)
        except TimeoutError as exc:
            raise self.client.down(f"has not unloaded {id!r} in {UNLOAD_S:g} s") from exc
        finally:
            self._answers += 1

    async def close(self) -> None:
        """Leave a load under way to LM Studio."""
        await end(self._loading)

    def warn(self, event: str, model: str | None = None, **fields: Any) -> None:
        """Log a warning about this server, or about a *model* of it."""
        _log.warning(logfmt(event, {"backend": self.client.name, "model": model, **fields}))


def _asked(key: str, wanted: Mapping[str, Any]) -> Instance:
    """Return what a load of *key* with *wanted* asks for, as far as v1's list shows it."""
    return Instance(wanted.get("identifier", ""), key, wanted.get("context_length"), wanted.get("parallel"))
