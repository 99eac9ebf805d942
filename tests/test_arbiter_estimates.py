"""What the arbiter learns: averages and the habits of clients."""

from dmap.arbiter.estimates import Averages, Habits
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


def test_an_account_in_use_is_not_forgotten() -> None:
    """Of too many accounts those go that have no running lease, whoever is the longest gone."""
    ledger = Ledger()
    served = Ticket(0, "a", "served", 0)
    ledger.joins(0, "served", ())
    ledger.granted(0, served)
    ledger.joins(0, "idle", ())
    for number in range(CLIENTS - 1):
        ledger.joins(0, number, ())

    ledger.forget(range(CLIENTS))

    assert len(ledger) == CLIENTS
    assert ledger.level_s(7, "served", 0) == 7
