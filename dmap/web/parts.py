"""What one proxy is made of, built from its configuration, started and stopped in order."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass

from aiohttp import web

from dmap import config as settings
from dmap.access import Access
from dmap.arbiter import Limits
from dmap.backends import Backend
from dmap.backends.gguf import GGUFBackend
from dmap.backends.lmstudio import LMStudioBackend
from dmap.backends.openai import OpenAIBackend
from dmap.catalog import Catalog
from dmap.config import Config
from dmap.gate import Gate
from dmap.inventory import Inventory
from dmap.trip import ModelKey, Route
from dmap.upstream import Pool
from dmap.web.bodies import Bodies
from dmap.web.presence import Presence

__all__ = ["PARTS", "Parts", "build", "contexts_of", "gate_name", "limits_of", "running"]


@dataclass(slots=True)
class Parts:
    """
    The parts of one proxy.  A reload replaces *config*, *access* and *catalog*; the others stay.

    *gates* has one for each device and one for each backend without a device, under their names.
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

    def gate(self, route: Route) -> Gate:
        """Return the gate that *route* passes through."""
        return self.gates[gate_name(route.device, route.key.backend)]

    def lease_s(self, route: Route) -> float:
        """Return how long a request on *route* may hold its model, in seconds."""
        if route.device is not None:
            return self.config.devices[route.device].lease_s
        backend = self.config.backends[route.key.backend]
        return backend.lease_s if isinstance(backend, settings.OpenAIBackend) else 0

    def residents(self) -> set[ModelKey]:
        """Return what is resident on the devices."""
        views = [view for gate in self.gates.values() for view in gate.snapshot().residents]
        return {view.model for view in views if isinstance(view.model, ModelKey)}


PARTS = web.AppKey("parts", Parts)


def build(config: Config) -> Parts:
    """Make the parts of a proxy; nothing is started or asked yet."""
    backends = {name: _backend(name, config) for name in config.backends}
    catalog = Catalog(config)
    return Parts(
        config=config,
        access=Access(config.access),
        catalog=catalog,
        backends=backends,
        inventory=Inventory(backends, catalog),
        gates=dict(_gates(config, backends)),
        pool=Pool(connect_s=config.server.connect_s),
        bodies=Bodies(config.server),
        presence=Presence(config.server.client_stall_s),
    )


async def running(app: web.Application) -> AsyncGenerator[None]:
    """Start the parts of *app*, and stop them in the opposite order; for `cleanup_ctx`."""
    parts = app[PARTS]
    for gate in parts.gates.values():
        await gate.start()
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


def gate_name(device: str | None, backend: str) -> str:
    return f"device {device}" if device is not None else f"backend {backend}"


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
                contexts=contexts_of(config),
            )


def _gates(config: Config, backends: Mapping[str, Backend]) -> Iterator[tuple[str, Gate]]:
    for name, device in config.devices.items():
        placed = {
            backend.name: backend
            for backend in backends.values()
            if isinstance(backend, (GGUFBackend, LMStudioBackend)) and _device(config, backend.name) == name
        }
        yield gate_name(name, ""), Gate(name, limits_of(device), placed, cooldown_s=device.cooldown_s)
    for name, backend in config.backends.items():
        if isinstance(backend, settings.OpenAIBackend):
            limits = Limits(wait_s=backend.wait_s, queue=backend.queue)
            yield gate_name(None, name), Gate.passing(name, limits, backend.parallel)


def _device(config: Config, backend: str) -> str | None:
    chosen = config.backends[backend]
    return chosen.device if isinstance(chosen, settings.SWITCHING) else None


def contexts_of(config: Config) -> dict[str, int]:
    """Return the context that each model is loaded with, where the file says so."""
    asked = {name: model.load.context_length for name, model in config.models.items()}
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
