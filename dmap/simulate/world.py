"""
One run under virtual time: clients, a clock, and a device that loads and answers.

A discrete-event loop without I/O, so that an hour takes a moment and comes out the same each time.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from dmap.arbiter import Arbiter, Effect, Grant, Limits, Needs, Outcome, Refuse, Switch
from dmap.simulate.policies import POLICIES, Queue


@dataclass(frozen=True, slots=True)
class Crowd:
    """
    *count* clients of one model, each asking again *think_s* after its answer.

    Each keeps *open* requests going at once.
    """

    model: str
    count: int
    think_s: float = 0.0
    priority: int = 0
    open: int = 1


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests that come by chance, *rate* per second, for models by *shares*; answers of random length."""

    rate: float
    shares: tuple[tuple[str, float], ...]
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of the device for *duration_s*.  *parallel* is how many answers a model gives at once."""

    name: str
    crowds: tuple[Crowd, ...] = ()
    arrivals: Arrivals | None = None
    parallel: int = 1
    load_s: float = 8.0
    answer_s: float = 1.0
    duration_s: float = 3600.0
    limits: Limits = Limits(queue=100_000, wait_s=100_000)


@dataclass(slots=True)
class Result:
    """What became of a workload: the waits of those served, in order, and the switches it took."""

    waits_s: list[float] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    switches: int = 0
    waiting_s: list[float] = field(default_factory=list)

    @property
    def served(self) -> int:
        """How many requests were answered."""
        return len(self.waits_s)

    @property
    def switches_per_request(self) -> float:
        """How many switches there were for each answer."""
        return self.switches / self.served if self.served else 0.0

    @property
    def mean_s(self) -> float:
        """The mean wait until an answer began."""
        return sum(self.waits_s) / self.served if self.served else 0.0

    @property
    def p95_s(self) -> float:
        """The wait that 95 % of the requests did not exceed."""
        return sorted(self.waits_s)[int(0.95 * (self.served - 1))] if self.served else 0.0

    @property
    def longest_s(self) -> float:
        """The longest wait, counting those that still went on at the end."""
        return max(self.waits_s + self.waiting_s, default=0.0)


@dataclass(frozen=True, slots=True)
class _Request:
    model: str
    client: str
    since: float
    answer_s: float
    crowd: Crowd | None = None


class World:
    """One run: the clients, the clock, and a device that loads and answers."""

    def __init__(self, workload: Workload, policy: Arbiter | Queue) -> None:
        self._workload = workload
        self._policy = policy
        self._ids = itertools.count()
        self._agenda: list[tuple[float, int, int, Callable[[float], list[Effect]]]] = []
        self._requests: dict[int, _Request] = {}
        self._tick_at: float | None = None
        self.result = Result()

    def run(self) -> Result:
        """Play the workload to its end."""
        self._populate()
        end = self._workload.duration_s
        while self._agenda and self._agenda[0][0] <= end:
            now, _, _, event = heapq.heappop(self._agenda)
            self._carry_out(now, event(now))
        self.result.waiting_s = [end - request.since for request in self._requests.values()]
        return self.result

    def _at(self, when: float, event: Callable[[float], list[Effect]], rank: int = 0) -> None:
        heapq.heappush(self._agenda, (when, rank, next(self._ids), event))

    def _populate(self) -> None:
        for place, crowd in enumerate(self._workload.crowds):
            for number, _ in itertools.product(range(crowd.count), range(crowd.open)):
                self._come(_Request(crowd.model, f"{place}.{number}", 0.0, self._workload.answer_s, crowd))
        arrivals = self._workload.arrivals
        if arrivals is not None:
            for number, (when, model, answer_s) in enumerate(self._arrive(arrivals)):
                self._come(_Request(model, f"{model}-{number}", when, answer_s))

    def _arrive(self, arrivals: Arrivals) -> Iterator[tuple[float, str, float]]:
        chance = random.Random(arrivals.seed)
        models, shares = zip(*arrivals.shares, strict=True)
        now = chance.expovariate(arrivals.rate)
        while now < self._workload.duration_s:
            (model,) = chance.choices(models, shares)
            yield now, model, chance.expovariate(1 / self._workload.answer_s)
            now += chance.expovariate(arrivals.rate)

    def _come(self, request: _Request) -> None:
        def submit(now: float) -> list[Effect]:
            ticket = next(self._ids)
            self._requests[ticket] = request
            needs = Needs(parallel=self._workload.parallel)
            priority = request.crowd.priority if request.crowd is not None else 0
            return self._policy.submit(now, ticket, request.model, request.client, needs, priority)

        self._at(request.since, submit)

    def _carry_out(self, now: float, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket):
                    self._answer(now, ticket)
                case Refuse(ticket):
                    del self._requests[ticket]
                case Switch(_, unload):
                    self.result.switches += 1
                    for model in unload:
                        self._carry_out(now, self._policy.unloaded(now, model))
                    self._at(now + self._workload.load_s, lambda now: self._policy.switched(now, Outcome()))
        deadline = self._policy.next_deadline()
        if deadline is not None and (self._tick_at is None or not now < self._tick_at <= deadline):
            self._tick_at = deadline
            self._at(deadline, self._policy.tick, rank=1)

    def _answer(self, now: float, ticket: int) -> None:
        request = self._requests.pop(ticket)
        self.result.waits_s.append(now - request.since)
        self.result.models.append(request.model)
        self.result.clients.append(request.client)

        def end(now: float) -> list[Effect]:
            if request.crowd is not None:
                self._come(replace(request, since=now + request.crowd.think_s))
            return self._policy.withdraw(now, ticket)

        self._at(now + request.answer_s, end)


def run(workload: Workload, policy: str = "dmap") -> Result:
    """Play *workload* under a policy of `POLICIES`."""
    return World(workload, POLICIES[policy](workload.limits)).run()
