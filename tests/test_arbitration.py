"""The fast part of `bench/arbitration`: some of its adversaries."""

import pytest

from bench.arbitration.adversary import trial


@pytest.mark.parametrize("seed", range(40))
def test_nobody_waits_beyond_the_bound_inside_one_model(seed: int) -> None:
    """Whatever the others ask, who waits is served after its patience and an answer of each before it."""
    assert trial(seed) <= 1


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_many_adversaries() -> None:
    """The same at length."""
    assert max(trial(seed) for seed in range(5000)) <= 1
