"""
Who asks: the groups of a workload, each a section of its file and what it does in a run.

A group draws all chance from generators of its own, one for each client, so that every policy meets the same
clients.
"""

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from dmap.sections import Section
from dmap.sections.types import Count, Integer, Number, Seconds
from dmap.simulate.chance import Answer, Time, Times

MOST_MODELS = 1000
"""So many a `zipf` may have."""
_NO_SHARES = "not shares; write them by model like {A: 2, B: 1}, or like zipf 1.2 20 (exponent and models)"

Model = Annotated[str, Field(min_length=1)]
Models = Annotated[tuple[Model, ...], Field(min_length=1)]
Share = Annotated[Number, Field(ge=0)]


def _shares(value: Any) -> Any:
    """Read `zipf 1.2 20`: the n-th of models M1 to M20 is asked for as 1 / n ** 1.2."""
    if not isinstance(value, str):
        return value
    kind, *numbers = value.split() or [""]
    try:
        exponent, models = float(numbers[0]), int(numbers[1])
    except (IndexError, ValueError):
        raise ValueError(_NO_SHARES) from None
    if kind != "zipf" or len(numbers) != 2 or not (0 <= exponent <= 10 and 1 <= models <= MOST_MODELS):
        raise ValueError(_NO_SHARES)
    return {f"M{rank}": rank**-exponent for rank in range(1, models + 1)}


Shares = Annotated[dict[Model, Share], Field(min_length=1), BeforeValidator(_shares)]


@dataclass(slots=True)
class Request:
    """
    What a client of a *group* asks, and what became of it.

    *key* is the name that it shares with others, if any; *then* is what it does after the answer, or after a
    refusal.  It gives up after waiting *leaves_s*.  *since* and *wait_s* are set as it comes and goes.
    """

    model: str
    client: str
    answer_s: float
    then: Callable[[float], None] | None = field(default=None, compare=False, repr=False)
    priority: int = 0
    key: str | None = None
    group: str = ""
    leaves_s: float | None = None
    since: float = 0.0
    wait_s: float = 0.0


class Stage(Protocol):
    """What a group sees of a run: *slots* are the answers that one resident gives at once."""

    duration_s: float
    answer: Times
    slots: int

    def chance(self, *words: object) -> random.Random:
        """Return the generator of one client."""

    def ask(self, when: float, request: Request) -> None:
        """Have *request* come then."""


class Group(Section):
    """
    Clients alike.  Their answers take *answer*, or what the workload says.

    With *key* they share one name, as users of one API key do.
    """

    answer: Answer | None = None
    key: str | None = None
    priority: Integer = Field(default=0, ge=-10, le=10)

    @property
    def asks(self) -> tuple[str, ...]:
        """The models that they ask for."""
        raise NotImplementedError

    def play(self, stage: Stage, number: int) -> None:
        """Have the clients come; *number* is the group's place in the workload."""
        raise NotImplementedError

    def request(self, model: str, client: str, answer_s: float) -> Request:
        """Return a request of one of these clients."""
        group = client.partition(".")[0]
        return Request(model, client, answer_s, priority=self.priority, key=self.key, group=group)


class Loops(Group):
    """
    So many clients (*loops*) of one model, which ask again *think* after each answer, *open* requests each.

    They come at *start_s*, and after the first answer they pause once for *pause_s*.
    """

    loops: Count
    model: Model
    think: Time = Times("fixed", 0.0)
    open: Count = 1
    start_s: Number = Field(default=0, ge=0)
    pause_s: Number = Field(default=0, ge=0)

    @property
    def asks(self) -> tuple[str, ...]:
        return (self.model,)

    def play(self, stage: Stage, number: int) -> None:
        for place, slot in itertools.product(range(self.loops), range(self.open)):
            self._loop(stage, f"{number}.{place}", stage.chance(number, place, slot))

    def _loop(self, stage: Stage, client: str, chance: random.Random) -> None:
        pauses, answer = iter([self.pause_s]), self.answer or stage.answer

        def then(now: float) -> None:
            ask(now + next(pauses, 0) + self.think.draw(chance))

        def ask(when: float) -> None:
            request = self.request(self.model, client, answer.draw(chance))
            request.then = then
            stage.ask(when, request)

        ask(self.start_s)


