"""
Reports on a device's switches: two lines for the log, events for the listeners, seconds for the leases.

It decides nothing.  The counterpart is `upkeep`, which carries the switches out.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dmap.arbiter import Cause, Plan
from dmap.backends import Loaded
from dmap.events import Tell
from dmap.logfmt import Line
from dmap.models import ModelKey, Route

log = logging.getLogger("dmap.gate")

_Who = Callable[[ModelKey], Mapping[str, str]]


@dataclass(slots=True)
class SwitchLog:
    """
    Reports on the switches of the device *name*, one by one, and keeps how long they have taken.

    *wanted_by* returns who waits for a model that is to be loaded, and *ordered_by* who has ordered one away:
    the request `for` which, and the client `by` whom; nothing where it is nobody.  *report* is that of the
    arbiter's plan, None without one.
    """

    _name: str
    _tell: Tell
    _wanted_by: _Who = lambda key: {}
    _ordered_by: _Who = lambda key: {}
    report: "Report | None" = None
    _spent_s: dict[ModelKey, float] = field(default_factory=dict)

    def heed(self, now: float, plan: Plan | None) -> None:
        """Tell what has become of the arbiter's *plan*: it is new, its victims are idle, or it is over."""
        report = self.report
        if report is not None and report.plan is not plan:
            self._spent_s[report.model] = self.spent_s(now, report.model)
            report.close(now)
            report = None
        if report is None and plan is not None:
            load, first = plan.load, plan.victims[:1]
            who = self._ordered_by(*first) if load is None else self._wanted_by(load)
            report = Report(self._name, plan, self._tell, who)
            report.start(now)
        if report is not None and report.plan.switch is not None and not report.is_out:
            report.out(now)
        self.report = report

    def ordered(self, event: str, key: ModelKey, cause: Cause, who: Mapping[str, str]) -> None:
        """Tell that a model is `model.leaving`, as *who* ordered or for another *cause*, or `model.kept`."""
        fields = {"device": self._name, **key.told, **who, "reason": cause.value}
        self._tell(event, fields)
        log.info(Line(event.replace(".", "_"), fields))

    def spent_s(self, now: float, key: ModelKey) -> float:
        """Return how long loads of *key*, with their unloads, have taken up to *now*, all together."""
        report = self.report
        running_s = report.out_s(now) if report is not None and report.plan.load == key else 0.0
        return self._spent_s.get(key, 0.0) + running_s


@dataclass(slots=True)
class Report:
    """
    One switch, from the *plan* to its end: call `start`, `out`, one of the endings, then `close`.

    It is told for *whom* it is.  It *is_out* when its victims are idle and it is being carried out.
    *unload_s* includes the look before the unloading and the cool-down after it.
    """

    _device: str
    plan: Plan
    _tell: Tell
    _whom: Mapping[str, str] = field(default_factory=dict)
    is_out: bool = False
    loading_since: float | None = None
    _outcome: str = "given_up"
    _error: str | None = None
    _placed: str | None = None

    @property
    def model(self) -> ModelKey:
        """What is loaded, or unloaded if nothing is."""
        key: ModelKey = self.plan.victims[0] if self.plan.load is None else self.plan.load
        return key

    def out_s(self, now: float) -> float:
        """Return how long the switch has been out."""
        return now - self.plan.started if self.is_out else 0.0

    def start(self, now: float) -> None:
        """Tell that the switch is decided."""
        self._event("switch.started", unload=self._unload, load=self._load, **self._why(now))

    def out(self, now: float) -> None:
        """Tell that the victims are idle: the switch is carried out from now on."""
        self.is_out = True
        self._event("switch.drained", load=self._load, **self._why(now))
        self._log(logging.INFO, "switch_begun", self._why(now))

    def unloaded(self, now: float, key: ModelKey, unload_s: float, route: Route | None) -> None:
        """Tell that a model went, in *unload_s*, and what was set for it, if anybody has asked for it."""
        what = {**self._whole(now), "reason": self.plan.cause.value, "unload_s": unload_s}
        self._event("switch.unloaded", **key.told, **what)
        self._changed("model.unloaded", now, route or Route(key))
        if self.plan.load is None:
            self._outcome = "ok"

    def loaded(self, now: float, loaded: Loaded, route: Route) -> None:
        """Tell that the model answers, what it got, and what is set for it."""
        self._outcome, self._placed = "ok", loaded.placed
        got = {
            "context_length": loaded.context_length,
            "parallel": loaded.parallel,
            "placed": loaded.placed,
        }
        self._event("switch.loaded", **self.model.told, **self._whole(now), **got)
        self._changed("model.loaded", now, route)

    def failed(self, now: float, reason: str) -> None:
        """Tell that the switch failed."""
        self._outcome, self._error = "failed", reason
        self._event("switch.failed", **self.model.told, reason=reason, **self._whole(now))

    def close(self, now: float) -> None:
        """Log how a switch that was out has ended; one without an ending was given up."""
        what = {**self._why(now), **self._times(now)}
        if self._outcome == "given_up":
            self._event("switch.cancelled", **self.model.told, **self._whole(now), reason=what["reason"])
        if self.is_out:
            level = logging.WARNING if self._outcome == "failed" else logging.INFO
            ending = {"outcome": self._outcome, "placed": self._placed, "error": self._error or None}
            self._log(level, "switch", {**what, **ending})

    def _changed(self, event: str, now: float, route: Route) -> None:
        """Tell of one model, beside the switch that it is a part of."""
        why = {name: value for name, value in self._why(now).items() if name != "drain_s"}
        self._event(event, **route.key.told, **why, changed=True, **route.settings)

    def _event(self, name: str, **fields: Any) -> None:
        self._tell(name, {"device": self._device, **fields})

    def _log(self, level: int, event: str, fields: Mapping[str, Any]) -> None:
        models = {"unload": ",".join(self._unload) or "-", "load": self._load or "-"}
        log.log(level, Line(event, {"device": self._device, **models, **fields}))

    @property
    def _load(self) -> str | None:
        return None if self.plan.load is None else str(self.plan.load)

    @property
    def _unload(self) -> list[str]:
        return [*map(str, self.plan.victims)]

    def _whole(self, now: float) -> dict[str, Any]:
        """Return all of the switch, for events that end it; `reason` may be something else there."""
        why = self._why(now)
        models = {"load": self._load, "unload": self._unload, "cause": why.pop("reason")}
        return {**models, **why, **self._times(now)}

    def _why(self, now: float) -> dict[str, Any]:
        drained_at = self.plan.started if self.is_out else now
        who = {name: value for name, value in self._whom.items() if value}
        return {**who, "reason": self.plan.cause.value, "drain_s": drained_at - self.plan.since}

    def _times(self, now: float) -> dict[str, float]:
        load_s = self._load_s(now)
        return {"unload_s": self.out_s(now) - load_s, "load_s": load_s}

    def _load_s(self, now: float) -> float:
        return 0.0 if self.loading_since is None else now - self.loading_since
