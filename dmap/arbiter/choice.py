"""
Which switch comes next, or when to look again.  Reads the device, decides nothing else.

The arithmetic of a single choice is in `policy`; this is where it meets the state.

Four rules make switches rare and waits bounded (`policy`).  *Patience*: a serving model takes newcomers while
those who wait for others have patience: a few times what a switch to each model in use costs, `patience_s` at
the most; who is of a higher class has less of it.  It is shared by all who serve meanwhile, so equal crowds
have equal turns.  *Load*: where the work that comes anyhow (`influx`) needs a longer cycle, a few of these
are added, up to `wait_s`, or to half of it where nobody waits for the resident; shorter turns would mean more
switches than there is time for.  *Residency*: a switch earns its model `residency` times its cost in serving
time, patience or not.  *Linger*: an idle model is kept while its clients, by their habit, are about to ask
again.  Within one model turns go by what each client has received, so asking for more brings nothing
(`fairness`); but whoever has had nothing for `patience_s` comes first.

A waiter that has lost patience must not be overtaken for ever by others that are easier to please.  So
while its model waits for its victims, another model may come in only if both could be resident together; and
no model comes in before it that was resident since.  `bound` says what wait that makes at the most.
"""

import math
from dataclasses import dataclass, field

from dmap.arbiter import policy
from dmap.arbiter.device import Device
from dmap.arbiter.effects import Cause, ModelId
from dmap.arbiter.policy import Demand
from dmap.arbiter.state import Needs, Plan, Resident


@dataclass(slots=True)
class Choice:
    """
    What to do next: *plan* if a switch may begin, else *wake* as the time when one may, if ever.

    *never* are the models that cannot come in, whatever leaves.
    """

    plan: Plan | None = None
    wake: float = math.inf
    never: list[ModelId] = field(default_factory=list)


def choose(now: float, device: Device) -> Choice:
    """Look at the waiting models in the order of their turn, and take the first that may come in."""
    demands = demands_of(device)
    released = releases(now, device, demands)
    soonest = min(released.values(), default=now)
    if soonest > now and not _has_room(device, demands):  # most of the time it is so
        return Choice(wake=soonest)
    choice = Choice()
    first: tuple[Demand, list[Resident]] | None = None
    for demand in policy.order(now, demands):
        leaving = _victims(now, device, demand.needs, released)
        if leaving is None:
            choice.never.append(demand.model)
            continue
        if first is not None and not _both(device, *first, demand, leaving):
            continue
        held_until = _held_until(now, device, demand.model) if leaving else now
        ready = max([held_until, *(released[resident.model] for resident in leaving)])
        if ready <= now:
            choice.plan = _plan(now, demand, leaving)
            break
        choice.wake = min(choice.wake, ready)
        if first is None and now >= demand.ends and held_until <= now:
            first = demand, leaving
    return choice


def _has_room(device: Device, demands: list[Demand]) -> bool:
    """
    Tell whether one of *demands*, if it needed no memory, would fit beside all residents that ever go.

    It may say so of one that does not, but never the other way round.
    """
    staying = [resident.needs for resident in device.residents.values() if not device.is_fixed(resident)]
    kinds = {demand.needs.embedding for demand in demands}
    if any(policy.fits(device.limits, [Needs(0, embedding=kind), *staying]) for kind in kinds):
        return True
    shared = policy.shared_lists(staying)
    return bool(shared) and any(shared & demand.needs.together for demand in demands)


def demands_of(device: Device) -> list[Demand]:
    """List what waits for models that are not resident; what did not change since the last time is kept."""
    kept = device.demands
    while device.waiters.changed:
        kept.pop(device.waiters.changed.pop(), None)
    for model in device.absent():
        if model not in kept:
            kept[model] = _demand(device, model)
    return [kept[model] for model in device.absent()]


def contended_s(now: float, device: Device, resident: Resident) -> float:
    """Return for how long waiters for models that are not resident have wanted *resident* to go."""
    oldest = min((device.waiters.lines[model].oldest.since for model in device.absent()), default=now)
    return now - max(oldest, resident.since, device.resumed_at)


def releases(now: float, device: Device, demands: list[Demand]) -> dict[ModelId, float]:
    """Tell for each resident when it may go for the sake of *demands*."""
    if not demands:
        return {}
    turns = policy.turns(device.limits, demands)
    foreign = sum(demand.count for demand in demands)
    released = {}
    for model, resident in device.residents.items():
        if model in device.wishes:
            released[model] = resident.used_at
            continue
        due = device.due(now, resident)
        waiting = device.waiters.count(model)
        own = resident.leases + waiting
        share = policy.proportion(own + len(due), foreign / len(demands))
        drain_s = device.answers.of(model)
        patience = policy.patience_ends(
            device.limits, device.extra_s, resident, own + len(due), turns, wanted=waiting > 0
        )
        earned = policy.earned_until(device.limits, resident, share, turns, drain_s)
        released[model] = policy.released_at(resident, own, due, foreign, earned, patience)
    return released


