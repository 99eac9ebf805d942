"""One proxy: its parts, made from a configuration, started and stopped in order; what requests look up."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import cast

from dmap import tasks
from dmap.access import Access, Client
from dmap.activity import ActivityLog
from dmap.backends import Engine, Switcher
from dmap.catalog import Catalog, Contexts
from dmap.config import Config
from dmap.errors import BackendDown, Drained, ModelNotFound, NotSaved
from dmap.events import Bus
from dmap.gate import Gate
from dmap.inventory import Inventory
from dmap.logfmt import Line
from dmap.metrics.board import Metrics
from dmap.models import ModelInfo, ModelKey, Route
from dmap.owner import servers_of
from dmap.relay import Pool
from dmap.shared import join
from dmap.sockets import names_of
from dmap.state import DEVICES, Activation, Saved, StateFile, later
from dmap.tls import Certificate
from dmap.tokens import counters
from dmap.traces import Traces
from dmap.web import durations, parts
from dmap.web.capture import Captures
from dmap.web.context import ContextGuard
from dmap.web.lacking import Lacking
from dmap.web.making import Making
from dmap.web.rivals import Rivals
from dmap.web.view import Views
from dmap.web.visit import Visits

_log = logging.getLogger(__name__)

KEEP_S = 600.0
"""So often the state file gets what was learnt, if that has changed, and once more in the end."""
SAVE_S = 3.0
"""How long that is waited for: a disk that does not answer must not keep the end from the models' servers."""


