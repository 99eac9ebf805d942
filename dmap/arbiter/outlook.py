"""
What the arbiter can tell about the future: who is served when, by plain arithmetic on averages.

What that is worth is known by what came of it lately: see `calibration`.

An outlook promises nothing and decides nothing.  It assumes that turns come in the order of age, that
answers take as long as lately, and that a resident goes when all that use it or wait for it by now have
their answers, but not before the time for which others had to wait for it lately: clients come back.  Models
for which there is room are loaded one right after the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from dmap.arbiter import choice, policy, standby
from dmap.arbiter.device import Device
from dmap.arbiter.effects import ModelId, TicketId
from dmap.arbiter.state import (
    Holding,
    Place,
    Reckoned,
    Resident,
    ResidentView,
    Situation,
    Snapshot,
    Wait,
)

OVERDUE = 0.5
"""What is left of an answer is this share of the average at the least, however long it has run."""


@dataclass(slots=True)
class Outlook:
    """
    The places in the queue of *device* as they were *at* one time.

    What costs a walk is kept: the one over the waiting models from the beginning, and the one over a line
    from when one of its tickets is first asked for.  So who asks for the places of all, one by one, pays for
    one walk.  With each model in *starts* comes how many tickets wait for those before it, and in how many
    seconds it will be ready.
    """

    at: float
    _device: Device
    starts: dict[ModelId, tuple[int, float]] = field(default_factory=dict)
    _lines: dict[ModelId, dict[TicketId, int]] = field(default_factory=dict)
    _epoch: int = 0
    _waiting: int = 0
    _waited_for: int = 0

    def __post_init__(self) -> None:
        """Lay out the models as they will serve."""
        device, before = self._device, 0
        self._epoch, self._waiting, self._waited_for = (
            device.epoch,
            len(device.waiters.tickets),
            len(device.waiters.lines),
        )
        for model, start in ready_times(self.at, self._device):
            self.starts[model] = before, start
            before += self._device.waiters.count(model)

    def holds(self) -> bool:
        """Tell whether *starts* are still about right: no switch began or ended, and about as many wait."""
        device = self._device
        return (
            self._epoch == device.epoch
            and self._waited_for == len(device.waiters.lines)
            and 8 * abs(self._waiting - len(device.waiters.tickets)) < self._waiting
        )

    def place(self, id: TicketId) -> Place:
        """
        Return the place of a ticket that waits for one of the models in *starts*.

        One that came after its line was laid out stands at the end.
        """
        device = self._device
        ticket = device.waiters.tickets[id]
        before, start = self.starts[ticket.model]
        ahead = self._line(ticket.model).get(id, device.waiters.count(ticket.model) - 1)
        left_s = ticket.since + device.limits.wait_s - self.at
        reckoned = Reckoned(situation(device, ticket.model), start, in_line_s(device, ticket.model, ahead))
        wait = device.calibration.tell(reckoned) if not device.drained else Wait(left_s, left_s)
        return Place(before + ahead + 1, *wait)

    def first(self, count: int) -> dict[TicketId, Place]:
        """Return the places of the first *count* tickets, or of all there are, in their order."""
        waiting = self._device.waiters.tickets
        tickets = (id for model in self.starts for id in self._line(model) if id in waiting)
        return {id: self.place(id) for id in islice(tickets, count)}

    def _line(self, model: ModelId) -> dict[TicketId, int]:
        """Return how many tickets of its own line are ahead of each ticket."""
        if model not in self._lines:
            line, answer_s = self._device.waiters.lines.get(model), self._device.answers.of(model)
            turns = line.in_turn(self.at, self._device.limits, answer_s) if line is not None else []
            self._lines[model] = {ticket.id: ahead for ahead, ticket in enumerate(turns)}
        return self._lines[model]


def snapshot(now: float, device: Device) -> Snapshot:
    """Show the device."""
    oldest = device.waiters.oldest()
    return Snapshot(
        tuple(
            ResidentView(
                model, each.leases, device.waiters.count(model), each.since, device.is_leaving(model)
            )
            for model, each in device.residents.items()
        ),
        device.plan,
        len(device.waiters.tickets),
        len(device.leases),
        now - oldest.since if oldest else 0,
        device.drained,
        standby.states(now, device),
    )


def situation(device: Device, model: ModelId) -> Situation:
    """Tell what a newcomer for *model* waits behind."""
    if device.serves(model):
        return Situation.LINE
    return Situation.LOAD if device.plan is not None and device.plan.load == model else Situation.TURN


def in_line_s(device: Device, model: ModelId, ahead: int) -> float:
    """Return how long those *ahead* in the line of *model* will take."""
    resident = device.residents.get(model)
    parallel = (resident.needs if resident else device.needs_of(model)).parallel
    answer_s = device.influx.answer_s(model, device.answers.of(model))
    return 0.0 if parallel is None else ahead // parallel * answer_s


def ready_times(
    now: float, device: Device, newcomer: ModelId | None = None
) -> Iterator[tuple[ModelId, float]]:
    """
    Yield each model that is resident or that somebody waits for, and a *newcomer*'s, as they will serve.

    With each comes in how many seconds it will be ready, with a slot.
    """
    for model, resident in device.residents.items():
        if not device.is_leaving(model):
            yield model, slot_s(now, device, resident)
    order = _order(device, newcomer)
    departures = _departures(now, device, order) if order else {}
    at, stay_s = 0.0, 0.0
    together, has_room = [resident.needs for resident in device.residents.values()], True
    for model in order:
        together.append(device.needs_of(model))
        has_room = has_room and policy.fits(device.limits, together)
        free = at if has_room else at + stay_s
        at = max(free, _room(now, device, model, departures)) + _load(now, device, model)
        stay_s = _stay_s(device, model)
        yield model, at


def slot_s(now: float, device: Device, resident: Resident) -> float:
    """Return in how many seconds *resident* can take one more; one that is doubted may have to be loaded."""
    if resident.doubted:
        return device.costs.of(resident.model)
    return _drain_s(now, device, resident) if resident.is_full else 0.0


def _stay_s(device: Device, model: ModelId) -> float:
    """Return how long *model*, once loaded, serves before the next one comes in: for nobody not at all."""
    if not device.waiters.count(model):
        return 0.0
    in_all_s = in_line_s(device, model, device.waiters.count(model)) + device.answers.of(model)
    return max(min(device.limits.residency * device.costs.of(model), in_all_s), device.stays.of(model))


def _order(device: Device, newcomer: ModelId | None) -> list[ModelId]:
    """List the models to be loaded, the one under way first, then by age."""
    waiters, plan = device.waiters, device.plan
    order = sorted(waiters.lines, key=lambda model: waiters.lines[model].oldest.since)
    if plan is not None and plan.load is not None:
        order.insert(0, plan.load)
    if newcomer is not None:
        order.append(newcomer)
    staying = {model for model in device.residents if not device.is_leaving(model)}
    return [model for model in dict.fromkeys(order) if model not in staying]


def _room(now: float, device: Device, model: ModelId, departures: dict[ModelId, float]) -> float:
    """Return in how many seconds the residents would make room; of no concern once a plan is made."""
    plan = device.plan
    if plan is not None:
        leaving = plan.victims if plan.switch is None and model == plan.load else ()
    elif model in device.residents:
        leaving = (model,)
    else:
        needs, residents = device.needs_of(model), device.residents.values()
        victims = policy.victims(
            device.limits, residents, needs, lambda resident: (departures[resident.model],), device.is_fixed
        )
        leaving = tuple(resident.model for resident in victims or ())
    return max((departures[victim] for victim in leaving if victim in departures), default=0.0)


def _departures(now: float, device: Device, order: list[ModelId]) -> dict[ModelId, float]:
    """Tell for each resident in how many seconds it would be gone for the sake of the models in *order*."""
    demands = choice.demands_of(device)
    last = order[-1]
    if not device.waiters.count(last):
        cost_s, ends = device.costs.of(last), now + device.patience_s
        demands.append(policy.Demand(last, device.needs_of(last), now, 1, 1, now, cost_s, ends))
    released = choice.releases(now, device, demands)
    return {
        model: _departure(now, device, resident, max(released.get(model, now) - now, 0.0))
        for model, resident in device.residents.items()
    }


def _departure(now: float, device: Device, resident: Resident, release_s: float) -> float:
    """Return the same for *resident*, which is released in *release_s*, or when it idles before."""
    model, waiting = resident.model, device.waiters.count(resident.model)
    drain_s = _drain_s(now, device, resident)
    if device.is_leaving(model):
        return drain_s
    if not resident.leases and not waiting:
        return release_s
    idle_s = drain_s + in_line_s(device, model, waiting)
    if (lease := _newest(device, resident)) is not None:  # it lingers for the client that it took last
        idle_s += device.habits.linger_s(lease.ticket.user, model, device.costs.of(model))
    stay_s = device.stays.of(model) - choice.contended_s(now, device, resident)
    return min(max(idle_s, stay_s), release_s + drain_s)


def _newest(device: Device, resident: Resident) -> Holding | None:
    """Return the latest lease on *resident* that has not ended."""
    return next((lease for lease in reversed(device.leases.values()) if lease.resident is resident), None)


def _drain_s(now: float, device: Device, resident: Resident) -> float:
    lease = _newest(device, resident)
    if lease is None:
        return 0.0
    answer_s = device.answers.of(resident.model)
    return max(answer_s - (now - lease.since), OVERDUE * answer_s)


def _load(now: float, device: Device, model: ModelId) -> float:
    cost, plan = device.costs.of(model), device.plan
    if plan is None or plan.load != model or plan.switch is None:
        return cost
    return max(cost - (now - plan.started), 0.0)
