"""
What one device's gate does to its backends: carrying out switches, and looking at what is resident.

One task switches, one looks, never both twice.  Both tell the arbiter what they found, and go by what the
backends report, not by what dmap believes: a model that nobody let in is unloaded with the next switch.
The counterpart is `gate`, which owns the tickets; `fleet` is where the backends are asked.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from dmap import tasks
from dmap.arbiter import Arbiter, Effect, Needs, Outcome, Switch, Unload
from dmap.backends import Loaded, ModelInfo
from dmap.errors import BackendBroke, BackendDown, DmapError
from dmap.gate.fleet import Fleet, Reading, cause_of, is_down
from dmap.gate.switchlog import Report, SwitchClock, Tell
from dmap.models import ModelKey, Route


class Changeover:
    """
    The switch task and the look task of one device.

    *apply* carries out what the arbiter answers, *now* is the gate's time, *routes* the latest route of
    each model that was asked for; *known* may tell of a later one, or of a model that nobody asked for.
    Without *adopt* the models that dmap did not load are left alone, as if they were pinned.

    *down* holds the models whose last switch failed because a backend did not answer, *stuck* those whose
    last unloading failed, with the reason, and *got* what the loads of the residents really gave.
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
        tell: Tell,
        adopt: bool,
    ) -> None:
        self.adopt = adopt
        self.known: Callable[[ModelKey], Route | None] = routes.get
        self.down: set[ModelKey] = set()
        self.stuck: dict[ModelKey, DmapError] = {}
        self.got: dict[ModelKey, Loaded] = {}
        self.clock = SwitchClock()
        self._name = name
        self._arbiter = arbiter
        self.fleet = fleet
        self._routes = routes
        self._apply = apply
        self._now = now
        self._tell = tell
        self._report: Report | None = None
        self._has_looked = False
        self._switching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._closed = False

    def heed(self) -> None:
        """Tell of the arbiter's plan: that there is one, that its victims are idle, and that it is over."""
        plan, report = None if self._closed else self._arbiter.plan, self._report
        if report is not None and report.plan is not plan:
            report.close(self._now())
            report = self._report = None
        if plan is not None and report is None:
            report = self._report = Report(self._name, plan, self._tell)
        if report is not None and report.plan.switch is not None and not report.is_out:
            report.out(self._now(), report.plan.switch)

    def switch(self) -> None:
        """Carry out the arbiter's switch, now or after the one under way."""
        if self._switching is None and not self._closed:
            self._switching = tasks.spawn(self._switch, f"switch {self._name}", vital=True)

    def look(self) -> None:
        """Look at what is resident: now, or again after the look or the switch under way."""
        self._look_again = not self._closed
        if self._look_again and self._looking is None and self._switching is None:
            self._looking = tasks.spawn(self._look, f"look {self._name}", vital=True)

    async def looked(self) -> None:
        """Wait for the look under way, or for the one after the switch under way."""
        while (task := self._looking or (self._switching if self._look_again else None)) is not None:
            await asyncio.wait((task,))

    async def close(self) -> None:
        """Cancel both tasks and wait for their end; what is under way then is told as given up."""
        self._closed = True
        await tasks.end(self._switching, self._looking)
        self.heed()

    # Switches

    async def _switch(self) -> None:
        try:
            while (switch := self._arbiter.switch) is not None:
                report = self._report
                assert report is not None, "a switch that is out was told when it was planned"
                if isinstance(switch, Switch):
                    await self._carry_out(switch, report)
                else:
                    await self._take_out(switch, report)
        finally:
            self._switching = None
        if self._look_again:
            self.look()

    async def _carry_out(self, switch: Switch, report: Report) -> None:
        self.clock.start(self._now(), switch.load)
        try:
            outcome = await self._change(switch, report)
        except Exception as exc:
            self._look_again = True
            outcome = self._failure(switch.load, report, exc)
        self.clock.stop(self._now())
        if outcome is not None:
            self._apply(self._arbiter.switched(self._now(), outcome))

    async def _take_out(self, switch: Unload, report: Report) -> None:
        key: ModelKey = switch.model
        try:
            await self._unload(key, report)
        except Exception as exc:
            self._look_again = True
            self.stuck[key] = self._trouble(key, exc)
            report.failed(self._now(), cause_of(exc))
            self._apply(self._arbiter.switched(self._now(), Outcome(failed=cause_of(exc))))
        else:
            self.stuck.pop(key, None)
            self._apply(self._arbiter.unloaded(self._now(), key))

    async def _unload(self, key: ModelKey, report: Report) -> None:
        began = self._now()
        await self.fleet.unload(key)
        self.got.pop(key, None)
        report.unloaded(key, self._now() - began)

    def _trouble(self, key: ModelKey, exc: Exception) -> DmapError:
        text = f"could not unload {key} on {self._name!r}: {cause_of(exc)}"
        return BackendDown(text, retry_after_s=5) if is_down(exc) else BackendBroke(text)

    async def _change(self, switch: Switch, report: Report) -> Outcome | None:
        """Unload, cool down, load.  Return None when the switch was given up on the way."""
        reading = await self.fleet.read()
        reading.check(key for key in (*switch.unload, switch.load) if key.backend not in reading.gone)
        for key in self._surplus(switch, reading):
            if key in reading.residents:
                await self._unload(key, report)
            self._apply(self._arbiter.unloaded(self._now(), key))
            if self._arbiter.switch is not switch:
                return None
        await self.fleet.cool_down()
        self._apply(self._arbiter.cleared(self._now()))
        if self._arbiter.switch is not switch:
            return None
        return await self._load(switch.load, report)

    async def _load(self, key: ModelKey, report: Report) -> Outcome:
        report.loading_since = self._now()
        route = self._route(key)
        assert route is not None, "nothing is loaded that nobody has asked for"
        loaded = self.got[key] = await self.fleet.load(key, route.load)
        report.loaded(self._now(), loaded)
        self.down.discard(key)
        size = None if route.size_given else loaded.size_bytes
        return Outcome(size_bytes=size, parallel=loaded.parallel)

    def _surplus(self, switch: Switch, reading: Reading) -> list[ModelKey]:
        """
        List what has to go: the switch's victims, and whatever is there that the arbiter never let in.

        That may be what is to be loaded, with other options: a backend would leave it as it is.
        """
        strays = (key for key in reading.residents if self._is_stray(key, switch.load))
        return [*switch.unload, *strays]

    def _is_stray(self, key: ModelKey, wanted: ModelKey) -> bool:
        if key in self._arbiter.residents or self._is_foreign(key):
            return False
        return key != wanted or not self.fleet.satisfies(key, self._route(key))

    def _route(self, key: ModelKey) -> Route | None:
        """Return the route of *key* as it is now; a request may have been resolved before it changed."""
        return self.known(key) or self._routes.get(key)

    def _is_foreign(self, key: ModelKey) -> bool:
        """Tell whether a resident is the owner's own business."""
        return not self.adopt and key not in self.got

    def _failure(self, key: ModelKey, report: Report, exc: Exception) -> Outcome:
        report.failed(self._now(), cause_of(exc))
        if is_down(exc):
            self.down.add(key)
        else:
            self.down.discard(key)
        crowded = report.loading_since is not None and not is_down(exc)
        return Outcome(failed=cause_of(exc), crowded=crowded)

    # What is really resident

    async def _look(self) -> None:
        try:
            while self._look_again and self._switching is None:
                self._look_again = False
                epoch = self._arbiter.epoch
                reading = await self.fleet.read()
                self._look_again |= epoch != self._arbiter.epoch
                self._note_recovered(reading)
                found = self._found(reading)
                if epoch == self._arbiter.epoch and self._arbiter.switch is None:
                    self._note_strays(reading, found)
                self._apply(self._arbiter.observed(self._now(), epoch, found))
                for key in self._outdated(reading):
                    self._apply(self._arbiter.unload(self._now(), key))
        finally:
            self._looking = None

    def _note_recovered(self, reading: Reading) -> None:
        """Let models be tried again whose last load failed because a backend was down that answers now."""
        for key in [key for key in self.down if key.backend not in reading.silent]:
            self.down.discard(key)
            self._apply(self._arbiter.recovered(self._now(), key))

    def _note_strays(self, reading: Reading, found: Mapping[ModelKey, Needs]) -> None:
        """Tell what came or went without dmap; what the first look finds was there before."""
        known = self._arbiter.residents
        came = [key for key in found if key not in known] if self._has_looked else []
        went = [key for key in known if key not in found and key not in reading.residents]
        for event, keys in (("model.appeared", came), ("model.vanished", went)):
            for key in keys:
                self._tell(event, {"device": self._name, "model": str(key)})
        for key in [key for key in self.got if key not in found and key not in reading.residents]:
            if key.backend not in reading.silent:
                del self.got[key]
        self._has_looked = True

    def _found(self, reading: Reading) -> dict[ModelKey, Needs]:
        """
        Say what is resident; a backend that is silent for now keeps what it was believed to have.

        What is not as its route asks counts as gone, to be loaded anew, but not while it serves.
        """
        outdated = self._outdated(reading)
        found = {
            key: self._found_needs(key, info)
            for key, info in reading.residents.items()
            if key in outdated or self._satisfies(key)
        }
        for key in self._arbiter.residents:
            if key.backend in reading.silent and key.backend not in reading.gone:
                found[key] = self._arbiter.needs_of(key)
        return found

    def _outdated(self, reading: Reading) -> set[ModelKey]:
        """Tell which residents serve with other options than their routes ask by now: idle, they go."""
        known = self._arbiter.residents & reading.residents.keys()
        return {key for key in known if self._arbiter.is_serving(key) and not self._satisfies(key)}

    def _satisfies(self, key: ModelKey) -> bool:
        return self._is_foreign(key) or self.fleet.satisfies(key, self._route(key))

    def _found_needs(self, key: ModelKey, info: ModelInfo) -> Needs:
        route = self._route(key)
        foreign = self._is_foreign(key)
        if route is None:
            return Needs(info.size_bytes, info.parallel, info.embedding, foreign)
        needs = needs_of(route)
        return replace(
            needs,
            size_bytes=needs.size_bytes if route.size_given or info.size_bytes is None else info.size_bytes,
            parallel=info.parallel if needs.parallel is None else needs.parallel,
            pinned=needs.pinned or foreign,
        )


def needs_of(route: Route) -> Needs:
    """Return what the arbiter has to know of a route's model."""
    return Needs(route.size_bytes, route.parallel, route.embedding, route.pin, route.ttl_s)
