"""
What an owner's configuration means for a simulation: the device, its models, whose requests go first.

Its backends are asked what models they have, once, as the daemon does when it starts.  One that does not
answer is no obstacle: its models are then what the file says of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dmap.backends import ModelInfo
from dmap.catalog.entries import known_models, routes_of, variants_of
from dmap.catalog.names import NameIndex
from dmap.config import Config, ConfigProblem, Device, checked, load
from dmap.models import ModelKey, Route
from dmap.simulate.workload import Model, Workload
from dmap.survey import survey

PLAYED = ("max_models", "memory", "embeddings", "patience_s", "residency", "wait_s", "queue")
"""The keys of a device that a simulation goes by."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A configuration, called *name*, and what its backends say they have; why others are *silent*."""

    name: str
    config: Config
    reports: Mapping[str, Sequence[ModelInfo]] = field(default_factory=dict)
    silent: Sequence[str] = ()

    @property
    def devices(self) -> Mapping[str, Device]:
        """The devices that some backend is on."""
        used = {backend.placed_on for backend in self.config.backends.values()}
        return {name: self.config.device(name) for name in self.config.devices if name in used}

    @property
    def priorities(self) -> dict[str, int]:
        """The priority of each key."""
        return {key.name: key.priority for key in self.config.access.keys}

    def routes(self, seen: Mapping[ModelKey, ModelInfo]) -> dict[ModelKey, Route]:
        """Return the routes of all models, those that the file names first; with those *seen* elsewhere."""
        names = self._names(seen)
        found = routes_of(self.config, names, {})
        routes = {each.key: route for each, route in found.items() if each.of is None}
        return dict(sorted(routes.items(), key=lambda each: self._rank(each[0])))

    def on_device(self, workload: Workload, name: str) -> tuple[Workload, dict[str, str]]:
        """
        Return *workload* as it would be on the device *name*, and which model each of its models stands for.

        A model that has the name of one there is that one; the others stand for the rest in order, as long as
        there are any, those for embeddings for such.
        """
        names = self._names({})
        routes = {key: each for key, each in self.routes({}).items() if each.device == name}
        stands_for: dict[str, Route] = {}
        for model in workload.asks:
            entry = names.find(model)
            if entry is not None and entry.key in routes:
                stands_for[model] = routes.pop(entry.key)
        for model in (each for each in workload.asks if each not in stands_for):
            alike = (
                each for each in routes.values() if each.needs.embedding == workload.needs_of(model).embedding
            )
            if (route := next(alike, None)) is not None:
                stands_for[model] = routes.pop(route.key)
        models = {**workload.models, **{model: model_of(route) for model, route in stands_for.items()}}
        limits = renamed(self.devices[name], stands_for)
        changes = {"limits": limits, "models": models, "priorities": self.priorities}
        return workload.model_copy(update=changes), {
            model: route.key.model for model, route in stands_for.items()
        }

    def _names(self, seen: Mapping[ModelKey, ModelInfo]) -> NameIndex:
        reports = {name: list(self.reports.get(name, ())) for name in self.config.backends}
        for key, info in {**self._named(), **seen}.items():
            if key.backend in reports and all(info.id != other.id for other in reports[key.backend]):
                reports[key.backend].append(info)
        models = NameIndex(known_models(self.config, reports))
        return NameIndex(models.known, variants_of(self.config, models))

    def _named(self) -> dict[ModelKey, ModelInfo]:
        """Return the models that the file names and says where they are."""
        homes = list(self.config.backends)
        found = {}
        for name, model in self.config.settings.named.items():
            if model.backend is not None or len(homes) == 1:
                found[ModelKey(model.backend or homes[0], name)] = ModelInfo(name, resident=False)
        return found

    def _rank(self, key: ModelKey) -> int:
        order = list(self.config.settings.named)
        return order.index(key.model) if key.model in order else len(order)


def renamed(device: Device, routes: Mapping[str, Route]) -> Device:
    """Return *device* with the lists of `together` under the names that the models of *routes* have there."""
    texts = dict.fromkeys(text for route in routes.values() for text in sorted(route.needs.together))
    lists = (tuple(name for name, each in routes.items() if text in each.needs.together) for text in texts)
    return device.model_copy(update={"together": tuple(names for names in lists if len(names) > 1)})


def model_of(route: Route) -> Model:
    """Return what a simulation needs to know of a model."""
    needs = route.needs
    return Model(
        memory=needs.size_bytes,
        parallel=needs.parallel,
        embedding=needs.embedding,
        pin=needs.pinned,
        ttl_s=needs.ttl_s,
    )


def changed(device: Device, words: str) -> Device:
    """
    Return *device* with other values, as in `patience_s=90,residency=2`.

    Raises `ConfigProblem` for keys that it has not, or that make no difference to a simulation.
    """
    values = {}
    for word in words.split(","):
        key, is_given, value = word.partition("=")
        if not is_given or key.strip() not in PLAYED:
            raise ConfigProblem([f"--set {word}: write KEY=VALUE; the keys are {', '.join(PLAYED)}"])
        values[key.strip()] = value.strip()
    try:
        return checked(Device, {**device.model_dump(exclude_none=True), **values})
    except ConfigProblem as exc:
        raise ConfigProblem([f"--set {problem}" for problem in exc.problems]) from exc


async def owner_of(path: Path) -> Owner:
    """Read the configuration at *path* and ask its backends; raises `ConfigProblem`."""
    config = load(path)
    asked = (name for name, backend in config.backends.items() if backend.placed_on is not None)
    found = await survey(config, asked)
    return Owner(path.name, config, found.reports, [*found.silent.values()])
