"""What is played of a scene: a row of the table each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from dmap.simulate.fleet import Fleet, run_fleet
from dmap.simulate.result import Result
from dmap.simulate.scenes import Scene
from dmap.simulate.table import boxes
from dmap.simulate.workload import Workload
from dmap.simulate.world import run

OURS = "dmap"
DEAD = 2 / 5, 3 / 5
"""The part of the time for which a box is dead, in the row that tells of it."""


@dataclass(frozen=True, slots=True)
class Job:
    """
    One row: its *label*, how it is played with a seed, and *beside* which row it is judged.

    It is played on so many *boxes*; None where that is no choice of dmap's, or there are none.
    """

    label: str
    workload: Workload
    play: Callable[[int], Result]
    beside: str | None = None
    boxes: int | None = None


def on_one_device(scene: Scene, policies: Sequence[str]) -> Iterator[Job]:
    """Yield the rows of *scene* on one device: under each of *policies*, and each change under dmap's."""
    for policy in policies:
        yield Job(policy, scene.workload, partial(run, scene.workload, policy))
    beside = OURS if OURS in policies else None
    for change, workload in scene.others.items():
        yield Job(f"{OURS} {change}", workload, partial(run, workload, OURS), beside)


def on_fleets(scene: Scene, counts: Sequence[int], placements: Sequence[str]) -> Iterator[Job]:
    """
    Yield the rows of *scene* on so many boxes each.

    They are under each of *placements*, and under dmap's with each change, and with a box that dies.
    """
    for count in counts:
        fleet = Fleet(count)
        for placement in placements:
            yield _job(f"{boxes(count)}, {placement}", scene.workload, fleet, placement)
        if OURS not in placements:
            continue
        beside = f"{boxes(count)}, {OURS}"
        for change, workload in scene.others.items():
            yield _job(f"{beside}, {change}", workload, fleet, beside=beside)
        if count > 1:
            dead = DEAD[0] * scene.spans_s, DEAD[1] * scene.spans_s
            yield _job(f"{beside}, one dies", scene.workload, Fleet(count, dead=dead), beside=beside)


def _job(
    label: str, workload: Workload, fleet: Fleet, placement: str = OURS, beside: str | None = None
) -> Job:
    def play(seed: int) -> Result:
        return run_fleet(workload, fleet, placement, seed)

    return Job(label, workload, play, beside, fleet.boxes if placement == OURS else None)
