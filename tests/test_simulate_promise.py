"""The bound that the simulator shows: what it is for known workloads, and that nobody waits longer."""

import pytest

from dmap.cli import main
from dmap.simulate import Arrivals, Loops, Workload, every, run
from dmap.simulate.promise import promised_s


def longest_s(workload: Workload, seed: int) -> dict[str, float]:
    """Return the longest wait for each model as a share of its bound."""
    result = run(workload, seed=seed)
    return {
        model: max(request.wait_s for request in result.waits() if request.model == model) / bound_s
        for model, bound_s in promised_s(workload, result).items()
    }


@pytest.mark.parametrize(
    "name",
    ["closed 24+24+1", "crowds 12 agents", "crowds-onekey 6x3", "priorities one below", "switch3 2A 1B"],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_nobody_waits_longer(name: str, seed: int) -> None:
    """The longest wait for each model is within its bound."""
    workload = every([name])[0].model_copy(update={"duration_s": 1200})

    assert max(longest_s(workload, seed).values()) <= 1


def test_one_model() -> None:
    """Who waits for the only model waits for patience, the load and an answer of each before it."""
    workload = Workload(groups=[Loops(loops=3, model="A", answer=2)], duration_s=100)

    assert promised_s(workload, run(workload)) == {"A": 60 + 8 + 4 * 2}


def test_models_that_fit_together_do_not_wait_for_each_other() -> None:
    """With room for both, each is as if it were alone."""
    loops = [Loops(loops=3, model="A", answer=2), Loops(loops=3, model="B", answer=2)]
    workload = Workload(groups=loops, duration_s=100, limits={"max_models": 2})

    assert promised_s(workload, run(workload)) == {"A": 76, "B": 76}


def test_a_deadline_ends_a_wait() -> None:
    """No bound is beyond `wait_s`."""
    asked = Arrivals(arrivals=0.9, shares={"A": 1, "B": 1}, answer=2)
    workload = Workload(groups=[asked], duration_s=600, limits={"wait_s": 120})

    assert promised_s(workload, run(workload)) == {"A": 120, "B": 120}


def test_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A line under the policies tells it by model, and the legend what it is."""
    main(["simulate", "closed 24+24+1", "--policies", "dmap"])

    told = capsys.readouterr().out
    assert "\n  bound: A, B 402 s; C 231 s\n" in told
    assert "\nbound          what no wait exceeds under dmap" in told
