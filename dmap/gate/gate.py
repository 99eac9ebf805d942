"""
The asyncio side of the arbiter: `async with gate.lease(route, client)`, one gate per device.

It decides nothing.  A lease is its own ticket with the arbiter; `upkeep` carries switches and looks out.  A
request that leaves while it waits, by an error or a cancellation at any await, is withdrawn at once.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from dmap import tasks
from dmap.arbiter import Effect, Grant, Needs, Refuse, Snapshot, Stop, Switch
from dmap.backends import Loaded, Switcher
from dmap.config import Device
from dmap.errors import DmapError
from dmap.events import Tell
from dmap.gate.device_memory import DeviceMemory
from dmap.gate.device_models import DeviceModels
from dmap.gate.lease import Lease
from dmap.gate.live import LiveArbiter, limits_of
from dmap.gate.queue_view import QueueView
from dmap.gate.refusals import error_of, not_unloaded, still_serves
from dmap.gate.switchlog import SwitchLog
from dmap.gate.unloads import NOBODY, Unloads
from dmap.gate.upkeep import Upkeep
from dmap.memory import Meter
from dmap.models import ModelKey, Route
from dmap.placement import Place

START_S = 1.0
"""How long a start waits for the first look; a backend may take far longer to answer, or to be given up."""

_ANY = "any model"
"""What the arbiter of a gate without a device takes for the one model there is."""


class Gate:
    """
    The gate of one device, or of one backend without a device.

    Make it inside the loop that runs it, call `start` before the first lease and `close` at the end.
    *section* is the device's in the configuration, and *switchers* are its backends.  None means that there
    is no device: every route passes, at most *parallel* at once.  *tell* hears of switches, and of models
    that come and go without dmap.  *route_of* tells of models that nobody has asked for yet, *preloads* of
    those to be loaded even so; call `changed` when they know more.  *view* has the places of those who wait,
    *lengths* what loads and answers take, *memory* what *meter* says.  While *drained* it serves nobody, nor
    before the first look: until then nobody knows what is in the device's memory, and a load might exceed it.
    """

    def __init__(
        self,
        name: str,
        section: Device,
        switchers: Mapping[str, Switcher] | None = None,
        *,
        parallel: int | None = None,
        tell: Tell = lambda name, fields: None,
        route_of: Callable[[ModelKey], Route | None] = lambda key: None,
        preloads: Callable[[], Mapping[ModelKey, Route]] = dict,
        meter: Meter | None = None,
    ) -> None:
        self.name, self.section = name, section
        self._switchers, self._has_device = switchers or {}, switchers is not None
        self._live = LiveArbiter(name, limits_of(section), self._carry_out)
        self._arbiter = self._live.arbiter
        self.memory = memory = DeviceMemory(meter)
        self._models = DeviceModels(self._arbiter, self._switchers, section, memory, route_of, preloads)
        self.view, self.lengths = QueueView(self._arbiter, self._live.now), self._arbiter.lengths
        self._unloads = Unloads(self._arbiter)
        self._log = SwitchLog(name, tell, self.view.first_of, self._unloads.first_of)
        self._upkeep = Upkeep(self._live, self._models, self._log, tell)
        self.drained = self._closed = False
        self._first_look: asyncio.Task[None] | None = None
        if not self._has_device:
            self._live.say(self._arbiter.observed, self._arbiter.epoch, {_ANY: Needs(parallel=parallel)})

    async def start(self) -> None:
        """Ask each backend what is resident, for `START_S` at most; one that is down has nothing."""
        for name, switcher in self._switchers.items():
            switcher.changed = self.changed
            switcher.in_use = functools.partial(self._in_use, name)
            switcher.start()
        self._live.say(self._arbiter.drain)
        self._first_look = tasks.spawn(self._open, f"first look {self.name}")
        await asyncio.wait((self._first_look,), timeout=START_S)

    # Requests

    async def check(self, route: Route) -> None:
        """Raise `LoadFailed` or `ModelNotFound` if *route*'s model is not resident and cannot be loaded."""
        if self._has_device and route.key not in self._arbiter.residents:
            await self._models.check(route.key)

    def lease(
        self,
        route: Route,
        client: str,
        priority: int = 0,
        name: str = "",
        user: int | None = None,
        waited_s: float = 0.0,
    ) -> Lease:
        """
        Return a context that waits for *route*'s model on entering and gives it back on leaving.

        Higher *priority* is served before lower.  *name* is what `view` knows it by.  *user* tells the users
        of *client* apart, by whom it is known who may come back soon; they have one share of the turns.  For
        one that has *waited_s* at other gates, that counts.
        """
        return Lease(self, route, client, priority, name, user, waited_s)

    def place(self, route: Route) -> Place:
        """Return how a request for *route* would stand here now; for whoever chooses among several gates."""
        is_silent = self._models.is_silent(route.key)
        return self.view.stand(route, self._seat(route), self.section.queue, is_silent=is_silent)

    def enter(self, lease: Lease) -> None:
        """Let *lease* wait for its model; for the lease to call."""
        lease.seat = self._seat(lease.route)
        self._models.asked[lease.route.key] = lease.route
        self._live.say(self._submit, lease)

    def come_back(self, lease: Lease) -> None:
        """Let *lease* wait again, because its model did not answer, and look at the device; for the lease."""
        now = self._live.now()
        lease.service_s += now
        self._begin_wait(lease, now)
        self._live.say(self._arbiter.came_back, lease)
        self._models.doubt(lease.route.key)
        self.changed()

    def leave(self, lease: Lease) -> None:
        """Take back what *lease* holds, a place or a model; for the lease to call."""
        now = self._live.now()
        if lease in self._arbiter.waiting:
            self._end_wait(lease, now)
        else:
            lease.service_s += now
        self._live.say(self._arbiter.withdraw, lease)

    def refuse(self, is_meant: Callable[[Lease], bool], error: DmapError) -> None:
        """Refuse those of the requests that wait which are *meant*; leases go on to their end."""
        for lease in [lease for lease in self._arbiter.waiting if is_meant(lease)]:
            if lease in self._arbiter.waiting:  # still: it may have got the place of one before it
                lease.release()
                lease.answer(error)

    # Orders

    async def load(self, route: Route, client: str, *, priority: int = 0, name: str = "") -> Loaded | None:
        """
        Have *route*'s model loaded as *route* says, waiting for it like any request; return what it got.

        A resident that is not as *route* asks is unloaded first.  None is returned for a model that was
        resident before dmap came.  Raises what a lease raises, and what `check` and `unload` do.
        """
        await self.check(route)
        key, switch = route.key, self._arbiter.switch
        if switch is not None and switch.load == key:  # with the options of whoever asked first
            async with self.lease(route, client, priority, name):
                pass
        if key in self._arbiter.residents and not self._models.satisfies(key, route):
            await self._models.check(key)
            await self.unload(key, {"for": name, "by": client})
        async with self.lease(route, client, priority, name):
            return self._models.got.get(key)

    def forgive(self, key: ModelKey) -> None:
        """Let *key* be tried again at once, whatever its last load came to."""
        self._live.say(self._arbiter.recovered, key)

    async def unload(self, key: ModelKey, who: Mapping[str, str] = NOBODY) -> bool:
        """
        Have a resident unloaded, pinned or not, once its last lease has ended; tell, when it is gone, if it
        was there at all.  *who* wants it, `for` and `by`, is told with it.

        It takes nobody from now on.  Raises `WaitExpired` after `wait_s`, and `BackendDown` or `BackendBroke`
        if it will not go; the model then stays, and so it does if the caller is cancelled while it serves.
        """
        if self._closed:
            raise not_unloaded(key)
        wait_s, outcome = self.section.wait_s, self._unloads.order(key, who)
        self._live.say(self._unloads.wish, key, who, self._log)
        try:
            async with asyncio.timeout(wait_s):
                answer = await outcome
        except TimeoutError:
            raise still_serves(key, self.name, wait_s) from None
        finally:
            if self._unloads.take_back(outcome):
                self._live.say(self._unloads.unwish, key, who, self._log)
        if isinstance(answer, DmapError):
            raise answer
        return answer

    def drain(self, *, unload: bool) -> None:
        """Serve nobody and begin no switch until `resume`; with *unload* let all residents go when idle."""
        self.drained = True
        self._live.say(self._arbiter.drain, unload=unload)

    def resume(self) -> None:
        """Go on after `drain`, and after the first look."""
        self.drained = False
        if self._first_look is None:
            self._live.say(self._arbiter.resume)

    def configure(self, section: Device) -> None:
        """Go on under another *section*; leases and places stay."""
        self.section = self._models.section = section
        self._live.say(self._arbiter.configure, limits_of(section))
        self.changed()  # pins, times to live and whose models are whose may be others

    async def close(self) -> None:
        """Refuse all who wait, and stop, within `tasks.END_S`; leases may end later.  Idempotent."""
        self._closed = True
        self._live.say(self._arbiter.close)
        await tasks.end(self._first_look)
        await self._upkeep.close()
        self._log.heed(self._live.now(), None)
        for key in self._unloads:
            self._unloads.answer(key, not_unloaded(key))
        self._live.close()

    # Questions

    @property
    def residents(self) -> frozenset[ModelKey]:
        """The models that are resident on the device."""
        return frozenset(self._arbiter.residents if self._has_device else ())

    @property
    def got(self) -> Mapping[ModelKey, Loaded]:
        """What those residents got that dmap has loaded, as their servers tell it."""
        return self._models.got

    def snapshot(self) -> Snapshot:
        """Return how many wait, what is resident and what is changing; cheap, however many wait."""
        snapshot = replace(self._arbiter.snapshot(self._live.now()), drained=self.drained)
        return snapshot if self._has_device else replace(snapshot, residents=())

    def changed(self) -> None:
        """Look again at what is resident; for backends to call when a resident may have vanished."""
        if self._has_device:
            self._upkeep.look()

    async def recheck(self) -> None:
        """Look again, and wait for what is found; after the switch under way, if there is one."""
        self.changed()
        await self._upkeep.looked()

    async def _open(self) -> None:
        await self.recheck()
        self._first_look = None
        if not self.drained:
            self.resume()

    # What the arbiter answers

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(lease):
                    self._end_wait(lease, self._live.latest)
                    lease.service_s -= self._live.latest
                    lease.answer(None)
                case Refuse(lease):
                    self._end_wait(lease, self._live.latest)
                    key, is_down = lease.route.key, lease.route.key in self._models.down
                    lease.answer(error_of(effect, key, self.name, self.section, is_down=is_down))
                case Switch():
                    self._upkeep.switch()
                case Stop():
                    self._upkeep.stop_load()
        self._log.heed(self._live.latest, None if self._closed else self._arbiter.plan)
        if self._unloads:
            self._unloads.note(self._models.stuck)

    def _submit(self, now: float, lease: Lease) -> Iterable[Effect]:
        since = lease.since = now - lease.waited_s
        self._begin_wait(lease, now)
        user = None if lease.user is None else (lease.client, lease.user)
        needs, priority = lease.route.needs, lease.priority
        return self._arbiter.submit(now, lease, lease.seat, lease.client, needs, priority, user, since)

    def _seat(self, route: Route) -> ModelKey | str:
        return route.key if self._has_device else _ANY

    def _begin_wait(self, lease: Lease, now: float) -> None:
        lease.queue_s -= now
        lease.switch_s -= self._log.spent_s(now, lease.route.key)

    def _end_wait(self, lease: Lease, now: float) -> None:
        lease.queue_s += now
        lease.switch_s += self._log.spent_s(now, lease.route.key)

    def _in_use(self, backend: str, model: str) -> bool:
        return any(lease.route.key == (backend, model) for lease in self._arbiter.leases)
