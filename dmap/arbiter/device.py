"""
All that the arbiter knows of one device, and the bookkeeping that keeps it consistent.

Nothing here decides: `core` edits it, `choice` and `outlook` read it.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from dmap.arbiter import policy
from dmap.arbiter.calibration import Calibration
from dmap.arbiter.costs import Loads
from dmap.arbiter.effects import Cause, ClientId, ModelId, TicketId
from dmap.arbiter.estimates import ANSWER_GUESS_S, Averages, BackOff, Strikes, remember
from dmap.arbiter.habits import EXPECTED, Habits
from dmap.arbiter.influx import Influx
from dmap.arbiter.preload import Preload
from dmap.arbiter.state import Holding, Limits, Needs, Outcome, Plan, Resident, Ticket
from dmap.arbiter.waiters import Waiters

MODELS = 4096
"""What so many models take is remembered; if more are asked for, some that are not in use are forgotten."""


@dataclass(slots=True)
class Device:
    """
    The state of one device.

    *alone* holds the models whose load failed beside others: True while they are to have the device to
    themselves, False once that did not help either.  *wishes* has the models that are to go when idle: for
    which causes, and since when; while the device is *emptied*, whatever comes in is to go.  *stays* are the
    times for which residents kept others waiting.  *patience_s* is how long those have patience who wait for
    an absent model, and *extra_s* what the load adds; both were *reckoned_at* that time.  *demands* is what
    waits for absent models, as far as `choice` has looked: a change of what it depends on clears it, but for
    lines, which tell by themselves.
    """

    limits: Limits
    waiters: Waiters = field(default_factory=Waiters)
    leases: dict[TicketId, Holding] = field(default_factory=dict)
    residents: dict[ModelId, Resident] = field(default_factory=dict)
    needs: dict[ModelId, Needs] = field(default_factory=dict)
    plan: Plan | None = None
    costs: Loads = field(init=False)
    answers: Averages = field(default_factory=lambda: Averages(ANSWER_GUESS_S))
    stays: Averages = field(default_factory=lambda: Averages(0.0))
    influx: Influx = field(default_factory=Influx)
    patience_s: float = 0.0
    extra_s: float = 0.0
    reckoned_at: float = -math.inf
    calibration: Calibration = field(default_factory=Calibration)
    habits: Habits = field(default_factory=Habits)
    strikes: Strikes = field(default_factory=Strikes)
    back_off: BackOff = field(default_factory=BackOff)
    alone: dict[ModelId, bool] = field(default_factory=dict)
    wishes: dict[ModelId, dict[Cause, float]] = field(default_factory=dict)
    drained: bool = False
    emptied: bool = False
    resumed_at: float = 0.0
    closed: bool = False
    epoch: int = 0
    preload: Preload = field(default_factory=Preload)
    demands: dict[ModelId, policy.Demand] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with the patience of the limits, before anything is known."""
        self.patience_s = self.limits.patience_s
        self.costs = Loads(self.needs)

    def configure(self, limits: Limits) -> None:
        """Go on under other *limits*, which hold from the next look on."""
        self.limits, self.reckoned_at = limits, -math.inf
        self.demands.clear()

    @property
    def under_way(self) -> Plan | None:
        """The plan whose switch is out."""
        return self.plan if self.plan is not None and self.plan.switch is not None else None

    def note(self, model: ModelId, needs: Needs) -> None:
        """Note what *model* takes.  In a table that is full, that makes room first."""
        if model not in self.needs and len(self.needs) >= MODELS:
            self._forget()
        if self.needs.get(model) != needs:
            self.needs[model] = needs
            self.demands.pop(model, None)

    def needs_of(self, model: ModelId) -> Needs:
        """Return what *model* takes, as far as is known by now; what is usual, if nobody has asked for it."""
        needs = self.needs.get(model) or policy.usual(self.needs.values())
        return needs._replace(size_bytes=None, together=frozenset()) if self.alone.get(model) else needs

    def absent(self) -> Iterator[ModelId]:
        """Iterate over the models that somebody waits for and that are not resident."""
        return (model for model in self.waiters.lines if model not in self.residents)

    def try_alone(self, model: ModelId, *, alone: bool) -> None:
        """Have *model* loaded with the device to itself from now on, or never again."""
        remember(self.alone, model, alone)
        self.demands.pop(model, None)

    def takes(self, resident: Resident) -> bool:
        """Tell whether *resident* may be granted once more."""
        is_free = not resident.is_full and not resident.doubted
        return is_free and not self.drained and not self.is_leaving(resident.model)

    def is_leaving(self, model: ModelId) -> bool:
        """Tell whether *model* is on its way out, and takes nobody."""
        return model in self.wishes or (self.plan is not None and model in self.plan.victims)

    def serves(self, model: ModelId) -> bool:
        """Tell whether *model* is resident, and not on its way out."""
        return model in self.residents and not self.is_leaving(model)

    def can_ever_hold(self, model: ModelId, needs: Needs) -> bool:
        """Tell whether *model* is there, or fits by its *needs* beside the pinned ones, which never go."""
        if model in self.residents:
            return True
        pinned = [resident.needs for resident in self.residents.values() if self.is_fixed(resident)]
        return policy.fits(self.limits, [needs, *pinned])

    def is_fixed(self, resident: Resident) -> bool:
        """Tell whether *resident* stays, whoever waits."""
        return resident.needs.pinned and resident.model not in self.wishes

    def spent_at(self, resident: Resident) -> float:
        """Tell when *resident*, if idle, has been so for too long; never, if it may be so for ever."""
        model = resident.model
        needs = self.needs.get(model, resident.needs)
        if needs.ttl_s is None or resident.needs.pinned or resident.leases or self.waiters.count(model):
            return math.inf
        return resident.used_at + needs.ttl_s

    def asked(self, now: float, user: ClientId, model: ModelId) -> Resident | None:
        """
        Note a request that may wait or be served.  A *user* that is only one is expected nowhere any more.

        Return the resident of *model* if it was kept idle for *user*.
        """
        resident, cost_s = self.residents.get(model), self.costs.of(model)
        self.preload.asked(now)
        self.influx.asked(now, model, cost_s)
        self.habits.asked(now, user, model, cost_s)
        kept = resident is not None and not resident.leases and user in resident.expected
        if not self.habits.is_shared(user):
            for other in self.residents.values():
                other.expected.pop(user, None)
        return resident if kept else None

    def leave(self, ticket: TicketId) -> Ticket:
        """Let a waiting client go.  If it was the last for a switch under way, remember whose that was."""
        gone = self.take_out(ticket)
        self.influx.given_up(gone.model, gone.since)
        plan = self.plan
        if plan is not None and plan.load == gone.model and not self.waiters.count(gone.model):
            plan.abandoned_by = gone.client if not plan.is_unasked else None
        return gone

    def take_out(self, ticket: TicketId) -> Ticket:
        """Take a waiting ticket out."""
        gone = self.waiters.take(ticket)
        self.habits.ended(gone.user)
        return gone

    def lease(self, now: float, ticket: Ticket, resident: Resident) -> None:
        """Let a ticket that does not wait, or not any more, have its lease."""
        self.leases[ticket.id] = Holding(ticket, resident, now)
        self.strikes.clear(ticket.client)
        resident.leases += 1

    def hand_back(self, now: float, ticket: TicketId) -> Resident:
        """End a lease, and learn from it.  Return the resident it was on."""
        lease = self.leases.pop(ticket)
        self.waiters.ended(now, lease.ticket, served=True)
        user, model, resident = lease.ticket.user, lease.ticket.model, lease.resident
        resident.leases -= 1
        resident.used_at = self.preload.busy_at = now
        self.preload.back_off.clear(model)
        self.answers.learn(model, now - lease.since)
        self.influx.answered(now, model, now - lease.since, resident.leases + 1)
        self.habits.ended(user)
        if self.habits.answered(now, user, model, self.costs.of(model)):
            remember(resident.expected, user, None, EXPECTED)
        return resident

    def due(self, now: float, resident: Resident) -> list[float]:
        """List until when those are due that may ask *resident* again; forget whom that is not true of."""
        found: list[float] = []
        for user in list(resident.expected):
            due = list(self.habits.due(now, user, resident.model, self.costs.of(resident.model)))
            found += due
            if not due:
                del resident.expected[user]
        return found

    def take_back(self, now: float, ticket: TicketId) -> Ticket:
        """End a lease that was of no use, and doubt its resident; return the ticket, which is nowhere now."""
        lease = self.leases.pop(ticket)
        lease.resident.leases -= 1
        lease.resident.used_at, lease.resident.doubted = now, True
        lease.ticket.reckoned = None  # what it was told is over
        self.waiters.ended(now, lease.ticket, served=False)
        self.epoch += 1
        return lease.ticket

    def loaded(self, model: ModelId, outcome: Outcome) -> Needs:
        """Return what a model takes now that it is loaded.  A *parallel* asked for outranks the report."""
        needs = self.needs_of(model)
        parallel = needs.parallel if needs.parallel is not None else outcome.parallel
        if outcome.size_bytes is None or self.alone.get(model):
            return needs._replace(parallel=parallel)
        return needs._replace(size_bytes=outcome.size_bytes, parallel=parallel)

    def settle_in(self, resident: Resident) -> None:
        """Add a resident, loaded or found."""
        self.residents[resident.model] = resident
        self.demands.clear()
        if resident.model in self.needs:  # else nobody has asked for it
            self.influx.moved(resident.since, resident.model)
        self.back_off.clear(resident.model)
        self.preload.tried(resident.model)
        if self.emptied:
            self.wish(resident.since, resident.model, Cause.DRAIN)

    def see(self, now: float, found: Mapping[ModelId, Needs], taken: Collection[ModelId] = ()) -> None:
        """Have the residents be those that were *found*; others have *taken* some of those that were not."""
        for gone in [model for model in self.residents if model not in found]:
            self.lose(now, gone)
            self.preload.lost(now, gone, taken)
        for model, needs in found.items():
            if model in self.residents:
                self.confirm(model, needs)
            else:
                self.settle_in(Resident(model, needs, now, 0, used_at=now))

    def stay(self, now: float, model: ModelId) -> None:
        """Keep a resident that could not be unloaded, wished away or not; its `ttl_s` begins anew."""
        self.wishes.pop(model, None)
        if model in self.residents:
            self.residents[model].used_at = now

    def confirm(self, model: ModelId, needs: Needs) -> None:
        """Have a resident that was seen stay as *needs* says: pinned, how long when idle, on which lists."""
        resident, asked = self.residents[model], self.needs.get(model)
        resident.doubted = False
        resident.needs = _as_told(resident.needs, needs)
        if asked is not None:
            self.needs[model] = _as_told(asked, needs)
        if self.alone.get(model):
            resident.needs = resident.needs._replace(together=frozenset())

    def wish(self, now: float, model: ModelId, cause: Cause) -> None:
        """Note that *model* is to go when it is idle, for one more *cause*."""
        if cause is Cause.ASKED:
            self.preload.dismiss(model)
        self.wishes.setdefault(model, {}).setdefault(cause, now)

    def unwish(self, model: ModelId, cause: Cause) -> None:
        """Take *cause* back; what was wished for others holds."""
        causes = self.wishes.get(model, {})
        causes.pop(cause, None)
        if not causes:
            self.wishes.pop(model, None)

    def _forget(self) -> None:
        """Forget an eighth of the models, those asked for first, but none that is in use."""
        in_use = {*self.residents, *self.waiters.lines}
        in_use |= self.preload.models.keys() | {lease.ticket.model for lease in self.leases.values()}
        if self.plan is not None:
            in_use.add(self.plan.load)
        idle = [model for model in self.needs if model not in in_use]
        for model in idle[: MODELS // 8]:
            del self.needs[model]
            self.influx.forget(model)

    def lose(self, now: float, model: ModelId) -> None:
        """Take a resident out, if it is one, and with it the wishes that it go."""
        if model in self.residents and model in self.needs:
            self.influx.moved(now, model, self.costs.of(model))
        if self.plan is not None and self.plan.cause is Cause.TTL:
            self.preload.dismiss(model)
        self.residents.pop(model, None)
        self.wishes.pop(model, None)

    def end(self, now: float, plan: Plan) -> dict[Cause, float]:
        """End a switch, perhaps one for nobody; return why what it loads is to go again, if it is."""
        if plan.abandoned_by is not None and not self.waiters.count(plan.load):
            self.strikes.add(now, plan.abandoned_by, self.costs.of(plan.load))
        self.plan = None
        self.epoch += 1
        return self.wishes.pop(plan.load, {})


def _as_told(known: Needs, told: Needs) -> Needs:
    """Return what is *known*, with what its owner decides as it was *told* now."""
    return known._replace(pinned=told.pinned, ttl_s=told.ttl_s, together=told.together)
