"""
The arbiter under virtual time: what its policy makes of known workloads, beside two simpler policies.

A discrete-event loop with clients, one device and no I/O, so that an hour takes a moment and comes out the
same each time.  It drives the same `Arbiter` as the gate does.  FIFO always serves newcomers of the
loaded model; DRAIN stops them at the first waiter of another; with both, all waiters of a loading model
are served together.
"""

import heapq
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from dmap.arbiter import Arbiter, Cause, Effect, Grant, Limits, Needs, Outcome, Refuse, Switch


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
    refused: int = 0
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


class Policy(Protocol):
    """What the simulator needs of an arbiter."""

    def submit(
        self, now: float, ticket: int, model: str, client: str, needs: Needs, priority: int
    ) -> list[Effect]:
        """Hear of a request."""

    def withdraw(self, now: float, ticket: int) -> list[Effect]:
        """Hear of the end of an answer."""

    def switched(self, now: float, outcome: Outcome) -> list[Effect]:
        """Hear of the end of a load."""

    def tick(self, now: float) -> list[Effect]:
        """Hear that time has passed."""

    def next_deadline(self) -> float | None:
        """Tell when to call `tick`."""


class Queue:
    """FIFO, and DRAIN with *strict*: whoever waits longest is next as soon as the device is idle."""

    def __init__(self, limits: Limits, *, strict: bool) -> None:
        self._strict = strict
        self._waiting: dict[int, tuple[str, int]] = {}
        self._invited: set[int] = set()
        self._leases: set[int] = set()
        self._loaded: str | None = None
        self._loading: str | None = None

    def submit(
        self, now: float, ticket: int, model: str, client: str, needs: Needs, priority: int
    ) -> list[Effect]:
        """Queue a request, whatever its *priority*."""
        self._waiting[ticket] = model, needs.parallel or 1
        return self._settle()

    def withdraw(self, now: float, ticket: int) -> list[Effect]:
        """End an answer."""
        self._leases.discard(ticket)
        return self._settle()

    def switched(self, now: float, outcome: Outcome) -> list[Effect]:
        """End a load; whoever waits for the model now is invited."""
        self._loaded, self._loading = self._loading, None
        self._invited = {ticket for ticket, (model, _) in self._waiting.items() if model == self._loaded}
        return self._settle()

    def tick(self, now: float) -> list[Effect]:
        """Do nothing: these policies know no time."""
        return []

    def next_deadline(self) -> float | None:
        """Return None, always."""
        return None

    def _settle(self) -> list[Effect]:
        if self._loading is not None:
            return []
        effects: list[Effect] = [Grant(ticket) for ticket in self._admitted()]
        if self._waiting and not self._leases:
            self._loading = next(iter(self._waiting.values()))[0]
            effects.append(Switch(self._loading, (), Cause.IDLE, 0))
        return effects

    def _admitted(self) -> Iterator[int]:
        foreign = self._strict and any(model != self._loaded for model, _ in self._waiting.values())
        for ticket, (model, parallel) in list(self._waiting.items()):
            if (
                model == self._loaded
                and len(self._leases) < parallel
                and (not foreign or ticket in self._invited)
            ):
                del self._waiting[ticket]
                self._leases.add(ticket)
                yield ticket


POLICIES: dict[str, Callable[[Limits], Policy]] = {
    "fifo": lambda limits: Queue(limits, strict=False),
    "drain": lambda limits: Queue(limits, strict=True),
    "dmap": Arbiter,
}


@dataclass(frozen=True, slots=True)
class _Request:
    model: str
    client: str
    since: float
    answer_s: float
    think_s: float | None = None
    priority: int = 0


class World:
    """One run: the clients, the clock, and a device that loads and answers."""

    def __init__(self, workload: Workload, policy: Policy) -> None:
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
            for number in range(crowd.count):
                request = _Request(
                    crowd.model,
                    f"{place}.{number}",
                    0.0,
                    self._workload.answer_s,
                    crowd.think_s,
                    crowd.priority,
                )
                for _ in range(crowd.open):
                    self._come(request)
        arrivals = self._workload.arrivals
        if arrivals is not None:
            for number, (when, model, answer_s) in enumerate(self._arrive(arrivals)):
                self._come(_Request(model, f"{model}-{number}", when, answer_s))

    def _arrive(self, arrivals: Arrivals) -> Iterator[tuple[float, str, float]]:
        chance = random.Random(arrivals.seed)
        models = [model for model, _ in arrivals.shares]
        shares = [share for _, share in arrivals.shares]
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
            return self._policy.submit(now, ticket, request.model, request.client, needs, request.priority)

        self._at(request.since, submit)

    def _carry_out(self, now: float, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket):
                    self._answer(now, ticket)
                case Refuse(ticket):
                    self.result.refused += 1
                    del self._requests[ticket]
                case Switch():
                    self.result.switches += 1
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
            if request.think_s is not None:
                self._come(replace(request, since=now + request.think_s))
            return self._policy.withdraw(now, ticket)

        self._at(now + request.answer_s, end)


def run(workload: Workload, policy: str = "dmap") -> Result:
    """Play *workload* under a policy of `POLICIES`."""
    return World(workload, POLICIES[policy](workload.limits)).run()


WORKLOADS: tuple[Workload, ...] = (
    Workload("2 clients, 2 models", (Crowd("A", 1), Crowd("B", 1))),
    Workload("the same, thinking 1 s", (Crowd("A", 1, 1), Crowd("B", 1, 1))),
    Workload("the same, thinking 3 s", (Crowd("A", 1, 3), Crowd("B", 1, 3))),
    Workload("6 clients, 3 models", (Crowd("A", 2), Crowd("B", 2), Crowd("C", 2))),
    Workload("2 of A, 1 of B", (Crowd("A", 2), Crowd("B", 1))),
    Workload("24 of A, 24 of B, 1 of C", (Crowd("A", 24), Crowd("B", 24), Crowd("C", 1)), parallel=4),
    Workload("48 clients, 4 models", tuple(Crowd(model, 12) for model in "ABCD"), parallel=2),
    Workload(
        "open, 80/15/5 % at 1/s",
        arrivals=Arrivals(1.0, (("A", 80), ("B", 15), ("C", 5))),
        parallel=4,
        answer_s=2.0,
    ),
    Workload(
        "open, 50/50 at 0.7/s", arrivals=Arrivals(0.7, (("A", 50), ("B", 50))), parallel=4, answer_s=2.0
    ),
)


def run_table(workloads: Sequence[Workload] = WORKLOADS) -> str:
    """Play each workload under each policy and lay out the figures; takes a few seconds."""
    heads = f"{'workload':<26}{'policy':<7}{'served':>7}{'switches':>10}{'mean':>9}{'p95':>9}{'longest':>9}"
    lines = [heads, f"{'':<26}{'':<7}{'':>7}{'/request':>10}{'s':>9}{'s':>9}{'s':>9}"]
    for workload in workloads:
        for number, policy in enumerate(POLICIES):
            lines.append(_row("" if number else workload.name, policy, run(workload, policy)))
    return "\n".join(lines)


def _row(name: str, policy: str, result: Result) -> str:
    return (
        f"{name:<26}{policy:<7}{result.served:>7}{result.switches_per_request:>10.4f}"
        f"{result.mean_s:>9.1f}{result.p95_s:>9.1f}{result.longest_s:>9.1f}"
    )


def main(argv: Sequence[str] = ()) -> int:
    """Write the table to standard output; takes no arguments so far."""
    sys.stdout.write(run_table() + "\n")
    return 0
