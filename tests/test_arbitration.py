"""The fast part of `bench/arbitration`: some of its adversaries."""

from fnmatch import fnmatchcase

import pytest

from bench.arbitration import bars, told
from bench.arbitration.adversary import climb, trial
from bench.arbitration.hostile import Crowd, Model, Scene, play
from dmap.arbiter import Arbiter, Limits, Needs
from dmap.simulate.workload import every
from dmap.simulate.world import play as play_under


@pytest.mark.parametrize("seed", range(60))
def test_nobody_waits_beyond_the_bound(seed: int) -> None:
    """Whatever others ask, on one model or several, who waits is served within the bound."""
    assert trial(seed) <= 1


@pytest.mark.parametrize("seed", [29, 74])
def test_an_adversary_that_learns_finds_no_wait_beyond_the_bound(seed: int) -> None:
    """Nor does it help to change what was bad already, step by step."""
    share, _ = climb(seed, 5)

    assert 0.5 < share <= 1


def test_the_bound_is_no_longer_than_it_has_to_be() -> None:
    """There are scenes in which somebody waits for almost as long."""
    crowd = Crowd((0,), (2,), clients=16, opened=8, start_s=46, every_s=100, one_key=True)

    assert 0.9 < play(Scene((Model(8, Needs(1, 1)),), (crowd,), Limits(patience_s=5, wait_s=1000))) <= 1


def test_crowds_of_two_models_do_not_starve_a_third() -> None:
    """However many wait for others since before, each model has one turn before somebody's own."""
    crowds = (Crowd((0,), (5,), 100), Crowd((1,), (5,), 100), Crowd((2,), think_s=10, start_s=1))

    assert play(Scene((Model(2),) * 3, crowds, Limits(wait_s=100_000, queue=1000))) <= 1


def test_a_load_that_fails_beside_others_is_in_the_bound() -> None:
    """It takes longer by that, but what it earns its model, and who is served meanwhile, is no more."""
    models = (Model(2, Needs(4, 1), fails=2), Model(8, Needs(4, 1)))
    crowds = (
        Crowd((1,), (120,), 50, think_s=0.1, start_s=65, priority=3, every_s=100),
        Crowd((0,), (1,), 2, think_s=3, start_s=188, priority=-10, every_s=100),
    )
    limits = Limits(max_models=3, memory_bytes=6, embeddings=0, wait_s=1000, queue=100_000)

    assert 0.8 < play(Scene(models, crowds, limits)) <= 1


@pytest.mark.parametrize("case", ["120 s beside 3", "60 s beside 16"])
def test_a_long_answer_is_not_paid_for_for_ever(case: str) -> None:
    """Who had a long answer while others waited is served after its patience, not refused after `wait_s`."""
    (workload,) = every([f"long-answers {case}"])

    found = play_under(workload, Arbiter(workload.bounds()))
    waits = [each.wait_s for each in (*found.answers, *found.refused, *found.waiting) if each.client == "0.0"]

    assert len(waits) > 10
    assert max(waits) <= 80


@pytest.mark.parametrize(
    "name",
    [
        "open zipf5 at 0.7",
        "deadline 80/15/5 at 0.95",
        "varied diurnal",
        "varied batches",
        "mixed embeddings beside chat",
        "inside greedy",
        "crowds 48x4",
        "crowds-onekey 24+24+1",
    ],
)
def test_what_is_told_comes_true(name: str) -> None:
    """Of those who wait 70 to 90 % wait no longer than their p80; half of the estimates are about right."""
    workload = next(each for each in every([name]) if each.name == name)

    row = told.play(workload.model_copy(update={"duration_s": 1200}))

    assert 0.7 <= row.covered <= 0.9
    assert abs(row.off) <= 0.3


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_adversaries() -> None:
    """The same at length."""
    assert max(trial(seed) for seed in range(5000)) <= 1


def figures(**found: float) -> dict[str, float]:
    """Return the figures of a run, some of them *found*."""
    return {"mean": 20, "p95": 50, "longest": 90, "served": 100, "refused": 0, **found}


@pytest.mark.parametrize(
    ("name", "ours", "said"),
    [
        ("open 50/50 at 0.5", [figures(mean=21), figures(mean=20)], []),
        ("open 50/50 at 0.5", [figures(mean=22), figures(mean=21)], ["mean x1.075, the bar is at most 1.05"]),
        ("open 50/50 at 0.85", [figures(mean=22, served=98)], ["served x0.98, the bar is at least 0.99"]),
        ("deadline 50/50 at 0.95", [figures(refused=1)], ["refused xinf, the bar is at most 1"]),
        (
            "closed 2A+1B",
            [figures(served=2800, longest=60), figures(served=2800, longest=71)],
            ["longest 71, the bar is at most 70"],
        ),
    ],
)
def test_a_bar_that_is_missed(name: str, ours: list[dict[str, float]], said: list[str]) -> None:
    """Means over seeds are compared, of FIFO's where the bar says so, and the longest of all."""
    rows = {name: {"fifo": [figures() for _ in ours], "dmap": ours}}

    assert list(bars.missed(rows)) == [f"{name}: {each}" for each in said]


def test_each_bar_is_of_a_workload() -> None:
    """No bar is for a name that no file has."""
    rows = {workload.name: {"fifo": [], "dmap": []} for workload in every(())}
    played = [bar for bar in bars.BARS if any(fnmatchcase(name, bar.pattern) for name in rows)]

    assert played == list(bars.BARS)
    assert bars.count(rows) > 60
