"""The arithmetic of single choices, on plain records: numbers in, numbers out."""

from dataclasses import replace

import pytest

from dmap.arbiter import Limits, Needs
from dmap.arbiter.costs import UNKNOWN_GUESS_S
from dmap.arbiter.device import Device
from dmap.arbiter.estimates import ANSWER_GUESS_S
from dmap.arbiter.policy import (
    FLOOR,
    PATIENCE,
    Demand,
    Turn,
    class_patience_s,
    earned_until,
    extra_s,
    fits,
    idle_s,
    order,
    patience_ends,
    patience_s,
    proportion,
    released_at,
    standing,
    turns,
    victims,
)
from dmap.arbiter.settlement import reckon
from dmap.arbiter.state import Resident, Ticket


def demand(model: str, oldest: float, cost_s: float) -> Demand:
    """Return what one waiter makes."""
    return Demand(model, Needs(), oldest, 1, 1, oldest, cost_s, oldest + 60)


def resident(model: str = "a", size_bytes: int = 1, *, cost_s: float = 10, used_at: float = 0) -> Resident:
    """Return a resident since second 0."""
    return Resident(model, Needs(size_bytes), 0, cost_s, used_at=used_at)


CHAT, EMBEDDING, UNKNOWN = Needs(6), Needs(1, embedding=True), Needs()
ON_ONE, ON_TWO, ON_BOTH = (Needs(together=frozenset(names)) for names in ("1", "2", "12"))


@pytest.mark.parametrize(
    ("needs", "together"),
    [
        ([ON_ONE, ON_ONE, ON_ONE], True),
        ([ON_ONE, ON_BOTH], True),
        ([ON_TWO, ON_BOTH, ON_TWO], True),
        ([ON_ONE, ON_BOTH, ON_TWO], False),
        ([ON_ONE, UNKNOWN], False),
        ([UNKNOWN, ON_ONE], False),
    ],
)
def test_models_of_one_list_fit_together(needs: list[Needs], together: bool) -> None:
    """Whatever else the device allows; a model that is not on the list does not fit beside any of it."""
    assert fits(Limits(memory_bytes=1), needs) is together


@pytest.mark.parametrize(
    ("limits", "needs", "together"),
    [
        (Limits(), [CHAT], True),
        (Limits(), [CHAT, CHAT], False),
        (Limits(max_models=2), [CHAT, CHAT], True),
        (Limits(), [CHAT, EMBEDDING], True),
        (Limits(), [CHAT, EMBEDDING, EMBEDDING], False),
        (Limits(embeddings=2), [CHAT, EMBEDDING, EMBEDDING], True),
        (Limits(embeddings=0), [EMBEDDING], True),
        (Limits(embeddings=0), [CHAT, EMBEDDING], False),
        (Limits(max_models=2, embeddings=0), [CHAT, EMBEDDING], True),
        (Limits(max_models=2, memory_bytes=12), [CHAT, CHAT], True),
        (Limits(max_models=2, memory_bytes=11), [CHAT, CHAT], False),
        (Limits(memory_bytes=6), [CHAT, EMBEDDING], False),
        (Limits(memory_bytes=5), [CHAT], False),
        (Limits(memory_bytes=5), [UNKNOWN], True),
        (Limits(max_models=2), [UNKNOWN, CHAT], False),
        (Limits(), [UNKNOWN, EMBEDDING], False),
    ],
)
def test_what_fits_together(limits: Limits, needs: list[Needs], together: bool) -> None:
    """Models have places, embeddings their own where there are any; what has no size takes all."""
    assert fits(limits, needs) is together


@pytest.mark.parametrize(
    ("own", "foreign", "share"),
    [(1, 2, 0.5), (1, 100, 1 / 8), (10, 8, 5 / 4), (100, 1, 5 / 4), (1, 0, 5 / 4)],
)
def test_a_residency_is_in_proportion_within_bounds(own: int, foreign: float, share: float) -> None:
    """A crowd keeps its model for a quarter longer at the most, and one client for an eighth at the least."""
    assert proportion(own, foreign) == share


