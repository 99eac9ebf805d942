"""
What the arbiter can tell about the future: who is served when, by plain arithmetic on averages.

An outlook promises nothing and decides nothing.  It assumes that turns come in the order of age, that each
model ahead serves who waits for it by now, within its residency, and that answers take as long as lately.
"""

from collections.abc import Iterator

from dmap.arbiter import choice, policy
from dmap.arbiter.device import Device
from dmap.arbiter.effects import Model, Switch, TicketId
from dmap.arbiter.state import Place, Plan, Resident, ResidentView, Snapshot, SwitchView

# Where the model of a line is ready to serve: the model, and in how many seconds.
_Turn = tuple[Model, float]


def snapshot(now: float, device: Device) -> Snapshot:
    """Show the device, with a place for each waiting ticket."""
    oldest = device.waiters.oldest()
    return Snapshot(
        tuple(_resident(device, resident) for resident in device.residents.values()),
        _switch(device.plan),
        _places(now, device),
        len(device.leases),
        now - oldest.since if oldest else 0,
        device.drained,
    )


def estimate(now: float, device: Device, model: Model) -> float:
    """Estimate how long one more ticket for *model* would wait, were it let in now; `wait_s` if drained."""
    if device.drained:
        return device.limits.wait_s
    start = dict(_turns(now, device)).get(model)
    if start is None:
        start = max((at for _, at in _turns(now, device)), default=0.0) + device.costs.of(model)
    return start + _wait_in_line(device, model, device.waiters.count(model))


def _places(now: float, device: Device) -> dict[TicketId, Place]:
    places: dict[TicketId, Place] = {}
    for model, start in _turns(now, device):
        line = device.waiters.in_turn(now, model, device.limits, device.answers.of(model))
        for ahead, ticket in enumerate(line):
            wait_s = start + _wait_in_line(device, model, ahead)
            if device.drained:
                wait_s = ticket.since + device.limits.wait_s - now
            places[ticket.id] = Place(len(places) + 1, wait_s)
    return places


def _wait_in_line(device: Device, model: Model, ahead: int) -> float:
    resident = device.residents.get(model)
    parallel = resident.needs.parallel if resident else device.needs[model].parallel
    if parallel is None:
        return 0.0
    rounds = ahead // parallel + (1 if resident is not None and resident.is_full else 0)
    return rounds * device.answers.of(model)


def _turns(now: float, device: Device) -> Iterator[_Turn]:
    for model in device.residents:
        if not device.is_leaving(model):
            yield model, 0.0
    at, reward = 0.0, 0.0
    for model in _order(now, device):
        at = max(at + reward, _room(now, device, model)) + _load(now, device, model)
        in_all_s = _wait_in_line(device, model, device.waiters.count(model)) + device.answers.of(model)
        reward = min(device.limits.residency * device.costs.of(model), in_all_s)
        yield model, at


def _order(now: float, device: Device) -> list[Model]:
    first = [device.plan.load] if device.plan is not None and device.plan.load is not None else []
    later = [model for model in device.waiters.models() if model not in first and _away(device, model)]
    return first + sorted(later, key=lambda model: device.waiters.head(model).since)


def _away(device: Device, model: Model) -> bool:
    return model not in device.residents or device.is_leaving(model)


def _room(now: float, device: Device, model: Model) -> float:
    """Return in how many seconds the residents would make room; of no concern once a plan is made."""
    plan = device.plan
    if plan is not None:
        drains = plan.switch is None and model == plan.load
        return max((device.answers.of(victim) for victim in plan.victims), default=0.0) if drains else 0.0
    if model in device.residents:
        return device.answers.of(model) if device.residents[model].leases else 0.0
    staying = [resident.needs for resident in device.residents.values()]
    if policy.fits(device.limits, [device.needs_of(model), *staying]):
        return 0.0
    released = choice.releases(now, device, choice.demands_of(now, device))
    return max(0.0, min(released.values(), default=now) - now)


def _load(now: float, device: Device, model: Model) -> float:
    cost, plan = device.costs.of(model), device.plan
    if plan is None or plan.load != model or plan.switch is None:
        return cost
    return max(cost - (now - plan.started), 0.0)


def _resident(device: Device, resident: Resident) -> ResidentView:
    leaving = device.is_leaving(resident.model)
    waiting = device.waiters.count(resident.model)
    return ResidentView(resident.model, resident.leases, waiting, resident.since, leaving)


def _switch(plan: Plan | None) -> SwitchView | None:
    if plan is None:
        return None
    if plan.switch is None:
        return SwitchView(plan.load, plan.victims, "drain", plan.since)
    unload = plan.switch.unload if isinstance(plan.switch, Switch) else plan.victims
    return SwitchView(plan.load, unload, "load" if plan.loading else "unload", plan.since)