class Proxy:
    """
    The parts of one proxy.  Nothing is started or asked before `running`.

    A reload replaces *config*; the others stay.  *engines* are those of this installation, by their backends.

    *switchers* are those of *backends* whose models dmap can load and unload.  *devices* has the gate of each
    device and *passages* that of each backend without one, of which those in *passing* get what dmap does not
    know; *gates* has all of them under the names that metrics and the queue show.  *meters* measure the
    memory of devices whose GPUs are named.  *saved* is what was set over the admin API, kept in *state*.
    *trials* is what an order sets that is being carried out, *turns* keeps orders for one copy apart, and
    *visits* are the requests under way.  *reload* reads the file again and returns its problems.  *shared* is
    what other dmaps have too, by Redis, and *cache* has answers for who asks again; None without a section.
    """

    def __init__(
        self,
        config: Config,
        state: StateFile | None = None,
        engines: Mapping[str, Engine] = MappingProxyType({}),
    ) -> None:
        server, listen, servers = config.server, config.listen, servers_of(config)
        self.config, self.engines = config, engines
        self.state = state or StateFile(config.state)
        self.saved: Saved = self.state.read()
        self.bus = Bus(config.debug.ring, time.time)  # noqa: TID251 - people read its times
        kept = self.state.path.parent / "activity" if self.state.path is not None else None
        self.activity = ActivityLog(kept, self.bus, config.activity)
        self.traces = Traces(config.traces, self.bus)
        self.certificate = Certificate(listen.tls) if listen.tls is not None else None
        self.access = Access(config.access, names_of(listen), tell=self.bus.tell)
        self.backends = parts.backends_of(config)
        self.switchers = {name: cast(Switcher, self.backends[name]) for name in parts.placed(config)}
        self.nodes = parts.nodes_of(config, self.backends)
        self.catalog = Catalog(config)
        self.inventory = Inventory(self.backends, self.catalog)
        self.meters = parts.meters_of(config)
        self.devices = {name: self._gate_of(name) for name in config.devices}
        self.passages = parts.passages_of(config)
        self.passing = [name for name in config.backends if config.kind_of(name).passes_on]
        self.gates = self.devices | {f"backend {name}": gate for name, gate in self.passages.items()}
        self.making = Making(config, self.backends, self.nodes, engines, self.catalog)
        self.views = self._views()
        self.twins = parts.Twins(self.nodes, self.views.run)
        self.pool = Pool(connect_s=server.connect_s)
        self.visits = Visits(server)
        self.context = ContextGuard(config, self.backends, counters(config))
        self.captures, self.lacking = Captures(), Lacking()
        self.rivals = Rivals(self.bus, self._is_busy, servers)
        self.shared = join(config.redis, servers, self.bus, lambda *took: self.metrics.redis_s.observe(*took))
        self.cache = parts.cache_of(config, self.shared, self.making)
        self.metrics = self._metrics()
        self._link()
        self._writing: asyncio.Task[None] | None = None
        self.trials: dict[str, Activation] = {}
        self.turns: dict[ModelKey, asyncio.Lock] = {}
        self.reload: Callable[[], list[str]] | None = None
        self.choose()
        durations.recall(self.saved.durations, self.devices, self.switchers)

    def _link(self) -> None:
        if self.shared is not None:
            self.access.guessed = self.shared.quotas.guessed
            self.shared.settings.mine = lambda: self.saved
            self.shared.settings.adopt = self._adopt

    def _views(self) -> Views:
        return Views(
            self.gates,
            lambda client: self.catalog.shown(client, self.residents()),
            lambda shown: self.catalog.places(shown.entry),
            self._answers_here,
            lambda backend: self.config.kind_of(backend).name,
            self.making.here,
        )

    def _metrics(self) -> Metrics:
        return Metrics(
            self.bus,
            clock=asyncio.get_running_loop().time,
            devices=lambda: {name: gate.snapshot() for name, gate in self.gates.items()},
            backends=lambda: {name: name in self.inventory.answering for name in self.backends},
            memory=lambda: {name: meter.balance for name, meter in self.meters.items()},
            lost=lambda: self.activity.lost,
            nodes=lambda: {name: node.age_s for name, node in self.nodes.items()},
            redis=lambda: self.shared.is_up if self.shared is not None else None,
            cache=lambda: self.cache is not None,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Start the parts, and stop in the opposite order what has been started, even if only a part."""
        watches = [tasks.spawn(meter.watch, f"memory of {name}") for name, meter in self.meters.items()]
        try:
            self.inventory.learnt, self.inventory.lost = self._learnt, self._lost
            await self.inventory.start()  # first, so that the gates know which of the residents are pinned
            await asyncio.gather(*(gate.start() for gate in self.gates.values()))
            parts.note_unknown(self.config, self.catalog)
            for name in self.saved.drained & self.devices.keys():
                self.drain(name, unload=False)
                fields = {"device": name, "since": "before this start", "until": "dmap resume"}
                _log.warning(Line("drained", fields))
            async with (
                tasks.running(self.visits.watch, "visits"),
                tasks.running(self._keep_durations, "durations"),
            ):
                yield
            await self._save_durations()
        finally:
            await tasks.end(*watches)
            await self.inventory.close()
            await asyncio.gather(*(gate.close() for gate in self.gates.values()))
            await self.pool.close()
            for backend in self.backends.values():
                await backend.close()

    def choose(self) -> None:
        """Have requests go by what was set over the admin API, and by what is being tried."""
        models = later(self.saved.models, self.trials)
        self.catalog.choose(replace(self.saved, models=models))
        contexts = Contexts(self.config.settings, models)
        for name, switcher in self.switchers.items():
            switcher.contexts = contexts
            switcher.commands = self.config.commands_of(name)

    async def save(self, saved: Saved) -> None:
        """Have requests go by *saved* from now on; return when it is on the disk.  Raises `NotSaved`."""
        self.saved = saved
        self.choose()
        await self.state.write(saved)

    async def agree(self, change: Callable[[Saved], Saved]) -> Saved:
        """
        Return what is to be saved after a *change* of the active model, or of what is set for models.

        Where several dmaps share that, it holds for the others then.  Raises `NotShared`.
        """
        new = change(self.saved) if self.shared is None else await self.shared.settings.change(change)
        return self.saved.sharing(new)

    def _adopt(self, saved: Saved) -> None:
        """Have requests go by what another dmap has *saved* for all."""
        self.saved = self.saved.sharing(saved)
        self.choose()
        for gate in self.devices.values():
            gate.changed()
        self._writing = tasks.errand(self.state.write(self.saved), "adopted settings", expected=(NotSaved,))
        _log.info(Line("settings_adopted", {"version": saved.shared_version, "active": saved.active}))

    async def _keep_durations(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            await self._save_durations()

    async def _save_durations(self) -> None:
        """Save what the arbiters have learnt, if it is not what the file says."""
        learnt = durations.learnt(self.devices, self._is_gone)
        kept, before = dict(list(learnt.items())[:DEVICES]), self.saved.durations
        if kept != before:
            try:
                async with asyncio.timeout(SAVE_S):
                    await self.save(replace(self.saved, durations=kept))
            except (NotSaved, TimeoutError) as exc:
                self.saved = replace(self.saved, durations=before)  # so that the next time tries again
                reason = str(exc) or "the disk does not answer"
                _log.warning(Line("durations_not_saved", {"reason": reason}))

    def _is_busy(self, device: str) -> bool:
        """Tell whether requests run or wait on *device*."""
        view = self.devices[device].snapshot()
        return view.leases + view.waiting > 0

    def _is_gone(self, key: ModelKey) -> bool:
        """Tell whether the backend of *key* answers and has no such model."""
        return key.backend in self.inventory.answering and self.catalog.route_of(key) is None

    async def resolve(
        self, model: str | None, client: Client, *, or_fallback: bool = False
    ) -> tuple[Route, ...]:
        """
        Return where a request of *client* for *model* may go; one that nobody knows may be new.

        One that is not new either goes to the alias `*`, with *or_fallback*.
        """
        try:
            return self.catalog.resolve(model, client)
        except ModelNotFound:
            await self.inventory.refresh()
            return self.catalog.resolve(model, client, or_fallback=or_fallback)

    def gate(self, route: Route) -> Gate:
        """Return the gate that *route* passes through."""
        return self.devices[route.device] if route.device is not None else self.passages[route.key.backend]

    def _answers_here(self, route: Route) -> bool:
        """Tell whether *route* is a place of this box that answers."""
        is_here = route.key.backend in self.inventory.answering and route.key.backend not in self.nodes
        return is_here and self.gate(route).view.can_hold(route)

    def drain(self, device: str, *, unload: bool) -> None:
        """
        Have *device* serve nobody until `resume`, and no server on it; with *unload* its models go.

        Who waits there and may have its model elsewhere goes there, unless all devices are drained.
        """
        passages = [self.passages[name] for name in self.config.device(device).held]
        self.devices[device].drain(unload=unload)
        for passage in passages:
            passage.drain(unload=False)
        if all(gate.drained for gate in self.devices.values()):
            return
        for gate in (self.devices[device], *passages):
            gate.refuse(lambda lease: lease.may_move, Drained(f"{device!r} is drained"))

    def resume(self, device: str) -> None:
        """Have *device* serve again, and the servers on it."""
        self.devices[device].resume()
        for name in self.config.device(device).held:
            self.passages[name].resume()

    def _gate_of(self, device: str) -> Gate:
        """Make the gate of *device*, with those switchers that are placed there."""
        sections = self.config.backends
        placed = {name: each for name, each in self.switchers.items() if sections[name].placed_on == device}
        section, route_of = self.config.device(device), self.catalog.route_of
        preloads, meter = functools.partial(self.catalog.preloads, device), self.meters.get(device)
        return Gate(
            device, section, placed, tell=self.bus.tell, route_of=route_of, preloads=preloads, meter=meter
        )

    def _learnt(self, backend: str, found: Sequence[ModelInfo]) -> None:
        """Hear that *found* is what *backend* has: models that are to be there may be known only now."""
        self.twins.note(backend)
        device = self.config.backends[backend].placed_on
        if device is not None:
            self.rivals.note_arriving(device, backend, [model.id for model in found if model.arriving])
            gate, preloads = self.devices[device], self.catalog.preloads(device)
            if gate.snapshot().preload.keys() != preloads.keys():
                gate.changed()

    def _lost(self, backend: str, error: BackendDown) -> None:
        """Hear that *backend* is down: who waits for a model there and may have it elsewhere goes there."""
        self.rivals.note_down(backend)
        gate = self.gates[self.config.backends[backend].placed_on or f"backend {backend}"]
        gate.refuse(lambda lease: lease.may_move and lease.route.key.backend == backend, error)
        self.pool.leave(backend, error)

    def residents(self) -> set[ModelKey]:
        """Return what is resident on the devices."""
        return {key for gate in self.devices.values() for key in gate.residents}
