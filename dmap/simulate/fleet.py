"""
Several boxes of one device each, and fronts that choose between them, under virtual time.

Each box has an arbiter of its own, as `dmap serve` has.  A front has views of the boxes that are up to
`view_s` old, and the requests that come are dealt to the fronts in turn.
"""

from dataclasses import dataclass
from functools import partial

from dmap.arbiter import Arbiter, View
from dmap.simulate.box import Box
from dmap.simulate.groups import Request
from dmap.simulate.placements import PLACEMENTS, Front, Placement
from dmap.simulate.result import Result
from dmap.simulate.workload import Workload
from dmap.simulate.world import World

VIEW_S = 0.25
"""A box looks at itself no more often than this, however many fronts ask."""


@dataclass(slots=True)
class Node:
    """A box that is up, and its last view."""

    box: Box
    arbiter: Arbiter
    seen: View
    seen_at: float

    def view(self, now: float) -> View:
        """Return a view that is fresh enough."""
        if now - self.seen_at >= VIEW_S:
            self.seen, self.seen_at = self.arbiter.view(now), now
        return self.seen


@dataclass(frozen=True, slots=True)
class Fleet:
    """
    So many *boxes*, and so many *fronts* that ask each for a view each *view_s*.

    The first box is dead from one time *until* another, if *dead* has them.
    """

    boxes: int
    fronts: int = 3
    view_s: float = 0.5
    dead: tuple[float, float] | None = None


class Boxes:
    """The boxes of a *fleet* in *world*, and its fronts, which choose by *placement*."""

    def __init__(self, world: World, fleet: Fleet, placement: Placement) -> None:
        self._world, self._fleet, self._placement = world, fleet, placement
        self._up: dict[str, Node] = {}
        self._fronts = [Front() for _ in range(fleet.fronts)]
        self._polling: set[int] = set()
        self._phases = world.chance("views")
        self._came = self._there = 0
        names = [f"box {number} of {world.seed}" for number in range(fleet.boxes)]  # other hashes by seed
        for name in names:
            self._start(0.0, name, Arbiter(world.workload.bounds()))
        if fleet.dead is not None:
            died_at, back_at = fleet.dead
            world.agenda.at(died_at, lambda now: self._die(now, names[0], back_at), rank=1)

    def take(self, now: float, request: Request) -> None:
        """Have the next front choose a box for *request*."""
        number = self._came % len(self._fronts)
        self._came += 1
        if self._placement.looks and number not in self._polling:
            self._polling.add(number)
            self._poll(now, number, self._phases.random())
        front = self._fronts[number]
        name = self._placement.pick(front, request, list(self._up))
        front.sent[name, request.model] += 1
        front.in_flight[name] += 1
        self._there += 1
        self._up[name].box.submit(now, request, partial(self._over, front, name))

    def _over(self, front: Front, name: str) -> None:
        front.in_flight[name] -= 1
        self._there -= 1

    def _poll(self, now: float, number: int, share: float = 1.0) -> None:
        """Have a front look at all boxes, now and again; but not while nobody asks for anything."""
        front = self._fronts[number]
        front.sent.clear()
        front.views = {name: node.view(now) for name, node in self._up.items()}
        if share == 1 and not self._there:
            self._polling.discard(number)
            return
        self._world.agenda.at(now + share * self._fleet.view_s, lambda now: self._poll(now, number), rank=1)

    def _start(self, now: float, name: str, arbiter: Arbiter) -> None:
        node = self._up[name] = Node(self._world.box(arbiter, name), arbiter, arbiter.view(now), now)
        for front in self._fronts:
            front.views[name], front.loads_s[name] = node.seen, arbiter.load_s

    def _die(self, now: float, name: str, back_at: float) -> None:
        """Have a box die: who waited there is sent elsewhere; later it starts with what it had learnt."""
        node, anew = self._up.pop(name), Arbiter(self._world.workload.bounds())
        anew.lengths.recall(node.arbiter.lengths.learnt())
        self._world.agenda.at(back_at, lambda now: self._start(now, name, anew), rank=1)
        for request in node.box.die(now):
            self.take(now, request)


def run_fleet(workload: Workload, fleet: Fleet, placement: str = "dmap", seed: int = 1) -> Result:
    """Play *workload* on *fleet*, under a placement of `PLACEMENTS`."""
    world = World(workload, seed)
    return world.play(Boxes(world, fleet, PLACEMENTS[placement]).take)
