"""Several boxes under virtual time: what the places of requests are worth, and what a death costs."""

from functools import cache
from statistics import fmean

import pytest

from dmap.simulate import (
    Arrivals,
    Bursts,
    Figures,
    Loops,
    Request,
    Result,
    Workload,
    every,
    figures_of,
    run,
    together,
)
from dmap.simulate.fleet import Fleet, run_fleet
from dmap.simulate.placements import PLACEMENTS

SMALL = {"parallel": 4, "answer": "exponential 2", "duration_s": 240}
COMMON = Workload(groups=[Arrivals(rate=2, shares="zipf 1.0 10")], **SMALL)
FOUR = Fleet(4)


def asked(result: Result) -> list[Request]:
    """Return all requests of a run, in the order in which they came."""
    found = [*result.answers, *result.refused, *result.left, *result.waiting, *result.cut]
    return sorted(found, key=lambda request: (request.since, request.client))


# The table


@cache
def table(name: str, placement: str, view_s: float = 0.5) -> Figures:
    """Play a workload of the files on eight boxes for five minutes; some leave more to chance."""
    (workload,) = (each for each in every([f"fleet {name}"]) if each.name == f"fleet {name}")
    workload, fleet = workload.model_copy(update={"duration_s": 300}), Fleet(8, view_s=view_s)
    seeds = range(1, 5 if name == "zipf 0.6" else 3)
    return together([figures_of(run_fleet(workload, fleet, placement, seed)) for seed in seeds])


@pytest.mark.parametrize("name", ["zipf 1.0", "zipf 1.4", "zipf 0.6", "rotating"])
def test_the_boxes_own_estimates_place_better_than_hashes(name: str) -> None:
    """A hash sends a hot model to one box only, and a bounded one loads models that nobody needs there."""
    ours = table(name, "dmap")

    assert ours.mean_s <= 0.65 * table(name, "hash").mean_s
    assert ours.mean_s <= 0.5 * table(name, "bounded").mean_s
    assert ours.p95_s <= table(name, "hash").p95_s
    assert ours.served >= table(name, "hash").served


def test_views_may_be_two_seconds_old() -> None:
    """What a front has sent itself since a view makes up for most of its age."""
    assert table("zipf 1.0", "dmap", 2.0).mean_s <= 1.4 * table("zipf 1.0", "dmap", 0.25).mean_s


@cache
def full(name: str, placement: str, view_s: float = 0.5) -> Figures:
    """Play a workload of the files on eight boxes, with three seeds."""
    (workload,) = (each for each in every([f"fleet {name}"]) if each.name == f"fleet {name}")
    fleet = Fleet(8, view_s=view_s)
    return together([figures_of(run_fleet(workload, fleet, placement, seed)) for seed in (1, 2, 3)])


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "of_hash"), [("zipf 1.0", 0.65), ("zipf 1.4", 0.65), ("zipf 0.6", 0.7), ("rotating", 0.65)]
)
def test_the_whole_table(name: str, of_hash: float) -> None:
    """Eight boxes, twenty models, three fronts: short waits, and far shorter ones than by hashes."""
    ours = full(name, "dmap")

    assert ours.mean_s <= 13
    assert ours.p95_s <= 42
    assert ours.mean_s <= of_hash * full(name, "hash").mean_s
    assert ours.mean_s <= 0.5 * full(name, "bounded").mean_s


@pytest.mark.soak
@pytest.mark.parametrize("name", ["unlike loads", "chats", "batch"])
def test_other_loads_and_other_clients(name: str) -> None:
    """Loads of 2 to 30 s, people who wait for answers, a batch beside others: no rule does better."""
    ours = full(name, "dmap")

    assert ours.mean_s <= min(full(name, placement).mean_s for placement in PLACEMENTS)


@pytest.mark.soak
def test_old_views_in_the_whole_table() -> None:
    """Views of two seconds cost no more than two fifths more wait than those of a quarter."""
    assert full("zipf 1.0", "dmap", 2.0).mean_s <= 1.4 * full("zipf 1.0", "dmap", 0.25).mean_s


