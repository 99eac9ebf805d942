"""
Who may use a device next: the state machine behind `Gate`, its counterpart on the side of the world.

Theory of operation
-------------------
An `Arbiter` owns what is known of one device: who waits, who holds a lease, what is resident, what is
about to change.  It has no clock, no loop and no I/O.  The world tells it of an event by calling a method
with the time, and gets back a list of effects to carry out, in order: `Grant` and `Refuse` answer a
ticket, `Switch` asks for other residents.  A method edits the state and returns what `_settle` makes of
it; nothing else decides (`choice` tells it which switch comes next).  Settling twice at one time changes
nothing the second time, so an event too many is harmless.  What depends on time alone is asked for by
`next_deadline`: call `tick` then.

A ticket waits, then holds a lease, then is withdrawn; or it is refused, and over.  `withdraw` ends it in
any state and may be called for one that is over already.

A settlement has five steps.  Waiters beyond `wait_s` are refused.  A plan that nobody waits for any more, or
that would no longer do, is dropped.  Without a plan, the waiting models that are not resident are looked at
in the order of their turn, and the first one whose victims may go becomes the plan.  Each resident that is
not leaving takes waiters of its own, oldest first, up to its `parallel`.  A plan whose victims hold no
lease any more goes out as a `Switch`.

Choosing comes before taking, so that a victim takes nobody from the moment it is chosen.  The waiters of a
model that was just loaded are the exception: they get their leases before anyone can think of unloading it;
so does a client whom an idle resident was kept for.  Nobody is ever interrupted: a long answer delays a
switch, and the victim stays closed meanwhile.

Three rules make switches rare and waits bounded.  *Patience*: a serving model keeps taking newcomers while
the oldest waiter of another has waited less than `patience_s`.  *Residency*: a switch earns the new
resident `residency` times what it cost in serving time, patience or not.  *Linger*: an idle resident is
kept while its clients, by their habit, are about to ask again.  `policy` has the arithmetic.

One who has lost patience must not be overtaken for ever by others that are easier to please.  So while its
model waits for its victims, another model may come in only if both could be resident together.

The switch itself belongs to the gate, which reports its progress: `unloaded` after each model that went,
`cleared` when memory is free and the load could begin, `switched` at the end.  If everybody who waited for
the load has left by one of the first two reports, the switch ends right there and the next is decided from
what is resident by then.  A load under way is never cut short: its model becomes a resident that may go at
once.  A failed load is told to all who wait for it, and the model is refused until its back-off has passed;
a load that failed beside others, perhaps for want of memory, is first tried once more with the device to
itself.

`observed` corrects beliefs.  A resident that vanished takes no more, and leases on it end when they end;
a copy loaded later is another resident.  What was read before or during a switch is out of date: `epoch`
tells, and such a report is ignored.
"""

from collections.abc import Mapping

from dmap.arbiter import choice, outlook
from dmap.arbiter.device import Device
from dmap.arbiter.effects import Client, Effect, Grant, Model, Reason, Refuse, Switch, TicketId
from dmap.arbiter.state import Limits, Needs, Outcome, Plan, Resident, Snapshot, Ticket


