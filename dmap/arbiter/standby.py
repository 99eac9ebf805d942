"""
What is loaded though nobody asks for it, and when: models that are to be there from the start, or come back.

It never costs anybody who waits more than the switch that is under way.  `preload` has what is known of these
models.  What went by hand stays away until somebody uses the device: so nobody's order is undone at once, and
no two rules can have a model load and unload by turns.
"""

import math
from collections.abc import Mapping

from dmap.arbiter import policy
from dmap.arbiter.choice import Choice
from dmap.arbiter.device import Device
from dmap.arbiter.effects import Cause, ModelId
from dmap.arbiter.state import Needs, Plan, Resident


def name(device: Device, models: Mapping[ModelId, Needs]) -> None:
    """Have *models* be those that are to be there before anybody asks."""
    for model, needs in models.items():
        device.note(model, needs)
    device.preload.name(models)
    give_up(device)


def give_up(device: Device) -> None:
    """Give up, once somebody has asked for something, what was to be there and has no room beside that."""
    preload, there = device.preload, [resident.needs for resident in device.residents.values()]
    if not preload.untouched:
        fits = (each for each in preload.fresh if policy.fits(device.limits, [device.needs_of(each), *there]))
        preload.fresh = set(fits)


def returns_at(device: Device) -> float:
    """Tell when the device, if it is idle, has been so for long enough that models may come back."""
    return_s, preload = device.limits.return_s, device.preload
    if return_s is None or device.leases or preload.models.keys() <= device.residents.keys():
        return math.inf
    return preload.busy_at + return_s


def choose(now: float, device: Device) -> Choice:
    """
    Return the load of a model that is to be there though nobody asks, or when one may be due.

    It waits for all who wait for another model.  At the start it may have others unloaded as long as nobody
    has asked for anything, and then takes what room there is.  When the device has idled for `return_s` it
    may have all others unloaded, but for one that is kept for a client that is about to ask again.
    """
    preload, found = device.preload, Choice()
    is_idle = not device.leases and not device.waiters.tickets
    if not (preload.fresh or (is_idle and returns_at(device) < math.inf)):
        return found
    if device.plan is not None or device.drained or device.closed or any(True for _ in device.absent()):
        return found
    wanted = _wanted(device)
    away = (model for model in wanted if model not in device.residents)
    for model in (model for model in away if model not in preload.dismissed):
        is_fresh = model in preload.fresh
        leaving = _making_room(device, model, wanted)
        if leaving is None or (not is_idle and (leaving or not is_fresh)):
            continue
        if is_fresh and leaving and not preload.untouched:
            continue
        kept_until = (until for resident in leaving for until in device.due(now, resident))
        due_at = max(now if is_fresh else returns_at(device), preload.back_off.until(model), *kept_until)
        if due_at <= now:
            cause = Cause.PRELOAD if is_fresh else Cause.RETURN
            return Choice(Plan(model, tuple(resident.model for resident in leaving), cause, now))
        found.wake = min(found.wake, due_at)
    return found


def states(now: float, device: Device) -> dict[ModelId, str]:
    """Tell how each of the models stands, in a word of `Snapshot`."""
    return {model: _state(now, device, model) for model in device.preload.models}


def _state(now: float, device: Device, model: ModelId) -> str:
    preload, plan = device.preload, device.under_way
    if model in device.residents:
        return "resident"
    if plan is not None and plan.load == model:
        return "loading"
    if model in preload.dismissed:
        return "unloaded"
    if now < preload.back_off.until(model):
        return "failed"
    is_due = model in preload.fresh or device.limits.return_s is not None
    return "due" if is_due and model in _wanted(device) else "away"


def _wanted(device: Device) -> list[ModelId]:
    """List those that are to be there, as far as they fit together and beside what never goes."""
    chosen = {model: each.needs for model, each in device.residents.items() if device.is_fixed(each)}
    for model in device.preload.models:
        resident = device.residents.get(model)
        needs = resident.needs if resident is not None else device.needs_of(model)
        if model not in chosen and policy.fits(device.limits, [needs, *chosen.values()]):
            chosen[model] = needs
    return [model for model in device.preload.models if model in chosen]


def _making_room(device: Device, model: ModelId, wanted: list[ModelId]) -> list[Resident] | None:
    """Return which residents have to go for *model*, the longest idle first, but none that are *wanted*."""

    def stays(resident: Resident) -> bool:
        return resident.model in wanted or device.is_fixed(resident)

    residents, needs = device.residents.values(), device.needs_of(model)
    return policy.victims(device.limits, residents, needs, lambda each: (each.used_at,), stays)
