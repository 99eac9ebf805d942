"""
Scenes made to keep somebody waiting, and how long they do: the longest wait, as a share of its bound.

A scene has models of different sizes, loads and slots, some of which fail to load, are pinned or go when
idle.  And it has crowds that ask for one model or for two by turns, once or without end, for short and
long answers, at different priorities, under keys of their own or one for all.  Some leave before the answer.

The bound leaves out who asks one model for several answers at a time, unless nobody else asks it: the turns
of a client are shared by its requests; who left two switches in a row and is held back for that; the time for
which a device is drained; loads and unloads by hand; and a resident that does not answer.
"""

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dmap.arbiter import Arbiter, Effect, Grant, Limits, Needs, Outcome, Refuse, Switch
from dmap.arbiter.bound import Use, bound_s

EVENTS = 3000
"""A scene ends after so many events: what it is about has happened by then."""
SECONDS = 1500.0
Event = Callable[[float], list[Effect]]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that takes *load_s* to load; each load but every *fails*-th works."""

    load_s: float = 8.0
    needs: Needs = Needs(None, 1)
    fails: int = 0


@dataclass(frozen=True, slots=True)
class Crowd:
    """
    *clients* with *opened* requests each, which ask for *models* by turns and for *answers* by turns.

    They think between answers; *together*, they begin a round at one time, *every_s*.  With *one_key* all of
    them are one client.  They leave when they have waited for *leaves_s*.
    """

    models: tuple[int, ...]
    answers: tuple[float, ...] = (1.0,)
    clients: int = 1
    opened: int = 1
    think_s: float = 0.0
    start_s: float = 0.0
    priority: int = 0
    every_s: float = 0.0
    one_key: bool = False
    leaves_s: float | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What is asked of a device, and what it is."""

    models: tuple[Model, ...]
    crowds: tuple[Crowd, ...]
    limits: Limits

    def use(self, number: int) -> Use:
        """Return what is asked of a model."""
        model = self.models[number]
        crowds = [crowd for crowd in self.crowds if number in crowd.models]
        has_company = self.limits.max_models > 1 or bool(model.needs.together)
        return Use(
            model.load_s,
            max((max(crowd.answers) for crowd in crowds), default=0.0),
            sum(1 if crowd.one_key else crowd.clients for crowd in crowds),
            model.needs.parallel,
            tries=2 if model.fails and has_company else 1,
        )

    def bound_s(self, crowd: Crowd, number: int, extra_s: float) -> float:
        """Return the bound of a request of *crowd* for a model; infinite for one that has none."""
        own, top = self.use(number), max(each.priority for each in self.crowds)
        asked = {each for crowd in self.crowds for each in crowd.models if each != number}
        others = [self.use(each) for each in asked]
        opened = crowd.opened * (crowd.clients if crowd.one_key else 1)
        if crowd.leaves_s is not None or (opened > 1 and own.clients > 1):
            return math.inf
        use = replace(own, open=opened)
        return bound_s(self.limits, use, others, crowd.priority, top, extra_s)


@dataclass(slots=True)
class Asked:
    """A request that waits, or is answered."""

    crowd: int
    model: int
    answer_s: float
    since: float
    then: Callable[[float], None]


