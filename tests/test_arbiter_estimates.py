"""What the arbiter learns: averages, and who is to be held back."""

from dmap.arbiter.estimates import CLIENTS as STRUCK
from dmap.arbiter.estimates import Averages, BackOff, Strikes
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


def test_what_was_learnt_since_a_restart_holds() -> None:
    """What was known before it fills the rest."""
    averages = Averages(10)
    averages.learn("a", 1)

    averages.recall({"a": 7, "b": 3, "c": 100})

    assert [averages.of(model) for model in "abcx"] == [1, 3, 100, 3]


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

    for number in range(STRUCK - 1):
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
