"""
What is told of a device's switches: one line to the log, events to the listeners, seconds to the leases.

It decides nothing.  The counterpart is `switching`, which carries the switches out.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from dmap.arbiter import Plan, Switch, Unload
from dmap.backends import Loaded
from dmap.logfmt import logfmt
from dmap.models import ModelKey

log = logging.getLogger("dmap.gate")

Tell = Callable[[str, Mapping[str, Any]], None]
"""Told the name of an event and its fields: models as text, times in seconds."""


def nothing(name: str, fields: Mapping[str, Any]) -> None:
    """Tell nobody."""


class SwitchLog:
    """What is told of the switches of the device *name*, one after the other."""

    def __init__(self, name: str, tell: Tell) -> None:
        self.clock = SwitchClock()
        self._name = name
        self._tell = tell
        self._report: Report | None = None

    def heed(self, now: float, plan: Plan | None) -> None:
        """Tell what has become of the arbiter's *plan*: it is new, its victims are idle, or it is over."""
        if self._report is not None and self._report.plan is not plan:
            self._report.close(now)
            self._report = None
        if plan is not None:
            self.report_of(now, plan)

    def report_of(self, now: float, plan: Plan) -> "Report":
        """Return the report of *plan*, which is begun if there is none."""
        if self._report is None:
            self._report = Report(self._name, plan, self._tell)
        if plan.switch is not None and not self._report.is_out:
            self._report.out(now, plan.switch)
        return self._report


class Report:
    """
    One switch, from the *plan* to its end: call `out`, one of the endings, then `close`.

    *unload_s* includes the look before the unloading and the cool-down after it.
    """

    def __init__(self, device: str, plan: Plan, tell: Tell) -> None:
        self.plan = plan
        self.loading_since: float | None = None
        self._device = device
        self._tell = tell
        self._model: ModelKey = plan.victims[0] if plan.load is None else plan.load
        self._is_load = plan.load is not None
        self._unload: tuple[ModelKey, ...] = plan.victims
        self._drain_s = plan.switch.drain_s if plan.switch is not None else 0.0
        self._began_at: float | None = None
        self._outcome = "given_up"
        self._error: str | None = None
        self._event("switch.started", unload=[*map(str, plan.victims)], **self._what())

    @property
    def is_out(self) -> bool:
        """Whether the victims are idle, and the switch is being carried out."""
        return self._began_at is not None

    def out(self, now: float, switch: Switch | Unload) -> None:
        """Tell that the victims are idle: *switch* is carried out from now on."""
        self._began_at = now
        self._unload = switch.unload if isinstance(switch, Switch) else (switch.model,)
        self._drain_s = switch.drain_s
        self._event("switch.drained", **self._what())

    def unloaded(self, key: ModelKey, unload_s: float) -> None:
        """Tell that a model went, in *unload_s*."""
        self._event("switch.unloaded", model=str(key), unload_s=unload_s)
        if not self._is_load:
            self._outcome = "ok"

    def loaded(self, now: float, loaded: Loaded) -> None:
        """Tell that the model answers, and what it got."""
        self._outcome = "ok"
        self._event(
            "switch.loaded",
            model=str(self._model),
            load_s=self._load_s(now),
            context_length=loaded.context_length,
            parallel=loaded.parallel,
        )

    def failed(self, now: float, reason: str) -> None:
        """Tell that the switch failed."""
        self._outcome, self._error = "failed", reason
        self._event("switch.failed", model=str(self._model), reason=reason, **self._times(now))

    def close(self, now: float) -> None:
        """Write the log line of a switch that was out; one without an ending was given up."""
        if self._outcome == "given_up":
            drain_s = self._drain_s if self.is_out else now - self.plan.since
            fields = {"reason": self.plan.cause.value, "drain_s": drain_s, **self._times(now)}
            self._event("switch.cancelled", model=str(self._model), **fields)
        if not self.is_out:
            return
        line = {
            "device": self._device,
            "unload": ",".join(map(str, self._unload)) or "-",
            "load": self._model if self._is_load else "-",
            "reason": self.plan.cause.value,
            "drain_s": self._drain_s,
            **self._times(now),
            "outcome": self._outcome,
            "error": self._error or None,
        }
        log.info(logfmt("switch", line))

    def _event(self, name: str, **fields: Any) -> None:
        self._tell(name, {"device": self._device, **fields})

    def _what(self) -> dict[str, Any]:
        load = str(self._model) if self._is_load else None
        return {"load": load, "reason": self.plan.cause.value, "drain_s": self._drain_s}

    def _times(self, now: float) -> dict[str, float]:
        began_at = now if self._began_at is None else self._began_at
        unload_s = (now if self.loading_since is None else self.loading_since) - began_at
        return {"unload_s": unload_s, "load_s": self._load_s(now)}

    def _load_s(self, now: float) -> float:
        return 0.0 if self.loading_since is None else now - self.loading_since


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
