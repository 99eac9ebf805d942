"""
What the gate knows of its models beyond the arbiter, and how it judges what the backends report by that.

It asks nobody and changes nothing outside; `upkeep` acts on it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dmap.arbiter import Arbiter, Needs, Switch
from dmap.backends import Loaded, ModelInfo
from dmap.errors import DmapError
from dmap.gate.device_backends import DeviceBackends, Reading
from dmap.models import ModelKey, Route


@dataclass(slots=True)
class Knowledge:
    """
    The models of one device.

    *known* tells the route of a model as the catalog has it now, None if that has none; *asked* has the
    route by which each model was asked for last.

    *got* is what the loads of the residents really gave, *down* are the models whose last switch failed
    because a backend did not answer, and *stuck* has the reason for those whose last unloading failed.
    """

    _arbiter: Arbiter
    _backends: DeviceBackends
    known: Callable[[ModelKey], Route | None] = lambda key: None
    asked: dict[ModelKey, Route] = field(default_factory=dict)
    got: dict[ModelKey, Loaded] = field(default_factory=dict)
    down: set[ModelKey] = field(default_factory=set)
    stuck: dict[ModelKey, DmapError] = field(default_factory=dict)

    def route(self, key: ModelKey) -> Route | None:
        """Return the route of *key* as it is now; a request may have been resolved before it changed."""
        return self.known(key) or self.asked.get(key)

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

    def outdated(self, reading: Reading) -> set[ModelKey]:
        """Return the residents that serve with other options than their routes ask for by now."""
        serving = (key for key, resident in self._arbiter.residents.items() if resident.leases)
        return {key for key in serving if key in reading.residents and not self._satisfies(key)}

    def forget(self, reading: Reading) -> None:
        """Forget what the loads gave of models that are resident no more, as far as the backends answered."""
        for key in [key for key in self.got if key not in reading.residents]:
            if key.backend not in reading.silent:
                del self.got[key]

    def _is_stray(self, key: ModelKey, wanted: ModelKey | None) -> bool:
        if key in self._arbiter.residents or self._is_foreign(key):
            return False
        return key != wanted or not self._backends.satisfies(key, self.route(key))

    def _is_foreign(self, key: ModelKey) -> bool:
        """Tell whether a resident is its owner's own business."""
        return self._backends.section.adopt == "respect" and key not in self.got

    def _satisfies(self, key: ModelKey) -> bool:
        return self._is_foreign(key) or self._backends.satisfies(key, self.route(key))

    def _found_needs(self, key: ModelKey, info: ModelInfo) -> Needs:
        route, foreign = self.route(key), self._is_foreign(key)
        if route is None:
            return Needs(info.size_bytes, info.parallel, info.embedding, foreign)
        needs = needs_of(route)
        return replace(
            needs,
            size_bytes=needs.size_bytes if route.size_given or info.size_bytes is None else info.size_bytes,
            parallel=info.parallel if needs.parallel is None else needs.parallel,
            pinned=needs.pinned or foreign,
        )


def needs_of(route: Route) -> Needs:
    """Return what the arbiter has to know of a route's model."""
    return Needs(route.size_bytes, route.parallel, route.embedding, route.pin, route.ttl_s)
