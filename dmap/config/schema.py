"""The whole file: its sections together, and what must hold between them.  Knows no YAML."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Self, Union

from pydantic import Field, GetCoreSchemaHandler, GetPydanticSchema, model_validator
from pydantic_core import CoreSchema

from dmap.backends import BackendSection, Kind, PassingSection
from dmap.backends.sections import RunningSection
from dmap.config.access import AccessSection, Listen, exposure
from dmap.config.device import Device
from dmap.config.macros import expanded, misnamed
from dmap.config.process import Activity, ActivityOrOff, Debug, Log, Server, TracesSection
from dmap.config.settings import Settings, problems_of
from dmap.config.shared import CacheSection, RedisSection
from dmap.kinds import KINDS
from dmap.sections.command import places
from dmap.sections.models import ON, Defaults, ModelSection
from dmap.sections.near import meant
from dmap.sections.section import Section
from dmap.sections.types import File, Name


def _tagged(_: Any, schema_of: GetCoreSchemaHandler) -> CoreSchema:
    """Have a backend's `kind` choose among the sections of all kinds."""
    sections = tuple(kind.section for kind in KINDS.values())
    return schema_of(Annotated[Union[sections], Field(discriminator="kind")])  # noqa: UP007


def _as_node(_: Any, schema_of: GetCoreSchemaHandler) -> CoreSchema:
    """Take the section of the kind of servers that are other dmaps."""
    return schema_of(next(kind.section for kind in KINDS.values() if kind.forwards))


_OF_COMMANDS = frozenset(("stop", "url", "ready", "env"))

AnyBackend = Annotated[BackendSection, GetPydanticSchema(_tagged)]
Node = Annotated[BackendSection, GetPydanticSchema(_as_node)]


