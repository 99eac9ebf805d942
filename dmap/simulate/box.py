"""One device of a run: what its policy decides happens here, in virtual time."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from dmap.arbiter import Effect, Grant, Outcome, Refuse, Switch
from dmap.simulate.agenda import Agenda, Event
from dmap.simulate.groups import Request
from dmap.simulate.policies import Policy
from dmap.simulate.result import Result, Stay
from dmap.simulate.workload import Workload

RETRY_S = 1.0
"""Who was refused asks again so much later; one who may never be served would do nothing else at one time."""

Over = Callable[[], None]


@dataclass(slots=True)
class Box:
    """
    A device under *policy* that takes models and their loads from *workload*, and writes into *result*.

    Once it is *dead* nothing happens in it any more.
    """

    workload: Workload
    policy: Policy
    agenda: Agenda
    result: Result
    name: str = ""
    dead: bool = False
    _tickets: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _waiting: dict[int, tuple[Request, Over | None]] = field(default_factory=dict)
    _served: dict[int, tuple[Request, Over | None]] = field(default_factory=dict)
    _resident: dict[str, Stay] = field(default_factory=dict)
    _tick_at: float | None = None

    def submit(self, now: float, request: Request, over: Over | None = None) -> None:
        """Have *request*, which came at its `since`, wait here; *over* is called when it is here no more."""
        ticket = next(self._tickets)
        self._waiting[ticket] = request, over
        if request.leaves_s is not None:
            self._at(request.since + request.leaves_s, lambda now: self._leave(now, ticket), rank=1)
        user = request.client if self.workload.users else None
        client, needs = request.key or request.client, self.workload.needs_of(request.model)
        effects = self.policy.submit(
            now, ticket, request.model, client, needs, request.priority, user, request.since
        )
        self._carry_out(now, effects)

    def die(self, now: float) -> list[Request]:
        """Cut all answers; return the requests that waited."""
        self.dead = True
        cut = {id(request) for request, _ in self._served.values()}
        self.result.answers[:] = [each for each in self.result.answers if id(each) not in cut]
        for request, over in self._served.values():
            self.result.cut.append(request)
            _tell(over)
            _done(now + RETRY_S, request)
        for _, over in self._waiting.values():
            _tell(over)
        waited = [request for request, _ in self._waiting.values()]
        self._waiting.clear()
        self.end(now)
        self._resident.clear()
        return waited

    def end(self, now: float) -> None:
        """Note who still waits, and what is still resident, at the end of the run."""
        for request, _ in self._waiting.values():
            request.wait_s = now - request.since
            self.result.waiting.append(request)
        for stay in self._resident.values():
            stay.until = now

    def _at(self, when: float, event: Event, rank: int = 0) -> None:
        self.agenda.at(when, lambda now: None if self.dead else event(now), rank)

    def _carry_out(self, now: float, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket):
                    self._answer(now, ticket)
                case Refuse(ticket):
                    self._over(now, ticket, self.result.refused, now + RETRY_S)
                case Switch():
                    self._switch(now, effect)
        self.result.extra_s = max(self.result.extra_s, self.policy.extra_s)
        deadline = self.policy.next_deadline()
        if deadline is not None and (self._tick_at is None or not now < self._tick_at <= deadline):
            self._tick_at = max(deadline, now)
            self._at(self._tick_at, lambda now: self._carry_out(now, self.policy.tick(now)), rank=1)

    def _switch(self, now: float, switch: Switch) -> None:
        """Unload at once, then load.  After each step the policy may have dropped the rest."""
        for model in switch.unload:
            self._resident.pop(model).until = now
            self._carry_out(now, self.policy.unloaded(now, model))
            if self.policy.switch is not switch:
                return
        assert switch.load is not None, "a switch without a load ends with its unload"
        stay = self._resident[switch.load] = Stay(switch.load, now)
        self.result.stays.append(stay)

        def loaded(now: float) -> None:
            stay.ready = now
            self._carry_out(now, self.policy.switched(now, Outcome()))

        self._at(now + self.workload.load_of(switch.load), loaded)

    def _answer(self, now: float, ticket: int) -> None:
        request, over = self._served[ticket] = self._waiting.pop(ticket)
        request.wait_s = now - request.since
        self.result.answers.append(request)

        def end(now: float) -> None:
            del self._served[ticket]
            _tell(over)
            _done(now, request)
            self._carry_out(now, self.policy.withdraw(now, ticket))

        self._at(now + request.answer_s, end)

    def _leave(self, now: float, ticket: int) -> None:
        if ticket in self._waiting:
            self._over(now, ticket, self.result.left, now)
            self._carry_out(now, self.policy.withdraw(now, ticket))

    def _over(self, now: float, ticket: int, fate: list[Request], then_at: float) -> None:
        """Note that the wait of a ticket is over, and why; its client goes on *then_at*."""
        request, over = self._waiting.pop(ticket)
        request.wait_s = now - request.since
        fate.append(request)
        _tell(over)
        _done(then_at, request)


def _tell(over: Over | None) -> None:
    if over is not None:
        over()


def _done(now: float, request: Request) -> None:
    if request.then is not None:
        request.then(now)
