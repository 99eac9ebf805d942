"""What one proxy is made of, built from its configuration, started and stopped in order."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from aiohttp import web

from dmap import config as settings
from dmap.access import Access
from dmap.arbiter import Limits
from dmap.backends import Backend, Switcher
from dmap.backends.gguf import GGUFBackend
from dmap.backends.lmstudio import LMStudioBackend
from dmap.backends.openai import OpenAIBackend
from dmap.catalog import Catalog
from dmap.config import Config
from dmap.events import Bus
from dmap.gate import Gate
from dmap.inventory import Inventory
from dmap.metrics import Metrics
from dmap.relay import Pool
from dmap.state import Activation, Saved, StateFile
from dmap.tls import Certificate
from dmap.tokens import counters
from dmap.trip import ModelKey, Route
from dmap.web.bodies import Bodies
from dmap.web.capture import Captures
from dmap.web.context import ContextGuard
from dmap.web.open_requests import OpenRequest
from dmap.web.presence import Presence

__all__ = ["PARTS", "Parts", "build", "gate_name", "limits_of", "running", "switcher"]


@dataclass(slots=True)
class Parts:
    """
    The parts of one proxy.  A reload replaces *config*, *access* and *catalog*; the others stay.

    *gates* has one for each device and one for each backend without a device, under their names.  *saved* is
    what was set over the admin API, kept in *state*, and *trials* what a load under way is to set.  *open*
    are the requests that wait or are answered.  *reload* reads the file again; it raises `ConfigProblem`.
    """

    config: Config
    access: Access
    catalog: Catalog
    backends: Mapping[str, Backend]
    inventory: Inventory
    gates: Mapping[str, Gate]
    pool: Pool
    bodies: Bodies
    presence: Presence
    bus: Bus
    certificate: Certificate | None
    metrics: Metrics
    context: ContextGuard
    state: StateFile
    saved: Saved
    trials: dict[str, Activation] = field(default_factory=dict)
    open: set[OpenRequest] = field(default_factory=set)
    captures: Captures = field(default_factory=Captures)
    reload: Callable[[], None] | None = None

    def choose(self) -> None:
        """Have requests go by what was set over the admin API, and by what is being tried."""
        models = {**self.saved.models, **self.trials}
        self.catalog.choose(replace(self.saved, models=models))
        contexts = _contexts(self.config, models)
        for backend in self.backends.values():
            if isinstance(backend, GGUFBackend):
                backend.contexts = contexts

    async def save(self, saved: Saved) -> None:
        """Have requests go by *saved* from now on; return when it is on the disk.  Raises `NotSaved`."""
        self.saved = saved
        self.choose()
        await self.state.write(saved)

    def gate(self, route: Route) -> Gate:
        """Return the gate that *route* passes through."""
        return self.gates[gate_name(route.device, route.key.backend)]

    def lease_s(self, route: Route) -> float:
        """Return how long a request on *route* may hold its model, in seconds."""
        if route.device is not None:
            return self.config.devices[route.device].lease_s
        backend = self.config.backends[route.key.backend]
        return backend.lease_s if isinstance(backend, settings.OpenAIBackend) else 0

    def wait_s(self, route: Route) -> float:
        """Return how long a request on *route* may wait for its model, in seconds."""
        if route.device is not None:
            return self.config.devices[route.device].wait_s
        backend = self.config.backends[route.key.backend]
        return backend.wait_s if isinstance(backend, settings.OpenAIBackend) else 0

    def residents(self) -> set[ModelKey]:
        """Return what is resident on the devices."""
        views = [view for gate in self.gates.values() for view in gate.snapshot().residents]
        return {view.model for view in views if isinstance(view.model, ModelKey)}


PARTS = web.AppKey("parts", Parts)


def build(config: Config, state: StateFile | None = None) -> Parts:
    """Make the parts of a proxy, with what *state* has kept; nothing is started or asked yet."""
    state = state or StateFile(config.state)
    saved = state.read()
    backends = {name: _backend(name, config) for name in config.backends}
    catalog = Catalog(config, saved=saved)
    inventory = Inventory(backends, catalog)
    bus = Bus(config.debug.ring, time.time)  # noqa: TID251 - people read its times
    gates = dict(_gates(config, backends, bus))
    parts = Parts(
        config=config,
        access=Access(config.access, tell=bus.tell),
        catalog=catalog,
        backends=backends,
        inventory=inventory,
        gates=gates,
        pool=Pool(connect_s=config.server.connect_s),
        bodies=Bodies(config.server),
        presence=Presence(config.server.client_stall_s),
        bus=bus,
        context=ContextGuard(config, backends, counters(config)),
        certificate=Certificate(config.listen.tls) if config.listen.tls is not None else None,
        metrics=_metrics(bus, gates, inventory, backends),
        state=state,
        saved=saved,
    )
    parts.choose()
    return parts


async def running(app: web.Application) -> AsyncGenerator[None]:
    """Start the parts of *app*, and stop them in the opposite order; for `cleanup_ctx`."""
    parts = app[PARTS]
    for gate in parts.gates.values():
        await gate.start()
    for name in parts.saved.drained & parts.config.devices.keys():
        parts.gates[gate_name(name, "")].drain(unload=False)
    await parts.inventory.start()
    await parts.presence.start()
    yield
    await parts.presence.close()
    await parts.inventory.close()
    for gate in parts.gates.values():
        await gate.close()
    await parts.pool.close()
    for backend in parts.backends.values():
        await backend.close()


def switcher(parts: Parts, route: Route) -> Switcher | None:
    """Return the backend of *route* if dmap can load and unload its models."""
    backend = parts.backends[route.key.backend]
    return backend if isinstance(backend, (GGUFBackend, LMStudioBackend)) else None


def gate_name(device: str | None, backend: str) -> str:
    return f"device {device}" if device is not None else f"backend {backend}"


def _metrics(bus: Bus, gates: Mapping[str, Gate], inventory: Inventory, backends: Iterable[str]) -> Metrics:
    return Metrics(
        bus,
        clock=asyncio.get_running_loop().time,
        devices=lambda: {name.removeprefix("device "): gate.snapshot() for name, gate in gates.items()},
        backends=lambda: {name: name in inventory.answering for name in backends},
    )


def _backend(name: str, config: Config) -> Backend:
    chosen = config.backends[name]
    match chosen:
        case settings.OpenAIBackend():
            return OpenAIBackend(name, chosen.url, api_key=chosen.api_key, connect_s=config.server.connect_s)
        case settings.LMStudioBackend():
            return LMStudioBackend(
                name,
                chosen.url,
                api_key=chosen.api_key,
                connect_s=config.server.connect_s,
                load_s=chosen.load_s,
                lms=chosen.lms,
            )
        case settings.GGUFBackend():
            return GGUFBackend(
                name,
                chosen.path,
                parallel=chosen.parallel,
                context_length=chosen.context_length,
                threads=chosen.threads,
                load_s=chosen.load_s,
            )


def _gates(config: Config, backends: Mapping[str, Backend], bus: Bus) -> Iterator[tuple[str, Gate]]:
    for name, device in config.devices.items():
        placed = {
            backend.name: backend
            for backend in backends.values()
            if isinstance(backend, (GGUFBackend, LMStudioBackend)) and _device(config, backend.name) == name
        }
        yield (
            gate_name(name, ""),
            Gate(
                name,
                limits_of(device),
                placed,
                device.cooldown_s,
                device.backend_gone_s,
                adopt=device.adopt == "evict",
                tell=bus.tell,
            ),
        )
    for name, backend in config.backends.items():
        if isinstance(backend, settings.OpenAIBackend):
            limits = Limits(wait_s=backend.wait_s, queue=backend.queue)
            yield gate_name(None, name), Gate.passing(name, limits, backend.parallel)


def _device(config: Config, backend: str) -> str | None:
    chosen = config.backends[backend]
    return chosen.device if isinstance(chosen, settings.SWITCHING) else None


def _contexts(config: Config, models: Mapping[str, Activation]) -> dict[str, int]:
    """Return the context that each model is loaded with, where the file or the admin API says so."""
    asked = {name: model.load.context_length for name, model in config.models.items()}
    asked |= {name: model.load.get("context_length", asked.get(name)) for name, model in models.items()}
    return {name: length for name, length in asked.items() if length is not None}


def limits_of(device: settings.Device) -> Limits:
    return Limits(
        max_models=device.max_models,
        memory_bytes=device.memory,
        embeddings=device.embeddings,
        patience_s=device.patience_s,
        residency=device.residency,
        wait_s=device.wait_s,
        queue=device.queue,
    )
