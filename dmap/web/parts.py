"""What of the configuration makes the parts of a proxy."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from dmap.backends import Backend, Forwarding, PassingSection
from dmap.catalog import Catalog
from dmap.config import Config, Device
from dmap.gate import Gate
from dmap.logfmt import Line
from dmap.memory import Meter, check, reader_of
from dmap.tls import check_authorities
from dmap.web.making import Making

if TYPE_CHECKING:
    from dmap.shared.core import Shared
    from dmap.web.cache import Cache

_log = logging.getLogger(__name__)


def backends_of(config: Config) -> dict[str, Backend]:
    """Return the backends, none of which has been asked anything.  Raises what `check_authorities` does."""
    check_authorities(config)
    return {
        name: config.kind_of(name).make(name, section, config.server.connect_s)
        for name, section in config.backends.items()
    }


def nodes_of(config: Config, backends: Mapping[str, Backend]) -> dict[str, Forwarding]:
    """Return those of *backends* that are other dmaps."""
    forwarding = (name for name in backends if config.kind_of(name).forwards)
    return {name: cast(Forwarding, backends[name]) for name in forwarding}


def cache_of(config: Config, shared: "Shared | None", making: Making) -> "Cache | None":
    """Return the answers that are kept in what is *shared*, as *config* says; None where none are."""
    if config.cache is None or shared is None:
        return None
    from dmap.web.cache import Cache  # nobody else takes what it imports

    return Cache(config.cache, shared.answers(config.cache), making)


def placed(config: Config) -> list[str]:
    """Return the backends whose models dmap can load and unload."""
    return [name for name, section in config.backends.items() if section.placed_on is not None]


def note_unknown(config: Config, catalog: Catalog) -> None:
    """Log which models are to be there that no backend has told of."""
    for name, device in config.devices.items():
        known = catalog.preloads(name)
        for model in (each for each in device.preload if catalog.key_of(each) not in known):
            fields = {"device": name, "model": model, "reason": "no backend here has told of it yet"}
            _log.warning(Line("preload_unknown", fields))


class Twins:
    """What notices that two of *nodes* are one dmap, or that one is this dmap itself, whose life is *run*."""

    def __init__(self, nodes: Mapping[str, Forwarding], run: str) -> None:
        self._nodes, self._told = nodes, set[str]()
        for node in nodes.values():
            node.own_run = run

    def note(self, backend: str) -> None:
        """Log, once for each of its lives, that *backend*, which has just answered, is another node too."""
        nodes = self._nodes
        run = nodes[backend].run if backend in nodes else ""
        others = [name for name in nodes if run and name != backend and nodes[name].run == run]
        if others and run not in self._told:
            self._told.add(run)
            fields = {
                "one": backend,
                "other": others[0],
                "reason": "both are one dmap; take one out of nodes",
            }
            _log.warning(Line("node_twice", fields))


def meters_of(config: Config) -> dict[str, Meter]:
    """Return what measures the memory of those devices whose GPUs are named.  Raises what `check` does."""
    check(config)
    measured = {name: device.gpus for name, device in config.devices.items() if device.gpus}
    return {name: Meter(name, reader_of(gpus)) for name, gpus in measured.items()}


def passages_of(config: Config) -> dict[str, Gate]:
    """Return the gates of the backends without a device, by their names."""
    return {
        name: Gate(
            name,
            Device(wait_s=section.wait_s, queue=section.queue, lease_s=section.lease_s),
            parallel=section.parallel,
        )
        for name, section in config.backends.items()
        if isinstance(section, PassingSection)
    }
