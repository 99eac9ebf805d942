"""
What dmap knows of one LM Studio between its looks: the last one, who is resident, what each load was given.

Its counterparts are `look`, which asks the server, and `loads`, which acts on what is known here.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dmap.backends.lmstudio.look import Look, Observer
from dmap.backends.lmstudio.models import PARALLEL, Disk, Instance, Listed
from dmap.errors import BackendDown
from dmap.models import ModelInfo

Asked = tuple[int | None, int | None, str | None]
"""What of a load's options shows in v1's list: context length, parallel, and identifier."""


class View:
    """
    Remembers what *observer* has seen.

    *answers* counts the answers to loads and unloads of ours: a look that began before one is out of date.
    *found* is called with each look that is kept, or why there was none; *expected* with the key of a model
    that is, or is not, resident by dmap's own doing.
    """

    def __init__(
        self,
        observer: Observer,
        *,
        answers: Callable[[], int],
        found: Callable[[Look | BackendDown], None],
        expected: Callable[[str, bool], None],
    ) -> None:
        self.last = Look(Disk(()))
        self.residents: frozenset[str] = frozenset()
        self._observer = observer
        self._answers = answers
        self._found = found
        self._expected = expected
        self._given: dict[str, tuple[Asked, Asked]] = {}

    async def see(self) -> Look:
        """Look; what began before an answer to a load or unload is not kept.  Raises `BackendDown`."""
        answers = self._answers()
        try:
            look = await self._observer.look()
        except BackendDown as error:
            self._found(error)
            raise
        if answers == self._answers():
            self.last, self.residents = look, look.residents()
            listed = {instance.id for _, instance in look.disk.instances()}
            self._given = {id: given for id, given in self._given.items() if id in listed}
            self._found(look)
        return look

    def note_loaded(self, key: str, id: str) -> None:
        """Take note that a load of ours made the instance *id* of *key* answer."""
        self._observer.prove(id)
        self.residents |= {key}
        self._expected(key, True)

    def note_gone(self, key: str, id: str) -> None:
        """Take note that the instance *id* of *key* is gone, by our doing."""
        self._observer.forget(id)
        self._given.pop(id, None)
        self.residents -= {key}
        self._expected(key, False)

    def note_given(self, instance: Instance, wanted: Mapping[str, Any]) -> None:
        """Take note of what a load with *wanted* got."""
        self._given[instance.id] = _asked(wanted), _got(instance)

    def is_ours(self, model: Listed, instance: Instance) -> bool:
        """Tell whether *instance* is one that dmap uses: it bears the key, or a load of ours made it."""
        return model.is_named(instance) or instance.id in self._given

    def adoptable(self, look: Look, model: Listed, wanted: Mapping[str, Any]) -> Instance | None:
        """Return the instance that answers to the key of *model*, as *wanted* or as near as it gets."""
        asked = _asked(wanted)
        for instance in look.ready_of(model)[:1]:
            given = self._given.get(instance.id)
            named = instance.id == asked[2] if asked[2] else model.is_named(instance) or given is not None
            if (named and _is_enough(instance, asked)) or given == (asked, _got(instance)):
                return instance
        return None


def _asked(wanted: Mapping[str, Any]) -> Asked:
    return wanted.get("context_length"), wanted.get("parallel"), wanted.get("identifier")


def _got(instance: Instance) -> Asked:
    return instance.context_length, instance.parallel, instance.id


def _is_enough(instance: Instance, asked: Asked) -> bool:
    """Tell whether *instance* has at least what was asked; what its entry does not tell is enough."""
    pairs = ((asked[0], instance.context_length), (asked[1], instance.parallel))
    return all(least is None or got is None or got >= least for least, got in pairs)


def described(look: Look) -> list[ModelInfo]:
    """Return what *look* found, as the catalog and the gate want it."""
    return [_describe(look, model) for model in look.disk.models.values()]


def _describe(look: Look, model: Listed) -> ModelInfo:
    ready = look.ready_of(model)
    instance = ready[0] if ready else None
    return ModelInfo(
        id=model.key,
        resident=instance is not None,
        size_bytes=model.size_bytes,
        context_length=instance.context_length if instance else None,
        parallel=instance.parallel if instance else (None if model.embedding else PARALLEL),
        embedding=model.embedding,
        names=model.other_names(),
        any_quant=not any("@" in name for name in model.other_names()),
        v0=look.disk.older(model),
        v1={**model.v1, "loaded_instances": _answering(look, model)} if model.v1 else {},
    )


def _answering(look: Look, model: Listed) -> list[Any]:
    """Return the instances of *model* in v1's own words, without those whose load is under way."""
    loaded = model.v1.get("loaded_instances")
    listed = loaded if isinstance(loaded, list) else []
    return [one for one in listed if isinstance(one, dict) and one.get("id") in look.ready]
