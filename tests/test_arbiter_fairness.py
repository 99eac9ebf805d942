"""Whose turn it is within one model: round by client, by priority, by age."""

import pytest

from dmap.arbiter import Arbiter, Grant, Limits, Needs, Outcome, Switch
from dmap.arbiter.fairness import CLIENTS, Ledger
from dmap.arbiter.state import Ticket
from dmap.arbiter.waiters import Line

GB = 1_000_000_000  # a switch to a model of 10 GB is guessed to take 10 s
SINGLE = Needs(size_bytes=10 * GB, parallel=1)
DOUBLE = Needs(size_bytes=10 * GB, parallel=2)


def serving(needs: Needs = SINGLE, **limits: float) -> Arbiter:
    """Return an arbiter with A resident, answering the leases `x0`, `x1`, ... up to its parallel."""
    arbiter = Arbiter(Limits(**limits))
    arbiter.observed(0, 0, {"A": needs})
    for place in range(needs.parallel or 0):
        arbiter.submit(0, f"x{place}", "A", "xen", needs)
    return arbiter


def queue(arbiter: Arbiter, now: float, client: str, *tickets: str, priority: int = 0) -> None:
    """Let *tickets* of one client wait for A."""
    for ticket in tickets:
        arbiter.submit(now, ticket, "A", client, SINGLE, priority)


def serve(arbiter: Arbiter, now: float, first: str, count: int, answer_s: float = 1) -> list[str]:
    """Answer one after the other from the lease *first* on; return who got the next *count* grants."""
    granted = [first]
    for turn in range(count):
        ((ticket,),) = [
            [effect.ticket for effect in arbiter.withdraw(now + (turn + 1) * answer_s, granted[-1])]
        ]
        granted.append(ticket)
    return granted[1:]


class TestRounds:
    def test_clients_take_turns(self) -> None:
        """A client with many tickets and one with a few are served in turn, each in its own order."""
        arbiter = serving()
        queue(arbiter, 0, "ann", "a1", "a2", "a3", "a4")
        queue(arbiter, 0, "bob", "b1", "b2")

        assert serve(arbiter, 0, "x0", 6) == ["a1", "b1", "a2", "b2", "a3", "a4"]

    def test_a_name_has_one_turn_for_all_its_users(self) -> None:
        """To be several users, by its own word, brings a client nothing."""
        arbiter = serving()
        for user in range(4):
            arbiter.submit(0, f"a{user}", "A", "app", SINGLE, user=user)
        queue(arbiter, 0, "bob", "b1", "b2")

        assert serve(arbiter, 0, "x0", 6) == ["a0", "b1", "a1", "b2", "a2", "a3"]

    def test_a_newcomer_waits_for_one_grant_at_the_most(self) -> None:
        """However many tickets wait before it, a new client is next, or the next but one."""
        arbiter = serving()
        queue(arbiter, 0, "ann", "a1", "a2", "a3", "a4", "a5")
        last = serve(arbiter, 0, "x0", 3)[-1]
        queue(arbiter, 3, "bob", "b1")

        assert serve(arbiter, 3, last, 2)[0] == "b1"

    def test_nobody_saves_up_turns(self) -> None:
        """Who comes late is lifted to the least that another has received, and takes turns from there."""
        arbiter = serving()
        queue(arbiter, 0, "ann", *(f"a{number}" for number in range(9)))
        last = serve(arbiter, 0, "x0", 4)[-1]
        queue(arbiter, 4, "bob", "b1", "b2", "b3")

        assert serve(arbiter, 4, last, 4) == ["b1", "a4", "b2", "a5"]

    def test_long_answers_count_for_what_they_took(self) -> None:
        """A client whose answers take thrice as long gets a third of the turns."""
        arbiter = serving()
        queue(arbiter, 0, "ann", "a1", "a2")
        queue(arbiter, 0, "bob", "b1", "b2", "b3", "b4")

        arbiter.withdraw(1, "x0")
        assert arbiter.withdraw(4, "a1") == [Grant("b1")]
        assert serve(arbiter, 4, "b1", 3) == ["b2", "b3", "a2"]

    def test_a_running_answer_is_charged_before_it_ends(self) -> None:
        """With two slots a client that holds one comes after one that holds none."""
        arbiter = serving(DOUBLE)
        queue(arbiter, 0, "ann", "a1", "a2")
        queue(arbiter, 0, "bob", "b1")
        arbiter.withdraw(1, "x0")

        assert arbiter.withdraw(1, "x1") == [Grant("b1")]

    def test_answers_in_no_time_take_turns_too(self) -> None:
        """A grant counts for something, however short it was."""
        arbiter = serving()
        queue(arbiter, 0, "ann", "a1", "a2", "a3")
        queue(arbiter, 0, "bob", "b1", "b2")

        assert serve(arbiter, 0, "x0", 4, answer_s=0) == ["a1", "b1", "a2", "b2"]

    def test_what_nobody_waited_for_counts_for_nothing(self) -> None:
        """Service while nobody waits takes nothing from anybody: the counters start anew with a line."""
        arbiter = serving()
        arbiter.withdraw(100, "x0")
        arbiter.submit(100, "x1", "A", "xen", SINGLE)
        queue(arbiter, 101, "xen", "x2", "x3")
        queue(arbiter, 102, "bob", "b1", "b2")

        assert serve(arbiter, 102, "x1", 3) == ["x2", "b1", "x3"]

    def test_turns_outlast_a_switch(self) -> None:
        """Who was served before a model went waits for its turn when the model is back."""
        arbiter = serving(patience_s=2)
        queue(arbiter, 0, "ann", "a1", "a2")
        queue(arbiter, 0, "bob", "b1")
        arbiter.withdraw(1, "x0")
        arbiter.observed(1, arbiter.epoch, {})
        arbiter.withdraw(1, "a1")
        arbiter.cleared(2)

        assert arbiter.switched(9, Outcome()) == [Grant("b1")]


