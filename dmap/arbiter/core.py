"""
Who may use a device next: the state machine behind `Gate`, its counterpart on the side of the world.

Theory of operation
-------------------
An `Arbiter` owns what is known of one device: who waits, who holds a lease, what is resident, what is
about to change.  It has no clock, no loop and no I/O.  The world tells it of an event by calling a method
with the time, and gets back a list of effects to carry out, in order: `Grant` and `Refuse` answer a
ticket, a `Switch` asks for other residents.  A method edits the state and returns what
`settlement` makes of it; nothing else decides (`choice` tells it which switch comes next).  Settling twice
at one time changes nothing the second time, so an event too many is harmless.  What depends on time alone is
asked for by `next_deadline`: call `tick` then.

A ticket waits, then holds a lease, then is withdrawn; or it is refused, and over.  `withdraw` ends it in
any state and may be called for one that is over already.  `came_back` lets a lease wait again whose resident
did not answer: as old as it is, and where its age puts it.  Its resident takes nobody until it has been seen.
One that has waited at another device keeps its age, too, and is not refused because others wait for long.

A settlement has six steps.  Waiters beyond `wait_s` are refused.  A plan that nobody waits for any more, or
that would no longer do, is dropped.  Without a plan, an idle resident that is to go makes one; else the
waiting models that are not resident are looked at in the order of their turn, and the first one whose
victims may go becomes the plan; `choice` has the rules that make switches rare and waits bounded.  If nobody
waits for another model, one may be loaded that nobody asked for (`standby`).  Each resident that stays takes
waiters of its own, up to its `parallel`: round by client (`fairness`), higher priority first, and the older a
waiter the higher.  A plan whose victims hold no lease goes out as a `Switch`; it may load nothing.  Where a
model is free and nobody waits, a settlement would change nothing; `submit` and `withdraw` do without it.

Choosing comes before taking, so that a victim takes nobody from the moment it is chosen.  The waiters of a
model that was just loaded are the exception: they get their leases before anyone can think of unloading it;
so does a client that an idle resident was kept for.  Nobody is ever interrupted: a long answer delays a
switch, and the victim stays closed meanwhile.

The switch itself belongs to the gate, which reports its progress: `unloaded` after each model that went,
`cleared` when memory is free and the load could begin, `switched` at the end.  If everybody who waited for
the load has left by one of the first two reports, the switch ends right there and the next is decided from
what is resident by then.  A load that they leave later goes out to be stopped (`Stop`) once it keeps others
waiting.  Where the gate cannot do that for certain, its model becomes a resident that may go at once.  A
failed load is told to all who wait for it, and the model is refused until its back-off has passed; a load
that failed beside others, perhaps for want of memory, is first tried once more with the device to itself.

`unload` is a wish: its resident takes nobody from then on, and goes when its last lease has ended, by a
`Switch` of its own or with whatever switch takes it out before.  There may be several for one resident, each
for its own cause; `keep` takes one back.  For those who wait for it meanwhile it is loaded again.  A wish
never holds a switch up; but an idle resident that is to go does not wait for the drain of others.  A resident
that nobody has used for its `ttl_s` goes, too.

A drained device grants nothing and begins no switch; a switch that is out ends before its load if it can.
Its waiters keep their places for as long as `wait_s` allows.

`observed` corrects beliefs.  A resident that vanished takes no more, and leases on it end when they end;
a copy loaded later is another resident.  What was read before a doubt, or before or during a switch, is out
of date: `epoch` tells, and such a report is ignored.
"""

from collections.abc import Collection, KeysView, Mapping

from dmap.arbiter import choice, lengths, outlook, standby
from dmap.arbiter.device import Device
from dmap.arbiter.effects import Cause, ClientId, Effect, Grant, ModelId, Reason, Switch, TicketId
from dmap.arbiter.forecast import Forecast
from dmap.arbiter.settlement import Settlement
from dmap.arbiter.state import Limits, Needs, Outcome, Plan, Resident, Snapshot, Ticket, Wait
from dmap.arbiter.view import View, view


