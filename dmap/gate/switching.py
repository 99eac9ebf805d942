"""
The switch under way: what the arbiter decided, carried out on the backends step by step.

It reads what is really resident first, and goes by that: a model that nobody let in is unloaded too.  After
each step the arbiter is told, and may have given the switch up by then.
"""

from dmap.arbiter import Outcome, Plan, Switch
from dmap.errors import BackendBroke, BackendDown, DmapError
from dmap.gate.device_backends import DeviceBackends, cause_of, is_down
from dmap.gate.knowledge import Knowledge
from dmap.gate.live import LiveArbiter
from dmap.gate.switchlog import SwitchLog
from dmap.models import ModelKey


class Switching:
    """
    The switch of *plan*, whose victims are idle: make one of these for each, and call `run` once.

    *live* is told of each step, *log* tells others, and *known* gets what the load gave or why it failed.
    """

    def __init__(
        self,
        plan: Plan,
        live: LiveArbiter,
        backends: DeviceBackends,
        known: Knowledge,
        log: SwitchLog,
    ) -> None:
        assert plan.switch is not None, "only a switch that is out is carried out"
        self._switch = plan.switch
        self._live = live
        self._arbiter = live.arbiter
        self._backends = backends
        self._known = known
        self._log = log
        self._report = log.report_of(live.now(), plan)

    async def run(self) -> bool:
        """Carry the switch out; return whether that failed, so that the backends have to be looked at."""
        if isinstance(self._switch, Switch):
            return await self._exchange(self._switch)
        return await self._take_out(self._switch.model)

    async def _exchange(self, switch: Switch) -> bool:
        self._log.clock.start(self._live.now(), switch.load)
        try:
            outcome = await self._change(switch)
        except Exception as exc:
            outcome = self._failure(switch.load, exc)
        self._log.clock.stop(self._live.now())
        if outcome is not None:
            self._live.say(self._arbiter.switched, outcome)
        return outcome is not None and outcome.failed is not None

    async def _take_out(self, key: ModelKey) -> bool:
        try:
            await self._unload(key)
        except Exception as exc:
            self._known.stuck[key] = self._trouble(key, exc)
            self._report.failed(self._live.now(), cause_of(exc))
            self._live.say(self._arbiter.switched, Outcome(failed=cause_of(exc)))
            return True
        self._known.stuck.pop(key, None)
        self._live.say(self._arbiter.unloaded, key)
        return False

    async def _change(self, switch: Switch) -> Outcome | None:
        """Unload, cool down, load.  Return None if the arbiter gave the switch up on the way."""
        reading = await self._backends.read()
        reading.check(key for key in (*switch.unload, switch.load) if key.backend not in reading.gone)
        for key in self._known.surplus(switch, reading):
            if key in reading.residents:
                await self._unload(key)
            self._live.say(self._arbiter.unloaded, key)
            if self._arbiter.switch is not switch:
                return None
        await self._backends.cool_down()
        self._live.say(self._arbiter.cleared)
        if self._arbiter.switch is not switch:
            return None
        return await self._load(switch.load)

    async def _unload(self, key: ModelKey) -> None:
        began = self._live.now()
        await self._backends.unload(key)
        self._known.got.pop(key, None)
        self._report.unloaded(key, self._live.now() - began)

    async def _load(self, key: ModelKey) -> Outcome:
        self._report.loading_since = self._live.now()
        route = self._known.route(key)
        assert route is not None, "nothing is loaded that nobody has asked for"
        loaded = self._known.got[key] = await self._backends.load(key, route.load)
        self._report.loaded(self._live.now(), loaded)
        self._known.down.discard(key)
        size = None if route.size_given else loaded.size_bytes
        return Outcome(size_bytes=size, parallel=loaded.parallel)

    def _failure(self, key: ModelKey, exc: Exception) -> Outcome:
        self._report.failed(self._live.now(), cause_of(exc))
        if is_down(exc):
            self._known.down.add(key)
        else:
            self._known.down.discard(key)
        crowded = self._report.loading_since is not None and not is_down(exc)
        return Outcome(failed=cause_of(exc), crowded=crowded)

    def _trouble(self, key: ModelKey, exc: Exception) -> DmapError:
        text = f"could not unload {key} on {self._live.name!r}: {cause_of(exc)}"
        return BackendDown(text, retry_after_s=5) if is_down(exc) else BackendBroke(text)
