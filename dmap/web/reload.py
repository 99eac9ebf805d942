"""Another configuration for a running proxy: what can change does, and what cannot changes nothing."""

from collections.abc import Iterator

from dmap.access import Access
from dmap.backends.gguf import GGUFBackend
from dmap.catalog import Catalog
from dmap.config import Config, ConfigProblem
from dmap.errors import ModelNotFound
from dmap.web.parts import Parts, contexts_of, gate_name, limits_of

__all__ = ["reload"]


def reload(parts: Parts, config: Config) -> None:
    """
    Have *parts* go on under *config*.

    Residents, queues and streams are not touched; who waits for a model that is gone is told so.  Raises
    `ConfigProblem` for what takes a restart, and then all is as it was.
    """
    problems = list(_too_much(parts.config, config))
    if problems:
        raise ConfigProblem(problems)
    parts.config = config
    parts.access = Access(config.access)
    parts.catalog = parts.inventory.catalog = Catalog(config, parts.catalog)
    parts.bodies.server = config.server
    parts.pool.connect_s = config.server.connect_s
    parts.presence.unread_s = config.server.client_stall_s
    for backend in parts.backends.values():
        if isinstance(backend, GGUFBackend):
            backend.contexts = contexts_of(config)
    for name, device in config.devices.items():
        parts.gates[gate_name(name, "")].configure(limits_of(device), device.cooldown_s)
    gone = ModelNotFound(
        "the model was taken out of the configuration while the request waited", param="model"
    )
    for gate in parts.gates.values():
        gate.refuse(lambda key: not parts.catalog.has(key), gone)


def _too_much(old: Config, new: Config) -> Iterator[str]:
    if new.listen != old.listen:
        yield "listen: another address takes a restart"
    if new.devices.keys() != old.devices.keys():
        yield "devices: one more or less takes a restart"
    for name in sorted(new.backends.keys() | old.backends.keys()):
        if new.backends.get(name) != old.backends.get(name):
            yield f"backends.{name}: another backend takes a restart"