@dataclass(slots=True)
class Run:
    """A scene as it is played; *longest_s* is the longest wait by crowd and model."""

    scene: Scene
    arbiter: Arbiter
    agenda: list[tuple[float, int, Event]] = field(default_factory=list)
    waiting: dict[int, Asked] = field(default_factory=dict)
    longest_s: dict[tuple[int, int], float] = field(default_factory=dict)
    loads: dict[int, int] = field(default_factory=dict)
    extra_s: float = 0.0
    ids: itertools.count = field(default_factory=itertools.count)
    tick_at: float = math.inf

    def play(self) -> float:
        """Play the scene; return its longest wait as a share of the bound."""
        for number, crowd in enumerate(self.scene.crowds):
            for place, slot in itertools.product(range(crowd.clients), range(crowd.opened)):
                name = f"{number}" if crowd.one_key else f"{number}.{place}"
                turns = itertools.cycle(crowd.models[place % len(crowd.models) :] + crowd.models)
                answers = itertools.cycle(
                    crowd.answers[(place + slot) % len(crowd.answers) :] + crowd.answers
                )
                self._client(number, name, turns, answers, crowd.start_s)
        now = 0.0
        for _ in range(EVENTS):
            if not self.agenda or self.agenda[0][0] > SECONDS:
                break
            now, _, event = heapq.heappop(self.agenda)
            self._carry_out(now, event(now))
        for asked in self.waiting.values():
            self._note(now, asked)
        return max(
            (
                longest_s / self.scene.bound_s(self.scene.crowds[crowd], model, self.extra_s)
                for (crowd, model), longest_s in self.longest_s.items()
            ),
            default=0.0,
        )

    def _client(self, number, name, turns, answers, start_s) -> None:
        crowd = self.scene.crowds[number]

        def then(now: float) -> None:
            when = now + crowd.think_s
            if crowd.every_s:
                when = crowd.start_s + crowd.every_s * math.ceil(
                    (when - crowd.start_s) / crowd.every_s + 1e-9
                )
            self._at(when, ask)

        def ask(now: float) -> list[Effect]:
            id, model = next(self.ids), next(turns)
            self.waiting[id] = Asked(number, model, next(answers), now, then)
            if crowd.leaves_s is not None:
                self._at(now + crowd.leaves_s, lambda now: self._leave(now, id))
            needs = self.scene.models[model].needs
            return self.arbiter.submit(now, id, model, name, needs, crowd.priority)

        self._at(start_s, ask)

    def _at(self, when: float, event: Event) -> None:
        heapq.heappush(self.agenda, (when, next(self.ids), event))

    def _carry_out(self, now: float, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(id):
                    self._answer(now, id)
                case Refuse(id):
                    self._over(now, id).then(now + 1)
                case Switch():
                    self._switch(now, effect)
        self.extra_s = max(self.extra_s, self.arbiter.extra_s)
        deadline = self.arbiter.next_deadline()
        if deadline is not None and not now < self.tick_at <= deadline:
            self.tick_at = max(deadline, now)
            self._at(self.tick_at, self.arbiter.tick)

    def _switch(self, now: float, switch: Switch) -> None:
        for model in switch.unload:
            self._carry_out(now, self.arbiter.unloaded(now, model))
            if self.arbiter.switch is not switch:
                return
        self._carry_out(now, self.arbiter.cleared(now))
        if self.arbiter.switch is switch:
            model = self.scene.models[switch.load]
            self.loads[switch.load] = count = self.loads.get(switch.load, 0) + 1
            failed = model.fails and not count % model.fails
            outcome = Outcome(failed="no", crowded=True) if failed else Outcome()
            self._at(now + model.load_s, lambda now: self.arbiter.switched(now, outcome))

    def _answer(self, now: float, id: int) -> None:
        asked = self._over(now, id)

        def end(now: float) -> list[Effect]:
            asked.then(now)
            return self.arbiter.withdraw(now, id)

        self._at(now + asked.answer_s, end)

    def _leave(self, now: float, id: int) -> list[Effect]:
        if id in self.waiting:
            self._over(now, id).then(now)
            return self.arbiter.withdraw(now, id)
        return []

    def _over(self, now: float, id: int) -> Asked:
        asked = self.waiting.pop(id)
        self._note(now, asked)
        return asked

    def _note(self, now: float, asked: Asked) -> None:
        key = asked.crowd, asked.model
        self.longest_s[key] = max(self.longest_s.get(key, 0.0), now - asked.since)


def play(scene: Scene) -> float:
    """Return the longest wait of *scene*, as a share of its bound."""
    return Run(scene, Arbiter(scene.limits)).play()
