"""From a configuration to a running proxy: its parts made, started and stopped in order."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import cast

from dmap.access import Access
from dmap.arbiter import Limits
from dmap.backends import PassingSection, Switcher
from dmap.catalog import Catalog
from dmap.config import Config, Device
from dmap.events import Bus
from dmap.gate import Bounds, Gate
from dmap.inventory import Inventory
from dmap.logfmt import logfmt
from dmap.metrics import Metrics
from dmap.relay import Pool
from dmap.sockets import names_of
from dmap.state import StateFile
from dmap.tls import Certificate
from dmap.tokens import counters
from dmap.web.context import ContextGuard
from dmap.web.proxy import Proxy
from dmap.web.visit import Visits

_log = logging.getLogger(__name__)


def build(config: Config, state: StateFile | None = None) -> Proxy:
    """Make the parts of a proxy, with what *state* has kept; nothing is started or asked yet."""
    state = state or StateFile(config.state)
    saved = state.read()
    backends = {
        name: config.kind_of(name).make(name, section, config.server.connect_s)
        for name, section in config.backends.items()
    }
    placed = (name for name, section in config.backends.items() if section.placed_on is not None)
    switchers = {name: cast(Switcher, backends[name]) for name in placed}
    catalog = Catalog(config, saved=saved)
    inventory = Inventory(backends, catalog)
    bus = Bus(config.debug.ring, time.time)  # noqa: TID251 - people read its times
    devices, passages = _devices(config, switchers, bus), _passages(config)
    gates = devices | {f"backend {name}": gate for name, gate in passages.items()}
    proxy = Proxy(
        config=config,
        access=Access(config.access, names_of(config.listen), tell=bus.tell),
        catalog=catalog,
        backends=backends,
        switchers=switchers,
        inventory=inventory,
        devices=devices,
        passages=passages,
        gates=gates,
        pool=Pool(connect_s=config.server.connect_s),
        visits=Visits(config.server),
        bus=bus,
        context=ContextGuard(config, backends, counters(config)),
        certificate=Certificate(config.listen.tls) if config.listen.tls is not None else None,
        metrics=Metrics(
            bus,
            clock=asyncio.get_running_loop().time,
            devices=lambda: {name: gate.snapshot() for name, gate in gates.items()},
            backends=lambda: {name: name in inventory.answering for name in backends},
        ),
        state=state,
        saved=saved,
    )
    proxy.choose()
    for gate in proxy.gates.values():
        gate.know(lambda key: proxy.catalog.route_of(key))
    return proxy


@asynccontextmanager
async def running(proxy: Proxy) -> AsyncGenerator[None]:
    """Start the parts of *proxy*, and stop them in the opposite order."""
    try:
        await _start(proxy)
        yield
    finally:
        await _stop(proxy)


async def _start(proxy: Proxy) -> None:
    await proxy.inventory.start()  # first, so that the gates know which of the residents are pinned
    await asyncio.gather(*(gate.start() for gate in proxy.gates.values()))
    for name in proxy.saved.drained & proxy.config.devices.keys():
        proxy.devices[name].drain(unload=False)
        fields = {"device": name, "since": "before this start", "until": "dmap resume"}
        _log.warning(logfmt("drained", fields))
    await proxy.visits.start()


async def _stop(proxy: Proxy) -> None:
    """Stop what has been started, even if that is only a part."""
    await proxy.visits.close()
    await proxy.inventory.close()
    await asyncio.gather(*(gate.close() for gate in proxy.gates.values()))
    await proxy.pool.close()
    for backend in proxy.backends.values():
        await backend.close()


def _devices(config: Config, switchers: Mapping[str, Switcher], bus: Bus) -> dict[str, Gate]:
    return {
        name: Gate(
            name,
            limits_of(device),
            {each: switchers[each] for each in switchers if config.backends[each].placed_on == name},
            bounds_of(device),
            tell=bus.tell,
        )
        for name, device in config.devices.items()
    }


def _passages(config: Config) -> dict[str, Gate]:
    return {
        name: Gate(
            name,
            Limits(wait_s=backend.wait_s, queue=backend.queue),
            bounds=Bounds(lease_s=backend.lease_s),
            parallel=backend.parallel,
        )
        for name, backend in config.backends.items()
        if isinstance(backend, PassingSection)
    }


def limits_of(device: Device) -> Limits:
    """Return the bounds of *device* as its arbiter takes them."""
    return Limits(
        max_models=device.max_models,
        memory_bytes=device.memory,
        embeddings=device.embeddings,
        patience_s=device.patience_s,
        residency=device.residency,
        wait_s=device.wait_s,
        queue=device.queue,
    )


def bounds_of(device: Device) -> Bounds:
    """Return what else the gate of *device* goes by."""
    return Bounds(
        lease_s=device.lease_s,
        cooldown_s=device.cooldown_s,
        gone_s=device.backend_gone_s,
        adopt=device.adopt == "evict",
    )
