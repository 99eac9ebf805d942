"""What one proxy is made of, and what requests look up in it.  The counterpart that makes it is `build`."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dmap.access import Access
from dmap.backends import Backend, Switcher
from dmap.catalog import Catalog
from dmap.config import Config
from dmap.events import Bus
from dmap.gate import Gate
from dmap.inventory import Inventory
from dmap.metrics import Metrics
from dmap.models import ModelKey, Route
from dmap.relay import Pool
from dmap.state import Activation, Saved, StateFile
from dmap.tls import Certificate
from dmap.web.capture import Captures
from dmap.web.context import ContextGuard
from dmap.web.visit import Visits


@dataclass(slots=True)
class Proxy:
    """
    The parts of one proxy.  A reload replaces *config* and *catalog*; the others stay.

    *switchers* are those of *backends* whose models dmap can load and unload.  *devices* has the gate of each
    device and *passages* that of each backend without one; *gates* has all of them under the names that
    metrics and the queue show.  *saved* is what was set over the admin API, kept in *state*.  *trials* is
    what an order sets that is being carried out, and *turns* keeps orders for one model apart.  *visits* are
    the requests under way.  *reload* reads the file again; it raises `ConfigProblem`.
    """

    config: Config
    access: Access
    catalog: Catalog
    backends: Mapping[str, Backend]
    switchers: Mapping[str, Switcher]
    inventory: Inventory
    devices: Mapping[str, Gate]
    passages: Mapping[str, Gate]
    gates: Mapping[str, Gate]
    pool: Pool
    visits: Visits
    bus: Bus
    certificate: Certificate | None
    metrics: Metrics
    context: ContextGuard
    state: StateFile
    saved: Saved
    trials: dict[str, Activation] = field(default_factory=dict)
    turns: dict[ModelKey, asyncio.Lock] = field(default_factory=dict)
    captures: Captures = field(default_factory=Captures)
    reload: Callable[[], None] | None = None

    def choose(self) -> None:
        """Have requests go by what was set over the admin API, and by what is being tried."""
        models = {**self.saved.models, **self.trials}
        self.catalog.choose(replace(self.saved, models=models))
        contexts = _contexts(self.config, models)
        for switcher in self.switchers.values():
            switcher.contexts = contexts

    async def save(self, saved: Saved) -> None:
        """Have requests go by *saved* from now on; return when it is on the disk.  Raises `NotSaved`."""
        self.saved = saved
        self.choose()
        await self.state.write(saved)

    def gate(self, route: Route) -> Gate:
        """Return the gate that *route* passes through."""
        return self.devices[route.device] if route.device is not None else self.passages[route.key.backend]

    def residents(self) -> set[ModelKey]:
        """Return what is resident on the devices."""
        return {key for gate in self.devices.values() for key in gate.residents}


def _contexts(config: Config, models: Mapping[str, Activation]) -> dict[str, int]:
    """Return the context that each model is loaded with, where the file or the admin API says so."""
    asked = {name: model.load.context_length for name, model in config.models.items()}
    asked |= {name: model.load.get("context_length", asked.get(name)) for name, model in models.items()}
    return {name: length for name, length in asked.items() if length is not None}
