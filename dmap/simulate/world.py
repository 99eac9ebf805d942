"""
One run under virtual time: those who ask, a clock, and a device that loads and answers.

A discrete-event loop without I/O, so that an hour takes a moment and comes out the same each time.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dmap.arbiter import Effect, Grant, Outcome, Refuse, Switch
from dmap.simulate.groups import Request
from dmap.simulate.policies import POLICIES, Policy
from dmap.simulate.workload import Workload

RETRY_S = 1.0
"""Who was refused asks again so much later; one who may never be served would do nothing else at one time."""

Event = Callable[[float], list[Effect]]


@dataclass(slots=True)
class Stay:
    """A model's time on the device: its load began at *since*, it was *ready*, and it was there *until*."""

    model: str
    since: float
    ready: float | None = None
    until: float = 0.0


@dataclass(slots=True)
class Result:
    """
    What became of a workload: each request is in one of the lists, in the order of what happened to it.

    *waiting* are those that still waited at the end, *left* those that gave up.  *extra_s* is the most that
    the load added to patience.
    """

    answers: list[Request] = field(default_factory=list)
    refused: list[Request] = field(default_factory=list)
    left: list[Request] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    switches: int = 0
    ended_s: float = 0.0
    extra_s: float = 0.0

    def waits(self) -> Iterator[Request]:
        """Iterate over those whose wait tells something: the answered, and who still waited at the end."""
        return itertools.chain(self.answers, self.waiting)


class World:
    """A run of *workload* under *policy*; what chance decides goes by *seed*."""

    def __init__(self, workload: Workload, policy: Policy, seed: int = 1) -> None:
        self._workload, self._policy, self._seed = workload, policy, seed
        self.duration_s, self.answer, self.slots = workload.duration_s, workload.answer, workload.parallel
        self._ids = itertools.count(1)
        self._agenda: list[tuple[float, int, int, Event]] = []
        self._requests: dict[int, Request] = {}
        self._resident: dict[str, Stay] = {}
        self._needs = {model: workload.needs_of(model) for model in workload.asks}
        self._tick_at: float | None = None
        self.result = Result()

    def run(self) -> Result:
        """Play it to its end."""
        for number, group in enumerate(self._workload.groups):
            group.play(self, number)
        last = 0.0
        while self._agenda and self._agenda[0][0] <= self.duration_s:
            now, rank, _, event = heapq.heappop(self._agenda)
            self._carry_out(now, event(now))
            last = last if rank else now  # a tick may come long after the last request
        end = self.result.ended_s = self.duration_s if self._agenda else last
        for request in self._requests.values():
            self._end(end, request, self.result.waiting)
        for stay in self._resident.values():
            stay.until = end
        return self.result

    def chance(self, *words: object) -> random.Random:
        """Return the generator of one client."""
        return random.Random(" ".join(map(str, (self._seed, *words))))

    def ask(self, when: float, request: Request) -> None:
        """Have *request* come then."""
        request.key = self._workload.key or request.key
        request.priority = self._workload.priorities.get(request.key or "", request.priority)
        user = request.client if self._workload.users else None

        def submit(now: float) -> list[Effect]:
            ticket = next(self._ids)
            request.since = now
            self._requests[ticket] = request
            if request.leaves_s is not None:
                self._at(now + request.leaves_s, lambda now: self._leave(now, ticket), rank=1)
            client, needs = request.key or request.client, self._needs[request.model]
            return self._policy.submit(now, ticket, request.model, client, needs, request.priority, user)

        self._at(when, submit)

    def _at(self, when: float, event: Event, rank: int = 0) -> None:
        heapq.heappush(self._agenda, (when, rank, next(self._ids), event))

    def _carry_out(self, now: float, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket):
                    self._answer(now, ticket)
                case Refuse(ticket):
                    refused = self._end(now, self._requests.pop(ticket), self.result.refused)
                    self._done(now + RETRY_S, refused)
                case Switch():
                    self._switch(now, effect)
        self.result.extra_s = max(self.result.extra_s, self._policy.extra_s)
        deadline = self._policy.next_deadline()
        if deadline is not None and (self._tick_at is None or not now < self._tick_at <= deadline):
            self._tick_at = max(deadline, now)
            self._at(self._tick_at, self._policy.tick, rank=1)

    def _switch(self, now: float, switch: Switch) -> None:
        """Unload at once, then load.  After each step the policy may have dropped the rest."""
        for model in switch.unload:
            self._resident.pop(model).until = now
            self._carry_out(now, self._policy.unloaded(now, model))
            if self._policy.switch is not switch:
                return
        assert switch.load is not None, "a switch without a load ends with its unload"
        self.result.switches += 1
        stay = self._resident[switch.load] = Stay(switch.load, now)
        self.result.stays.append(stay)

        def loaded(now: float) -> list[Effect]:
            stay.ready = now
            return self._policy.switched(now, Outcome())

        self._at(now + self._workload.load_of(switch.load), loaded)

    def _answer(self, now: float, ticket: int) -> None:
        request = self._end(now, self._requests.pop(ticket), self.result.answers)

        def end(now: float) -> list[Effect]:
            self._done(now, request)
            return self._policy.withdraw(now, ticket)

        self._at(now + request.answer_s, end)

    def _leave(self, now: float, ticket: int) -> list[Effect]:
        if ticket not in self._requests:
            return []
        self._done(now, self._end(now, self._requests.pop(ticket), self.result.left))
        return self._policy.withdraw(now, ticket)

    def _end(self, now: float, request: Request, fate: list[Request]) -> Request:
        """Note that the wait of *request* is over, and why."""
        request.wait_s = now - request.since
        fate.append(request)
        return request

    def _done(self, now: float, request: Request) -> None:
        if request.then is not None:
            request.then(now)


def run(workload: Workload, policy: str = "dmap", seed: int = 1) -> Result:
    """Play *workload* under a policy of `POLICIES`."""
    return World(workload, POLICIES[policy](workload.bounds()), seed).run()