class Agents(Group):
    """So many clients (*agents*) that turn to another of *models* after *stay* answers."""

    agents: Count
    models: Annotated[tuple[Model, ...], Field(min_length=2)]
    stay: Time
    think: Time = Times("fixed", 0.0)

    @property
    def asks(self) -> tuple[str, ...]:
        return self.models

    def play(self, stage: Stage, number: int) -> None:
        for place in range(self.agents):
            self._agent(stage, f"{number}.{place}", stage.chance(number, place))

    def _agent(self, stage: Stage, client: str, chance: random.Random) -> None:
        answer, model = self.answer or stage.answer, chance.choice(self.models)
        left = math.ceil(self.stay.draw(chance))

        def ask(now: float) -> None:
            nonlocal model, left
            if left <= 0:
                model = chance.choice([other for other in self.models if other != model])
                left = math.ceil(self.stay.draw(chance))
            left -= 1
            when = now + self.think.draw(chance)
            request = self.request(model, client, answer.draw(chance))
            request.then = ask
            stage.ask(when, request)

        ask(0.0)


class Arrivals(Group):
    """
    Requests that come by chance (Poisson), whoever waits, for models by *shares*; each from another client.

    There are *rate* of them per second, or so many that the load without switches is rho = *arrivals*; with
    *swing* (lowest, highest, period in seconds) rho swings.  *batch* of them come at once.  Each
    *rotate_s* the last model gets the share of the first, and each other one that of the next.
    """

    shares: Shares
    arrivals: Number | None = Field(default=None, gt=0)
    rate: Number | None = Field(default=None, gt=0)
    swing: tuple[Share, Seconds, Seconds] | None = None
    batch: Count = 1
    rotate_s: Seconds | None = None

    @model_validator(mode="after")
    def _one_rate(self) -> "Arrivals":
        if self.arrivals is None and self.rate is None and self.swing is None:
            raise ValueError("say how many come: arrivals, rate or swing")
        if self.rate is not None and (self.arrivals is not None or self.swing is not None):
            raise ValueError("rate, or arrivals and swing, but not both")
        if self.swing is not None and self.swing[0] > self.swing[1]:
            raise ValueError("swing: the lowest comes first")
        if sum(self.shares.values()) == math.inf:
            raise ValueError("shares: together they are more than a number can be")
        if not sum(self.shares.values()):
            raise ValueError("shares: nobody asks for any")
        return self

    @property
    def asks(self) -> tuple[str, ...]:
        return tuple(self.shares)

    def play(self, stage: Stage, number: int) -> None:
        answer, chance, count = self.answer or stage.answer, stage.chance(number), itertools.count()
        low, high, period_s = self.swing or (1.0, 1.0, 1.0)
        peak = self._peak(stage, answer)
        when = chance.expovariate(peak)
        while when < stage.duration_s:
            phase = (1 - math.cos(2 * math.pi * when / period_s)) / 2
            if chance.random() * high <= low + (high - low) * phase:
                (model,) = chance.choices(self._ranks(when), tuple(self.shares.values()))
                for _ in range(self.batch):
                    stage.ask(when, self.request(model, f"{number}.{next(count)}", answer.draw(chance)))
            when += chance.expovariate(peak)

    def _ranks(self, when: float) -> Sequence[Model]:
        """Return the models in the order of their shares at that time."""
        models = tuple(self.shares)
        first = -int(when // self.rotate_s) % len(models) if self.rotate_s is not None else 0
        return models[first:] + models[:first]

    def _peak(self, stage: Stage, answer: Times) -> float:
        """Return how many batches come per second where most come."""
        if self.rate is not None:
            return self.rate / self.batch
        rho = self.swing[1] if self.swing is not None else self.arrivals
        return (rho or 0.0) * (stage.slots / answer.mean / self.batch)


class Bursts(Group):
    """So many requests (*bursts*) of one model within *within_s*, each *every_s*, the *models* in turn."""

    bursts: Count
    models: Models
    every_s: Seconds
    within_s: Number = Field(default=0, ge=0)

    @property
    def asks(self) -> tuple[str, ...]:
        return self.models

    def play(self, stage: Stage, number: int) -> None:
        answer, chance = self.answer or stage.answer, stage.chance(number)
        rounds = int(stage.duration_s // self.every_s)
        for turn, place in itertools.product(range(rounds), range(self.bursts)):
            model = self.models[turn % len(self.models)]
            when = turn * self.every_s + chance.uniform(0, self.within_s)
            stage.ask(when, self.request(model, f"{number}.{turn}.{place}", answer.draw(chance)))


KINDS: Mapping[str, type[Group]] = {
    "loops": Loops,
    "agents": Agents,
    "arrivals": Arrivals,
    "rate": Arrivals,
    "swing": Arrivals,
    "bursts": Bursts,
}
"""The kinds of groups, by the keys that tell them."""


def _group(value: Any) -> Group:
    """Read one group, whose kind is told by the key that only this kind has."""
    if isinstance(value, Group):
        return value
    kinds = {KINDS[key] for key in KINDS if isinstance(value, dict) and key in value}
    if len(kinds) != 1:
        raise ValueError(f"must have one of the keys {', '.join(KINDS)}")
    return kinds.pop().model_validate(value)


AnyGroup = Annotated[Group, PlainValidator(_group)]
