"""What a switch to a model costs: as lately, else by its size."""

import pytest

from dmap.arbiter import Needs
from dmap.arbiter.costs import BYTES_PER_S, LEAST_GUESS_S, UNKNOWN_GUESS_S, Costs, Loads

GB = 1_000_000_000
SIZED = {name: Needs(size_bytes=size * GB) for name, size in (("small", 1), ("middle", 8), ("large", 40))}
UNKNOWN = {"this": Needs(), "that": Needs(), "other": Needs()}


def test_at_first_the_size_tells() -> None:
    """Before any load a model takes what a usual disk gives, and never less than its server's start."""
    costs = Costs({**SIZED, "tiny": Needs(size_bytes=1)})

    assert costs.of("large") == 40 * GB / BYTES_PER_S
    assert costs.of("tiny") == LEAST_GUESS_S


def test_loads_tell_how_fast_the_device_is() -> None:
    """A model that was never loaded takes what its size takes on this device."""
    costs = Costs(SIZED)

    costs.learn("middle", 4)

    assert costs.of("middle") == 4
    assert costs.of("large") == 20
    assert costs.bytes_per_s == 2 * GB


def test_a_small_model_says_little_of_a_large_one() -> None:
    """Its load is mostly the start of its server."""
    costs = Costs(SIZED)
    costs.learn("middle", 4)

    costs.learn("small", 2)

    assert costs.of("large") == pytest.approx(40 / ((0.7 * 8 + 1) / (0.7 * 4 + 2)))


def test_an_average_follows() -> None:
    """A new sample counts for three tenths."""
    costs = Costs(SIZED)
    costs.learn("middle", 10)

    costs.learn("middle", 20)

    assert costs.of("middle") == 13


def test_without_a_size_it_is_like_the_one_in_the_middle() -> None:
    """And as long as nothing was loaded it is the same for all."""
    costs = Costs({**UNKNOWN, **SIZED, "new": Needs()})
    assert costs.of("new") == costs.of("who") == UNKNOWN_GUESS_S

    costs.learn("this", 1)
    costs.learn("that", 3)
    costs.learn("other", 100)

    assert costs.of("new") == 3
    assert costs.bytes_per_s is None


def test_a_load_in_no_time_says_nothing_of_the_device() -> None:
    """It was resident, perhaps."""
    costs = Costs(SIZED)

    costs.learn("middle", 0)

    assert costs.of("middle") == 0
    assert costs.bytes_per_s is None


def test_what_was_learnt_before_a_restart_holds_until_better_is_known() -> None:
    """It does not replace what was learnt since then."""
    costs = Costs(SIZED)
    costs.learn("middle", 4)

    costs.recall({"middle": 30, "small": 2}, 7 * GB)

    assert (costs.of("middle"), costs.of("small")) == (4, 2)
    assert costs.bytes_per_s == 2 * GB


def test_what_was_learnt_before_a_restart_is_where_it_begins() -> None:
    """Costs by model, and the rest by the rate."""
    costs = Costs(SIZED)

    costs.recall({"small": 2}, 5 * GB)

    assert (costs.of("small"), costs.of("large")) == (2, 8)


def loaded(cached: dict[str, float], out: dict[str, float]) -> Loads:
    """Return what was learnt of loads from the system's memory, and of others."""
    loads = Loads(SIZED)
    for in_cache, costs in ((cached, cached), ((), out)):
        loads.in_cache = in_cache
        for model, cost_s in costs.items():
            loads.learn(model, cost_s)
    return loads


def test_a_cost_depends_on_where_the_load_begins() -> None:
    """What is in the system's memory by now takes what it took from there."""
    loads = loaded(cached={"middle": 2}, out={"middle": 16})

    assert loads.of("middle") == 16
    loads.in_cache = {"middle"}
    assert loads.of("middle") == 2


def test_each_state_has_a_rate_of_its_own() -> None:
    """A model that was never loaded takes what its size takes from where it is."""
    loads = loaded(cached={"middle": 2}, out={"middle": 16})

    assert loads.of("large") == 80
    loads.in_cache = {"large"}
    assert loads.of("large") == 10


def test_nothing_known_of_a_state_is_no_guess() -> None:
    """Where no load was seen from the system's memory, it takes what it takes from out."""
    loads = loaded(cached={}, out={"middle": 16})

    loads.in_cache = {"middle"}

    assert loads.of("middle") == 16
