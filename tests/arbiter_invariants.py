"""
An `Arbiter` under watch: the invariants of the design, asserted on every event from the outside.

Beyond the design's eight: a ticket that came back is as old as before, and its resident is granted to nobody
until it has been seen; a model that was wished away, or not used for its `ttl_s`, goes as soon as it is idle
and no switch is under way, for as long as one cause is left; a drained device grants nothing and begins
nothing but wished unloadings; nobody is granted a model before one of higher standing; and a client that has
received nothing yet is granted before any other client of no higher standing is granted twice.  A load that
nobody waits for is to be stopped, once, if it keeps somebody waiting for another or was wished away, and
never else.

The watch keeps its own account of tickets, residents and the switch, fed only with what was told to the
arbiter and what it answered.  Copies are cheap: everything pickles.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

from dmap.arbiter import Arbiter, Cause, Grant, Limits, Needs, Outcome, Reason, Refuse, Stop, Switch
from dmap.arbiter.choice import demands_of
from dmap.arbiter.policy import fits

GUESS_S, LINGER, HOLD_S = 10, 1.5, 60
"""What a switch is thought to cost; how many of them idleness may last for a client that is due, or held."""


@dataclass(slots=True)
class Request:
    """
    One ticket as the watch knows it: *state* is waiting, leased, or over.

    *overtaken* counts the grants of other clients since it came, None if its client had received some.
    """

    model: int
    needs: Needs
    client: int = 0
    priority: int = 0
    since: float = 0
    state: str = "waiting"
    overtaken: Counter | None = None

    def forgive(self, client: int) -> None:
        """Forget one grant of another client, who has given it back."""
        if self.overtaken is not None and self.overtaken[client]:
            self.overtaken[client] -= 1


@dataclass(slots=True)
class Watch:
    """The arbiter, the time, and the watch's own account of both."""

    limits: Limits
    arbiter: Arbiter
    now: float = 0
    requests: dict[int, Request] = field(default_factory=dict)
    loaded: dict[int, Needs] = field(default_factory=dict)
    leases: dict[int, set[int]] = field(default_factory=dict)
    switch: Switch | None = None
    wishes: dict[int, set[Cause]] = field(default_factory=dict)
    doubted: set[int] = field(default_factory=set)
    used: dict[int, float] = field(default_factory=dict)
    drained: bool = False
    emptied: bool = False
    welcome: int | None = None
    unloaded: int = 0
    cleared: bool = False
    stopping: bool = False
    closed: bool = False
    started: float = 0
    dearest_s: float = GUESS_S
    lists: dict[int, frozenset[str]] = field(default_factory=dict)
    standby: dict[int, Needs] = field(default_factory=dict)
    told: dict[int, Needs] = field(default_factory=dict)
    dismissed: set[int] = field(default_factory=set)
    busy_at: float | None = None

    # Events

    def submit(self, id: int, model: int, client: int, needs: Needs, priority: int = 0) -> None:
        """Submit a new ticket."""
        known = {(request.model, request.client) for request in self.requests.values()}
        is_first = not self.waiting(model) or (model, client) not in known
        overtaken = Counter() if is_first else None
        self.requests[id] = Request(model, needs, client, priority, self.now, overtaken=overtaken)
        self.lists[model] = needs.together
        self.told.pop(model, None)
        effects = self.arbiter.submit(self.now, id, model, client, needs, priority)
        reasons = {effect.reason for effect in effects if isinstance(effect, Refuse) and effect.ticket == id}
        if not reasons - {Reason.WAIT_EXPIRED, Reason.LOAD_FAILED}:
            self.busy_at = self.now
            self.dismissed.clear()
        self.heard(effects)

    def preload(self, models: dict[int, Needs]) -> None:
        """Name what is to be there before anybody asks."""
        self.standby = dict(models)
        self.told.update(models)
        self.lists.update((model, needs.together) for model, needs in models.items())
        self.dismissed &= models.keys()
        self.heard(self.arbiter.preload(self.now, models))

    def withdraw(self, id: int) -> None:
        """Withdraw a ticket in any state."""
        request = self.requests[id]
        if request.state == "leased":
            self.busy_at = self.now
        if id in self.leases.get(request.model, set()):
            self.leases[request.model].discard(id)
            self.used[request.model] = self.now
        request.state = "over"
        self.heard(self.arbiter.withdraw(self.now, id))

    def come_back(self, id: int) -> None:
        """Report that the resident of a lease did not answer: its ticket waits again, as old as it is."""
        request = self.requests[id]
        model = request.model
        if id in self.leases.get(model, set()):
            self.leases[model].discard(id)
            self.used[model] = self.now
            self.doubted.add(model)
        if request.state == "leased":
            request.state, request.overtaken = "waiting", None
            for other in self.waiting(model):
                self.requests[other].forgive(request.client)
        self.heard(self.arbiter.came_back(self.now, id))

    def unload(self, model: int, cause: Cause = Cause.ASKED) -> None:
        """Wish a model away."""
        if model in self.loaded or (self.switch is not None and self.switch.load == model):
            self.wishes.setdefault(model, set()).add(cause)
            if cause is Cause.ASKED and model in self.standby:
                self.dismissed.add(model)
        self.heard(self.arbiter.unload(self.now, model, cause))

    def keep(self, model: int, cause: Cause = Cause.ASKED) -> None:
        """Take that wish back; what was wished for other causes holds."""
        self.revoke(model, cause)
        self.heard(self.arbiter.keep(self.now, model, cause))

    def revoke(self, model: int, cause: Cause) -> None:
        """Strike one cause for which a model is to go."""
        self.wishes.get(model, set()).discard(cause)
        if not self.wishes.get(model, {cause}):
            del self.wishes[model]

    def drain(self, unload: bool) -> None:
        """Stop the device, and empty it."""
        self.drained, self.emptied = True, unload
        for model in self.loaded if unload else ():
            self.wishes.setdefault(model, set()).add(Cause.DRAIN)
        self.heard(self.arbiter.drain(self.now, unload=unload))

    def resume(self) -> None:
        """Go on."""
        if self.drained and self.busy_at is not None:
            self.busy_at = self.now
            self.dismissed.clear()
        self.drained = self.emptied = False
        for model in list(self.wishes):
            self.revoke(model, Cause.DRAIN)
        self.heard(self.arbiter.resume(self.now))

    def unload_next(self) -> None:
        """Report the next unload of the switch under way; one without a load ends with its only one."""
        model = self.switch.unload[self.unloaded]
        self.unloaded += 1
        if self.switch.load is None:
            self.switch = None
        self.gone(model)
        self.heard(self.arbiter.unloaded(self.now, model))

    def refuse_to_go(self) -> None:
        """Report that the unloading under way has failed: its model stays."""
        (model,), self.switch = self.switch.unload, None
        self.wishes.pop(model, None)
        self.used[model] = self.now
        self.heard(self.arbiter.switched(self.now, Outcome(failed="it will not go")))

    def clear(self) -> None:
        """Report that the load comes next."""
        self.cleared = True
        self.heard(self.arbiter.cleared(self.now))

    def finish(self, outcome: Outcome) -> None:
        """Report the end of the switch under way; its waiters are to be served in this very step."""
        model, self.switch = self.switch.load, None
        self.dearest_s = max(self.dearest_s, self.now - self.started)
        waiting = self.waiting(model)
        came = outcome.failed is None and not outcome.stopped
        if came:
            self.come(model, self.newest_needs(model))
            self.welcome = model
        else:
            self.wishes.pop(model, None)
        effects = self.arbiter.switched(self.now, outcome)
        self.heard(effects)
        self.welcome = None
        if came and waiting and not self.drained:
            granted = [effect for effect in effects if isinstance(effect, Grant)]
            room = self.loaded[model].parallel or len(waiting)
            expired = [effect for effect in effects if isinstance(effect, Refuse)]
            assert len(granted) >= min(room, len(waiting)) - len(expired)

    def observe(self, residents: dict[int, Needs], epoch: int, taken: frozenset[int] = frozenset()) -> None:
        """Report what is resident, as read at *epoch*; others have *taken* some of what is gone."""
        if epoch == self.arbiter.epoch and self.switch is None:
            for model in [model for model in self.loaded if model not in residents]:
                if model in taken and model in self.standby:
                    self.dismissed.add(model)
                self.gone(model)
            for model in [model for model in residents if model not in self.loaded]:
                self.come(model, residents[model])
            for model in residents:
                told = {"pinned": residents[model].pinned, "together": residents[model].together}
                self.loaded[model] = self.loaded[model]._replace(**told)
                self.lists[model] = residents[model].together
            self.doubted.clear()
        self.heard(self.arbiter.observed(self.now, epoch, residents, taken))

    def advance(self, to: float) -> None:
        """Let time pass, and tick."""
        self.now = to
        self.heard(self.arbiter.tick(to))

    def close(self) -> None:
        """Close the arbiter."""
        self.closed = True
        self.heard(self.arbiter.close(self.now))

    # The account

    def waiting(self, model: int) -> list[int]:
        """Return the tickets that wait for *model*."""
        requests = self.requests.items()
        return [id for id, request in requests if request.model == model and request.state == "waiting"]

    def newest_needs(self, model: int) -> Needs:
        """Return what the last ticket for *model* said it needs, with its lists as they are by now."""
        asked = [request.needs for request in self.requests.values() if request.model == model]
        needs = self.told.get(model) or asked[-1]
        return needs._replace(together=self.lists[model])

    def come(self, model: int, needs: Needs) -> None:
        """Put a resident in."""
        self.loaded[model], self.leases[model], self.used[model] = needs, set(), self.now
        if self.emptied:
            self.wishes.setdefault(model, set()).add(Cause.DRAIN)

    def gone(self, model: int) -> None:
        """Take a model out; leases on it are nobody's concern any more."""
        self.loaded.pop(model, None)
        self.leases.pop(model, None)
        self.wishes.pop(model, None)
        self.doubted.discard(model)

    def heard(self, effects: list) -> None:
        """Enter the effects, asserting that each is allowed, then look at the whole."""
        if self.arbiter.switch is not self.switch:
            if self.switch is not None:
                self.wishes.pop(self.switch.load, None)
            self.switch = None
        for effect in effects:
            match effect:
                case Grant(id):
                    self.grant(id)
                case Refuse(id):
                    self.refuse(id, effect.reason)
                case Stop():
                    self.stop(effect.load)
                case Switch(load=None):
                    self.start_unload(effect)
                case Switch():
                    self.start(effect)
        self.check_turns([effect.ticket for effect in effects if isinstance(effect, Grant)])
        self.check()

    def grant(self, id: int) -> None:
        """Enter a lease: for a resident, within its parallel, not for one that is to be unloaded."""
        request = self.requests[id]
        assert request.state == "waiting", "granted twice, or after withdrawal"
        assert request.model in self.loaded, "granted for a model that is not resident"
        assert request.model not in self.doubted, "granted for a resident that nobody has seen since"
        assert not self.drained, "granted on a drained device"
        assert request.model not in self.going(), "a victim took a newcomer"
        assert request.model not in self.wishes or request.model == self.welcome, "a leaver took a newcomer"
        request.state = "leased"
        self.leases[request.model].add(id)
        parallel = self.loaded[request.model].parallel
        assert parallel is None or len(self.leases[request.model]) <= parallel

    def refuse(self, id: int, reason: Reason) -> None:
        """Enter a refusal: of one who waits, and for its age not before that is reached."""
        request = self.requests[id]
        assert request.state == "waiting", "refused twice, or after withdrawal"
        if reason is Reason.WAIT_EXPIRED:
            assert self.now >= request.since + self.limits.wait_s, "refused before its time"
        request.state = "over"

    def start(self, switch: Switch) -> None:
        """Enter a switch: the only one, wanted, of idle victims, and within the limits."""
        assert self.switch is None, "two switches at once"
        if switch.cause in (Cause.PRELOAD, Cause.RETURN):
            self.check_unasked(switch)
        else:
            assert self.waiting(switch.load), "a switch for nobody"
        assert switch.load not in self.loaded, "a second copy"
        assert not any(self.leases[model] for model in switch.unload), "unloaded while serving"
        assert not self.drained, "a switch on a drained device"
        assert not any(self.loaded[model].pinned and model not in self.wishes for model in switch.unload)
        staying = [needs for model, needs in self.loaded.items() if model not in switch.unload]
        assert self.fits(*staying, self.newest_needs(switch.load)), "beyond the limits"
        assert not self.is_in_vain(switch), "evicted by a newcomer that fits beside it"
        self.switch, self.started, self.unloaded, self.cleared = switch, self.now, 0, False
        self.stopping = False

    def fits(self, *needs: Needs) -> bool:
        """Tell whether models may be resident together: they are on one list, or the limits allow it."""
        lists = [need.together for need in needs]
        plain = [need._replace(together=frozenset()) for need in needs]
        return bool(frozenset.intersection(*lists)) or fits(self.limits, plain)

    def check_unasked(self, switch: Switch) -> None:
        """Look whether a load for nobody is one of those that are to be there, and in nobody's way."""
        waiting = {request.model for request in self.requests.values() if request.state == "waiting"}
        assert switch.load in self.standby, "a load that nobody named"
        assert switch.load not in self.dismissed, "what went by hand came back before anybody asked"
        assert not waiting - self.loaded.keys(), "a load for nobody before one for somebody"
        if switch.cause is Cause.RETURN:
            busy = any(request.state != "over" for request in self.requests.values())
            assert not busy and self.limits.return_s is not None
            assert self.busy_at is None or self.now >= self.busy_at + self.limits.return_s, "too soon"
        else:
            assert self.busy_at is None or not switch.unload, "evicted what somebody had asked for"

    def is_in_vain(self, switch: Switch) -> bool:
        """Tell whether one of those that go could have stayed; what is tried alone is another thing."""
        alone = self.arbiter._device.alone
        if alone.get(switch.load):
            return False
        staying = [needs for model, needs in self.loaded.items() if model not in switch.unload]
        coming = self.newest_needs(switch.load)
        return any(
            self.fits(coming, self.loaded[model], *staying) for model in switch.unload if not alone.get(model)
        )

    def stop(self, model: int) -> None:
        """Enter that a load is to be stopped: the one under way, unwanted, and not told before."""
        assert self.switch is not None and self.switch.load == model and self.cleared, "no load under way"
        assert not self.stopping, "stopped twice"
        assert self.is_unwanted(model), "somebody may want what is stopped"
        self.stopping = True

    def is_unwanted(self, model: int) -> bool:
        """Tell whether nobody waits for a load, and it is in the way or was wished away."""
        waiting = {request.model for request in self.requests.values() if request.state == "waiting"}
        is_in_the_way = bool(waiting - self.loaded.keys()) and not self.drained
        return model not in waiting and (model in self.wishes or is_in_the_way)

    def start_unload(self, switch: Switch) -> None:
        """Enter an unloading: the only switch, wished or overdue, of an idle resident."""
        assert self.switch is None, "two switches at once"
        (model,) = switch.unload
        assert not self.leases[model], "unloaded while serving"
        if switch.cause is Cause.TTL:
            assert not self.drained, "a switch on a drained device"
            assert not self.loaded[model].pinned
            assert not self.waiting(model), "unloaded for its age while somebody waits for it"
            assert self.now >= self.spent_at(model), "unloaded before its time"
        else:
            assert switch.cause in self.wishes[model], "unloaded for nobody"
        self.switch, self.started, self.unloaded, self.stopping = switch, self.now, 0, False

    def going(self) -> tuple[int, ...]:
        """Return what the switch under way takes out."""
        return self.switch.unload if self.switch is not None else ()

    def spent_at(self, model: int) -> float:
        """Return when a resident has been idle for too long."""
        asked = [request.needs for request in self.requests.values() if request.model == model]
        ttl_s = ([self.loaded[model], *asked][-1]).ttl_s
        return math.inf if ttl_s is None else self.used[model] + ttl_s

    def check_turns(self, granted: list[int]) -> None:
        """Compare those who were granted with those who still wait for the same model."""
        for id in granted:
            mine = self.requests[id]
            rest = [self.requests[other] for other in self.waiting(mine.model)]
            top = max(each.priority for each in [mine, *rest])
            assert all(self.standing(mine, top) >= self.standing(each, top) for each in rest), "out of class"
        together = [self.requests[id] for id in granted]
        for request in self.requests.values():
            if request.state == "waiting" and request.overtaken is not None:
                self.check_overtaken(request, [each for each in together if each.model == request.model])

    def check_overtaken(self, request: Request, granted: list[Request]) -> None:
        """Note who was granted before *request*: each other client at most once."""
        waiting = [self.requests[id] for id in self.waiting(request.model)]
        top = max((each.priority for each in [*granted, *waiting]), default=0)
        for each in granted:
            if each.client == request.client:
                request.overtaken = None
                return
            if self.standing(each, top) <= self.standing(request, top):
                request.overtaken[each.client] += 1
        assert all(count <= 1 for count in request.overtaken.values()), "a client was granted twice before"

    def standing(self, request: Request, top: int) -> float:
        """Return the class of a waiting ticket, as the design defines it."""
        patience_s, waited_s = self.limits.patience_s, self.now - request.since
        return min(request.priority + (waited_s // patience_s if patience_s else math.inf), top)

    def check(self) -> None:
        """Look at the whole: settled, consistent, never idle without a reason, always with a deadline."""
        assert self.arbiter.tick(self.now) == [], "settling twice is not settling once"
        assert self.arbiter.switch is self.switch, "the switch under way is another one"
        assert self.arbiter.residents.keys() == self.loaded.keys()
        waiting = [id for id, request in self.requests.items() if request.state == "waiting"]
        deadline = self.arbiter.next_deadline()
        assert deadline is None or deadline > self.now, "a deadline that has passed is a busy loop"
        if self.switch is None:
            self.check_departures(deadline)
        elif self.switch.load is not None and self.cleared:
            assert self.stopping or not self.is_unwanted(self.switch.load), "a load for nobody goes on"
        if waiting:
            assert deadline is not None
            assert not self.closed, "somebody waits behind a closed door"
            oldest = min(self.requests[id].since for id in waiting)
            assert self.now < oldest + self.limits.wait_s, "waits for longer than its age allows"
            self.check_busy(waiting, deadline)

    def check_departures(self, deadline: float | None) -> None:
        """Look for residents that should have gone: wished away and idle, or idle for too long."""
        for model in [model for model, ids in self.leases.items() if not ids]:
            assert model not in self.wishes, "wished away, idle, and still there"
            spent_at = self.spent_at(model)
            if spent_at < math.inf and not (self.drained or self.waiting(model) or self.loaded[model].pinned):
                is_draining = self.arbiter.snapshot(self.now).plan is not None
                assert is_draining or self.now < spent_at, "idle for too long"
                assert is_draining or deadline <= spent_at, "nobody will look in time"

    def check_busy(self, waiting: list[int], deadline: float) -> None:
        """Look for idleness: with waiters there is a switch, a lease, or a client that is due soon."""
        if self.drained:
            return
        if self.switch is None and not any(self.leases.values()) and not self.doubted:
            assert deadline - self.now <= max(LINGER * self.dearest_s, HOLD_S), "idle with waiters"
        blocked = {self.requests[id].model for id in waiting} & self.loaded.keys()
        short = [model for model in blocked if len(self.leases[model]) != self.loaded[model].parallel]
        if short:
            views = self.arbiter.snapshot(self.now).residents
            leaving = {view.model for view in views if view.leaving}
            assert set(short) <= leaving | self.doubted, "a free place and a waiter"

    def check_demands(self) -> None:
        """What the arbiter has kept of what waits is as it would find it now."""
        device = self.arbiter._device
        kept = demands_of(device)
        device.demands.clear()
        assert demands_of(device) == kept

    def check_snapshot(self) -> None:
        """Compare the snapshot and the places with the account."""
        self.check_demands()
        snapshot = self.arbiter.snapshot(self.now)
        waiting = {id for id, request in self.requests.items() if request.state == "waiting"}
        places = self.arbiter.look(self.now).first(1000)
        assert places.keys() == waiting
        assert snapshot.waiting == len(waiting)
        positions = sorted(place.position for place in places.values())
        assert positions == list(range(1, len(waiting) + 1))
        assert all(place.estimate_s >= 0 for place in places.values())
        assert {view.model: view.leases for view in snapshot.residents} == {
            model: len(ids) for model, ids in self.leases.items()
        }


def watch(limits: Limits) -> Watch:
    """Return a fresh arbiter under watch."""
    return Watch(limits, Arbiter(limits))