def in_the_way(now: float, device: Device, model: ModelId) -> list[ModelId]:
    """List the residents that have to go before *model*, which somebody waits for, can come in."""
    plan, demands = device.plan, demands_of(device)
    if plan is not None and plan.load == model:
        return [victim for victim in plan.victims if victim in device.residents]
    if not demands:
        return []
    leaving = _victims(now, device, device.needs_of(model), releases(now, device, demands))
    return [resident.model for resident in leaving or ()]


def is_stale(now: float, device: Device, plan: Plan) -> bool:
    """Tell whether *plan*, while its victims drain, is to be dropped and decided again."""
    if plan.switch is not None:
        return False
    if device.drained or farewell(now, device) is not None:
        return True
    if not device.waiters.count(plan.load) or plan.load in device.residents:
        return True
    wanted = device.needs_of(plan.load)
    staying = [resident.needs for model, resident in device.residents.items() if model not in plan.victims]
    return not policy.fits(device.limits, [wanted, *staying]) or _idle_instead(now, device, plan)


def farewell(now: float, device: Device) -> Plan | None:
    """Return the unloading that is due: of an idle model that was wished away, or idle for too long."""
    going = device.plan.victims if device.plan is not None and not _serving(device, device.plan) else ()
    for model, causes in device.wishes.items():
        resident = device.residents.get(model)
        if resident is not None and not resident.leases and model not in going:
            return Plan(None, (model,), *next(iter(causes.items())))
    if device.drained or device.plan is not None:
        return None
    for resident in device.residents.values():
        if device.spent_at(resident) <= now:
            return Plan(None, (resident.model,), Cause.TTL, now)
    return None


def next_spent_at(device: Device) -> float:
    """Return when the first idle resident will have been so for too long, unless something happens before."""
    if device.drained or device.plan is not None:
        return math.inf
    return min(map(device.spent_at, device.residents.values()), default=math.inf)


def _idle_instead(now: float, device: Device, plan: Plan) -> bool:
    """Tell whether *plan*, whose victims still serve, could have others that are idle, or nobody at all."""
    if not _serving(device, plan):
        return False
    released = releases(now, device, demands_of(device))
    leaving = _victims(now, device, device.needs_of(plan.load), released) or []
    return all(not resident.leases and released[resident.model] <= now for resident in leaving)


def _serving(device: Device, plan: Plan) -> bool:
    return any(device.residents[model].leases for model in plan.victims if model in device.residents)


def _demand(device: Device, model: ModelId) -> Demand:
    line, needs, cost_s = device.waiters.lines[model], device.needs_of(model), device.costs.of(model)
    ends, left = line.patience_ends(device.limits, device.patience_s), device.influx.left(model)
    oldest, count = line.oldest.since, len(line.tickets)
    return Demand(model, needs, oldest, count, line.weights, line.weighted_since, cost_s, ends, left)


def _victims(
    now: float, device: Device, needs: Needs, released: dict[ModelId, float]
) -> list[Resident] | None:
    def burden(resident: Resident) -> tuple[float, int, float]:
        return max(now, released[resident.model]), resident.leases, resident.used_at

    return policy.victims(device.limits, device.residents.values(), needs, burden, device.is_fixed)


def _held_until(now: float, device: Device, model: ModelId) -> float:
    """Tell until when none of those who wait for *model* may evict; *now* if one of them may."""
    waiting = device.waiters.of(model)
    if any(ticket.held_until <= now for ticket in waiting):  # the first one, almost always
        return now
    return min(ticket.held_until for ticket in waiting)


def _both(
    device: Device, first: Demand, its_victims: list[Resident], then: Demand, leaving: list[Resident]
) -> bool:
    gone = {resident.model for resident in (*its_victims, *leaving)}
    staying = [resident.needs for resident in device.residents.values() if resident.model not in gone]
    return policy.fits(device.limits, [first.needs, then.needs, *staying])


def _plan(now: float, demand: Demand, leaving: list[Resident]) -> Plan:
    busy = any(resident.leases for resident in leaving)
    cause = Cause.PATIENCE if busy else Cause.IDLE if leaving else Cause.ROOM
    return Plan(demand.model, tuple(resident.model for resident in leaving), cause, now)
