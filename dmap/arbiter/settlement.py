"""
The one place that decides: what is to happen next on a device, whatever event came before.

`core` edits the device and has it settled; which switch comes next is found in `choice`.  Its theory of
operation is at the top of `core`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from dmap.arbiter import choice, policy, standby
from dmap.arbiter.device import Device
from dmap.arbiter.effects import Cause, Effect, Grant, ModelId, Reason, Refuse, Stop, Switch, TicketId
from dmap.arbiter.forecast import Forecast
from dmap.arbiter.state import Outcome, Plan, Resident, Ticket


@dataclass(slots=True)
class Settlement:
    """What follows from the state of *device*.  Events may add to *effects* before they have it settled."""

    _device: Device
    forecast: Forecast
    effects: list[Effect] = field(default_factory=list)
    _wake: float = math.inf
    _due_at: float = math.inf

    def settle(self, now: float) -> list[Effect]:
        """Return all that is to be done now; a second time it is nothing."""
        device = self._device
        self._expire(now)
        if device.plan is not None and choice.is_stale(now, device, device.plan):
            device.plan = None
        if device.plan is None:
            device.plan = choice.farewell(now, device)
        self._choose(now)
        returns_at = self._preload(now)
        for resident in device.residents.values():
            self.take(now, resident)
        self._start(now)
        self._stop()
        self._due_at = min(choice.next_spent_at(device), returns_at)
        effects, self.effects = self.effects, []
        return effects

    def is_calm(self, now: float) -> bool:
        """Tell whether nothing is to be decided: nobody waits, and nobody leaves."""
        device = self._device
        return (
            device.plan is None
            and not device.waiters.tickets
            and not device.wishes
            and not device.drained
            and not device.closed
            and now < self._due_at
        )

    def heed_idle(self, resident: Resident) -> None:
        """Look again when *resident*, or the device, has idled for long.  A look too many does no harm."""
        self._due_at = min(self._due_at, self._device.spent_at(resident), standby.returns_at(self._device))

    def next_deadline(self) -> float | None:
        """Return when time alone will change something."""
        oldest = self._device.waiters.oldest()
        expiry = oldest.since + self._device.limits.wait_s if oldest is not None else math.inf
        due = min(expiry, self._wake, self._due_at)
        return due if due < math.inf else None

    def admit(self, now: float, ticket: Ticket) -> None:
        """Let a new *ticket* wait, or refuse it."""
        device, id, model = self._device, ticket.id, ticket.model
        refusal = self.objection(now, id, model) or self._no_room(now, ticket)
        if refusal is not None:
            self.effects.append(refusal)
            return
        kept = device.asked(now, ticket.user, model)
        device.waiters.add(now, ticket)
        if kept is not None:
            self.take(now, kept)

    def readmit(self, now: float, ticket: Ticket) -> None:
        """Let *ticket*, which was `Device.take_back`, wait once more, or refuse it."""
        refusal = self.objection(now, ticket.id, ticket.model)
        if refusal is None:
            self._device.waiters.add(now, ticket)
            return
        self._device.habits.ended(ticket.user)
        self.effects.append(refusal)

    def objection(self, now: float, ticket: TicketId, model: ModelId) -> Refuse | None:
        """Return the refusal of a *ticket* whose *model* cannot be had now; None if it may wait."""
        device = self._device
        if device.closed:
            return Refuse(ticket, Reason.CLOSED)
        if model in device.residents:
            return None
        if (failure := device.back_off.refusal(now, model)) is not None:
            return Refuse(ticket, Reason.BACK_OFF, failure[1], failure[0])
        can_hold = device.can_ever_hold(model, device.needs_of(model))
        return None if can_hold else Refuse(ticket, Reason.NEVER_FITS)

    def take(self, now: float, resident: Resident) -> None:
        """Grant *resident* to those who wait for it, as far as it takes them."""
        device, model = self._device, resident.model
        parallel = resident.needs.parallel
        while (line := device.waiters.lines.get(model)) is not None and device.takes(resident):
            if parallel is None or resident.leases + len(line.tickets) <= parallel:
                ticket = line.oldest  # all have their turn now
            else:
                ticket = line.next(now, device.limits, device.answers.of(model))
            device.waiters.grant(now, ticket)
            self.forecast.came(now, ticket)
            device.lease(now, ticket, resident)
            self.effects.append(Grant(ticket.id))

    def refuse(
        self, tickets: Iterable[Ticket], reason: Reason, detail: str = "", retry_after_s: float | None = None
    ) -> None:
        """Refuse *tickets* that wait."""
        for ticket in list(tickets):
            self._device.take_out(ticket.id)
            self.effects.append(Refuse(ticket.id, reason, detail, retry_after_s))

    def reconsider(self, now: float, plan: Plan) -> None:
        """End the switch of *plan* before its load if nobody needs that any more, or it is in the way."""
        device = self._device
        is_free = plan.is_unasked and not device.closed and all(map(device.serves, device.waiters.lines))
        if device.drained or not (is_free or device.waiters.count(plan.load)):
            device.end(now, plan)

    def drain(self, now: float, *, unload: bool) -> None:
        """Have nobody served until `resume`, and with *unload* wish all residents away."""
        device = self._device
        device.drained, device.emptied = True, unload
        for model in device.residents if unload else ():
            device.wish(now, model, Cause.DRAIN)

    def resume(self, now: float) -> None:
        """End a drain."""
        device = self._device
        if device.drained:
            device.resumed_at = now  # who waited until now was kept by the drain, not by a resident
            device.preload.resumed(now)
        device.drained = device.emptied = False
        for model in list(device.wishes):
            device.unwish(model, Cause.DRAIN)

    def end(self, now: float, plan: Plan, outcome: Outcome) -> None:
        """End the switch of *plan*: its model is there, or it failed, or its victim would not go."""
        wishes = self._device.end(now, plan)
        if plan.load is None:
            self._device.stay(now, *plan.victims)
        elif outcome.failed is not None:
            self.fail(now, plan, outcome)
        elif not outcome.stopped:
            self.welcome(now, plan, outcome, wishes)

    def welcome(self, now: float, plan: Plan, outcome: Outcome, wishes: dict[Cause, float]) -> None:
        """Let in what *plan* has loaded, for those who waited for it; after that it may be wished away."""
        device, cost_s = self._device, now - plan.started
        for model in plan.victims:
            device.lose(now, model)
        device.costs.learn(plan.load, cost_s)
        needs = device.loaded(plan.load, outcome)
        resident = Resident(plan.load, needs, now, cost_s, used_at=now)
        device.settle_in(resident)
        self.take(now, resident)
        if not plan.is_unasked:
            standby.give_up(device)
        for cause, since in wishes.items():
            device.wish(since, plan.load, cause)

    def fail(self, now: float, plan: Plan, outcome: Outcome) -> None:
        """Have a load tried again, alone, if that may help; else refuse all who wait for it."""
        device, model, detail = self._device, plan.load, outcome.failed or ""
        if plan.is_unasked:
            device.preload.tried(model)
            device.preload.back_off.add(now, model, detail)
            if not device.waiters.count(model):
                return
        if outcome.crowded and device.residents and model not in device.alone:
            device.try_alone(model, alone=True)
            return
        if model in device.alone:
            device.try_alone(model, alone=False)
        retry_after_s = device.back_off.add(now, model, detail)
        self.refuse(device.waiters.of(model), Reason.LOAD_FAILED, detail, retry_after_s)

    def _no_room(self, now: float, ticket: Ticket) -> Refuse | None:
        """
        Return the refusal of a *ticket* that would have to wait, if the queue is full or it would be in vain.

        If it may wait, how long that will be is kept with it.
        """
        device, resident = self._device, self._device.residents.get(ticket.model)
        if resident is not None and device.takes(resident):
            return None
        if len(device.waiters.tickets) >= device.limits.queue:
            wait = self.forecast.tell(now, ticket)
            return Refuse(ticket.id, Reason.QUEUE_FULL, retry_after_s=wait.p80_s)
        if device.drained:
            return None
        if ticket.since < now:
            return None  # what it was told elsewhere is over, and nobody waits twice for nothing
        ticket.reckoned = self.forecast.reckon(now, ticket)
        if not self.forecast.is_hopeless(now, ticket):
            return None
        wait = self.forecast.foretold(now, ticket)
        return Refuse(ticket.id, Reason.HOPELESS, retry_after_s=wait.p80_s)

    def _expire(self, now: float) -> None:
        device = self._device
        while (oldest := device.waiters.oldest()) and now >= oldest.since + device.limits.wait_s:
            self.forecast.left(now, oldest)
            wait = self.forecast.tell(now, oldest)
            self.refuse([oldest], Reason.WAIT_EXPIRED, retry_after_s=wait.p80_s)

    def _choose(self, now: float) -> None:
        self._wake = math.inf
        if self._device.plan is not None or self._device.drained or not self._device.waiters.tickets:
            return
        if now >= self._device.reckoned_at + 1 and any(True for _ in self._device.absent()):
            reckon(now, self._device)
        chosen = choice.choose(now, self._device)
        self._device.plan, self._wake = chosen.plan, chosen.wake
        for model in chosen.never:
            self.refuse(self._device.waiters.of(model), Reason.NEVER_FITS)

    def _preload(self, now: float) -> float:
        """Load what is to be there before anybody asks, or return when to look for that again."""
        chosen = standby.choose(now, self._device)
        self._device.plan = self._device.plan or chosen.plan
        return chosen.wake

    def _start(self, now: float) -> None:
        plan, residents = self._device.plan, self._device.residents
        if plan is None or plan.switch is not None:
            return
        plan.victims = tuple(model for model in plan.victims if model in residents)
        if any(residents[model].leases for model in plan.victims):
            return
        plan.started = now
        plan.switch = Switch(plan.load, plan.victims, plan.cause, now - plan.since)
        for model in plan.victims if plan.load is not None and not plan.is_unasked else ():
            self._device.stays.learn(model, choice.contended_s(now, self._device, residents[model]))
        self._device.epoch += 1
        self.effects.append(plan.switch)

    def _stop(self) -> None:
        """Have a load stopped that nobody waits for, if others wait for a switch, or it was wished away."""
        device, plan = self._device, self._device.plan
        if plan is None or not plan.loading or plan.stopping or device.waiters.count(plan.load):
            return
        is_in_the_way = not device.drained and any(True for _ in device.absent())
        if is_in_the_way or plan.load in device.wishes:
            plan.stopping = True
            self.effects.append(Stop(plan.load))


def reckon(now: float, device: Device) -> None:
    """
    Find out how patient those are to be who wait for an absent model.

    A switch to a model and away from it costs its load, and the slots that idle while others drain.
    """
    device.demands.clear()
    device.reckoned_at, costs_s, rho = now, 0.0, 0.0
    for model, stream in device.influx.in_use(now, device.waiters.lines):
        parallel = device.needs[model].parallel or math.inf
        answer_s = stream.answer_s(device.answers.of(model))
        costs_s += device.costs.of(model) + policy.idle_s(stream.at_once, answer_s)
        rho += stream.rate * answer_s / parallel
    rho /= max(len(device.residents), 1)
    device.patience_s = policy.patience_s(device.limits, costs_s)
    device.extra_s = policy.extra_s(device.limits, device.patience_s, costs_s, rho)