class TestLongWaits:
    def test_who_had_nothing_for_a_patience_comes_first(self) -> None:
        """After a long answer a client waits for its patience, not until each other has had as much."""
        arbiter = serving(patience_s=10)
        queue(arbiter, 0, "ann", *(f"a{number}" for number in range(30)))
        queue(arbiter, 0, "bob", "b1", "b2")
        arbiter.withdraw(1, "x0")
        assert arbiter.withdraw(2, "a0") == [Grant("b1")]

        last = [effect.ticket for effect in arbiter.withdraw(102, "b1")]

        assert serve(arbiter, 102, last[0], 10) == [*(f"a{number}" for number in range(2, 11)), "b2"]

    def test_newcomers_do_not_pass_for_ever(self) -> None:
        """Nor does it help them that each of them is new, and has received nothing."""
        arbiter = serving(patience_s=10)
        queue(arbiter, 0, "ann", "a1", "a2")
        queue(arbiter, 0, "new0", "n0")
        arbiter.withdraw(1, "x0")
        arbiter.withdraw(51, "a1")
        granted = newcomers(arbiter, 51, "n0", 11)

        assert granted[-3:] == ["n9", "a2", "n10"]

    def test_many_tickets_do_not_make_a_long_wait(self) -> None:
        """What counts is when the client was answered last, not how old its other tickets are."""
        arbiter = serving(patience_s=10)
        queue(arbiter, 0, "ann", *(f"a{number}" for number in range(30)))
        last = serve(arbiter, 0, "x0", 20)[-1]
        queue(arbiter, 20, "bob", "b1")

        assert arbiter.withdraw(21, last) == [Grant("b1")]


def newcomers(arbiter: Arbiter, now: float, first: str, count: int) -> list[str]:
    """Answer one a second from *first* on, while a new client comes each second; return who was granted."""
    granted = [first]
    for number in range(1, count + 1):
        queue(arbiter, now + number - 0.5, f"new{number}", f"n{number}")
        granted += [effect.ticket for effect in arbiter.withdraw(now + number, granted[-1])]
    return granted