class Config(Section):
    """The whole file.  Its *nodes* are among its *backends*, too."""

    listen: Listen = Listen()
    access: AccessSection = AccessSection()
    devices: dict[Name, Device] = {}
    backends: dict[Name, AnyBackend] = {}
    nodes: dict[Name, Node] = {}
    defaults: Defaults = Defaults()
    macros: dict[str, str] = {}
    models: dict[str, ModelSection] = {}
    allow_models: tuple[str, ...] = ("*",)
    server: Server = Server()
    state: File | None = None
    activity: ActivityOrOff = Activity()
    log: Log = Log()
    traces: TracesSection | None = None
    redis: RedisSection | None = None
    cache: CacheSection | None = None
    debug: Debug = Debug()

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, values: Any) -> Any:
        """Take a section whose every line is commented out for an empty one, and put the macros in."""
        if not isinstance(values, dict):
            return values
        return expanded({name: value for name, value in values.items() if value is not None})

    @model_validator(mode="after")
    def _with_nodes(self) -> Self:
        others = {name: node for name, node in self.nodes.items() if name not in self.backends}
        sections = {**self.backends, **others}.items()
        spread = dict(each for name, section in sections for each in section.spread(name))
        for section in spread.values():
            if isinstance(section, RunningSection) and section.device in self.devices:
                section.beside(self.devices[section.device].gpus)
        object.__setattr__(self, "backends", spread)
        return self

    def where(self, backend: str) -> str:
        """Return the path in the file of what describes the backend called *backend*."""
        return f"{'nodes' if backend in self.nodes else 'backends'}.{backend.partition(ON)[0]}"

    @cached_property
    def settings(self) -> Settings:
        """What `models` says of each model, with its globs."""
        return Settings(self.models)

    def conflicts(self) -> Iterator[str]:
        """Yield what does not fit together, each line with its path in the file."""
        if not self.backends:
            yield "backends: missing, or all of its lines are comments; name at least one server"
        if exposed := exposure(self.listen.host, self.access):
            yield f"listen.host: {exposed}"
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in self.access.keys]
            for at, value in enumerate(values):
                if value in values[:at]:
                    yield f"access.keys[{at}].{field}: that of access.keys[{values.index(value)}] too"
        for name, backend in self.backends.items():
            if backend.device not in (None, *self.devices):
                near, key = meant(backend.device, self.devices), "devices" if ON in name else "device"
                yield f"{self.where(name)}.{key}: there is no device {backend.device!r} under devices{near}"
        for name in (name for name, node in self.nodes.items() if self.backends[name] is not node):
            yield f"nodes.{name}: a backend has this name, too"
        yield from (f"redis.{problem}" for problem in (self.redis.conflicts() if self.redis else ()))
        if self.cache is not None and self.redis is None:
            yield "cache: takes a section redis, which is where answers are kept"
        yield from self._gpus_of_two()
        yield from self._pinned()
        yield from self._crowded()
        yield from misnamed(self.macros)
        all_named = all(backend.runs_commands for backend in self.backends.values())
        yield from problems_of(self.models, all_named=all_named)
        for name, model in self.models.items():
            problems = self._impossible(model, self.settings.named.get(name)) if model.of is None else ()
            yield from (f"models.{name}.{problem}" for problem in problems)

    def _gpus_of_two(self) -> Iterator[str]:
        """Find GPUs that two devices have: each would count what the other's models take as others'."""
        seen = dict[int | str, str]()
        for name, device in self.devices.items():
            for gpu in device.gpus:
                if (first := seen.setdefault(gpu, name)) != name:
                    yield f"devices.{name}.gpus: GPU {gpu} is one of devices.{first}.gpus too"

    def _pinned(self) -> Iterator[str]:
        """Find devices on which more models are pinned than may be there."""
        for name, device in self.devices.items():
            named = self.settings.named.items()
            pinned = [each for each, model in named if model.pin and name in self.devices_of(model)]
            if len(pinned) > device.max_models and not frozenset.intersection(
                *(device.lists_of((each, *self.models[each].aliases).__contains__) for each in pinned)
            ):
                yield f"devices.{name}.max_models: less than the {len(pinned)} models that are pinned there"

    def _crowded(self) -> Iterator[str]:
        """Find servers of which nobody said what they hold of a device, or that leave nothing of it."""
        for name, backend in self.backends.items():
            if isinstance(backend, PassingSection) and backend.memory and backend.device is None:
                yield f"backends.{name}.memory: has no effect without device"
        for name in (name for name, device in self.devices.items() if device.memory):
            left = self.device(name)
            for server in (server for server, size in left.held.items() if size is None):
                yield f"backends.{server}.memory: missing; say what this server takes of device {name!r}"
            if left.memory is not None and left.memory <= 0:
                servers = " and ".join(map(repr, left.held))
                yield f"devices.{name}.memory: nothing of it is left beside {servers}"

    def _impossible(self, own: ModelSection, model: ModelSection | None) -> Iterator[str]:
        """Find why requests would be refused, by an entry's *own* words; *model* is that with its globs."""
        if own.backend is not None and not any(map(own.lives_on, self.backends)):
            near = meant(own.backend, [name.partition(ON)[0] for name in self.backends])
            yield f"backend: there is no backend {own.backend!r} under backends{near}"
        homes, given = self.homes_of(model or own), own.load.given()
        refused = [home.refuses(given) for home in homes]
        for option in given:
            reasons = [each[option] for each in refused if option in each]
            if len(reasons) == len(homes):
                yield f"load.{option}: {'; '.join(dict.fromkeys(reasons))}"
        if own.served_model_name and not any(home.takes_names for home in homes):
            yield "served_model_name: this backend's models go by the names that it has for them"
        if own.pin and model is not None and not self.devices_of(model):
            yield "pin: name a backend whose models dmap loads"
        if own.memory is not None:
            yield from self._too_large(model or own, own.memory)
        if model is not None:
            yield from self._unrunnable(model)
        if own.ttl_s is not None and not any(home.placed_on for home in homes):
            yield "ttl_s: dmap cannot unload models on this backend"

    def _too_large(self, model: ModelSection, memory: int) -> Iterator[str]:
        """Find why *model* cannot take *memory* of its device."""
        place, homes = self.device_of(model), self.homes_of(model)
        if all(isinstance(home, PassingSection) and home.device for home in homes):
            yield "memory: what counts is the memory of its backend, whose server dmap cannot unload"
        device = self.device(place) if place in self.devices else Device()
        if device.memory is not None and memory > device.memory:
            beside = f" beside {' and '.join(map(repr, device.held))}" if device.held else ""
            yield f"memory: more than the memory of device {place!r}{beside}"

    def _unrunnable(self, model: ModelSection) -> Iterator[str]:
        """Find what keeps the command of *model* from being run, or from being there."""
        home = self.homes_of(model)[0] if model.backend is not None and self.backends else None
        if model.cmd is None:
            if home is not None and home.runs_commands:
                yield f"cmd: missing; the backend {model.backend!r} runs a command for each of its models"
            for field in sorted(_OF_COMMANDS & model.model_fields_set):
                yield f"{field}: has no effect without cmd"
        elif home is None or not home.runs_commands:
            yield "cmd: set backend to one that runs commands"
        else:
            told = {name for word in model.cmd for name in places(word)}
            if "parallel" in told and not (model.load.parallel or model.parallel or home.parallel):
                yield "cmd: {parallel} has no value; set parallel here or for the backend"
            if len(self.homes_of(model)) > 1 and "port" not in places(model.url or "{port}"):
                yield "url: the same server for each device of its backend; use {port}"

    def homes_of(self, model: ModelSection) -> list[BackendSection]:
        """Return the backends that may have *model*."""
        named = [section for name, section in self.backends.items() if model.lives_on(name)]
        return named or list(self.backends.values())

    def commands_of(self, backend: str) -> dict[str, ModelSection]:
        """Return those models of *backend* that are commands, by name."""
        return {
            name: model
            for name, model in self.settings.named.items()
            if model.cmd is not None and model.backend is not None and model.lives_on(backend)
        }

    def device_of(self, model: ModelSection) -> str | None:
        """Return the device that *model* is on, if the file tells."""
        homes = self.homes_of(model)
        return homes[0].placed_on if len(homes) == 1 else None

    def devices_of(self, model: ModelSection) -> set[str]:
        """Return the devices that *model* is on, if the file tells: several, if its backend is on several."""
        homes = self.homes_of(model)
        return {home.placed_on for home in homes if home.placed_on in self.devices and self._is_told(model)}

    def _is_told(self, model: ModelSection) -> bool:
        return len(self.backends) == 1 or (
            model.backend is not None and any(map(model.lives_on, self.backends))
        )

    def device(self, name: str) -> Device:
        """Return the device called *name* as its models have it, beside servers that dmap cannot unload."""
        sections = self.backends.items()
        passing = {each: section for each, section in sections if isinstance(section, PassingSection)}
        held = {each: section.memory for each, section in passing.items() if section.device == name}
        return self.devices[name].beside(held)

    def kind_of(self, backend: str) -> Kind:
        """Return the kind of the backend called *backend*."""
        return KINDS[self.backends[backend].kind]
