"""The fast part of `bench/arbitration`: its workload files, and some of its adversaries."""

import pytest

from bench.arbitration.adversary import trial
from bench.arbitration.plain import Plain
from bench.arbitration.workload import every
from bench.arbitration.world import World
from dmap.arbiter import Arbiter


@pytest.mark.parametrize("seed", range(40))
def test_nobody_waits_beyond_the_bound_inside_one_model(seed: int) -> None:
    """Whatever the others ask, who waits is served after its patience and an answer of each before it."""
    assert trial(seed) <= 1


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_many_adversaries() -> None:
    """The same at length."""
    assert max(trial(seed) for seed in range(5000)) <= 1


@pytest.mark.parametrize("words", ["diurnal", "bursts", "batches", "8 agents", "lognormal 50/50"])
def test_a_workload_file_can_be_played(words: str) -> None:
    """Clients of all kinds ask and are answered."""
    workload = every([words])[0]

    result = World(workload, Arbiter(workload.bounds()), 1).run()

    assert len(result.answers) > 100


def test_policies_meet_the_same_clients() -> None:
    """With one seed the requests are the same, whatever the policy."""
    (workload,) = every(["open 50/50 at 0.3"])

    ours = World(workload, Arbiter(workload.bounds()), 3).run()
    fifo = World(workload, Plain(workload.bounds(), "fifo"), 3).run()

    assert (ours.answers[0].since, ours.answers[0].answer_s) == (
        fifo.answers[0].since,
        fifo.answers[0].answer_s,
    )
