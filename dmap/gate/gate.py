"""
The asyncio side of the arbiter: `async with gate.lease(route, client)`, one gate per device.

The gate decides nothing.  It gives the arbiter the time, keeps a future for each ticket that waits and one
timer for the next deadline, and has switches carried out (`changeover`).  Whoever leaves while it waits, by
an error or a cancellation at any await, is withdrawn before the exception goes on.
"""

import asyncio
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dmap import tasks
from dmap.arbiter import Arbiter, Effect, Grant, Limits, Needs, Refuse, Snapshot, Switch, Unload
from dmap.backends import Loaded, Switcher
from dmap.errors import DmapError, ShuttingDown, WaitExpired
from dmap.gate.changeover import Changeover, needs_of
from dmap.gate.fleet import Fleet
from dmap.gate.lease import Beat, Lease, Waiting
from dmap.gate.partings import Partings
from dmap.gate.places import Places
from dmap.gate.refusals import error_of
from dmap.gate.switchlog import Tell, nothing
from dmap.models import ModelKey, Route


class Gate:
    """
    One device's gate.

    Make it inside the loop that runs it, call `start` before the first lease and `close` at the end.
    *gone_s* is how long a backend may keep silent until its residents no longer count.  Without *adopt*
    the models that somebody else loaded are left alone, as if they were pinned.  *tell* hears of switches,
    and of models that come and go without dmap.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        switchers: Mapping[str, Switcher],
        cooldown_s: float = 3.0,
        gone_s: float = 60.0,
        *,
        adopt: bool = True,
        tell: Tell = nothing,
    ) -> None:
        self.name = name
        self.loop = asyncio.get_running_loop()
        self._limits = limits
        self._arbiter = Arbiter(limits)
        self._switchers = switchers
        self._passing: ModelKey | None = None
        self._routes: dict[ModelKey, Route] = {}
        self._ids = itertools.count(1)
        self._waiting: dict[int, Lease] = {}
        self._told_at = 0.0
        self._timer: asyncio.Handle | None = None
        self._due = 0.0
        self._out: Counter[ModelKey] = Counter()
        self._partings = Partings()
        self._places = Places(self._arbiter, self._waiting, self._now)
        self._closed = False
        self._changeover = Changeover(
            name,
            self._arbiter,
            Fleet(switchers, cooldown_s=cooldown_s, gone_s=gone_s),
            routes=self._routes,
            apply=self._apply,
            now=self._now,
            tell=tell,
            adopt=adopt,
        )

    @classmethod
    def passing(cls, name: str, limits: Limits, parallel: int | None) -> "Gate":
        """Make a gate without arbitration: every route passes, at most *parallel* at once."""
        gate = cls(name, limits, {})
        gate._passing = ModelKey(name, "*")
        gate._arbiter.observed(0, gate._arbiter.epoch, {gate._passing: Needs(parallel=parallel)})
        return gate

    async def start(self) -> None:
        """Ask each backend what is resident.  One that is down counts as having nothing."""
        for name, switcher in self._switchers.items():
            switcher.changed = self.changed
            switcher.in_use = functools.partial(self._in_use, name)
            switcher.start()
        await self.recheck()

    def know(self, route_of: Callable[[ModelKey], Route | None]) -> None:
        """Have *route_of* tell of models that nobody has asked for yet; call `changed` when it knows more."""
        self._changeover.known = route_of

    def lease(
        self,
        route: Route,
        client: str,
        beat: Beat | None = None,
        beat_after_s: float = 15.0,
        priority: int = 0,
        name: str = "",
        on_wait: Callable[[int, float], None] | None = None,
    ) -> Lease:
        """
        Return a context that waits for *route*'s model on entering and gives it back on leaving.

        *beat* is awaited by the caller itself every *beat_after_s* while it waits; if it raises, the
        place in the queue is given up.  Higher *priority* is served before lower.  *name* is what `waiting`
        knows it by.  *on_wait* is called, with what *beat* is told, if it has to wait at all.
        """
        return Lease(self, route, client, beat, beat_after_s, priority, name, on_wait)

    async def load(self, route: Route, client: str, *, priority: int = 0, name: str = "") -> Loaded | None:
        """
        Have *route*'s model loaded as *route* says, waiting for it like any request; return what it got.

        A resident that is not as *route* asks is unloaded first.  None is returned for a model that was
        resident before dmap came, as nothing is known of its load.  Raises what entering a lease raises,
        and what `unload` does.
        """
        key = route.key
        if self._is_loading(key):  # with the options of whoever asked first
            async with self.lease(route, client, priority=priority, name=name):
                pass
        if key in self._arbiter.residents and not self._changeover.fleet.satisfies(key, route):
            await self.unload(key)
        async with self.lease(route, client, priority=priority, name=name):
            return self._changeover.got.get(key)

    def forgive(self, key: ModelKey) -> None:
        """Let *key* be tried again at once, whatever its last load came to."""
        self._apply(self._arbiter.recovered(self._now(), key))

    async def unload(self, key: ModelKey, wait_s: float | None = None) -> None:
        """
        Have a resident unloaded, pinned or not, once its last lease has ended; return when it is gone.

        It takes nobody from now on.  Nothing happens for a model that is not resident.  Raises `WaitExpired`
        after *wait_s*, by default the device's, and `BackendDown` or `BackendBroke` if it will not go; the
        model then stays, and so it does if the caller is cancelled while it still serves.
        """
        wait_s = self._limits.wait_s if wait_s is None else wait_s
        if self._closed:
            raise ShuttingDown(f"dmap is shutting down; {key} was not unloaded", retry_after_s=5)
        future = self._partings.add(key)
        self._apply(self._arbiter.unload(self._now(), key))
        try:
            async with asyncio.timeout(wait_s):
                await future
        except TimeoutError:
            text = f"{key} on {self.name!r} still serves after {wait_s:g} s and was not unloaded"
            raise WaitExpired(text, retry_after_s=5) from None
        finally:
            if self._partings.leave(key, future):
                self._apply(self._arbiter.keep(self._now(), key))

    def drain(self, *, unload: bool) -> None:
        """Serve nobody and begin no switch until `resume`; with *unload* let all residents go when idle."""
        self._apply(self._arbiter.drain(self._now(), unload=unload))

    def resume(self) -> None:
        """Go on after `drain`."""
        self._apply(self._arbiter.resume(self._now()))

    def waiting(self) -> list[Waiting]:
        """List who waits, the next one first."""
        return self._places.all()

    @property
    def drained(self) -> bool:
        """Whether nobody is served until `resume`."""
        return self._arbiter.drained

    def snapshot(self) -> Snapshot:
        """Return who waits, what is resident and what is changing."""
        return self._arbiter.snapshot(self._now())

    def changed(self) -> None:
        """Look again at what is resident; for backends to call when a resident may have vanished."""
        if self._passing is None:
            self._changeover.look()

    def configure(
        self,
        limits: Limits,
        cooldown_s: float | None = None,
        gone_s: float | None = None,
        adopt: bool | None = None,
    ) -> None:
        """Go on under other bounds, None for the same; nobody's lease or place is touched but by them."""
        self._limits = limits
        fleet = self._changeover.fleet
        fleet.cooldown_s = fleet.cooldown_s if cooldown_s is None else cooldown_s
        fleet.gone_s = fleet.gone_s if gone_s is None else gone_s
        self._apply(self._arbiter.configure(self._now(), limits))
        if adopt is not None and adopt != self._changeover.adopt:
            self._changeover.adopt = adopt
            self.changed()

    def refuse(self, is_gone: Callable[[ModelKey], bool], error: DmapError) -> None:
        """Refuse those who wait for a model that *is_gone*; leases on it go on to their end."""
        for lease in [lease for lease in self._waiting.values() if is_gone(lease.route.key)]:
            self._refuse(lease, error)

    async def recheck(self) -> None:
        """Look again, and wait for what is found."""
        self.changed()
        await self._changeover.looked()

    async def close(self) -> None:
        """Refuse all who wait, and stop.  Leases that are out may end later.  Idempotent."""
        self._closed = True
        self._apply(self._arbiter.close(self._now()))
        await self._changeover.close()
        for key in self._partings:
            self._partings.answer(
                key, ShuttingDown(f"dmap is shutting down; {key} was not unloaded", retry_after_s=5)
            )
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Tickets

    def enter(self, lease: Lease) -> None:
        """Let *lease* wait for its model; for the lease to call."""
        now, key = self._now(), self._passing or lease.route.key
        lease.id, lease.since = next(self._ids), now
        self._routes[key] = lease.route
        self._waiting[lease.id] = lease
        lease.switch_s = -self._changeover.clock.spent_s(now, key)
        needs = needs_of(lease.route)
        self._apply(self._arbiter.submit(now, lease.id, key, lease.client, needs, lease.priority))

    def leave(self, lease: Lease) -> None:
        """Take back what *lease* holds, a place or a model; for the lease to call."""
        now = self._now()
        if self._waiting.pop(lease.id, None) is None:
            self._out[lease.route.key] -= 1
        else:
            self._note_wait(lease, now)
        self._apply(self._arbiter.withdraw(now, lease.id))

    def place(self, lease: Lease) -> tuple[int, float]:
        """Return the position and the estimated wait of *lease*, as they were a moment ago; for the lease."""
        return self._places.of(lease)

    def prospect(self, lease: Lease) -> tuple[int, float]:
        """Return the same, roughly, for a *lease* that has just begun to wait; for the lease."""
        return self._places.of_newcomer(lease, self._passing or lease.route.key)

    def obstacle(self, model: str) -> str:
        """Tell in a word or two what requests for *model* wait behind: a drain, a switch, models, others."""
        return self._places.obstacle(model)

    def _in_use(self, backend: str, model: str) -> bool:
        return self._out[ModelKey(backend, model)] > 0

    def _note_wait(self, lease: Lease, now: float) -> None:
        lease.queue_s = now - lease.since
        lease.switch_s += self._changeover.clock.spent_s(now, self._passing or lease.route.key)

    def _refuse(self, lease: Lease, error: DmapError) -> None:
        lease.release()
        lease.answer(error)

    # Loads and partings

    def _is_loading(self, key: ModelKey) -> bool:
        switch = self._arbiter.switch
        return isinstance(switch, Switch) and switch.load == key

    def _note_partings(self) -> None:
        """Answer those who wait for an unloading that is over."""
        for key in self._partings:
            if not self._arbiter.is_leaving(key):
                stays = key in self._arbiter.residents
                self._partings.answer(key, self._changeover.stuck.pop(key, None) if stays else None)

    # Effects

    def _now(self) -> float:
        """Return the loop's time, but never less than the arbiter was told: timers may come early."""
        self._told_at = max(self._told_at, self.loop.time())
        return self._told_at

    def _apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket):
                    self._answer(ticket, None)
                case Refuse(ticket):
                    self._answer(ticket, effect)
                case Switch() | Unload():
                    self._changeover.switch()
        self._changeover.heed()
        if self._partings:
            self._note_partings()
        self._set_timer()

    def _answer(self, ticket: Any, refusal: Refuse | None) -> None:
        lease = self._waiting.pop(ticket)
        self._note_wait(lease, self._told_at)
        key = lease.route.key
        if refusal is None:
            self._out[key] += 1
            return lease.answer(None)
        is_down = key in self._changeover.down
        lease.answer(error_of(refusal, key, self.name, self._limits, is_down=is_down))

    def _set_timer(self) -> None:
        deadline = self._arbiter.next_deadline()
        if deadline is None or (self._timer is not None and self._due <= deadline):
            return  # a tick too many does no harm and is cheaper than a new timer per request
        if self._timer is not None:
            self._timer.cancel()
        # What uvloop returns has no `when` if the time is about now.
        self._due, self._timer = deadline, self.loop.call_at(deadline, self._on_time, deadline)

    def _on_time(self, deadline: float) -> None:
        self._timer = None
        tasks.attempt(f"timer of {self.name!r}", self._tick, deadline, vital=True)

    def _tick(self, deadline: float) -> None:
        self._told_at = max(self._told_at, deadline)
        self._apply(self._arbiter.tick(self._now()))
