"""
The two tasks that a device keeps its models with: one carries switches out, one looks at what is resident.

Neither runs twice at once, and no look begins during a switch.  The counterpart is `gate`, which tells when
there is a switch to carry out or a reason to look.

A switch reads what is really resident first, and goes by that: a model that nobody let in is unloaded too.
The arbiter hears of each step, and may then give the switch up.  The arbiter ignores what was
read before or during a switch, so such a look is taken again.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from dmap import tasks
from dmap.arbiter import Cause, Needs, Outcome, Switch
from dmap.errors import SAID, BackendBroke, BackendDown
from dmap.events import Tell
from dmap.gate.device_models import DeviceModels, Reading
from dmap.gate.live import LiveArbiter
from dmap.gate.switchlog import Report, SwitchLog
from dmap.models import ModelKey


@dataclass(slots=True, eq=False)
class Upkeep:
    """
    Owns the tasks; `close` ends them.

    *live* has the switches, and hears what was done and found; *models* notes what failed.  *log* tells of
    each step of a switch, and *tell* of models that came or went without dmap; what the first look finds was
    there before.
    """

    _live: LiveArbiter
    _models: DeviceModels
    _log: SwitchLog
    _tell: Tell
    _switching: asyncio.Task[None] | None = None
    _load_bound: asyncio.Timeout | None = None
    _looking: asyncio.Task[None] | None = None
    _look_again: bool = False
    _has_looked: bool = False
    _closed: bool = False

    def switch(self) -> None:
        """Carry out the arbiter's switch, now or after the one under way."""
        if self._switching is None and not self._closed:
            self._switching = tasks.spawn(self._switch, f"switch {self._live.name}", vital=True)

    def stop_load(self) -> None:
        """Stop the load under way, if its backend can for certain; else it goes on."""
        report, bound = self._log.report, self._load_bound
        if bound is not None and report is not None and self._models.stops_loads(report.model):
            bound.reschedule(asyncio.get_running_loop().time())

    def look(self) -> None:
        """Look at what is resident: now, or again after the look or the switch under way."""
        self._look_again = not self._closed
        self._start_look()

    async def looked(self) -> None:
        """Wait for the look under way, or for the one after the switch under way."""
        while (task := self._looking or (self._switching if self._look_again else None)) is not None:
            await asyncio.wait((task,))

    async def close(self) -> None:
        """Cancel both tasks and wait for their end, within bounds.  Idempotent."""
        self._closed, self._look_again = True, False
        await tasks.end(self._switching, self._looking)

    # The switch under way

    async def _switch(self) -> None:
        arbiter = self._live.arbiter
        try:
            while (switch := arbiter.switch) is not None and (report := self._log.report) is not None:
                outcome = await self._outcome(switch, report)
                if outcome is not None:
                    self._live.say(arbiter.switched, outcome)
                    self._look_again |= outcome.failed is not None or outcome.stopped
        finally:
            self._switching = None
        self._start_look()

    async def _outcome(self, switch: Switch, report: Report) -> Outcome | None:
        """Carry *switch* out.  Return None if the arbiter has heard of its end, or gave it up on the way."""
        try:
            if switch.load is not None:
                return await self._exchange(switch, report)
            await self._unload(switch.unload[0], report)
            return None
        except Exception as exc:
            return await self._failure(switch, exc, report)

    async def _exchange(self, switch: Switch, report: Report) -> Outcome | None:
        """Unload, cool down, load; nobody is unloaded for a model that cannot be loaded anyway."""
        assert switch.load is not None, "there is a model to load"
        await self._models.check(switch.load)
        arbiter, reading = self._live.arbiter, await self._models.read()
        reading.check(key for key in (*switch.unload, switch.load) if key.backend not in reading.gone)
        for key in self._models.surplus(switch, reading):
            self._note_stray(key, reading)
            if key in reading.residents:
                await self._unload(key, report)
            else:
                self._live.say(arbiter.unloaded, key)
            if arbiter.switch is not switch:
                return None
        await self._models.cool_down()
        self._live.say(arbiter.cleared)
        return await self._load(report) if arbiter.switch is switch else None

    async def _unload(self, key: ModelKey, report: Report) -> None:
        began = self._live.now()
        await self._models.unload(key)
        now = self._live.now()
        report.unloaded(now, key, now - began, self._models.route(key))
        self._live.say(self._live.arbiter.unloaded, key)

    async def _load(self, report: Report) -> Outcome:
        report.loading_since, key = self._live.now(), report.model
        route = self._models.route(key)
        assert route is not None, "nothing is loaded that nobody has asked for"
        self._load_bound = bound = asyncio.timeout(None)
        try:
            async with bound:
                loaded = await self._models.load(key, route.load)
        except TimeoutError:
            if not bound.expired():
                raise
            await self._models.unload(key)  # whatever it had come to
            return Outcome(stopped=True)
        finally:
            self._load_bound = None
        report.loaded(self._live.now(), loaded, route)
        size = None if route.size_given else loaded.size_bytes
        return Outcome(size_bytes=size, parallel=loaded.parallel)

    async def _failure(self, switch: Switch, exc: Exception, report: Report) -> Outcome:
        cause, is_down = str(exc) or type(exc).__name__, isinstance(exc, (BackendDown, OSError))
        is_crowded = report.loading_since is not None and not is_down
        if is_crowded and (others := await self._models.memory.others(self._live.name)):
            seen, said, lines = cause.partition(SAID)
            cause = f"{seen}; {others}{said}{lines}"
        report.failed(self._live.now(), cause)
        if switch.load is None:
            text = f"could not unload {report.model} on {self._live.name!r}: {cause}"
            error = BackendDown(text, retry_after_s=5) if is_down else BackendBroke(text)
            self._models.stuck[report.model] = error
        elif is_down:
            self._models.note_down(switch.load)
        else:
            self._models.down.pop(switch.load, None)
        return Outcome(failed=cause, crowded=is_crowded)

    # The look

    def _start_look(self) -> None:
        if self._look_again and self._looking is None and self._switching is None:
            self._looking = tasks.spawn(self._take_looks, f"look {self._live.name}", vital=True)

    async def _take_looks(self) -> None:
        arbiter = self._live.arbiter
        try:
            while self._look_again and self._switching is None:
                self._look_again, epoch = False, arbiter.epoch
                reading = await self._models.read()
                self._look_again |= epoch != arbiter.epoch  # a switch began or ended: this was in vain
                self._heed(reading, epoch)
        finally:
            self._looking = None

    def _heed(self, reading: Reading, epoch: int) -> None:
        """Tell the arbiter what was read from *epoch* on."""
        arbiter = self._live.arbiter
        is_late = epoch != arbiter.epoch
        for key in self._models.back(reading):
            del self._models.down[key]
            self._live.say(arbiter.recovered, key)
        found = self._models.found(reading)
        if not is_late and arbiter.switch is None:
            self._note_strays(reading, found)
        self._live.say(arbiter.observed, epoch, found, self._models.taken(reading, found))
        self._live.say(arbiter.preload, self._models.preloads())
        for key in self._models.outdated(reading):
            if not arbiter.is_leaving(key):
                self._log.ordered("model.leaving", key, Cause.OUTDATED, {})
            self._live.say(arbiter.unload, key, Cause.OUTDATED)

    def _note_stray(self, key: ModelKey, reading: Reading) -> None:
        """Tell of a model that is in the way of a switch and came without dmap, or has gone without it."""
        is_known, is_there = key in self._live.arbiter.residents, key in reading.residents
        if is_there and not is_known and key not in self._models.got:
            self._tell("model.appeared", {"device": self._live.name, **key.told})
        elif is_known and not is_there and key.backend not in reading.gone:
            self._tell("model.vanished", {"device": self._live.name, **key.told})

    def _note_strays(self, reading: Reading, found: Mapping[ModelKey, Needs]) -> None:
        known = self._live.arbiter.residents
        came = [key for key in found if key not in known] if self._has_looked else []
        went = [key for key in known if key not in found and key not in reading.residents]
        for event, keys in (("model.appeared", came), ("model.vanished", went)):
            for key in keys:
                self._tell(event, {"device": self._live.name, **key.told})
        self._models.forget(reading)
        self._has_looked = True