class Arbiter:
    """
    The arbiter of one device.

    *epoch* changes with every start and end of a switch and every doubt: read it before asking what is
    resident, and hand it to `observed` with the answer.  *lengths* is what a restart need not forget.
    """

    def __init__(self, limits: Limits) -> None:
        self._device = Device(limits)
        self.lengths = lengths.Lengths(self._device)
        self._forecast = Forecast(self._device)
        self._settlement = Settlement(self._device, self._forecast)

    # Events

    def submit(
        self,
        now: float,
        ticket: TicketId,
        model: ModelId,
        client: ClientId,
        needs: Needs,
        priority: int = 0,
        user: ClientId | None = None,
        since: float | None = None,
    ) -> list[Effect]:
        """
        Let a new *ticket* wait for *model*, before lower *priority*.  Its id is never used twice.

        *user* is who of *client* asks, where that is known: turns go by *client*, habits by *user*.  One that
        has waited elsewhere comes with *since* when: its place goes by that, and so does its `wait_s`.
        """
        device, held_until = self._device, self._device.strikes.held_until(client)
        device.note(model, needs)
        began = now if since is None else min(since, now)
        new = Ticket(ticket, model, client, began, held_until, priority, client if user is None else user)
        if self._settlement.is_calm(now):
            resident = device.residents.get(model)
            if resident is not None and device.takes(resident):
                device.asked(now, new.user, model)
                device.lease(now, new, resident)
                return [Grant(ticket)]
        self._settlement.admit(now, new)
        return self._settlement.settle(now)

    def withdraw(self, now: float, ticket: TicketId) -> list[Effect]:
        """End *ticket*, waiting or holding a lease.  Nothing happens for one that is over."""
        if ticket in self._device.waiters.tickets:
            self._forecast.left(now, self._device.leave(ticket))
        elif ticket in self._device.leases:
            self._settlement.heed_idle(self._device.hand_back(now, ticket))
            if self._settlement.is_calm(now):
                return []
        return self._settlement.settle(now)

    def came_back(self, now: float, ticket: TicketId) -> list[Effect]:
        """
        Let *ticket*, whose resident did not answer, wait again.  It keeps its age, and by that its place.

        The resident takes nobody until `observed` has found it.  Nothing happens if *ticket* has no lease.
        """
        if ticket in self._device.leases:
            self._settlement.readmit(now, self._device.take_back(now, ticket))
        return self._settlement.settle(now)

    def unload(self, now: float, model: ModelId, cause: Cause = Cause.ASKED) -> list[Effect]:
        """Wish a resident away, or one that is being loaded, pinned or not.  `keep` takes the wish back."""
        device, plan = self._device, self._device.under_way
        if model in device.residents or (plan is not None and plan.load == model):
            device.wish(now, model, cause)
        return self._settlement.settle(now)

    def keep(self, now: float, model: ModelId, cause: Cause = Cause.ASKED) -> list[Effect]:
        """
        Take back what `unload` wished for the same *cause*; what was wished for another holds.

        A switch that is out already goes on.
        """
        self._device.unwish(model, cause)
        return self._settlement.settle(now)

    def drain(self, now: float, *, unload: bool = False) -> list[Effect]:
        """Grant nothing and begin no switch until `resume`; with *unload* let all residents go when idle."""
        self._settlement.drain(now, unload=unload)
        return self._settlement.settle(now)

    def resume(self, now: float) -> list[Effect]:
        """Go on after `drain`.  Residents that have not gone by now stay."""
        self._settlement.resume(now)
        return self._settlement.settle(now)

    def unloaded(self, now: float, model: ModelId) -> list[Effect]:
        """Hear that the switch under way has taken *model* out."""
        plan = self._device.under_way
        if plan is not None:
            self._device.lose(now, model)
            self._settlement.reconsider(now, plan)
        return self._settlement.settle(now)

    def cleared(self, now: float) -> list[Effect]:
        """Hear that the memory is free and that the load comes next, if `switch` still says so."""
        plan = self._device.under_way
        if plan is not None:
            plan.loading = True
            self._settlement.reconsider(now, plan)
        return self._settlement.settle(now)

    def switched(self, now: float, outcome: Outcome) -> list[Effect]:
        """Hear how the switch under way ended.  A resident that was to go and could not stays."""
        plan = self._device.under_way
        if plan is not None:
            self._settlement.end(now, plan, outcome)
        return self._settlement.settle(now)

    def observed(
        self, now: float, epoch: int, residents: Mapping[ModelId, Needs], taken: Collection[ModelId] = ()
    ) -> list[Effect]:
        """
        Hear what is really resident, unless it was read before the last switch or during one.

        Of what is gone, others have *taken* some out.
        """
        if epoch == self.epoch and self._device.under_way is None:
            self._device.see(now, residents, taken)
        return self._settlement.settle(now)

    def preload(self, now: float, models: Mapping[ModelId, Needs]) -> list[Effect]:
        """
        Hear which *models* are to be there before anybody asks, in what order; in place of those before.

        Those that were not among these are loaded at once, as far as there is room.
        """
        standby.name(self._device, models)
        return self._settlement.settle(now)

    def configure(self, now: float, limits: Limits) -> list[Effect]:
        """Go on under other *limits*.  Residents stay; waiters beyond the new `wait_s` are refused."""
        self._device.configure(limits)
        return self._settlement.settle(now)

    def recovered(self, now: float, model: ModelId) -> list[Effect]:
        """Hear that what made the last load of *model* fail is over: it need not back off any longer."""
        self._device.back_off.clear(model)
        self._device.preload.back_off.clear(model)
        return self._settlement.settle(now)

    def tick(self, now: float) -> list[Effect]:
        """Hear that time has passed."""
        return self._settlement.settle(now)

    def close(self, now: float) -> list[Effect]:
        """Refuse all who wait and all who come.  Leases go on until they are withdrawn."""
        self._device.closed = True
        self._settlement.refuse(self._device.waiters.tickets.values(), Reason.CLOSED)
        return self._settlement.settle(now)

    # Questions

    @property
    def epoch(self) -> int:
        """The number of starts and ends of switches and of doubts so far."""
        return self._device.epoch

    @property
    def switch(self) -> Switch | None:
        """The switch to be carried out now.  One whose victims still serve is not out yet."""
        plan = self._device.under_way
        return plan.switch if plan is not None else None

    @property
    def plan(self) -> Plan | None:
        """The switch decided on, whether its victims still serve or it is out.  Only to be looked at."""
        return self._device.plan

    @property
    def residents(self) -> Mapping[ModelId, Resident]:
        """The models believed to be resident.  Only to be looked at."""
        return self._device.residents

    @property
    def waiting(self) -> KeysView[TicketId]:
        """The tickets that wait, oldest first; a view of how it is now."""
        return self._device.waiters.tickets.keys()

    @property
    def leases(self) -> KeysView[TicketId]:
        """The tickets that hold a lease, perhaps on a model that has vanished; a view of how it is now."""
        return self._device.leases.keys()

    def is_leaving(self, model: ModelId) -> bool:
        """Tell whether *model* takes nobody, for it is on its way out."""
        return self._device.is_leaving(model)

    @property
    def drained(self) -> bool:
        """Whether nobody is served until `resume`."""
        return self._device.drained

    def in_the_way(self, now: float, model: ModelId) -> list[ModelId]:
        """List the residents that have to go before *model*, which somebody waits for, can come in."""
        return choice.in_the_way(now, self._device, model)

    @property
    def extra_s(self) -> float:
        """What the load adds to patience; see `policy.extra_s`."""
        return self._device.extra_s

    def next_deadline(self) -> float | None:
        """Return when to call `tick` unless something happens before; later than the last event."""
        return self._settlement.next_deadline()

    def foretold(self, now: float, ticket: TicketId) -> Wait:
        """Return what *ticket* is to be told of its wait when it begins; cheap."""
        return self._forecast.foretold(now, self._device.waiters.tickets[ticket])

    def snapshot(self, now: float) -> Snapshot:
        """Return what others may know."""
        return outlook.snapshot(now, self._device)

    def view(self, now: float) -> View:
        """Return what newcomers would wait, for whoever chooses between devices; to be kept a moment."""
        return view(now, self._device)

    def can_hold(self, model: ModelId, needs: Needs) -> bool:
        """Tell whether *model*, which takes *needs*, can be had here: it is refused for good where not."""
        return self._device.can_ever_hold(model, needs)

    def load_s(self, model: ModelId) -> float:
        """Return what a load of *model* takes, as far as is known; of any model, asked for before or not."""
        return self._device.costs.of(model)

    def look(self, now: float) -> outlook.Outlook:
        """Return what tells the places of waiting tickets; to be asked for as long as it is fresh enough."""
        return outlook.Outlook(now, self._device)
