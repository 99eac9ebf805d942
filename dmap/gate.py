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
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from dmap.arbiter import Arbiter, Effect, Grant, Limits, Needs, Reason, Refuse, Snapshot, Switch
from dmap.backends import Switcher
from dmap.changeover import Changeover, needs_of
from dmap.errors import BackendDown, DmapError, LoadFailed, Overloaded, ShuttingDown, WaitExpired
from dmap.fleet import Fleet
from dmap.trip import ModelKey, Route

__all__ = ["Beat", "Gate", "Lease"]

Beat = Callable[[int, float], Awaitable[None]]
"""Told the position, from 1, and the estimated wait in seconds while a request waits."""

FRESH_S = 1.0
"""Beats share a snapshot for this long: with a thousand waiters, each one's own would walk them all."""


class Lease:
    """
    A request's hold on a resident model, from entering the context to `release` or leaving it.

    *queue_s* is how long it waited in all, *switch_s* the part of it in which its own model's switch was
    under way.  Entering raises `Overloaded`, `WaitExpired`, `LoadFailed`, `BackendDown` or `ShuttingDown`.
    """

    def __init__(
        self, gate: "Gate", route: Route, client: str, beat: Beat | None, beat_after_s: float
    ) -> None:
        self.id = 0
        self.route = route
        self.client = client
        self.queue_s = 0.0
        self.switch_s = 0.0
        self.error: DmapError | None = None
        self._gate = gate
        self._beat = beat
        self._beat_after_s = beat_after_s
        self._answered = False
        self._open = False
        self._future: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self._open = True
        self._gate._submit(self)
        if not self._answered:
            await self._wait()
        if self.error is not None:
            raise self.error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the model back, or the place in the queue.  Idempotent."""
        if self._open:
            self._open = False
            self._gate._withdraw(self)

    def _answer(self, error: DmapError | None) -> None:
        self._answered = True
        if error is not None:
            self.error, self._open = error, False
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def _wait(self) -> None:
        self._future = self._gate.loop.create_future()
        after_s = self._beat_after_s if self._beat is not None else None
        try:
            while not self._answered:
                await asyncio.wait((self._future,), timeout=after_s)
                if self._beat is not None and not self._answered:
                    await self._beat(*self._gate._place(self.id))
        except BaseException:
            self.release()
            raise


class Gate:
    """
    One device's gate.

    Make it inside the loop that runs it, call `start` before the first lease and `close` at the end.
    *gone_s* is how long a backend may keep silent until its residents no longer count.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        switchers: Mapping[str, Switcher],
        cooldown_s: float = 3.0,
        gone_s: float = 60.0,
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
        self._seen: tuple[float, Snapshot] | None = None
        self._out: Counter[ModelKey] = Counter()
        self._changeover = Changeover(
            name,
            self._arbiter,
            Fleet(switchers, cooldown_s=cooldown_s, gone_s=gone_s),
            routes=self._routes,
            apply=self._apply,
            now=self._now,
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

    def lease(self, route: Route, client: str, beat: Beat | None = None, beat_after_s: float = 15.0) -> Lease:
        """
        Return a context that waits for *route*'s model on entering and gives it back on leaving.

        *beat* is awaited by the caller itself every *beat_after_s* while it waits; if it raises, the
        place in the queue is given up.
        """
        return Lease(self, route, client, beat, beat_after_s)

    def snapshot(self) -> Snapshot:
        """Return who waits, what is resident and what is changing."""
        return self._arbiter.snapshot(self._now())

    def changed(self) -> None:
        """Look again at what is resident; for backends to call when a resident may have vanished."""
        if self._passing is None:
            self._changeover.look()

    def configure(self, limits: Limits, cooldown_s: float) -> None:
        """Go on under other bounds; nobody's lease or place is touched but by them."""
        self._limits = limits
        self._changeover.fleet.cooldown_s = cooldown_s
        self._apply(self._arbiter.configure(self._now(), limits))

    def refuse(self, is_gone: Callable[[ModelKey], bool], error: DmapError) -> None:
        """Refuse those who wait for a model that *is_gone*; leases on it go on to their end."""
        for lease in [lease for lease in self._waiting.values() if is_gone(lease.route.key)]:
            lease.release()
            lease._answer(error)

    async def recheck(self) -> None:
        """Look again, and wait for what is found."""
        self.changed()
        await self._changeover.looked()

    async def close(self) -> None:
        """Refuse all who wait, and stop.  Leases that are out may end later.  Idempotent."""
        self._apply(self._arbiter.close(self._now()))
        await self._changeover.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Tickets

    def _submit(self, lease: Lease) -> None:
        now, key = self._now(), self._passing or lease.route.key
        lease.id = next(self._ids)
        self._routes[key] = lease.route
        self._waiting[lease.id] = lease
        lease.queue_s, lease.switch_s = -now, -self._changeover.clock.spent_s(now, key)
        self._apply(self._arbiter.submit(now, lease.id, key, lease.client, needs_of(lease.route)))

    def _withdraw(self, lease: Lease) -> None:
        if self._waiting.pop(lease.id, None) is None:
            self._out[lease.route.key] -= 1
        self._apply(self._arbiter.withdraw(self._now(), lease.id))

    def _in_use(self, backend: str, model: str) -> bool:
        return self._out[ModelKey(backend, model)] > 0

    def _place(self, id: int) -> tuple[int, float]:
        now = self._now()
        if self._seen is None or now - self._seen[0] > FRESH_S or id not in self._seen[1].waiting:
            self._seen = now, self._arbiter.snapshot(now)
        place = self._seen[1].waiting[id]
        return place.position, place.estimate_s

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
                case Switch():
                    self._changeover.switch()
        self._set_timer()

    def _answer(self, ticket: Any, refusal: Refuse | None) -> None:
        lease = self._waiting.pop(ticket)
        lease.queue_s += self._told_at
        lease.switch_s += self._changeover.clock.spent_s(self._told_at, self._passing or lease.route.key)
        if refusal is None:
            self._out[lease.route.key] += 1
        lease._answer(self._error(lease, refusal) if refusal is not None else None)

    def _set_timer(self) -> None:
        deadline = self._arbiter.next_deadline()
        if deadline is None or (self._timer is not None and self._due <= deadline):
            return  # a tick too many does no harm and is cheaper than a new timer per request
        if self._timer is not None:
            self._timer.cancel()
        # What uvloop returns has no `when` if the time is about now.
        self._due, self._timer = deadline, self.loop.call_at(deadline, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        self._timer = None
        self._told_at = max(self._told_at, deadline)
        self._apply(self._arbiter.tick(self._now()))

    # Words

    def _error(self, lease: Lease, refusal: Refuse) -> DmapError:
        key, detail, retry_after_s = lease.route.key, refusal.detail, refusal.retry_after_s
        match refusal.reason:
            case Reason.QUEUE_FULL:
                text = f"{self._limits.queue} requests wait for {self.name!r} already; try again later"
                return Overloaded(text, retry_after_s=retry_after_s)
            case Reason.WAIT_EXPIRED:
                text = f"waited {self._limits.wait_s:g} s for {key} on {self.name!r}; try again later"
                return WaitExpired(text, retry_after_s=retry_after_s)
            case Reason.CLOSED:
                return ShuttingDown(f"dmap is shutting down; {key} was not asked", retry_after_s=5)
            case Reason.NEVER_FITS:
                return LoadFailed(
                    f"{key} does not fit on {self.name!r} beside what is pinned there; "
                    "see devices.memory, models.memory and models.pin in config.yaml"
                )
            case Reason.LOAD_FAILED if key not in self._changeover.down:
                return LoadFailed(f"could not load {key} on {self.name!r}: {detail}")
            case _:
                text = f"could not load {key} on {self.name!r} at the last try: {detail}"
                return BackendDown(text, retry_after_s=retry_after_s)