@pytest.mark.parametrize(
    ("priority", "now", "top", "found"),
    [(0, 19, 2, 0), (0, 20, 2, 1), (0, 30, 2, 2), (0, 40, 2, 2), (2, 40, 2, 2), (-1, 19, 2, -1)],
)
def test_each_patience_raises_a_ticket_by_a_class(priority: int, now: float, top: int, found: float) -> None:
    """A ticket since second 10 rises with each full patience, up to the highest class there is."""
    ticket = Ticket(1, "a", "ann", 10, priority=priority)

    assert standing(Limits(patience_s=10), now, ticket, top) == found


@pytest.mark.parametrize(
    ("priority", "patience"), [(0, 60), (1, 30), (2, 20), (-1, 120), (-2, 150), (-10, 150)]
)
def test_priority_shortens_patience(priority: int, patience: float) -> None:
    """Who is above loses it sooner, who is below later, but by half of `wait_s`."""
    assert class_patience_s(Limits(wait_s=300), 60, priority) == patience


def test_a_wait_that_is_short_leaves_patience_to_the_lowest() -> None:
    """Where half of `wait_s` is less than the patience of all, nobody has less than that."""
    assert class_patience_s(Limits(wait_s=30), 60, -1) == 60


def test_nobody_waits_twice_for_one_model() -> None:
    """Out of patience, a model that was resident meanwhile is behind the others, however old its waiters."""
    first, second, left = (demand(model, oldest, 10) for model, oldest in (("a", 5), ("b", 9), ("c", 0)))
    left.left = 70

    assert [each.model for each in order(80, [left, second, first])] == ["a", "b", "c"]


def test_whose_patience_ends_comes_before_who_asks_for_more() -> None:
    """Before that, those whose waiters count and wait for most are next."""
    few, many = demand("a", 0, 10), replace(demand("b", 5, 10), weight=9, weighted_since=9 * 50)

    assert [each.model for each in order(59, [few, many])] == ["b", "a"]
    assert [each.model for each in order(60, [few, many])] == ["a", "b"]


def ends(extra_s: float, found: list[Turn], own: int = 1, *, wanted: bool = True) -> float:
    """Tell when patience ends with a resident since second 0, `wait_s` being 300."""
    return patience_ends(Limits(wait_s=300), extra_s, resident(), own, found, wanted=wanted)


def test_patience_ends_with_the_first_that_has_to_begin() -> None:
    """A switch begins early enough for each turn; what is left is shared with those who serve before it."""
    found = turns(Limits(residency=4), [demand("a", 0, 10), demand("b", 5, 7)])

    assert ends(0, found) == (5 + 60 - 10) / 2
    assert ends(0, found, own=4) == (5 + 60 - 10) / 1.25
    assert ends(0, found[:1]) == 60
    assert ends(100, found) == (5 + 60 - 10) / 2 + 100


def test_who_lost_patience_long_ago_shares_nothing() -> None:
    """What is over is over, however many serve before."""
    found = turns(Limits(), [demand("a", -100, 10), demand("b", -100, 10)])

    assert ends(0, found) == -100 + 60 - 10


def test_the_load_keeps_no_resident_for_ever() -> None:
    """What it adds ends with the tenure of the resident; after that there is only the patience itself."""
    assert ends(240, turns(Limits(), [demand("a", 0, 10)])) == 225
    assert ends(240, turns(Limits(), [demand("a", 220, 10)])) == 280


def test_the_load_keeps_no_resident_with_slots_to_spare() -> None:
    """If nobody waits for it, it goes when the first of the others has waited for half of `wait_s`."""
    assert ends(240, turns(Limits(), [demand("a", 20, 10)]), wanted=False) == 20 + 150
    assert ends(50, turns(Limits(), [demand("a", 20, 10)]), wanted=False) == 20 + 60 + 50


def test_patience_follows_what_the_switches_cost() -> None:
    """It is a few times that, up to `patience_s`."""
    assert [patience_s(Limits(patience_s=60), costs_s) for costs_s in (2, 20)] == [2 * PATIENCE, 60]