class Arbiter:
    """
    The arbiter of one device.

    *epoch* changes with every start and end of a switch: read it before asking what is resident, and hand
    it to `observed` with the answer.
    """

    def __init__(self, limits: Limits) -> None:
        self.epoch = 0
        self._device = Device(limits)
        self._closed = False
        self._effects: list[Effect] = []
        self._wake: float | None = None

    # Events

    def submit(
        self, now: float, ticket: TicketId, model: Model, client: Client, needs: Needs
    ) -> list[Effect]:
        """Let a new *ticket* wait for *model*.  A ticket's id is never used twice."""
        self._device.needs[model] = needs
        refusal = self._objection(now, ticket, model)
        if refusal is not None:
            self._effects.append(refusal)
        else:
            self._device.ask(now, ticket, model, client)
            resident = self._device.came_back(client, model)
            if resident is not None:
                self._take(now, resident)
        return self._settle(now)

    def withdraw(self, now: float, ticket: TicketId) -> list[Effect]:
        """End *ticket*, waiting or holding a lease.  Nothing happens for one that is over."""
        if ticket in self._device.waiters:
            self._device.leave(ticket)
        elif ticket in self._device.leases:
            self._device.hand_back(now, ticket)
        return self._settle(now)

    def unloaded(self, now: float, model: Model) -> list[Effect]:
        """Hear that the switch under way has taken *model* out."""
        plan = self._under_way()
        if plan is not None:
            self._device.residents.pop(model, None)
            self._reconsider(now, plan)
        return self._settle(now)

    def cleared(self, now: float) -> list[Effect]:
        """Hear that the memory is free and that the load comes next, if `switch` still says so."""
        plan = self._under_way()
        if plan is not None:
            plan.loading = True
            self._reconsider(now, plan)
        return self._settle(now)

    def switched(self, now: float, outcome: Outcome) -> list[Effect]:
        """Hear how the switch under way ended."""
        plan = self._under_way()
        if plan is not None:
            self._end(now, plan)
            if outcome.failed is None:
                self._welcome(now, plan, outcome)
            else:
                self._fail(now, plan.load, outcome)
        return self._settle(now)

    def observed(self, now: float, epoch: int, residents: Mapping[Model, Needs]) -> list[Effect]:
        """Hear what is really resident, unless it was read before the last switch or during one."""
        if epoch == self.epoch and self._under_way() is None:
            known = self._device.residents
            for gone in [model for model in known if model not in residents]:
                del known[gone]
            for model in [model for model in residents if model not in known]:
                self._device.settle_in(Resident(model, residents[model], now, 0, used_at=now))
        return self._settle(now)

    def configure(self, now: float, limits: Limits) -> list[Effect]:
        """Go on under other *limits*.  Who is resident stays; who has waited too long by them is refused."""
        self._device.limits = limits
        return self._settle(now)

    def recovered(self, now: float, model: Model) -> list[Effect]:
        """Hear that what made the last load of *model* fail is over: it need not back off any longer."""
        self._device.back_off.clear(model)
        return self._settle(now)

    def tick(self, now: float) -> list[Effect]:
        """Hear that time has passed."""
        return self._settle(now)

    def close(self, now: float) -> list[Effect]:
        """Refuse all who wait and all who come.  Leases go on until they are withdrawn."""
        self._closed = True
        for ticket in list(self._device.waiters):
            self._refuse(ticket, Reason.CLOSED)
        return self._settle(now)

    # Questions

    @property
    def switch(self) -> Switch | None:
        """The switch to be carried out now.  One whose victims still serve is not out yet."""
        plan = self._under_way()
        return plan.switch if plan is not None else None

    @property
    def residents(self) -> frozenset[Model]:
        """The models believed to be resident."""
        return frozenset(self._device.residents)

    def next_deadline(self) -> float | None:
        """Return when to call `tick` unless something happens before; later than the last event."""
        oldest = self._device.waiters.oldest()
        if oldest is None:
            return None
        expiry = oldest.since + self._device.limits.wait_s
        return expiry if self._wake is None else min(expiry, self._wake)

    def snapshot(self, now: float) -> Snapshot:
        """Return what others may know.  It costs a walk over all who wait."""
        return outlook.snapshot(now, self._device)

    # The one place that decides

    def _settle(self, now: float) -> list[Effect]:
        self._expire(now)
        self._drop_stale_plan(now)
        self._choose(now)
        for resident in self._device.residents.values():
            self._take(now, resident)
        self._start(now)
        effects, self._effects = self._effects, []
        return effects

    def _expire(self, now: float) -> None:
        device = self._device
        while (oldest := device.waiters.oldest()) and now >= oldest.since + device.limits.wait_s:
            retry_after_s = outlook.estimate(now, device, oldest.model)
            self._refuse(oldest, Reason.WAIT_EXPIRED, retry_after_s=retry_after_s)

    def _drop_stale_plan(self, now: float) -> None:
        plan = self._device.plan
        if plan is not None and plan.switch is None and choice.is_stale(now, self._device, plan):
            self._device.plan = None

    def _take(self, now: float, resident: Resident) -> None:
        device = self._device
        while device.waiters.count(resident.model) and device.takes(resident):
            ticket = device.waiters.head(resident.model)
            device.grant(now, ticket, resident)
            self._effects.append(Grant(ticket.id))

    def _choose(self, now: float) -> None:
        self._wake = None
        if self._device.plan is not None or not len(self._device.waiters):
            return
        chosen = choice.choose(now, self._device)
        self._device.plan, self._wake = chosen.plan, chosen.wake
        for model in chosen.never:
            self._refuse_all(model, Reason.NEVER_FITS)

    def _start(self, now: float) -> None:
        plan = self._device.plan
        if plan is None or plan.switch is not None:
            return
        residents = self._device.residents
        unload = tuple(model for model in plan.victims if model in residents)
        if not any(residents[model].leases for model in unload):
            plan.started, plan.switch = now, Switch(plan.load, unload, plan.cause, now - plan.since)
            self.epoch += 1
            self._effects.append(plan.switch)

    # What events do

    def _under_way(self) -> Plan | None:
        plan = self._device.plan
        return plan if plan is not None and plan.switch is not None else None

    def _objection(self, now: float, ticket: TicketId, model: Model) -> Refuse | None:
        device = self._device
        if self._closed:
            return Refuse(ticket, Reason.CLOSED)
        resident = device.residents.get(model)
        if resident is None and (refusal := device.back_off.refusal(now, model)) is not None:
            return Refuse(ticket, Reason.BACK_OFF, refusal[1], refusal[0])
        if resident is None and not device.can_ever_hold(model):
            return Refuse(ticket, Reason.NEVER_FITS)
        at_once = resident is not None and device.takes(resident)
        if len(device.waiters) >= device.limits.queue and not at_once:
            return Refuse(ticket, Reason.QUEUE_FULL, retry_after_s=outlook.estimate(now, device, model))
        return None

    def _refuse(
        self, ticket: Ticket, reason: Reason, detail: str = "", retry_after_s: float | None = None
    ) -> None:
        self._device.take_out(ticket.id)
        self._effects.append(Refuse(ticket.id, reason, detail, retry_after_s))

    def _refuse_all(
        self, model: Model, reason: Reason, detail: str = "", retry_after_s: float | None = None
    ) -> None:
        for ticket in list(self._device.waiters.line(model)):
            self._refuse(ticket, reason, detail, retry_after_s)

    def _reconsider(self, now: float, plan: Plan) -> None:
        if not self._device.waiters.count(plan.load):
            self._end(now, plan)

    def _end(self, now: float, plan: Plan) -> None:
        self._device.strike(now, plan)
        self._device.plan = None
        self.epoch += 1

    def _welcome(self, now: float, plan: Plan, outcome: Outcome) -> None:
        device, cost_s = self._device, now - plan.started
        for model in plan.victims:
            device.residents.pop(model, None)
        device.costs.learn(plan.load, cost_s)
        needs = device.loaded(plan.load, outcome)
        resident = Resident(plan.load, needs, now, cost_s, used_at=now)
        device.settle_in(resident)
        self._take(now, resident)

    def _fail(self, now: float, model: Model, outcome: Outcome) -> None:
        device, detail = self._device, outcome.failed or ""
        if outcome.crowded and device.residents and model not in device.alone:
            device.alone[model] = True
            return
        if model in device.alone:
            device.alone[model] = False
        retry_after_s = device.back_off.add(now, model, detail)
        self._refuse_all(model, Reason.LOAD_FAILED, detail, retry_after_s)
