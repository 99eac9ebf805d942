"""
An `Arbiter` under watch: the eight invariants of the design, asserted on every event from the outside.

The watch keeps its own account of tickets, residents and the switch, fed only with what was told to the
arbiter and what it answered.  Copies are cheap: everything pickles.
"""

from dataclasses import dataclass, field

from dmap.arbiter import Arbiter, Grant, Limits, Needs, Outcome, Refuse, Switch
from dmap.arbiter.policy import fits

GUESS_S, LINGER, HOLD_S = 10, 1.5, 60
"""What a switch is thought to cost; how many of them idleness may last for a client that is due, or held."""


@dataclass(slots=True)
class Request:
    """One ticket as the watch knows it: *state* is waiting, leased, or over."""

    model: int
    needs: Needs
    state: str = "waiting"


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
    unloaded: int = 0
    cleared: bool = False
    closed: bool = False
    started: float = 0
    dearest_s: float = GUESS_S

    # Events

    def submit(self, id: int, model: int, client: int, needs: Needs) -> None:
        """Submit a new ticket."""
        self.requests[id] = Request(model, needs)
        self.heard(self.arbiter.submit(self.now, id, model, client, needs))

    def withdraw(self, id: int) -> None:
        """Withdraw a ticket in any state."""
        request = self.requests[id]
        request.state = "over"
        self.leases.get(request.model, set()).discard(id)
        self.heard(self.arbiter.withdraw(self.now, id))

    def unload_next(self) -> None:
        """Report the next unload of the switch under way."""
        model = self.switch.unload[self.unloaded]
        self.unloaded += 1
        self.gone(model)
        self.heard(self.arbiter.unloaded(self.now, model))

    def clear(self) -> None:
        """Report that the load comes next."""
        self.cleared = True
        self.heard(self.arbiter.cleared(self.now))

    def finish(self, outcome: Outcome) -> None:
        """Report the end of the switch under way; its waiters are to be served in this very step."""
        model, self.switch = self.switch.load, None
        self.dearest_s = max(self.dearest_s, self.now - self.started)
        waiting = self.waiting(model)
        if outcome.failed is None:
            self.loaded[model] = self.newest_needs(model)
            self.leases[model] = set()
        effects = self.arbiter.switched(self.now, outcome)
        self.heard(effects)
        if outcome.failed is None and waiting:
            granted = [effect for effect in effects if isinstance(effect, Grant)]
            room = self.loaded[model].parallel or len(waiting)
            expired = [effect for effect in effects if isinstance(effect, Refuse)]
            assert len(granted) >= min(room, len(waiting)) - len(expired)

    def observe(self, residents: dict[int, Needs], epoch: int) -> None:
        """Report what is resident, as read at *epoch*."""
        if epoch == self.arbiter.epoch and self.switch is None:
            for model in [model for model in self.loaded if model not in residents]:
                self.gone(model)
            for model in [model for model in residents if model not in self.loaded]:
                self.loaded[model], self.leases[model] = residents[model], set()
        self.heard(self.arbiter.observed(self.now, epoch, residents))

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
        """Return what the last ticket for *model* said it needs."""
        return [request.needs for request in self.requests.values() if request.model == model][-1]

    def gone(self, model: int) -> None:
        """Take a model out; leases on it are nobody's concern any more."""
        self.loaded.pop(model, None)
        self.leases.pop(model, None)

    def heard(self, effects: list) -> None:
        """Enter the effects, asserting that each is allowed, then look at the whole."""
        if self.arbiter.switch is not self.switch:
            self.switch = None
        for effect in effects:
            match effect:
                case Grant(id):
                    self.grant(id)
                case Refuse(id):
                    assert self.requests[id].state == "waiting", "refused twice, or after withdrawal"
                    self.requests[id].state = "over"
                case Switch():
                    self.start(effect)
        self.check()

    def grant(self, id: int) -> None:
        """Enter a lease: for a resident, within its parallel, not for one that is to be unloaded."""
        request = self.requests[id]
        assert request.state == "waiting", "granted twice, or after withdrawal"
        assert request.model in self.loaded, "granted for a model that is not resident"
        assert self.switch is None or request.model not in self.switch.unload, "a victim took a newcomer"
        request.state = "leased"
        self.leases[request.model].add(id)
        parallel = self.loaded[request.model].parallel
        assert parallel is None or len(self.leases[request.model]) <= parallel

    def start(self, switch: Switch) -> None:
        """Enter a switch: the only one, wanted, of idle victims, and within the limits."""
        assert self.switch is None, "two switches at once"
        assert self.waiting(switch.load), "a switch for nobody"
        assert switch.load not in self.loaded, "a second copy"
        assert not any(self.leases[model] for model in switch.unload), "unloaded while serving"
        assert not any(self.loaded[model].pinned for model in switch.unload)
        staying = [needs for model, needs in self.loaded.items() if model not in switch.unload]
        assert fits(self.limits, [*staying, self.newest_needs(switch.load)]), "beyond the limits"
        self.switch, self.started, self.unloaded, self.cleared = switch, self.now, 0, False

    def check(self) -> None:
        """Look at the whole: settled, consistent, never idle without a reason, always with a deadline."""
        assert self.arbiter.tick(self.now) == [], "settling twice is not settling once"
        assert self.arbiter.switch is self.switch, "the switch under way is another one"
        assert self.arbiter.residents == self.loaded.keys()
        waiting = [id for id, request in self.requests.items() if request.state == "waiting"]
        deadline = self.arbiter.next_deadline()
        assert (deadline is not None) == bool(waiting)
        if waiting:
            assert deadline > self.now, "a deadline that has passed is a busy loop"
            assert not self.closed, "somebody waits behind a closed door"
            self.check_busy(waiting, deadline)

    def check_busy(self, waiting: list[int], deadline: float) -> None:
        """Look for idleness: with waiters there is a switch, a lease, or a client that is due soon."""
        if self.switch is None and not any(self.leases.values()):
            assert deadline - self.now <= max(LINGER * self.dearest_s, HOLD_S), "idle with waiters"
        blocked = {self.requests[id].model for id in waiting} & self.loaded.keys()
        short = [model for model in blocked if len(self.leases[model]) != self.loaded[model].parallel]
        if short:
            leaving = self.arbiter.snapshot(self.now).switch
            assert leaving and set(short) <= set(leaving.unload), "a free place and a waiter"

    def check_snapshot(self) -> None:
        """Compare the snapshot with the account."""
        snapshot = self.arbiter.snapshot(self.now)
        waiting = {id for id, request in self.requests.items() if request.state == "waiting"}
        assert snapshot.waiting.keys() == waiting
        positions = sorted(place.position for place in snapshot.waiting.values())
        assert positions == list(range(1, len(waiting) + 1))
        assert all(place.estimate_s >= 0 for place in snapshot.waiting.values())
        assert {view.model: view.leases for view in snapshot.residents} == {
            model: len(ids) for model, ids in self.leases.items()
        }


def watch(limits: Limits) -> Watch:
    """Return a fresh arbiter under watch."""
    return Watch(limits, Arbiter(limits))