class TestPriority:
    def test_higher_goes_first(self) -> None:
        """The highest class is served first, whenever it came."""
        arbiter = serving()
        queue(arbiter, 0, "ann", "a1")
        queue(arbiter, 1, "bob", "b1", priority=-1)
        queue(arbiter, 2, "cid", "c1", priority=1)

        assert serve(arbiter, 2, "x0", 3) == ["c1", "a1", "b1"]

    def test_age_raises_a_class(self) -> None:
        """Each full patience waited raises a ticket by one class; from then on its client takes turns."""
        arbiter = serving(patience_s=10)
        queue(arbiter, 0, "low", "l1")
        queue(arbiter, 5, "high", "h1", "h2", "h3", "h4", priority=2)

        assert arbiter.withdraw(19, "x0") == [Grant("h1")]
        assert arbiter.withdraw(20, "h1") == [Grant("l1")]

    def test_age_does_not_raise_beyond_the_highest(self) -> None:
        """Among equals turns go by client, however old the tickets of one are."""
        arbiter = serving(patience_s=10)
        queue(arbiter, 0, "ann", "a1", "a2", "a3")
        queue(arbiter, 95, "bob", "b1")
        last = serve(arbiter, 95, "x0", 1)[-1]

        assert arbiter.withdraw(97, last) == [Grant("b1")]

    def test_who_was_raised_takes_turns(self) -> None:
        """A class that has waited long enough shares with the highest, and does not come before it."""
        arbiter = serving(patience_s=10)
        queue(arbiter, 0, "low", "l1", "l2")
        queue(arbiter, 40, "high", "h1", "h2", priority=1)

        assert serve(arbiter, 50, "x0", 4) == ["l1", "h1", "l2", "h2"]

    def test_without_patience_there_are_no_classes(self) -> None:
        """Where patience is nothing all have waited long enough for any class."""
        arbiter = serving(patience_s=0)
        queue(arbiter, 0, "low", "l1")
        queue(arbiter, 1, "high", "h1", priority=5)

        assert arbiter.withdraw(2, "x0") == [Grant("l1")]

    @pytest.mark.parametrize(("priority", "begins"), [(0, 60), (1, 30), (-1, 120), (-9, 150)])
    def test_a_switch_comes_sooner_for_who_is_above(self, priority: int, begins: float) -> None:
        """A resident serves newcomers for as long as the class of those who wait elsewhere has patience."""
        arbiter = serving(wait_s=300)
        queue(arbiter, 0, "ann", *(f"a{number}" for number in range(9)))
        arbiter.submit(0, "b", "B", "bob", SINGLE, priority)
        arbiter.tick(begins - 0.1)
        before = arbiter.plan

        arbiter.tick(begins)

        assert (before, arbiter.plan.load if arbiter.plan else None) == (None, "B")

    @pytest.mark.parametrize(("priority", "next_model"), [(0, "C"), (2, "B")])
    def test_weighs_where_the_next_model_is_chosen(self, priority: int, next_model: str) -> None:
        """One waiter of priority 2 counts for four where the next model is chosen."""
        arbiter = serving()
        arbiter.submit(1, "b1", "B", "bob", SINGLE, priority)
        arbiter.submit(1, "c1", "C", "cid", SINGLE)
        arbiter.submit(1, "c2", "C", "cat", SINGLE)

        (effect,) = arbiter.withdraw(2, "x0")

        assert isinstance(effect, Switch)
        assert effect.load == next_model

    def test_shows_in_the_places(self) -> None:
        """The places told are in the order of the turns to come."""
        arbiter = serving()
        queue(arbiter, 0, "ann", "a1", "a2")
        queue(arbiter, 0, "bob", "b1")
        queue(arbiter, 0, "cid", "c1", priority=1)

        places = arbiter.look(0).first(1000)

        assert sorted(places, key=lambda ticket: places[ticket].position) == ["c1", "a1", "b1", "a2"]


def test_the_accounts_are_bounded() -> None:
    """Of clients that ask nothing more the longest gone are forgotten; one who waits never is."""
    ledger = Ledger()
    ledger.joins(0, "first")
    for number in range(CLIENTS + 10):
        ledger.joins(0, number)

    ledger.forget(["first"])

    assert len(ledger) == CLIENTS
    assert ledger.level_s(0, "first", 5) == 0


def test_the_longest_gone_is_forgotten_first() -> None:
    """A client counts as gone since it was granted its last lease."""
    ledger = Ledger()
    ledger.joins(0, "first")
    ledger.joins(0, "second")
    lease = Ticket(1, "a", "first", 0)
    ledger.granted(1, lease)
    ledger.ended(3, lease, served=True)
    for number in range(CLIENTS - 1):
        ledger.joins(4, number)

    ledger.forget([])

    assert ledger.level_s(4, "first", 0) == 2
    with pytest.raises(KeyError):
        ledger.level_s(4, "second", 0)


def test_a_line_keeps_its_accounts_within_bounds() -> None:
    """However many clients come and go while somebody waits, no more are remembered."""
    line = Line()
    line.add(0, Ticket("stays", "a", "first", 0))

    for number in range(CLIENTS + 10):
        ticket = Ticket(number, "a", number, 0)
        line.add(0, ticket)
        line.take(ticket)

    assert CLIENTS <= len(line.ledger) <= 9 * CLIENTS // 8
    assert line.ledger.level_s(0, "first", 5) == 0
