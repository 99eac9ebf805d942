"""
One run under virtual time: those who ask, a clock, and a device that loads and answers.

All that is left to chance is drawn from a generator of its own for each client, so that every policy meets
the same clients.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.arbitration.chance import Times, times
from bench.arbitration.workload import Workload
from dmap.arbiter import Effect, Grant, Needs, Outcome, Refuse, Switch

Event = Callable[[float], list[Effect]]


class Policy(Protocol):
    """What an arbiter and a plain policy have in common."""

    def submit(
        self, now: float, ticket: Any, model: Any, client: Any, needs: Needs, priority: int
    ) -> list[Effect]:
        """Hear of a request."""

    def withdraw(self, now: float, ticket: Any) -> list[Effect]:
        """Hear that it is over."""

    def unloaded(self, now: float, model: Any) -> list[Effect]:
        """Hear that a resident has gone, first of all in a switch."""

    def switched(self, now: float, outcome: Outcome) -> list[Effect]:
        """Hear that a switch has ended."""

    def tick(self, now: float) -> list[Effect]:
        """Hear that time has passed."""

    def next_deadline(self) -> float | None:
        """Return when to call `tick`."""


@dataclass(slots=True)
class Answer:
    """One request that was served: when it came, how long it waited and took, who asked for what."""

    since: float
    wait_s: float
    answer_s: float
    model: str
    client: str


@dataclass(slots=True)
class Result:
    """What became of a workload; *waiting_s* has the waits that still went on at the end."""

    answers: list[Answer] = field(default_factory=list)
    waiting_s: dict[str, float] = field(default_factory=dict)
    switches: int = 0
    refused: int = 0


@dataclass(slots=True)
class Request:
    """What a client asks; *then* is what it does when it has its answer."""

    model: str
    client: str
    answer_s: float
    then: Callable[[float], None] | None = None
    priority: int = 0
    since: float = 0.0


class World:
    """A run of *workload* under *policy*."""

    def __init__(self, workload: Workload, policy: Policy, seed: int) -> None:
        self.workload, self._policy, self._seed = workload, policy, seed
        self._ids = itertools.count(1)
        self._agenda: list[tuple[float, int, int, Event]] = []
        self._requests: dict[int, Request] = {}
        self._tick_at: float | None = None
        self.result = Result()

    def run(self) -> Result:
        """Play it to its end."""
        for number, group in enumerate(self.workload.groups):
            KINDS[next(iter(group))](self, group, number)
        end = self.workload.duration_s
        while self._agenda and self._agenda[0][0] <= end:
            now, _, _, event = heapq.heappop(self._agenda)
            self._carry_out(now, event(now))
        for request in self._requests.values():
            waiting_s = end - request.since
            self.result.waiting_s[request.client] = max(
                waiting_s, self.result.waiting_s.get(request.client, 0)
            )
        return self.result

    def chance(self, *words: object) -> random.Random:
        """Return the generator of one client."""
        return random.Random(" ".join(map(str, (self._seed, *words))))

    def at(self, when: float, event: Event, rank: int = 0) -> None:
        """Do something then."""
        heapq.heappush(self._agenda, (when, rank, next(self._ids), event))

    def ask(self, when: float, request: Request) -> None:
        """Have *request* come then."""

        def submit(now: float) -> list[Effect]:
            ticket = next(self._ids)
            request.since = now
            self._requests[ticket] = request
            size = None if self.workload.max_models == 1 else 1
            needs = Needs(size, self.workload.parallel)
            client = self.workload.key or request.client
            return self._policy.submit(now, ticket, request.model, client, needs, request.priority)

        self.at(when, submit)

    def _carry_out(self, now: float, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket):
                    self._answer(now, ticket)
                case Refuse(ticket):
                    self.result.refused += 1
                    self._done(now, self._requests.pop(ticket))
                case Switch(load, unload):
                    self.result.switches += 1
                    for model in unload:
                        self._carry_out(now, self._policy.unloaded(now, model))
                    self.at(
                        now + self.workload.load_of(load), lambda now: self._policy.switched(now, Outcome())
                    )
        deadline = self._policy.next_deadline()
        if deadline is not None and (self._tick_at is None or not now < self._tick_at <= deadline):
            self._tick_at = max(deadline, now)
            self.at(self._tick_at, self._policy.tick, rank=1)

    def _answer(self, now: float, ticket: int) -> None:
        request = self._requests.pop(ticket)
        self.result.answers.append(
            Answer(request.since, now - request.since, request.answer_s, request.model, request.client)
        )

        def end(now: float) -> list[Effect]:
            self._done(now, request)
            return self._policy.withdraw(now, ticket)

        self.at(now + request.answer_s, end)

    def _done(self, now: float, request: Request) -> None:
        if request.then is not None:
            request.then(now)


def loops(world: World, group: Any, number: int) -> None:
    """Clients that ask one model again and again."""
    answer, think = _answer(world, group), times(group.get("think", 0))
    for place, slot in itertools.product(range(group["loops"]), range(group.get("open", 1))):
        client = group.get("key") or f"{number}.{place}"
        chance = world.chance(number, place, slot)
        _loop(world, client, group, answer, think, chance)


def _loop(world: World, client: str, group: Any, answer: Times, think: Times, chance: random.Random) -> None:
    pauses = iter([group.get("pause_s", 0)])

    def then(now: float) -> None:
        ask(now + next(pauses, 0) + think.draw(chance))

    def ask(when: float) -> None:
        world.ask(when, Request(group["model"], client, answer.draw(chance), then, group.get("priority", 0)))

    ask(group.get("start_s", 0.0))


def agents(world: World, group: Any, number: int) -> None:
    """Clients that stay with a model for a while, then turn to another."""
    answer, think = _answer(world, group), times(group.get("think", 0))
    for place in range(group["agents"]):
        _agent(world, f"{number}.{place}", group, answer, think, world.chance(number, place))


def _agent(world: World, client: str, group: Any, answer: Times, think: Times, chance: random.Random) -> None:
    stay, at = times(group["stay"]), {"model": chance.choice(group["models"]), "left": 0.0}
    at["left"] = math.ceil(stay.draw(chance))

    def ask(now: float) -> None:
        if at["left"] <= 0:
            at["model"] = chance.choice([model for model in group["models"] if model != at["model"]])
            at["left"] = math.ceil(stay.draw(chance))
        at["left"] -= 1
        world.ask(now + think.draw(chance), Request(at["model"], client, answer.draw(chance), ask))

    ask(0.0)


def arrivals(world: World, group: Any, number: int) -> None:
    """Requests that come by chance, each from another client unless the group has a key."""
    answer, chance = _answer(world, group), world.chance(number)
    models, shares = zip(*group["shares"].items(), strict=True)
    batch = group.get("batch", 1)
    per_rho = world.workload.parallel / answer.mean / batch
    low, high, period_s = group.get("swing", (group["arrivals"], group["arrivals"], 1))
    peak = group["rate"] / batch if "rate" in group else high * per_rho
    when, count = chance.expovariate(peak), itertools.count()
    while when < world.workload.duration_s:
        phase = (1 - math.cos(2 * math.pi * when / period_s)) / 2
        if chance.random() * high <= low + (high - low) * phase:
            (model,) = chance.choices(models, shares)
            for _ in range(batch):
                client = group.get("key") or f"{number}.{next(count)}"
                world.ask(when, Request(model, client, answer.draw(chance)))
        when += chance.expovariate(peak)


def bursts(world: World, group: Any, number: int) -> None:
    """Crowds that come at once, for one model after the other."""
    answer, chance = _answer(world, group), world.chance(number)
    rounds = int(world.workload.duration_s // group["every_s"])
    for turn, place in itertools.product(range(rounds), range(group["bursts"])):
        model = group["models"][turn % len(group["models"])]
        when = turn * group["every_s"] + chance.uniform(0, group["within_s"])
        world.ask(when, Request(model, f"{number}.{turn}.{place}", answer.draw(chance)))


def _answer(world: World, group: Any) -> Times:
    return times(group.get("answer", world.workload.answer))


KINDS: dict[str, Callable[[World, Any, int], None]] = {
    "loops": loops,
    "agents": agents,
    "arrivals": arrivals,
    "bursts": bursts,
}
