"""
One run under virtual time: those who ask, and who takes what they ask.

A discrete-event loop without I/O, so that an hour takes a moment and comes out the same each time.
"""

import random
from collections.abc import Callable

from dmap.simulate.agenda import Agenda
from dmap.simulate.box import Box
from dmap.simulate.groups import Request
from dmap.simulate.policies import POLICIES, Policy
from dmap.simulate.result import Result
from dmap.simulate.workload import Workload


class World:
    """A run of *workload*; what chance decides goes by *seed*."""

    def __init__(self, workload: Workload, seed: int = 1) -> None:
        self.workload, self.seed = workload, seed
        self.duration_s, self.answer, self.slots = workload.duration_s, workload.answer, workload.parallel
        self.agenda, self.result = Agenda(), Result()
        self._boxes: list[Box] = []
        self._take: Callable[[float, Request], None] = lambda now, request: None

    def box(self, policy: Policy, name: str = "") -> Box:
        """Return one more device, under *policy*."""
        box = Box(self.workload, policy, self.agenda, self.result, name)
        self._boxes.append(box)
        return box

    def play(self, take: Callable[[float, Request], None]) -> Result:
        """Play it to its end; *take* hears of each request when it comes."""
        self._take = take
        for number, group in enumerate(self.workload.groups):
            group.play(self, number)
        end = self.result.ended_s = self.agenda.play(self.duration_s)
        for box in self._boxes:
            box.end(end)
        return self.result

    def chance(self, *words: object) -> random.Random:
        """Return the generator of one client."""
        return random.Random(" ".join(map(str, (self.seed, *words))))

    def ask(self, when: float, request: Request) -> None:
        """Have *request* come then."""
        request.key = self.workload.key or request.key
        request.priority = self.workload.priorities.get(request.key or "", request.priority)

        def come(now: float) -> None:
            request.since = now
            self._take(now, request)

        self.agenda.at(when, come)


def play(workload: Workload, policy: Policy, seed: int = 1) -> Result:
    """Play *workload* on one device under *policy*."""
    world = World(workload, seed)
    return world.play(world.box(policy).submit)


def run(workload: Workload, policy: str = "dmap", seed: int = 1) -> Result:
    """Play *workload* on one device under a policy of `POLICIES`."""
    return play(workload, POLICIES[policy](workload.bounds()), seed)