# What holds of any run


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_one_box_is_one_device(placement: str) -> None:
    """Whatever chooses between boxes, with one there is nothing to choose."""
    workload = COMMON.model_copy(update={"duration_s": 120})

    assert figures_of(run_fleet(workload, Fleet(1, fronts=2), placement)) == figures_of(run(workload))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_rule_meets_the_same_clients(placement: str) -> None:
    """Chance belongs to those who ask: the same requests come at the same times, and none is lost."""
    workload = COMMON.model_copy(update={"duration_s": 120})

    came = [(request.since, request.model) for request in asked(run_fleet(workload, FOUR, placement))]

    assert came == [(request.since, request.model) for request in asked(run(workload))]


def test_a_hash_has_each_model_in_one_place() -> None:
    """With more boxes than models, hardly a model is loaded twice."""
    workload = Workload(groups=[Arrivals(rate=2, shares="zipf 1.0 3")], **SMALL)

    assert run_fleet(workload, Fleet(60), "hash").switches == 3
    assert run_fleet(workload, Fleet(60), "round-robin").switches > 60


def test_a_hot_model_gets_a_second_copy_and_a_cold_one_does_not() -> None:
    """Nobody decides about copies: where the queue is longer than a load, the next box loads the model."""
    crowds = [
        Workload(groups=[Loops(model="A", loops=loops)], parallel=2, duration_s=120) for loops in (4, 24, 80)
    ]

    assert [run_fleet(crowd, FOUR).switches for crowd in crowds] == [1, 3, 4]


def test_a_burst_for_a_model_that_is_nowhere_spreads() -> None:
    """A hundred requests at one time do not all go to the box that would have loaded the first."""
    burst = Bursts(bursts=100, models=["A"], every_s=100, key="batch")
    workload = Workload(groups=[burst], parallel=4, answer=2, duration_s=100)

    waits = [request.wait_s for request in run_fleet(workload, FOUR).answers]

    assert len(waits) == 100
    assert max(waits) < 8 + 2 * 100 / 4 / 4 + 8


def test_a_run_ends_when_nobody_asks_any_more() -> None:
    """Fronts look at the boxes while somebody waits or is served, and not for the rest of the day."""
    workload = Workload(groups=[Loops(model="A", loops=1, pause_s=100_000)], duration_s=90_000)

    result = run_fleet(workload, FOUR)

    assert len(result.answers) == 1
    assert result.ended_s == 90_000


# A box that dies


def dying(placement: str = "dmap") -> tuple[Result, Result]:
    """Play the same with a box that is dead for a third of the time, and without."""
    return run_fleet(COMMON, Fleet(4, dead=(80, 160)), placement, 2), run_fleet(COMMON, FOUR, placement, 2)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_nobody_who_waits_is_lost_in_a_death(placement: str) -> None:
    """Who waited there waits elsewhere, and since it came; each came once and ends once."""
    died, lived = dying(placement)

    assert [each.since for each in asked(died)] == [each.since for each in asked(lived)]
    assert len({id(request) for request in asked(died)}) == len(asked(lived))


def test_a_death_cuts_the_answers_under_way_and_their_clients_ask_again() -> None:
    """A box that answers four is dead: four clients are told, and go on a second later."""
    workload = Workload(groups=[Loops(model="A", loops=8)], parallel=4, answer=10, load_s=2, duration_s=60)

    died = run_fleet(workload, Fleet(2, dead=(30, 1000)))

    assert len(died.cut) == 4
    assert all(request.since <= 30 for request in died.cut)
    assert [request.since for request in asked(died)].count(31) == 4


def test_the_rest_serves_meanwhile() -> None:
    """Three of four boxes are enough for this load: nobody who was answered waited much longer."""
    died, lived = dying()

    assert len(died.answers) >= 0.97 * len(lived.answers)
    assert fmean(each.wait_s for each in died.answers) <= 1.5 * fmean(each.wait_s for each in lived.answers)


def test_a_box_that_is_back_is_used() -> None:
    """After a third of the time it loads models again."""
    died, _ = dying()
    dead_only = run_fleet(COMMON, Fleet(4, dead=(80, 1e9)), "dmap", 2)

    assert died.switches > dead_only.switches
    assert len(died.answers) > len(dead_only.answers)
