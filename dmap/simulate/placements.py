"""
Where a front sends a request: dmap's rule, and plain ones to compare with.

They go by what a real front can know: the requests that it has sent itself, and views of the boxes, which are
as old as they are.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dmap.arbiter import View
from dmap.placement import Place, first
from dmap.simulate.groups import Request


@dataclass(slots=True)
class Front:
    """
    What one front knows.

    *views* are of the boxes that it can reach, by name, and *loads_s* tells what a load of a model takes in
    one.  It has *sent* so many requests for a model to a box since that view, and so many are *in_flight*.
    """

    views: dict[str, View] = field(default_factory=dict)
    loads_s: dict[str, Callable[[str], float]] = field(default_factory=dict)
    sent: "Counter[tuple[str, str]]" = field(default_factory=Counter)
    in_flight: "Counter[str]" = field(default_factory=Counter)
    turns: int = 0

    def place(self, name: str, model: str) -> Place:
        """Return what is known of *model* in the box *name*."""
        view = self.views[name]
        known = view.models.get(model)
        return Place(
            name,
            view.wait_s(model, self.loads_s[name](model)),
            resident=known is not None and known.resident,
            sent=self.sent[name, model],
            answer_s=(known or view).answer_s,
            parallel=(known or view).parallel,
            in_flight=self.in_flight[name],
        )


def _in_turn(front: Front, request: Request, boxes: Sequence[str]) -> str:
    front.turns += 1
    return boxes[front.turns % len(boxes)]


def _fewest(front: Front, request: Request, boxes: Sequence[str]) -> str:
    front.turns += 1
    from_here = front.turns % len(boxes)
    return min([*boxes[from_here:], *boxes[:from_here]], key=front.in_flight.__getitem__)


def _hashed(front: Front, request: Request, boxes: Sequence[str]) -> str:
    return first(request.model, "", [Place(name, 0.0) for name in boxes]).name


def _bounded(front: Front, request: Request, boxes: Sequence[str]) -> str:
    places = [Place(name, None, in_flight=front.in_flight[name]) for name in boxes]
    return first(request.model, "", places).name


def _resident(front: Front, request: Request, boxes: Sequence[str]) -> str:
    there = [name for name in boxes if front.place(name, request.model).resident]
    return _fewest(front, request, there or boxes)


def _soonest(front: Front, request: Request, boxes: Sequence[str]) -> str:
    places = [front.place(name, request.model) for name in boxes]
    return first(request.model, request.key or request.client, places).name


@dataclass(frozen=True, slots=True)
class Placement:
    """A rule: how it picks one of the boxes that are up, in words too, and whether it *looks* at views."""

    pick: Callable[[Front, Request, Sequence[str]], str]
    meaning: str
    looks: bool = False


PLACEMENTS: Mapping[str, Placement] = {
    "round-robin": Placement(_in_turn, "to each box in turn"),
    "least": Placement(_fewest, "to the box with the fewest requests"),
    "hash": Placement(_hashed, "to one box per model, by rendezvous hashing"),
    "bounded": Placement(_bounded, "the same, but past a box with 1.25 times its share of requests"),
    "resident": Placement(
        _resident, "to a box that has the model, else any; that with fewest requests", True
    ),
    "dmap": Placement(_soonest, "to the box that will answer first, as the boxes say themselves", True),
}
