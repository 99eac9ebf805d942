"""
The models of one device: what its backends say of them, what dmap knows beyond, and how to change that.

It asks the backends and judges by the routes of the models, and tells nobody.  The counterpart is `upkeep`,
which tells the arbiter what was found and carries out what the arbiter decides.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dmap import tasks
from dmap.arbiter import Arbiter, Needs, Switch
from dmap.backends import Loaded, ModelInfo, Switcher
from dmap.config import Device
from dmap.errors import BackendDown, DmapError
from dmap.gate.device_memory import DeviceMemory
from dmap.memory import Reckoned
from dmap.models import ModelKey, Route


@dataclass(frozen=True, slots=True)
class Reading:
    """
    What the backends said: *residents* by key, and in *silent* why a backend said nothing.

    *gone* are the backends that have been silent for longer than `backend_gone_s`.
    """

    residents: Mapping[ModelKey, ModelInfo]
    silent: Mapping[str, Exception] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()

    def check(self, keys: Iterable[ModelKey]) -> None:
        """Raise the reason if the backend of one of *keys* did not answer."""
        for key in keys:
            if key.backend in self.silent:
                raise self.silent[key.backend]


@dataclass(slots=True)
class DeviceModels:
    """
    The models of the backends of one device, which its *section* describes.

    *route_of* tells the route of a model as the catalog has it now, None if that has none, and *preloads_of*
    those of the models that are to be there before anybody asks; *asked* has the route by which each model
    was asked for last.

    *got* is what the loads of the residents really gave, *down* are the models whose last switch failed
    because a backend did not answer, each with whether the look before found it silent already; and
    *stuck* has the reason for those whose last unloading failed.  *memory* is that of the device.
    """

    _arbiter: Arbiter
    _switchers: Mapping[str, Switcher]
    section: Device
    memory: DeviceMemory = field(default_factory=DeviceMemory)
    route_of: Callable[[ModelKey], Route | None] = lambda key: None
    preloads_of: Callable[[], Mapping[ModelKey, Route]] = dict
    asked: dict[ModelKey, Route] = field(default_factory=dict)
    got: dict[ModelKey, Loaded] = field(default_factory=dict)
    down: dict[ModelKey, bool] = field(default_factory=dict)
    stuck: dict[ModelKey, DmapError] = field(default_factory=dict)
    _loading: tuple[ModelKey, ...] = ()
    _silent_since: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.memory.meter is not None:
            self.memory.meter.reckon = self.reckoned

    # Asking

    async def read(self) -> Reading:
        """Ask all backends at once what is resident.  A backend that fails to answer counts as silent."""
        asked = (switcher.models() for switcher in self._switchers.values())
        answers = await asyncio.gather(*asked, return_exceptions=True)
        residents: dict[ModelKey, ModelInfo] = {}
        silent: dict[str, Exception] = {}
        cached: set[ModelKey] = set()
        for name, answer in zip(self._switchers, answers, strict=True):
            if isinstance(answer, Exception):
                silent[name] = answer
                if not isinstance(answer, DmapError | OSError):
                    tasks.report(f"models of backend {name!r}", answer)
            elif isinstance(answer, BaseException):  # its own cancellation; ours would have left gather
                silent[name] = BackendDown(f"backend {name!r} broke off while it was asked for its models")
            else:
                residents.update((ModelKey(name, model.id), model) for model in answer if model.resident)
                cached.update(ModelKey(name, model.id) for model in answer if model.cached)
        self._arbiter.lengths.seen(cached)
        return Reading(residents, silent, self._note_silence(silent))

    async def unload(self, key: ModelKey) -> None:
        """Take a model out; unless its backend knows better, the memory is free some time after that."""
        switcher, size = self._switchers[key.backend], self._size_of(key)
        if not switcher.frees_at_once:
            await self.memory.unloading(self.section.cooldown_s)
        await switcher.unload(key.model)
        self.got.pop(key, None)
        self.stuck.pop(key, None)
        self.memory.unloaded(key, size, is_late=not switcher.frees_at_once)

    async def cool_down(self) -> None:
        """Wait until the memory of what was unloaded is back, for what is left of the cool-down at most."""
        await self.memory.back(self.section.cooldown_s)

    def stops_loads(self, key: ModelKey) -> bool:
        """Tell whether a load of *key* that is cancelled leaves nothing behind for certain."""
        return self._switchers[key.backend].frees_at_once

    async def check(self, key: ModelKey) -> None:
        """Raise the reason if a load of *key* cannot but fail."""
        await self._switchers[key.backend].check(key.model)

    async def load(self, key: ModelKey, options: Mapping[str, Any]) -> Loaded:
        """Make a model resident; return when it answers."""
        load = functools.partial(self._switchers[key.backend].load, key.model, options)
        self._loading = (key,)
        try:
            loaded = self.got[key] = await self.memory.measured(key, load)
        finally:
            self._loading = ()
        self.down.pop(key, None)
        return loaded

    def note_down(self, key: ModelKey) -> None:
        """Note that a backend did not answer when *key* was to be loaded."""
        self.down[key] = key.backend in self._silent_since

    def back(self, reading: Reading) -> list[ModelKey]:
        """List those whose backends were silent before their loads and are not now: it was not the load."""
        silent = (key for key, was_silent in self.down.items() if was_silent)
        return [key for key in silent if key.backend not in reading.silent]

    def doubt(self, key: ModelKey) -> None:
        """Have the next reading make sure of a model that did not answer a request."""
        self._switchers[key.backend].doubt(key.model)

    def is_silent(self, key: ModelKey) -> bool:
        """Tell whether the backend of *key* did not answer the last look."""
        return key.backend in self._silent_since

    # Judging

    def satisfies(self, key: ModelKey, route: Route | None) -> bool:
        """Tell whether the resident *key* is as its *route* asks; None if nobody has asked for it yet."""
        return self._switchers[key.backend].satisfies(key.model, route.load if route is not None else {})

    def route(self, key: ModelKey) -> Route | None:
        """Return the route of *key* as it is now; a request may have been resolved before it changed."""
        return self.route_of(key) or self.asked.get(key)

    def surplus(self, switch: Switch, reading: Reading) -> list[ModelKey]:
        """
        List what *switch* has to unload: its victims, and the residents that the arbiter never let in.

        A model to be loaded may be resident already, but with other options.  Then it is unloaded first,
        because a backend would answer the load with the copy that it has.
        """
        strays = (key for key in reading.residents if self._is_stray(key, switch.load))
        return [*switch.unload, *strays]

    def found(self, reading: Reading) -> dict[ModelKey, Needs]:
        """
        Return what counts as resident; a backend that is silent for now keeps what it was believed to have.

        A resident that is not as its route asks counts as gone, and is loaded anew, unless it serves.
        """
        outdated = self.outdated(reading)
        found = {
            key: self._found_needs(key, info)
            for key, info in reading.residents.items()
            if key in outdated or self._satisfies(key)
        }
        for key, resident in self._arbiter.residents.items():
            if key.backend in reading.silent and key.backend not in reading.gone:
                found[key] = resident.needs
        return found

    def preloads(self) -> dict[ModelKey, Needs]:
        """Return what is to be there before anybody asks, in order."""
        routes = self.preloads_of()
        for key, route in routes.items():
            self.asked.setdefault(key, route)
        return {key: route.needs for key, route in routes.items()}

    def taken(self, reading: Reading, found: Mapping[ModelKey, Needs]) -> set[ModelKey]:
        """Return the residents that others have unloaded; a child of dmap that is gone has crashed."""
        gone = {key for key in self._arbiter.residents if key not in found and key not in reading.residents}
        return {key for key in gone if key.backend not in reading.silent and not self.stops_loads(key)}

    def reckoned(self) -> Reckoned:
        """Return what residents should take of the memory, what is being loaded, and servers that stay."""
        keys = {*self._arbiter.residents, *self._loading}
        children = [self._size_of(key) for key in keys if self.stops_loads(key)]
        elsewhere = [self._size_of(key) for key in keys if not self.stops_loads(key)]
        return Reckoned(_sum(children), _sum([*elsewhere, *self.section.held.values()]))

    def outdated(self, reading: Reading) -> set[ModelKey]:
        """Return the residents that serve with other options than their routes ask for by now."""
        serving = (key for key, resident in self._arbiter.residents.items() if resident.leases)
        return {key for key in serving if key in reading.residents and not self._satisfies(key)}

    def forget(self, reading: Reading) -> None:
        """
        Forget what the loads gave of models that are resident no more, as far as the backends answered.

        The routes of models that are gone altogether are forgotten, too, when nobody uses them.
        """
        for key in [key for key in self.got if key not in reading.residents]:
            if key.backend not in reading.silent:
                del self.got[key]
                self.memory.took.pop(key, None)
        gone = {key for key in self.asked.keys() - reading.residents if self.route_of(key) is None}
        if gone:
            used = {lease.route.key for lease in (*self._arbiter.waiting, *self._arbiter.leases)}
            plan = self._arbiter.plan
            loading = {plan.load} if plan is not None else set()
            for key in gone - used - loading - self._arbiter.residents.keys():
                del self.asked[key]

    def _note_silence(self, silent: Mapping[str, Exception]) -> frozenset[str]:
        now = asyncio.get_running_loop().time()
        self._silent_since = {name: self._silent_since.get(name, now) for name in silent}
        gone_s = self.section.backend_gone_s
        return frozenset(name for name, since in self._silent_since.items() if now - since >= gone_s)

    def _size_of(self, key: ModelKey) -> int | None:
        """Return what a model takes, as it was measured, else as its owner or its backend says."""
        resident, route = self._arbiter.residents.get(key), self.route(key)
        said = resident.needs.size_bytes if resident is not None else None
        return self.memory.took.get(key, said) or (route.needs.size_bytes if route is not None else None)

    def _is_stray(self, key: ModelKey, wanted: ModelKey | None) -> bool:
        if key in self._arbiter.residents or self._is_foreign(key):
            return False
        return key != wanted or not self._satisfies(key)

    def _satisfies(self, key: ModelKey) -> bool:
        return self._is_foreign(key) or self.satisfies(key, self.route(key))

    def _is_foreign(self, key: ModelKey) -> bool:
        """Tell whether a resident is its owner's own business."""
        return self.section.adopt == "respect" and key not in self.got

    def _found_needs(self, key: ModelKey, info: ModelInfo) -> Needs:
        route, foreign = self.route(key), self._is_foreign(key)
        if route is None:
            return Needs(info.size_bytes, info.parallel, info.embedding, foreign)
        needs = route.needs
        return needs._replace(
            size_bytes=needs.size_bytes if route.size_given or info.size_bytes is None else info.size_bytes,
            parallel=info.parallel if needs.parallel is None else needs.parallel,
            pinned=needs.pinned or foreign,
        )


def _sum(sizes: Iterable[int | None]) -> int | None:
    """Return the sum of *sizes*; None if one of them is not known."""
    known = list(sizes)
    return None if None in known else sum(filter(None, known))
