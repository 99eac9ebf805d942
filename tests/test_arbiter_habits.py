"""How soon clients ask again, and which are due: seconds for time, one client per case."""

import pytest

from dmap.arbiter.estimates import CLIENTS
from dmap.arbiter.habits import Habits


def habit(*pauses_s: float) -> Habits:
    """Return the habit of ann, answered at 0, who asked again so long after each answer before."""
    habits, now = Habits(), -sum(pauses_s)
    habits.asked(now, "ann", "a", 100)
    for pause_s in pauses_s:
        habits.answered(now, "ann", "a", 100)
        now += pause_s
        habits.ended("ann")
        habits.asked(now, "ann", "a", 100)
    habits.answered(0, "ann", "a", 100)
    habits.ended("ann")
    return habits


@pytest.mark.parametrize(
    ("pauses_s", "longest_s", "until"),
    [((2,), 100, [10]), ((2,), 8, [8]), ((1, 3), 100, [10]), ((0.01,), 10, [0.5]), ((8,), 8, [8])],
)
def test_a_client_is_due_for_a_few_of_its_pauses(pauses_s, longest_s, until) -> None:
    """Not for longer than a switch takes; and for a moment also if it asks without a pause."""
    assert list(habit(*pauses_s).due(0, "ann", "a", longest_s)) == pytest.approx(until)


@pytest.mark.parametrize("pauses_s", [(), (9,), (1, 9, 9)])
def test_a_client_that_seldom_comes_in_time_is_not_due(pauses_s) -> None:
    """Nor one that is not known yet."""
    assert list(habit(*pauses_s).due(0, "ann", "a", 8)) == []


@pytest.mark.parametrize("pauses_s", [(1000, 1), (1, 1000), (1, 1, 1000)])
def test_one_long_pause_changes_nothing(pauses_s) -> None:
    """A client that went home for the night is as soon due in the morning as it was before."""
    assert list(habit(*pauses_s).due(0, "ann", "a", 8)) == [5]


def test_a_client_that_asks_is_not_due() -> None:
    """Who has asked again is waited for no more, and nobody waits for who never asked."""
    habits = habit(2)
    habits.asked(2, "ann", "a", 100)

    assert list(habits.due(2, "ann", "a", 10)) == []
    assert list(habits.due(2, "bob", "a", 10)) == []


def test_each_user_of_a_name_is_due() -> None:
    """Three answers make three users; the next request is of the one that has been thinking for longest."""
    habits = habit(2)
    habits.answered(1, "ann", "a", 100)
    habits.answered(2, "ann", "a", 100)

    habits.asked(3, "ann", "a", 100)

    assert list(habits.due(3, "ann", "a", 100)) == [1 + 12.5, 2 + 12.5]


def test_who_had_two_requests_open_is_shared() -> None:
    """From then on the name has several users; one that asks for one thing after the other has one."""
    habits = habit(2)
    assert not habits.is_shared("ann")

    habits.asked(3, "ann", "a", 100)
    habits.asked(3, "ann", "b", 100)
    habits.ended("ann")
    habits.ended("ann")

    assert habits.is_shared("ann")


def test_the_habits_are_bounded() -> None:
    """Of too many habits the one that was silent for longest is forgotten."""
    habits = habit(2)
    for number in range(CLIENTS - 1):
        habits.asked(1, number, "a", 100)
    known = habits.linger_s("ann", "a", 10)

    habits.asked(2, "new", "a", 100)

    assert (known, habits.linger_s("ann", "a", 10)) == (10, 0)
    assert habits.answered(3, "ann", "a", 10) is False
