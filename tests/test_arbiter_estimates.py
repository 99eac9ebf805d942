"""What the arbiter learns: averages and the habits of clients."""

import math

import pytest

from dmap.arbiter.estimates import HABITS, Averages, BackOff, Habits, Strikes
from dmap.arbiter.fairness import CLIENTS, Ledger
from dmap.arbiter.state import Ticket


def test_what_was_never_measured_is_like_the_one_in_the_middle() -> None:
    """Without a sample a model counts as the median of the others, so that one slow model misleads nobody."""
    averages = Averages(10)

    assert averages.of("x") == 10
    averages.learn("a", 1)
    averages.learn("b", 3)
    averages.learn("c", 100)
    assert averages.of("x") == 3


def test_a_long_pause_counts_as_the_longest_that_matters() -> None:
    """A client that went home for the night is not taken for one that thinks for hours."""
    habits = Habits()
    habits.asked(0, "ann", "a", 8)
    habits.ended("ann", "a")
    habits.answered(1, "ann", "a")

    habits.asked(50_000, "ann", "a", 8)

    assert habits.linger_s("ann", "a", 100) == 12


def habit(*gaps_s: float) -> Habits:
    """Return the habit of a client, answered at 0, that asked again so long after each answer before."""
    habits, now = Habits(), -sum(gaps_s)
    for gap_s in gaps_s:
        habits.asked(now, "ann", "a", 100)
        habits.ended("ann", "a")
        habits.answered(now, "ann", "a")
        now += gap_s
    habits.asked(0, "ann", "a", 100)
    habits.ended("ann", "a")
    habits.answered(0, "ann", "a")
    return habits


@pytest.mark.parametrize(
    ("gaps_s", "longest_s", "until"),
    [((), 10, 0), ((2,), 10, 3), ((10,), 10, 15), ((10.1,), 10, 0), ((0.01,), 10, 0.2), ((10, 20), 20, 19.5)],
)
def test_a_client_is_due_for_one_and_a_half_of_its_gaps(gaps_s, longest_s, until) -> None:
    """Not if its gap is unknown or too long; and for a moment also if it asks without a pause."""
    assert habit(*gaps_s).due_until("ann", "a", longest_s) == pytest.approx(until)


def test_a_client_that_asks_is_not_due() -> None:
    """Who has asked again is waited for no more."""
    habits = habit(2)
    habits.asked(2, "ann", "a", 100)

    assert habits.due_until("ann", "a", 10) == -math.inf
    assert habits.due_until("bob", "a", 10) == -math.inf


def test_the_habits_are_bounded() -> None:
    """Of too many habits the longest silent is forgotten, but none of a client that asks just now."""
    habits = habit(2)
    habits.asked(1, "open", "a", 100)
    habits.asked(1, "ann", "a", 100)
    habits.ended("ann", "a")
    for number in range(HABITS - 2):
        habits.asked(2, number, "a", 100)
    before = habits.linger_s("ann", "a", 10)

    habits.asked(3, "new", "a", 100)

    assert (before > 0, habits.linger_s("ann", "a", 10)) == (True, 0)
    assert habits.ended("open", "a")


def test_each_switch_that_was_left_holds_for_twice_as_long() -> None:
    """The first costs nothing, the second one switch, then two, four, up to a minute; an answer clears it."""
    strikes = Strikes()
    held = []
    for now in (100, 200, 300, 400, 500, 600):
        strikes.add(now, "ann", 10)
        held.append(strikes.held_until("ann") - now)

    assert held == [0, 10, 20, 40, 60, 60]
    assert strikes.held_until("bob") == 0
    strikes.clear("ann")
    assert strikes.held_until("ann") == 0


def test_the_strikes_are_bounded() -> None:
    """Of too many clients that left their switches, the one whose last was longest ago is forgotten."""
    strikes = Strikes()
    strikes.add(1, "first", 10)
    strikes.add(1, "second", 10)
    strikes.add(2, "first", 10)

    for number in range(HABITS - 1):
        strikes.add(3, number, 10)

    assert (strikes.held_until("first"), strikes.held_until("second")) == (12, 0)


def test_a_model_that_failed_backs_off_until_it_may_be_tried() -> None:
    """The reason and the time left are told until then; what was resident begins anew."""
    back_off = BackOff()

    assert [back_off.add(10, "a", "no such file") for _ in range(6)] == [2, 4, 8, 16, 32, 60]
    assert back_off.refusal(69, "a") == (1, "no such file")
    assert back_off.refusal(70, "a") is None
    assert back_off.refusal(10, "b") is None
    back_off.clear("a")
    assert back_off.add(80, "a", "no such file") == 2


def test_an_account_in_use_is_not_forgotten() -> None:
    """Of too many accounts those go that have no running lease, whoever is the longest gone."""
    ledger = Ledger()
    served = Ticket(0, "a", "served", 0)
    ledger.joins(0, "served")
    ledger.granted(0, served)
    ledger.joins(0, "idle")
    for number in range(CLIENTS - 1):
        ledger.joins(0, number)

    ledger.forget(range(CLIENTS))

    assert len(ledger) == CLIENTS
    assert ledger.level_s(7, "served", 0) == 7