@pytest.mark.parametrize(
    ("costs_s", "rho", "extra"),
    [(2, 0, 0), (2, 0.5, 0), (2, 0.9, 30), (2, 0.99, 240), (2, 1, 240), (2, 1.5, 240), (20, 0.5, 40)],
)
def test_the_load_adds_what_a_few_cycles_take(costs_s: float, rho: float, extra: float) -> None:
    """What is over the patience of a low load, so that both together are `wait_s` at the most."""
    assert extra_s(Limits(wait_s=300), 60, costs_s, rho) == pytest.approx(extra)


def test_a_class_below_rises_in_half_of_wait_s() -> None:
    """However far below the highest class a ticket is, it is not refused before it had its chance."""
    ticket = Ticket(1, "a", "ann", 0)

    assert standing(Limits(patience_s=60, wait_s=300), 149, ticket, 10) == 9
    assert standing(Limits(patience_s=60, wait_s=300), 150, ticket, 10) == 10


def test_a_turn_comes_after_the_switches_and_the_use_of_those_before() -> None:
    """The oldest is first; each before a turn takes its switch, and `residency` times that in use."""
    a, b, c = demand("a", 1, 10), demand("b", 2, 7), demand("c", 3, 1)

    assert turns(Limits(residency=4), [b, a, c]) == [Turn(a, 0, 0), Turn(b, 10, 40), Turn(c, 17, 68)]


@pytest.mark.parametrize(
    ("wait_s", "until"),
    [(100, 40), (52, 40), (42, 30), (22, FLOOR * 40), (21.9, 40)],
)
def test_a_residency_shrinks_for_a_deadline_but_not_below_the_floor(wait_s: float, until: float) -> None:
    """What a waiter can still be spared by is taken off, to a quarter; one beyond that changes nothing."""
    limits = Limits(residency=4, wait_s=wait_s)

    assert earned_until(limits, resident(), 1, [Turn(demand("a", 0, 10), 0, 0)], 2) == pytest.approx(until)


@pytest.mark.parametrize(
    ("due", "foreign", "used_at", "until"),
    [
        ([20, 40, 30], 2, 5, 40),
        ([20, 40, 30], 2, 15, 30),
        ([20, 40, 30], 3, 15, 20),
        ([20, 40, 30], 4, 15, 15),
        ([20, 40, 30], 2, 50, 50),
        ([], 1, 5, 5),
    ],
)
def test_an_idle_resident_waits_for_as_many_as_wait_elsewhere(due, foreign, used_at, until) -> None:
    """Within its residency it waits for all who are due, then for as many as wait for others, then not."""
    idle = resident(used_at=used_at)

    found = released_at(idle, 0, due, foreign, earned=10, patience=45)

    assert found == until


@pytest.mark.parametrize(("memory", "leaving"), [(10, ["c"]), (9, ["a", "c"]), (7, ["a", "b", "c"])])
def test_nobody_leaves_in_vain(memory: int, leaving: list[str]) -> None:
    """Of those who would go the heaviest are spared first, as far as what comes in still fits."""
    there = [resident("a", 2), resident("b", 2), resident("c", 6)]

    found = victims(Limits(9, memory), there, Needs(6), lambda one: (ord(one.model),), lambda one: False)

    assert [one.model for one in found] == leaving


@pytest.mark.parametrize(("leases", "at_once"), [(1, 1), (4, 2)], ids=str)
def test_slots_that_idle_are_part_of_a_switch(leases: int, at_once: float) -> None:
    """While several answers drain some slots idle; where there is one at a time, none does."""
    device = Device(Limits(patience_s=1000), needs={"a": Needs(parallel=4)})
    device.asked(0, "client", "a")
    device.influx.answered(0, "a", ANSWER_GUESS_S, leases)

    reckon(0, device)

    cost_s = UNKNOWN_GUESS_S + idle_s(at_once, ANSWER_GUESS_S)
    assert device.patience_s == pytest.approx(PATIENCE * cost_s)


def test_more_at_once_drain_longer() -> None:
    """The more answers there are, the later ends the last of them."""
    assert 0 == idle_s(1, 2) < idle_s(2, 2) < idle_s(4, 2) < idle_s(4, 3)
