"""The longest wait, in numbers; that nobody waits longer is up to `tests/test_arbitration.py`."""

import pytest

from dmap.arbiter import Limits
from dmap.arbiter.bound import Use, bound_s

CHAT = Use(cost_s=8, answer_s=2, clients=1)
TURN_S = 8 + 1.25 * 4 * 8 + 8 + 2


@pytest.mark.parametrize(
    ("own", "others", "cycles"),
    [
        (CHAT, [CHAT], 2),
        (CHAT, [CHAT] * 3, 4),
        (Use(8, 2, clients=2), [CHAT], 2),
        (Use(8, 2, clients=3), [CHAT], 4),
        (Use(8, 2, clients=3, parallel=2), [CHAT], 2),
        (Use(8, 2, clients=300, parallel=None), [CHAT], 2),
        (Use(8, 2, clients=1, open=3), [CHAT], 4),
    ],
)
def test_each_model_has_a_turn_for_each_visit(own: Use, others: list[Use], cycles: int) -> None:
    """A visit serves those that have slots, twice if the least residency is that long."""
    assert bound_s(Limits(), own, others) == 60 + cycles * TURN_S


def test_a_load_that_is_tried_twice_makes_a_turn_longer_and_serves_no_more() -> None:
    """What a visit serves goes by the load that worked."""
    twice = Use(8, 2, clients=3, tries=2)

    assert bound_s(Limits(), twice, [CHAT]) == 60 + 2 * (TURN_S + 8 + TURN_S)
    assert bound_s(Limits(), CHAT, [twice]) == 60 + TURN_S + 8 + TURN_S
    assert bound_s(Limits(), twice) == 60 + 2 * 8 + 4 * 2


def test_answers_of_next_to_no_time_are_all_given_in_one_visit() -> None:
    """However short they are."""
    assert bound_s(Limits(), Use(8, 5e-324, clients=9), [CHAT]) == 60 + 8 + 32 * 5 / 4 + 8 + TURN_S


def test_alone_a_model_serves_one_answer_of_each() -> None:
    """Beside no other model there is one load at the most, and the answers that are under way."""
    assert bound_s(Limits(), Use(8, 120, clients=4)) == 60 + 8 + 5 * 120
    assert bound_s(Limits(), Use(8, 120, clients=4, parallel=2)) == 60 + 8 + 3 * 120


@pytest.mark.parametrize(
    ("priority", "top", "patience"),
    [(0, 0, 60), (5, 5, 60), (0, 1, 60), (0, 2, 120), (0, 10, 150), (-1, 0, 120), (-10, 10, 150)],
)
def test_each_class_has_its_bound(priority: int, top: int, patience: float) -> None:
    """The lower the class the later, but by half of `wait_s` nobody is below others any more."""
    assert bound_s(Limits(), CHAT, [CHAT], priority, top) == patience + 2 * TURN_S


def test_what_the_load_adds_comes_on_top_of_patience() -> None:
    """Where work piles up, patience is longer; a class above has less to add it to."""
    assert bound_s(Limits(), CHAT, [CHAT], extra_s=100) == 160 + 2 * TURN_S
    assert bound_s(Limits(), CHAT, [CHAT], priority=1, top=1, extra_s=100) == 130 + 2 * TURN_S
