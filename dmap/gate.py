"""
The asyncio side of the arbiter: `async with gate.lease(route, client)`, one gate per device.

The gate decides nothing.  It gives the arbiter the time, keeps a future for each ticket that waits, one
timer for the next deadline, and one task that carries out switches on the backends (`fleet`).  Whoever
leaves while it waits, by an error or a cancellation at any await, is withdrawn before the exception goes on.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from dmap.arbiter import Arbiter, Effect, Grant, Limits, Needs, Outcome, Reason, Refuse, Snapshot, Switch
from dmap.backends import ModelInfo, Switcher
from dmap.errors import BackendDown, DmapError, LoadFailed, Overloaded, ShuttingDown, WaitExpired
from dmap.fleet import Fleet, Reading, cause_of, is_down
from dmap.trip import ModelKey, Route

__all__ = ["Beat", "Gate", "Lease"]

log = logging.getLogger(__name__)

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
        self._future = asyncio.get_running_loop().create_future()
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

    Call `start` before the first lease and `close` at the end; both from the loop.  *gone_s* is how long a
    backend may keep silent until its residents no longer count.
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
        self._limits = limits
        self._arbiter = Arbiter(limits)
        self._switchers = switchers
        self._fleet = Fleet(switchers, cooldown_s=cooldown_s, gone_s=gone_s)
        self._passing: ModelKey | None = None
        self._routes: dict[ModelKey, Route] = {}
        self._ids = itertools.count(1)
        self._waiting: dict[int, Lease] = {}
        self._down: set[ModelKey] = set()
        self._clock = _SwitchClock()
        self._told_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._switching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._seen: tuple[float, Snapshot] | None = None

    @classmethod
    def passing(cls, name: str, limits: Limits, parallel: int | None) -> "Gate":
        """Make a gate without arbitration: every route passes, at most *parallel* at once."""
        gate = cls(name, limits, {})
        gate._passing = ModelKey(name, "*")
        gate._arbiter.observed(0, gate._arbiter.epoch, {gate._passing: Needs(parallel=parallel)})
        return gate

    async def start(self) -> None:
        """Ask each backend what is resident.  One that is down counts as having nothing."""
        for switcher in self._switchers.values():
            switcher.changed = self.changed
        self.changed()
        if self._looking is not None:
            await self._looking

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
        self._look_again = self._passing is None
        if self._look_again and self._looking is None and self._switching is None:
            self._looking = _spawn(self._look(), f"look {self.name}")

    async def close(self) -> None:
        """Refuse all who wait, and stop.  Leases that are out may end later.  Idempotent."""
        self._apply(self._arbiter.close(self._now()))
        tasks = [task for task in (self._switching, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Tickets

    def _submit(self, lease: Lease) -> None:
        now, key = self._now(), self._passing or lease.route.key
        lease.id = next(self._ids)
        self._routes[key] = lease.route
        self._waiting[lease.id] = lease
        lease.queue_s, lease.switch_s = -now, -self._clock.spent_s(now, key)
        self._apply(self._arbiter.submit(now, lease.id, key, lease.client, _needs(lease.route)))

    def _withdraw(self, lease: Lease) -> None:
        self._waiting.pop(lease.id, None)
        self._apply(self._arbiter.withdraw(self._now(), lease.id))

    def _place(self, id: int) -> tuple[int, float]:
        now = self._now()
        if self._seen is None or now - self._seen[0] > FRESH_S or id not in self._seen[1].waiting:
            self._seen = now, self._arbiter.snapshot(now)
        place = self._seen[1].waiting[id]
        return place.position, place.estimate_s

    # Effects

    def _now(self) -> float:
        """Return the loop's time, but never less than the arbiter was told: timers may come early."""
        self._told_at = max(self._told_at, asyncio.get_running_loop().time())
        return self._told_at

    def _apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket):
                    self._answer(ticket, None)
                case Refuse(ticket):
                    self._answer(ticket, effect)
                case Switch() if self._switching is None:
                    self._switching = _spawn(self._switch(), f"switch {self.name}")
        self._set_timer()

    def _answer(self, ticket: Any, refusal: Refuse | None) -> None:
        lease = self._waiting.pop(ticket)
        lease.queue_s += self._told_at
        lease.switch_s += self._clock.spent_s(self._told_at, self._passing or lease.route.key)
        lease._answer(self._error(lease, refusal) if refusal is not None else None)

    def _set_timer(self) -> None:
        deadline = self._arbiter.next_deadline()
        if deadline is None or (self._timer is not None and self._timer.when() <= deadline):
            return  # a tick too many does no harm and is cheaper than a new timer per request
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(deadline, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        self._timer = None
        self._told_at = max(self._told_at, deadline)
        self._apply(self._arbiter.tick(self._now()))

    # Switches

    async def _switch(self) -> None:
        try:
            while (switch := self._arbiter.switch) is not None:
                await self._carry_out(switch)
        finally:
            self._switching = None
        if self._look_again:
            self.changed()

    async def _carry_out(self, switch: Switch) -> None:
        report = _Report(switch)
        self._clock.start(self._now(), switch.load)
        try:
            outcome = await self._change(switch, report)
        except Exception as exc:
            self._look_again = True
            outcome = self._failure(switch.load, report, exc)
        self._clock.stop(self._now())
        if outcome is not None:
            self._apply(self._arbiter.switched(self._now(), outcome))
        log.info("switch device=%s %s", self.name, report)

    async def _change(self, switch: Switch, report: "_Report") -> Outcome | None:
        """Unload, cool down, load.  Return None when the switch was given up on the way."""
        began = self._now()
        reading = await self._fleet.read()
        reading.check(key for key in (*switch.unload, switch.load) if key.backend not in reading.gone)
        for key in self._surplus(switch, reading):
            if key in reading.residents:
                await self._fleet.unload(key)
            self._apply(self._arbiter.unloaded(self._now(), key))
            if self._arbiter.switch is not switch:
                return None
        await self._fleet.cool_down()
        self._apply(self._arbiter.cleared(self._now()))
        report.unload_s = self._now() - began
        if self._arbiter.switch is not switch:
            return None
        return await self._load(switch.load, report)

    async def _load(self, key: ModelKey, report: "_Report") -> Outcome:
        report.loading_since = self._now()
        loaded = await self._fleet.load(key, self._routes[key].load)
        report.load_s = self._now() - report.loading_since
        report.outcome = "ok"
        self._down.discard(key)
        return Outcome(size_bytes=loaded.size_bytes, parallel=loaded.parallel)

    def _surplus(self, switch: Switch, reading: Reading) -> list[ModelKey]:
        """List what has to go: the switch's victims, and whatever is there that the arbiter never let in."""
        staying = self._arbiter.residents | {switch.load}
        return [*switch.unload, *(key for key in reading.residents if key not in staying)]

    def _failure(self, key: ModelKey, report: "_Report", exc: Exception) -> Outcome:
        report.outcome, report.error = "failed", cause_of(exc)
        if is_down(exc):
            self._down.add(key)
        else:
            self._down.discard(key)
        crowded = report.loading_since is not None and not is_down(exc)
        return Outcome(failed=report.error, crowded=crowded)

    # What is really resident

    async def _look(self) -> None:
        try:
            while self._look_again and self._switching is None:
                self._look_again = False
                epoch = self._arbiter.epoch
                reading = await self._fleet.read()
                self._look_again |= epoch != self._arbiter.epoch
                self._apply(self._arbiter.observed(self._now(), epoch, self._found(reading)))
        finally:
            self._looking = None

    def _found(self, reading: Reading) -> dict[ModelKey, Needs]:
        """Say what is resident; a backend that is silent for now keeps what it was believed to have."""
        found = {key: self._found_needs(key, info) for key, info in reading.residents.items()}
        for key in self._arbiter.residents:
            if key.backend in reading.silent and key.backend not in reading.gone:
                found[key] = Needs()
        return found

    def _found_needs(self, key: ModelKey, info: ModelInfo) -> Needs:
        route = self._routes.get(key)
        if route is None:
            return Needs(info.size_bytes, info.parallel, info.embedding)
        needs = _needs(route)
        return replace(
            needs,
            size_bytes=needs.size_bytes if info.size_bytes is None else info.size_bytes,
            parallel=info.parallel if needs.parallel is None else needs.parallel,
        )

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
            case Reason.LOAD_FAILED if key not in self._down:
                return LoadFailed(f"could not load {key} on {self.name!r}: {detail}")
            case _:
                text = f"could not load {key} on {self.name!r} at the last try: {detail}"
                return BackendDown(text, retry_after_s=retry_after_s)


@dataclass(slots=True)
class _Report:
    """One switch, as the log tells it.  The unloading includes the reading before and the cool-down after."""

    switch: Switch
    unload_s: float = 0.0
    load_s: float = 0.0
    loading_since: float | None = None
    outcome: str = "given_up"
    error: str = ""

    def __str__(self) -> str:
        unload = ",".join(str(key) for key in self.switch.unload) or "-"
        line = (
            f"unload={unload} load={self.switch.load} reason={self.switch.cause.value}"
            f" drain_s={self.switch.drain_s:.3f} unload_s={self.unload_s:.3f} load_s={self.load_s:.3f}"
            f" outcome={self.outcome}"
        )
        return f"{line} error={self.error!r}" if self.error else line


class _SwitchClock:
    """How long, in all, the switch of each model has been under way; a lease takes the difference."""

    def __init__(self) -> None:
        self._spent_s: dict[ModelKey, float] = {}
        self._current: tuple[ModelKey, float] | None = None

    def start(self, now: float, key: ModelKey) -> None:
        """Note that *key*'s switch began; one at a time."""
        self._current = key, now

    def stop(self, now: float) -> None:
        """Note the end of the switch that began last."""
        if self._current is not None:
            key = self._current[0]
            self._spent_s[key] = self.spent_s(now, key)
            self._current = None

    def spent_s(self, now: float, key: ModelKey) -> float:
        """Return the seconds that switches to *key* have taken up to *now*."""
        current = self._current
        running_s = now - current[1] if current is not None and current[0] == key else 0.0
        return self._spent_s.get(key, 0.0) + running_s


def _needs(route: Route) -> Needs:
    return Needs(route.size_bytes, route.parallel, route.embedding, route.pin)


def _spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a task that the gate owns, cancels and awaits."""
    return asyncio.get_running_loop().create_task(work, name=name)
