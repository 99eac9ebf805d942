"""
What one device's gate does to its backends: carrying out switches, and looking at what is resident.

One task switches, one looks, never both twice.  Both tell the arbiter what they found, and go by what the
backends report, not by what dmap believes: a model that nobody let in is unloaded with the next switch.
The counterpart is `gate`, which owns the tickets; `fleet` is where the backends are asked.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dmap.arbiter import Arbiter, Effect, Needs, Outcome, Switch
from dmap.backends import ModelInfo
from dmap.fleet import Fleet, Reading, cause_of, is_down
from dmap.logfmt import logfmt
from dmap.trip import ModelKey, Route

__all__ = ["Changeover", "needs_of"]

log = logging.getLogger("dmap.gate")


class Changeover:
    """
    The switch task and the look task of one device.

    *apply* carries out what the arbiter answers, *now* is the gate's time, *routes* the latest route of
    each model.  *down* holds the models whose last switch failed because a backend did not answer.
    """

    def __init__(
        self,
        name: str,
        arbiter: Arbiter,
        fleet: Fleet,
        *,
        routes: Mapping[ModelKey, Route],
        apply: Callable[[Iterable[Effect]], None],
        now: Callable[[], float],
    ) -> None:
        self.down: set[ModelKey] = set()
        self.clock = SwitchClock()
        self._name = name
        self._arbiter = arbiter
        self.fleet = fleet
        self._routes = routes
        self._apply = apply
        self._now = now
        self._switching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._closed = False

    def switch(self) -> None:
        """Carry out the arbiter's switch, now or after the one under way."""
        if self._switching is None and not self._closed:
            self._switching = _spawn(self._switch(), f"switch {self._name}")

    def look(self) -> None:
        """Look at what is resident: now, or again after the look or the switch under way."""
        self._look_again = not self._closed
        if self._look_again and self._looking is None and self._switching is None:
            self._looking = _spawn(self._look(), f"look {self._name}")

    async def looked(self) -> None:
        """Wait for the look under way."""
        if self._looking is not None:
            await asyncio.wait((self._looking,))

    async def close(self) -> None:
        """Cancel both tasks and wait for their end."""
        self._closed = True
        tasks = [task for task in (self._switching, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Switches

    async def _switch(self) -> None:
        try:
            while (switch := self._arbiter.switch) is not None:
                await self._carry_out(switch)
        finally:
            self._switching = None
        if self._look_again:
            self.look()

    async def _carry_out(self, switch: Switch) -> None:
        report = Report(switch)
        self.clock.start(self._now(), switch.load)
        try:
            outcome = await self._change(switch, report)
        except Exception as exc:
            self._look_again = True
            outcome = self._failure(switch.load, report, exc)
        self.clock.stop(self._now())
        if outcome is not None:
            self._apply(self._arbiter.switched(self._now(), outcome))
        log.info(logfmt("switch", {"device": self._name} | report.told()))

    async def _change(self, switch: Switch, report: "Report") -> Outcome | None:
        """Unload, cool down, load.  Return None when the switch was given up on the way."""
        began = self._now()
        reading = await self.fleet.read()
        reading.check(key for key in (*switch.unload, switch.load) if key.backend not in reading.gone)
        for key in self._surplus(switch, reading):
            if key in reading.residents:
                await self.fleet.unload(key)
            self._apply(self._arbiter.unloaded(self._now(), key))
            if self._arbiter.switch is not switch:
                return None
        await self.fleet.cool_down()
        self._apply(self._arbiter.cleared(self._now()))
        report.unload_s = self._now() - began
        if self._arbiter.switch is not switch:
            return None
        return await self._load(switch.load, report)

    async def _load(self, key: ModelKey, report: "Report") -> Outcome:
        report.loading_since = self._now()
        try:
            loaded = await self.fleet.load(key, self._routes[key].load)
        finally:
            report.load_s = self._now() - report.loading_since
        report.outcome = "ok"
        self.down.discard(key)
        given = self._routes[key].size_given
        return Outcome(size_bytes=None if given else loaded.size_bytes, parallel=loaded.parallel)

    def _surplus(self, switch: Switch, reading: Reading) -> list[ModelKey]:
        """List what has to go: the switch's victims, and whatever is there that the arbiter never let in."""
        staying = self._arbiter.residents | {switch.load}
        return [*switch.unload, *(key for key in reading.residents if key not in staying)]

    def _failure(self, key: ModelKey, report: "Report", exc: Exception) -> Outcome:
        report.outcome, report.error = "failed", cause_of(exc)
        if is_down(exc):
            self.down.add(key)
        else:
            self.down.discard(key)
        crowded = report.loading_since is not None and not is_down(exc)
        return Outcome(failed=report.error, crowded=crowded)

    # What is really resident

    async def _look(self) -> None:
        try:
            while self._look_again and self._switching is None:
                self._look_again = False
                epoch = self._arbiter.epoch
                reading = await self.fleet.read()
                self._look_again |= epoch != self._arbiter.epoch
                self._note_recovered(reading)
                self._apply(self._arbiter.observed(self._now(), epoch, self._found(reading)))
        finally:
            self._looking = None

    def _note_recovered(self, reading: Reading) -> None:
        """Let models be tried again whose last load failed because a backend was down that answers now."""
        for key in [key for key in self.down if key.backend not in reading.silent]:
            self.down.discard(key)
            self._apply(self._arbiter.recovered(self._now(), key))

    def _found(self, reading: Reading) -> dict[ModelKey, Needs]:
        """Say what is resident; a backend that is silent for now keeps what it was believed to have."""
        found = {
            key: self._found_needs(key, info)
            for key, info in reading.residents.items()
            if self.fleet.satisfies(key, self._routes.get(key))
        }
        for key in self._arbiter.residents:
            if key.backend in reading.silent and key.backend not in reading.gone:
                found[key] = Needs()
        return found

    def _found_needs(self, key: ModelKey, info: ModelInfo) -> Needs:
        route = self._routes.get(key)
        if route is None:
            return Needs(info.size_bytes, info.parallel, info.embedding)
        needs = needs_of(route)
        return replace(
            needs,
            size_bytes=needs.size_bytes if route.size_given or info.size_bytes is None else info.size_bytes,
            parallel=info.parallel if needs.parallel is None else needs.parallel,
        )


@dataclass(slots=True)
class Report:
    """One switch, as the log tells it.  The unloading includes the reading before and the cool-down after."""

    switch: Switch
    unload_s: float = 0.0
    load_s: float = 0.0
    loading_since: float | None = None
    outcome: str = "given_up"
    error: str = ""

    def told(self) -> dict[str, Any]:
        """Return what the log line says."""
        return {
            "unload": ",".join(map(str, self.switch.unload)) or "-",
            "load": self.switch.load,
            "reason": self.switch.cause.value,
            "drain_s": self.switch.drain_s,
            "unload_s": self.unload_s,
            "load_s": self.load_s,
            "outcome": self.outcome,
            "error": self.error or None,
        }


class SwitchClock:
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


def needs_of(route: Route) -> Needs:
    """Return what the arbiter has to know of a route's model."""
    return Needs(route.size_bytes, route.parallel, route.embedding, route.pin)


def _spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a task that the gate owns, cancels and awaits."""
    return asyncio.get_running_loop().create_task(work, name=name)
