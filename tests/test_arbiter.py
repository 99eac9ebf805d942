"""The arbiter, one rule per test: whole seconds for time, letters for models, no clock and no loop."""

import pickle
import time

import pytest

from dmap.arbiter import (
    Arbiter,
    Cause,
    Effect,
    Grant,
    Learnt,
    Limits,
    Needs,
    Outcome,
    Reason,
    Refuse,
    Stop,
    Switch,
)
from dmap.arbiter.estimates import CLIENTS
from dmap.arbiter.habits import EXPECTED

GB = 1_000_000_000  # a switch to a model of 10 GB is guessed to take 10 s
CHAT = Needs(size_bytes=10 * GB)
SINGLE = Needs(size_bytes=10 * GB, parallel=1)
EMBEDDING = Needs(size_bytes=2 * GB, embedding=True)
SMALL = Needs(size_bytes=5 * GB)
UNKNOWN = Needs()
PINNED = Needs(size_bytes=10 * GB, pinned=True)
LIST = frozenset(["A, B"])
TOGETHER = Needs(together=LIST)
LOADED = Outcome()
STOPPED = Outcome(stopped=True)


def fresh(**limits: float) -> Arbiter:
    """Return an arbiter of a device with nothing on it."""
    return Arbiter(Limits(**limits))


def resident(**limits: float) -> Arbiter:
    """Return an arbiter whose device has A since second 8, loaded in 8 s, answering the lease `a`."""
    arbiter = fresh(**limits)
    arbiter.submit(0, "a", "A", "ann", CHAT)
    arbiter.cleared(0)
    arbiter.switched(8, LOADED)
    return arbiter


def busy(*, asked_again: float, **limits: float) -> Arbiter:
    """Return the same with A's first answer over after 2 s, and the lease `a2` since *asked_again*."""
    arbiter = resident(**limits)
    arbiter.withdraw(10, "a")
    arbiter.submit(asked_again, "a2", "A", "ann", CHAT)
    return arbiter


def found(*models: str, needs: Needs = CHAT, **limits: float) -> Arbiter:
    """Return an arbiter whose device had *models* when it was looked at, in second 0."""
    arbiter = fresh(**limits)
    arbiter.observed(0, arbiter.epoch, dict.fromkeys(models, needs))
    return arbiter


def switch(load: str, *unload: str, cause: Cause = Cause.IDLE, drain_s: float = 0) -> Switch:
    """Return the effect that a test expects."""
    return Switch(load, unload, cause, drain_s)


def pass_through(arbiter: Arbiter, now: float, load_s: float) -> list[Effect]:
    """Carry out the switch under way in *load_s* from *now*."""
    for model in arbiter.switch.unload:
        arbiter.unloaded(now, model)
    arbiter.cleared(now)
    return arbiter.switched(now + load_s, LOADED)


class TestTickets:
    def test_a_resident_model_is_granted_at_once(self) -> None:
        """A request for a free resident holds its lease in the step it came."""
        arbiter = found("A")

        assert arbiter.submit(1, "a", "A", "ann", CHAT) == [Grant("a")]

    def test_an_absent_model_is_loaded(self) -> None:
        """The first request for a model that is not resident starts its switch."""
        arbiter = fresh()

        assert arbiter.submit(1, "a", "A", "ann", CHAT) == [switch("A", cause=Cause.ROOM)]

    def test_all_waiters_join_a_load(self) -> None:
        """Whoever waits for a model when it is loaded holds a lease in the same step, oldest first."""
        arbiter = fresh()
        arbiter.submit(0, "a1", "A", "ann", CHAT)
        arbiter.submit(1, "b1", "B", "bob", CHAT)
        arbiter.submit(2, "a2", "A", "ann", CHAT)
        arbiter.cleared(2)

        assert arbiter.switched(8, LOADED) == [Grant("a1"), Grant("a2")]

    def test_parallel_bounds_leases(self) -> None:
        """A resident takes no more than its parallel; the next in line follows who leaves."""
        arbiter = found("A", needs=SINGLE)
        arbiter.submit(1, "a1", "A", "ann", SINGLE)

        assert arbiter.submit(1, "a2", "A", "ann", SINGLE) == []
        assert arbiter.withdraw(3, "a1") == [Grant("a2")]

    @pytest.mark.parametrize("report", [Outcome(parallel=1), Outcome(parallel=1, size_bytes=12 * GB)])
    def test_the_report_bounds_what_the_route_leaves_open(self, report: Outcome) -> None:
        """Where the route names no parallel, the load's own report holds."""
        arbiter = fresh()
        arbiter.submit(0, "a1", "A", "ann", CHAT)
        arbiter.submit(0, "a2", "A", "ann", CHAT)
        arbiter.cleared(0)

        assert arbiter.switched(8, report) == [Grant("a1")]

    def test_withdrawing_twice_does_nothing(self) -> None:
        """A ticket that is over stays over."""
        arbiter = resident()
        arbiter.withdraw(9, "a")

        assert arbiter.withdraw(9, "a") == []
        assert arbiter.snapshot(9).leases == 0

    def test_settling_again_changes_nothing(self) -> None:
        """A second look at the same time has no effects."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)

        assert arbiter.tick(9) == []


class TestPatience:
    def test_newcomers_pass_while_it_lasts(self) -> None:
        """A serving model takes newcomers while the oldest foreign waiter has patience."""
        arbiter = resident(patience_s=50)
        arbiter.submit(9, "b", "B", "bob", CHAT)

        assert arbiter.submit(58, "a2", "A", "ann", CHAT) == [Grant("a2")]
        assert arbiter.next_deadline() == 59

    def test_a_victim_takes_nobody_from_the_step_it_is_chosen(self) -> None:
        """When patience ends the resident drains: newcomers wait, and the switch follows the last lease."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)

        assert arbiter.tick(69) == []
        assert arbiter.submit(69, "a2", "A", "ann", CHAT) == []
        assert arbiter.withdraw(71, "a") == [switch("B", "A", cause=Cause.PATIENCE, drain_s=2)]

    def test_a_newcomer_at_the_very_end_does_not_pass(self) -> None:
        """A newcomer in the second in which patience ends waits, even before the tick."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)

        assert arbiter.submit(69, "a2", "A", "ann", CHAT) == []

    def test_a_drain_that_nobody_wants_any_more_ends(self) -> None:
        """When the last foreign waiter leaves, the victim takes newcomers again at once."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)
        arbiter.submit(69, "a2", "A", "ann", CHAT)

        assert arbiter.withdraw(70, "b") == [Grant("a2")]

    def test_counts_the_switches_ahead(self) -> None:
        """With two models waiting, the second one's patience leaves time for a switch and an equal turn."""
        arbiter = found("A")
        arbiter.submit(1, "a", "A", "ann", CHAT)
        arbiter.submit(9, "b", "B", "bob", CHAT)
        arbiter.submit(9, "c", "C", "cid", CHAT)

        assert arbiter.next_deadline() == 9 + (60 - 10) / 2


class TestResidency:
    def test_is_served_out_even_when_patience_has_ended(self) -> None:
        """A load in 30 s serves for 5/4 of 4 times that against a single waiter without patience."""
        arbiter = fresh()
        arbiter.submit(0, "a1", "A", "ann", CHAT)
        arbiter.submit(0, "a2", "A", "amy", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.cleared(0)
        arbiter.switched(30, LOADED)

        assert arbiter.submit(179, "a3", "A", "ann", CHAT) == [Grant("a3")]
        assert arbiter.submit(180, "a4", "A", "ann", CHAT) == []

    def test_is_measured_on_its_own_load(self) -> None:
        """A switch of 1 s earns 4 s from the first load on, whatever the guess was."""
        arbiter = fresh(patience_s=2)
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.cleared(0)
        arbiter.switched(1, LOADED)

        assert arbiter.next_deadline() == 5

    def test_is_in_proportion_to_the_clients(self) -> None:
        """A load for one client keeps four others waiting for a quarter of its residency only."""
        arbiter = fresh(patience_s=2)
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "b1", "B", "bob", CHAT)
        arbiter.submit(0, "b2", "B", "ben", CHAT)
        arbiter.submit(0, "b3", "B", "bea", CHAT)
        arbiter.submit(0, "b4", "B", "bix", CHAT)
        arbiter.cleared(0)
        arbiter.switched(8, LOADED)

        assert arbiter.next_deadline() == 8 + 8

    def test_is_in_proportion_to_the_clients_of_one_other(self) -> None:
        """Two models with a client each are as much as one to a model with a client of its own."""
        arbiter = fresh(patience_s=2)
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.submit(0, "c", "C", "cid", CHAT)
        arbiter.cleared(0)
        arbiter.switched(8, LOADED)

        assert arbiter.next_deadline() == 8 + 32

    def test_shrinks_for_a_deadline(self) -> None:
        """Where a waiter would miss `wait_s`, the residency ends in time for its load and the drain."""
        arbiter = fresh(patience_s=2, wait_s=70)
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.cleared(0)
        arbiter.switched(20, LOADED)

        assert arbiter.next_deadline() == 70 - 20 - 5

    def test_of_a_found_model_is_nothing(self) -> None:
        """A model that was found resident has earned nothing: it goes when patience ends."""
        arbiter = found("A")
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)

        assert arbiter.next_deadline() == 60


class TestLinger:
    def test_an_idle_model_goes_at_once_when_nobody_is_due(self) -> None:
        """Without a habit of its clients to go by, an idle resident makes room in the same step."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)

        assert arbiter.withdraw(10, "a") == [switch("B", "A")]

    def test_an_idle_model_waits_for_a_client_that_is_due(self) -> None:
        """A client that came back 2 s after its answer is waited for, for as long as a switch takes."""
        arbiter = resident()
        arbiter.withdraw(10, "a")
        arbiter.submit(12, "a2", "A", "ann", CHAT)
        arbiter.submit(13, "b", "B", "bob", CHAT)

        assert arbiter.withdraw(14, "a2") == []
        assert arbiter.next_deadline() == 14 + 8
        assert arbiter.tick(22) == [switch("B", "A")]

    def test_a_client_that_is_due_is_served_when_it_comes(self) -> None:
        """The client that an idle model was kept for holds its lease at once."""
        arbiter = resident()
        arbiter.withdraw(10, "a")
        arbiter.submit(12, "a2", "A", "ann", CHAT)
        arbiter.submit(13, "b", "B", "bob", CHAT)
        arbiter.withdraw(14, "a2")

        assert arbiter.submit(16, "a3", "A", "ann", CHAT) == [Grant("a3")]

    def test_a_client_that_is_due_is_served_before_anybody_else_is_chosen(self) -> None:
        """Whoever an idle model was kept for gets it, also where others have lost patience meanwhile."""
        arbiter = resident(residency=0, patience_s=4)
        arbiter.withdraw(10, "a")
        arbiter.submit(13, "a2", "A", "ann", CHAT)
        arbiter.submit(13, "b", "B", "bob", CHAT)
        assert arbiter.withdraw(14, "a2") == []

        assert arbiter.submit(18, "a3", "A", "ann", CHAT) == [Grant("a3")]
        assert arbiter.withdraw(19, "a3") == [switch("B", "A", cause=Cause.PATIENCE, drain_s=1)]

    def test_a_client_that_is_due_counts_for_the_residency(self) -> None:
        """Within its residency an idle model waits for its client, also where two wait for another."""
        arbiter = resident()
        arbiter.withdraw(10, "a")
        arbiter.submit(12, "a2", "A", "ann", CHAT)
        arbiter.submit(13, "b1", "B", "bob", CHAT)
        arbiter.submit(13, "b2", "B", "bea", CHAT)

        assert arbiter.withdraw(14, "a2") == []
        assert arbiter.next_deadline() == 22

    def test_a_slow_client_is_not_waited_for(self) -> None:
        """A client whose gap is longer than a load is not worth the wait."""
        arbiter = resident()
        arbiter.withdraw(10, "a")
        arbiter.submit(19, "a2", "A", "ann", CHAT)
        arbiter.submit(19, "b", "B", "bob", CHAT)

        assert arbiter.withdraw(20, "a2") == [switch("B", "A")]

    def test_a_client_that_went_elsewhere_is_not_waited_for(self) -> None:
        """A client that asks another model is not due at the first one any more."""
        arbiter = resident()
        arbiter.withdraw(10, "a")
        arbiter.submit(12, "a2", "A", "ann", CHAT)
        arbiter.withdraw(14, "a2")

        assert arbiter.submit(15, "b", "B", "ann", CHAT) == [switch("B", "A")]

    @pytest.mark.parametrize(("user", "effects"), [(1, [switch("B", "A")]), (2, [])])
    def test_a_user_that_asks_says_nothing_of_another(self, user: int, effects: list[Effect]) -> None:
        """Who of a name goes elsewhere is waited for no more; the others of that name are."""
        arbiter = resident()
        arbiter.submit(10, "a2", "A", "app", CHAT, user=1)
        arbiter.withdraw(10, "a")
        arbiter.withdraw(10, "a2")
        arbiter.submit(12, "a3", "A", "app", CHAT, user=1)
        arbiter.withdraw(14, "a3")

        assert arbiter.submit(15, "b", "B", "app", CHAT, user=user) == effects

    def test_users_that_never_return_are_not_waited_for(self) -> None:
        """A name with a new user in each request keeps no model, however much it asks."""
        arbiter = resident()
        arbiter.withdraw(10, "a")
        for user in range(CLIENTS + 1):
            arbiter.submit(10 + user, user, "A", "app", CHAT, user=user)
            arbiter.withdraw(10 + user, user)
        now = 10 + CLIENTS

        assert not arbiter.residents["A"].expected
        assert arbiter.submit(now, "b", "B", "bob", CHAT) == [switch("B", "A")]


class TestChoice:
    def test_the_most_waited_for_comes_first(self) -> None:
        """While all have patience, the model with the largest summed age of waiters is next."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)
        arbiter.submit(10, "c1", "C", "cid", CHAT)
        arbiter.submit(10, "c2", "C", "cat", CHAT)

        assert arbiter.withdraw(11, "a") == [switch("C", "A")]

    def test_who_has_left_waits_for_nothing(self) -> None:
        """The age of a waiter that left counts neither for its model nor against it."""
        arbiter = resident()
        arbiter.submit(9, "b1", "B", "bob", CHAT)
        arbiter.submit(9, "b2", "B", "bea", CHAT)
        arbiter.withdraw(10, "b1")
        arbiter.submit(10, "c", "C", "cid", CHAT)

        assert arbiter.withdraw(11, "a") == [switch("B", "A")]

    def test_who_has_lost_patience_comes_first(self) -> None:
        """The oldest waiter without patience outranks any crowd."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)
        arbiter.submit(10, "c1", "C", "cid", CHAT)
        arbiter.submit(10, "c2", "C", "cat", CHAT)
        arbiter.tick(70)

        assert arbiter.withdraw(71, "a") == [switch("B", "A", cause=Cause.PATIENCE, drain_s=1)]


class TestBudgets:
    def test_what_fits_evicts_nobody(self) -> None:
        """A model that fits beside the residents is loaded at once, whoever is serving."""
        arbiter = resident(max_models=2, memory_bytes=20 * GB)

        assert arbiter.submit(9, "b", "B", "bob", CHAT) == [switch("B", cause=Cause.ROOM)]

    def test_unknown_size_takes_the_device(self) -> None:
        """A model of unknown size is alone on its device."""
        arbiter = found("A", max_models=2, memory_bytes=100 * GB)

        assert arbiter.submit(9, "b", "B", "bob", UNKNOWN) == [switch("B", "A")]

    def test_an_embedding_lives_beside_the_chat_model(self) -> None:
        """Embedding models do not count against `max_models`."""
        arbiter = resident(memory_bytes=12 * GB)

        assert arbiter.submit(9, "e", "E", "eve", EMBEDDING) == [switch("E", cause=Cause.ROOM)]

    def test_an_embedding_without_memory_is_arbitrated(self) -> None:
        """Where memory does not allow both, an embedding model waits like any other."""
        arbiter = resident(memory_bytes=10 * GB)

        assert arbiter.submit(9, "e", "E", "eve", EMBEDDING) == []
        assert arbiter.withdraw(10, "a") == [switch("E", "A")]

    def test_nobody_leaves_in_vain(self) -> None:
        """Of the residents only those go without whom there is not enough memory."""
        arbiter = fresh(max_models=3, memory_bytes=20 * GB)
        arbiter.observed(0, 0, {"S": SMALL, "T": SMALL, "A": CHAT})

        assert arbiter.submit(1, "b", "B", "bob", CHAT) == [switch("B", "S", "T")]

    def test_what_is_on_one_list_evicts_nobody(self) -> None:
        """A model comes in beside those of its list, though each of them would fill the device."""
        arbiter = found("A", needs=TOGETHER)
        arbiter.submit(1, "a", "A", "ann", TOGETHER)

        assert arbiter.submit(2, "b", "B", "bob", TOGETHER) == [switch("B", cause=Cause.ROOM)]

    def test_a_list_is_whole(self) -> None:
        """A model that is not on it comes in when all of the list have gone; then the list may come back."""
        arbiter = found("A", "B", needs=TOGETHER)

        assert arbiter.submit(1, "c", "C", "cid", UNKNOWN) == [switch("C", "A", "B")]
        pass_through(arbiter, 1, 8)
        arbiter.withdraw(10, "c")
        assert arbiter.submit(11, "b", "B", "bob", TOGETHER) == [switch("B", "C")]
        arbiter.submit(11, "a", "A", "ann", TOGETHER)
        assert pass_through(arbiter, 11, 8) == [Grant("b"), switch("A", cause=Cause.ROOM)]

    def test_of_several_only_those_go_that_are_not_on_the_list(self) -> None:
        """However long nobody has asked for one that is."""
        arbiter = fresh(max_models=2)
        arbiter.observed(0, 0, {"A": SMALL._replace(together=LIST), "S": SMALL})
        arbiter.submit(1, "s", "S", "sue", SMALL)
        arbiter.withdraw(2, "s")

        assert arbiter.submit(3, "b", "B", "bob", TOGETHER) == [switch("B", "S")]

    def test_beside_what_is_pinned_a_list_may_be_the_only_way(self) -> None:
        """A model that is on the list of a pinned one can come in, another one never."""
        arbiter = found("P", needs=TOGETHER._replace(pinned=True))

        assert arbiter.submit(1, "b", "B", "bob", TOGETHER) == [switch("B", cause=Cause.ROOM)]
        assert arbiter.submit(1, "c", "C", "cid", UNKNOWN) == [Refuse("c", Reason.NEVER_FITS)]

    def test_a_list_that_promised_too_much(self) -> None:
        """A model that fails to load beside its list gets the device to itself, and keeps it so."""
        arbiter = found("A", needs=TOGETHER)
        arbiter.submit(1, "b", "B", "bob", TOGETHER)
        arbiter.cleared(1)

        assert arbiter.switched(2, Outcome("out of memory", crowded=True)) == [switch("B", "A")]
        pass_through(arbiter, 2, 8)
        arbiter.withdraw(11, "b")
        arbiter.observed(12, arbiter.epoch, {"B": TOGETHER})
        assert arbiter.submit(12, "a", "A", "ann", TOGETHER) == [switch("A", "B")]

    def test_lists_of_a_reload(self) -> None:
        """Residents stay where their list is gone; what comes next goes by the lists of now."""
        arbiter = found("A", "B", needs=TOGETHER)
        alone = UNKNOWN
        arbiter.observed(1, arbiter.epoch, {"A": alone, "B": alone})

        assert list(arbiter.residents) == ["A", "B"]
        assert arbiter.submit(2, "a", "A", "ann", alone) == [Grant("a")]
        assert arbiter.submit(2, "c", "C", "cid", TOGETHER) == []
        assert arbiter.withdraw(3, "a") == [switch("C", "B", "A")]

    def test_pinned_models_stay(self) -> None:
        """A pinned resident is no victim; what cannot fit beside it is refused at once."""
        arbiter = found("P", needs=PINNED, memory_bytes=16 * GB)

        assert arbiter.submit(1, "b", "B", "bob", CHAT) == [Refuse("b", Reason.NEVER_FITS)]

    def test_larger_than_the_device(self) -> None:
        """A model larger than the memory is refused at once."""
        arbiter = fresh(memory_bytes=8 * GB)

        assert arbiter.submit(1, "b", "B", "bob", CHAT) == [Refuse("b", Reason.NEVER_FITS)]

    def test_a_pinned_load_turns_waiters_away(self) -> None:
        """Once a pinned model is resident, those who can never fit beside it need not wait."""
        arbiter = fresh()
        arbiter.submit(0, "p", "P", "pam", PINNED)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.cleared(0)

        assert arbiter.switched(8, LOADED) == [Grant("p"), Refuse("b", Reason.NEVER_FITS)]

    def test_an_impatient_large_model_is_not_overtaken_for_ever(self) -> None:
        """While one without patience waits for its victims, nobody comes in who would stand in its way."""
        arbiter = fresh(max_models=2, memory_bytes=20 * GB)
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "big", "BIG", "bob", UNKNOWN)
        arbiter.cleared(0)
        arbiter.switched(40, LOADED)
        arbiter.observed(41, arbiter.epoch, {"A": CHAT, "S": CHAT})

        assert arbiter.submit(61, "c", "C", "cid", CHAT) == []
        assert arbiter.withdraw(62, "a") == [switch("BIG", "S", "A")]

    def test_before_that_it_may_be_overtaken(self) -> None:
        """While all have patience, whoever can come in does."""
        arbiter = fresh(max_models=2, memory_bytes=20 * GB)
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "big", "BIG", "bob", UNKNOWN)
        arbiter.cleared(0)
        arbiter.switched(40, LOADED)
        arbiter.observed(41, arbiter.epoch, {"A": CHAT, "S": CHAT})

        assert arbiter.submit(42, "c", "C", "cid", CHAT) == [switch("C", "S")]

    def test_a_victim_that_idles_is_taken_instead(self) -> None:
        """A drain is dropped when another resident has become idle that would do as well."""
        arbiter = fresh(max_models=2, memory_bytes=20 * GB)
        arbiter.observed(0, 0, {"A": CHAT, "S": CHAT})
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "s", "S", "sue", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.tick(60)
        leaving = arbiter.snapshot(60).plan.victims

        assert leaving == ("A",)
        assert arbiter.withdraw(61, "s") == [switch("B", "S")]
        assert arbiter.submit(61, "a2", "A", "ann", CHAT) == [Grant("a2")]


def _leave(arbiter: Arbiter, now: float, ticket: str, load_s: float) -> None:
    """Have ann leave a load of A that B goes for, and B come back, for a client of its own that is served."""
    arbiter.submit(now, ticket, "A", "ann", CHAT)
    arbiter.unloaded(now, "B")
    arbiter.cleared(now)
    arbiter.submit(now, now, "B", f"bob {ticket}", CHAT)
    assert arbiter.withdraw(now, ticket) == [Stop("A")]
    arbiter.switched(now, STOPPED)
    pass_through(arbiter, now, load_s)
    arbiter.withdraw(now + load_s, now)


class TestSwitch:
    def test_one_at_a_time(self) -> None:
        """While a switch is under way no other begins."""
        arbiter = fresh(max_models=2)
        arbiter.submit(0, "a", "A", "ann", CHAT)

        assert arbiter.submit(1, "b", "B", "bob", CHAT) == []
        arbiter.cleared(1)
        assert arbiter.switched(8, LOADED) == [Grant("a"), switch("B", cause=Cause.ROOM)]

    def test_nobody_left_before_the_load(self) -> None:
        """A switch whose last waiter leaves before the load call ends there, and the next is decided."""
        arbiter = found("A")
        arbiter.submit(1, "b", "B", "bob", CHAT)
        arbiter.submit(2, "c", "C", "cid", CHAT)

        assert arbiter.withdraw(3, "b") == []
        assert arbiter.unloaded(4, "A") == [switch("C", cause=Cause.ROOM)]

    def test_nobody_left_between_two_unloads(self) -> None:
        """What was not unloaded yet stays when nobody waits for the load any more."""
        arbiter = fresh(max_models=2)
        arbiter.observed(0, 0, {"A": CHAT, "B": CHAT})
        arbiter.submit(1, "c", "C", "cid", UNKNOWN)

        arbiter.withdraw(2, "c")
        arbiter.unloaded(3, "A")

        assert arbiter.switch is None
        assert arbiter.residents.keys() == {"B"}

    def test_somebody_new_keeps_it_going(self) -> None:
        """A newcomer for the same model before the next report keeps the switch as it is."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.withdraw(1, "a")
        arbiter.submit(2, "a2", "A", "amy", CHAT)

        assert arbiter.cleared(3) == []
        assert arbiter.switched(8, LOADED) == [Grant("a2")]

    def test_a_load_that_is_in_the_way_is_stopped(self) -> None:
        """A load that everybody left is stopped, once, for who waits for another; no load was learned."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.cleared(0)

        assert arbiter.withdraw(1, "a") == [Stop("A")]
        assert arbiter.submit(2, "c", "C", "cid", CHAT) == []
        assert arbiter.switched(3, STOPPED) == [switch("B", cause=Cause.ROOM)]
        assert arbiter.submit(4, "a2", "A", "ann", CHAT) == []
        assert arbiter.residents.keys() == set()

    def test_a_load_that_ends_all_the_same_is_a_resident(self) -> None:
        """Where it could not be stopped, or ended just then, its model may go at once."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.cleared(0)
        arbiter.withdraw(1, "a")

        assert arbiter.submit(2, "b", "B", "bob", CHAT) == [Stop("A")]
        assert arbiter.switched(8, LOADED) == [switch("B", "A")]

    def test_a_load_that_nobody_waits_behind_goes_on(self) -> None:
        """Whoever asks next finds the model; who waits for a resident waits for no switch."""
        arbiter = found("B", needs=SMALL._replace(parallel=1), max_models=2)
        arbiter.submit(0, "b", "B", "bob", SMALL)
        arbiter.submit(0, "b2", "B", "bea", SMALL)
        arbiter.submit(0, "a", "A", "ann", SMALL)
        arbiter.cleared(0)

        assert arbiter.withdraw(1, "a") == []
        assert arbiter.tick(2) == []

    def test_a_load_that_one_of_two_left_goes_on(self) -> None:
        """As long as one waits for it, it is wanted."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "a2", "A", "amy", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.cleared(0)

        assert arbiter.withdraw(1, "a") == []
        assert arbiter.withdraw(2, "a2") == [Stop("A")]

    def test_who_comes_for_what_is_being_stopped_waits_for_it(self) -> None:
        """The stop goes on, and the model is loaded again in its turn, without a back-off."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.cleared(0)
        arbiter.unload(0, "A")
        assert arbiter.withdraw(1, "a") == [Stop("A")]

        assert arbiter.submit(2, "a2", "A", "amy", CHAT) == []
        assert arbiter.switched(3, STOPPED) == [switch("A", cause=Cause.ROOM)]
        arbiter.cleared(3)
        assert arbiter.switched(9, LOADED) == [Grant("a2")]

    def test_a_drained_device_lets_a_load_end(self) -> None:
        """Nobody would be served the sooner; when it goes on, those who wait are."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.cleared(0)
        arbiter.drain(0)

        assert arbiter.withdraw(1, "a") == []
        assert arbiter.resume(2) == [Stop("A")]

    def test_a_load_that_was_stopped_counts_as_left(self) -> None:
        """Who leaves loads again and again is held back, whether they are stopped or not."""
        arbiter = found("B")
        _leave(arbiter, 1, "a1", load_s=8)
        _leave(arbiter, 10, "a2", load_s=2)

        assert arbiter.submit(13, "a3", "A", "ann", CHAT) == []
        assert arbiter.next_deadline() == 10 + 8

    def test_who_leaves_its_switches_may_not_evict_for_a_while(self) -> None:
        """A client that leaves a second switch waits one switch's cost before it may evict again."""
        arbiter = found("A")
        arbiter.submit(1, "b", "B", "bob", CHAT)
        arbiter.withdraw(1, "b")
        arbiter.unloaded(1, "A")
        arbiter.submit(2, "b2", "B", "bob", CHAT)
        arbiter.cleared(2)
        arbiter.withdraw(3, "b2")
        arbiter.switched(10, LOADED)

        assert arbiter.submit(11, "c", "C", "bob", CHAT) == []
        assert arbiter.next_deadline() == 10 + 10
        assert arbiter.submit(12, "c2", "C", "cid", CHAT) == [switch("C", "B")]

    def test_who_is_held_back_keeps_nobody_from_evicting(self) -> None:
        """Out of patience or not, it has no turn yet, so another model may come in before its own."""
        arbiter = found("B", patience_s=5)
        _leave(arbiter, 1, "a1", load_s=8)
        _leave(arbiter, 10, "a2", load_s=2)

        assert arbiter.submit(12, "a3", "A", "ann", CHAT) == []
        assert arbiter.submit(17.5, "c", "C", "cid", CHAT) == [switch("C", "B")]

    def test_who_was_served_begins_anew(self) -> None:
        """A client that got an answer since it left a switch may leave one more before it is held."""
        arbiter = found("A")
        arbiter.submit(1, "b", "B", "bob", CHAT)
        arbiter.withdraw(1, "b")
        arbiter.unloaded(1, "A")
        arbiter.submit(2, "c", "C", "bob", CHAT)
        pass_through(arbiter, 2, 8)
        arbiter.withdraw(11, "c")
        arbiter.submit(12, "b2", "B", "bob", CHAT)
        arbiter.unloaded(12, "C")
        arbiter.cleared(12)
        arbiter.withdraw(13, "b2")
        arbiter.switched(20, LOADED)

        assert arbiter.submit(21, "d", "D", "bob", CHAT) == [switch("D", "B")]

    def test_who_leaves_again_and_again_takes_nobody_elses_patience(self) -> None:
        """A client that asks for an absent model and leaves, in a loop, makes no other wait longer."""
        arbiter = found("A", needs=SINGLE)
        arbiter.submit(0, "a", "A", "ann", SINGLE)
        arbiter.submit(0, "b", "B", "bob", SINGLE)
        for second in range(1, 50):
            arbiter.submit(second, second, "C", "cid", SINGLE)
            arbiter.withdraw(second, second)

        assert arbiter.extra_s == 0

    def test_everybody_may_change_their_mind_once(self) -> None:
        """A client that leaves one switch may cause the next at once."""
        arbiter = found("A")
        arbiter.submit(1, "b", "B", "bob", CHAT)
        arbiter.cleared(1)
        arbiter.withdraw(2, "b")
        arbiter.switched(9, LOADED)

        assert arbiter.submit(10, "c", "C", "bob", CHAT) == [switch("C", "B")]


class TestFailure:
    def test_waiters_hear_the_reason(self) -> None:
        """After a failed load its waiters are refused with the reason, and the next model is loaded."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.cleared(0)

        assert arbiter.switched(8, Outcome(failed="no such file")) == [
            Refuse("a", Reason.LOAD_FAILED, "no such file", 2),
            switch("B", cause=Cause.ROOM),
        ]

    def test_back_off(self) -> None:
        """In back-off a model is refused with the time left; after it, it may be tried again."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.switched(8, Outcome(failed="no such file"))

        assert arbiter.submit(9, "a2", "A", "ann", CHAT) == [Refuse("a2", Reason.BACK_OFF, "no such file", 1)]
        assert arbiter.submit(10, "a3", "A", "ann", CHAT) == [switch("A", cause=Cause.ROOM)]

    def test_a_model_that_somebody_else_loads_backs_off_no_more(self) -> None:
        """A failure says nothing of a model that has been resident since."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.switched(8, Outcome(failed="no such file"))
        arbiter.observed(8, arbiter.epoch, {"A": CHAT})
        arbiter.observed(9, arbiter.epoch, {})

        assert arbiter.submit(9, "a2", "A", "ann", CHAT) == [switch("A", cause=Cause.ROOM)]

    def test_back_off_doubles_up_to_a_minute(self) -> None:
        """Each failure in a row doubles the back-off, up to 60 s."""
        arbiter = fresh()
        arbiter.submit(0, 1, "A", "ann", CHAT)
        arbiter.switched(0, Outcome(failed="no"))
        arbiter.submit(100, 2, "A", "ann", CHAT)
        arbiter.switched(100, Outcome(failed="no"))
        arbiter.submit(200, 3, "A", "ann", CHAT)
        arbiter.switched(200, Outcome(failed="no"))
        arbiter.submit(300, 4, "A", "ann", CHAT)
        arbiter.switched(300, Outcome(failed="no"))
        arbiter.submit(400, 5, "A", "ann", CHAT)
        arbiter.switched(400, Outcome(failed="no"))
        arbiter.submit(500, 6, "A", "ann", CHAT)

        assert arbiter.switched(500, Outcome(failed="no")) == [Refuse(6, Reason.LOAD_FAILED, "no", 60)]

    def test_a_crowded_load_is_tried_once_more_alone(self) -> None:
        """A load that failed beside others has the device to itself at the second try."""
        arbiter = found("A", max_models=2)
        arbiter.submit(1, "b", "B", "bob", CHAT)
        arbiter.cleared(1)

        assert arbiter.switched(2, Outcome(failed="no memory", crowded=True)) == [switch("B", "A")]
        arbiter.unloaded(3, "A")
        arbiter.cleared(3)
        assert arbiter.switched(4, LOADED) == [Grant("b")]
        assert arbiter.submit(5, "c", "C", "cid", CHAT) == []

    def test_a_failure_that_is_none_of_memory_is_the_last(self) -> None:
        """A load that failed for another reason is not tried again, and nobody leaves for it."""
        arbiter = found("A", max_models=2)
        arbiter.submit(1, "b", "B", "bob", CHAT)
        arbiter.cleared(1)

        assert arbiter.switched(2, Outcome(failed="no such file")) == [
            Refuse("b", Reason.LOAD_FAILED, "no such file", 2)
        ]
        assert arbiter.residents.keys() == {"A"}

    def test_the_second_try_is_the_last(self) -> None:
        """A load that fails alone too is a failure, and evicts nobody the next time."""
        arbiter = found("A", max_models=2)
        arbiter.submit(1, "b", "B", "bob", CHAT)
        arbiter.cleared(1)
        arbiter.switched(2, Outcome(failed="no file", crowded=True))
        arbiter.unloaded(3, "A")
        arbiter.cleared(3)

        assert arbiter.switched(4, Outcome(failed="no file", crowded=True)) == [
            Refuse("b", Reason.LOAD_FAILED, "no file", 2)
        ]


class TestObserved:
    def test_a_vanished_resident_takes_no_more(self) -> None:
        """Who asks for a vanished model causes a new switch; old leases end when they end."""
        arbiter = resident()
        arbiter.observed(9, arbiter.epoch, {})

        assert arbiter.submit(9, "a2", "A", "amy", CHAT) == [switch("A", cause=Cause.ROOM)]
        assert arbiter.snapshot(9).leases == 1
        assert arbiter.withdraw(10, "a") == []

    def test_an_outdated_report_is_ignored(self) -> None:
        """A report read before the last `switched` loads no second copy."""
        arbiter = fresh()
        before = arbiter.epoch
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.cleared(0)
        arbiter.switched(8, LOADED)

        arbiter.observed(9, before, {})

        assert arbiter.residents.keys() == {"A"}

    def test_a_report_during_a_switch_is_ignored(self) -> None:
        """During a switch nothing is believed but the gate's own reports."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)

        assert arbiter.observed(1, arbiter.epoch, {"A": CHAT}) == []

    def test_a_found_model_serves_its_waiters(self) -> None:
        """A model that somebody loaded by hand serves those who wait for it."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)

        assert arbiter.observed(10, arbiter.epoch, {"A": CHAT, "B": CHAT}) == [Grant("b")]

    def test_a_plan_that_no_longer_does_is_decided_again(self) -> None:
        """A model that turns up during a drain has to go as well."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)
        arbiter.tick(69)
        arbiter.observed(70, arbiter.epoch, {"A": CHAT, "X": CHAT})

        (effect,) = arbiter.withdraw(71, "a")

        assert set(effect.unload) == {"A", "X"}

    def test_a_victim_that_vanishes_is_not_waited_for(self) -> None:
        """A switch goes on with the victims that are left."""
        arbiter = found("A", "S", max_models=2, patience_s=10)
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "s", "S", "sue", CHAT)
        arbiter.submit(0, "b", "B", "bob", UNKNOWN)
        arbiter.tick(10)
        arbiter.observed(11, arbiter.epoch, {"A": CHAT})

        assert arbiter.withdraw(12, "a") == [switch("B", "A", cause=Cause.PATIENCE, drain_s=2)]


class TestBounds:
    def test_waiting_ends_with_wait_s(self) -> None:
        """A ticket that waited for `wait_s` is refused with an estimate."""
        arbiter = fresh(wait_s=20)
        arbiter.submit(0, "a", "A", "ann", CHAT)

        assert arbiter.next_deadline() == 20
        assert arbiter.tick(20) == [Refuse("a", Reason.WAIT_EXPIRED, "", at_most(0))]

    def test_the_queue_is_bounded(self) -> None:
        """Who would have to wait in a full queue is refused at once, with an estimate."""
        arbiter = found("A", queue=1)
        arbiter.submit(0, "b", "B", "bob", CHAT)

        assert arbiter.submit(4, "b2", "B", "bob", CHAT) == [Refuse("b2", Reason.QUEUE_FULL, "", at_most(6))]

    def test_a_full_queue_does_not_keep_out_who_need_not_wait(self) -> None:
        """A request that is served at once does not count the queue."""
        arbiter = resident(queue=1)
        arbiter.submit(9, "b", "B", "bob", CHAT)

        assert arbiter.submit(9, "a2", "A", "amy", CHAT) == [Grant("a2")]

    def test_close_refuses_all(self) -> None:
        """After `close` nobody waits and nobody comes in; leases end as they would."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)

        assert arbiter.close(10) == [Refuse("b", Reason.CLOSED)]
        assert arbiter.submit(11, "a2", "A", "ann", CHAT) == [Refuse("a2", Reason.CLOSED)]
        assert arbiter.withdraw(12, "a") == []
        assert arbiter.next_deadline() is None


def at_most(reckoned_s: float, multiple: float = 1.5) -> float:
    """Return what is told as p80 where so many seconds are reckoned, by what is known in the beginning."""
    return (reckoned_s + 1) * multiple - 1


def estimates(arbiter: Arbiter, now: float) -> dict[object, tuple[int, float]]:
    """Return position and estimate of each ticket that waits."""
    return {ticket: place[:2] for ticket, place in arbiter.look(now).first(1000).items()}


class TestSnapshot:
    def test_tells_places_and_estimates(self) -> None:
        """Who waits for the load under way is ahead; who comes after waits for its answer and a load."""
        arbiter = fresh()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(1, "b", "B", "bob", CHAT)

        snapshot = arbiter.snapshot(2)

        assert estimates(arbiter, 2) == {"a": (1, 8), "b": (2, 8 + 5 + 10)}
        plan = snapshot.plan
        assert (plan.load, plan.victims, plan.phase, plan.since) == ("A", (), "unload", 0)
        assert snapshot.oldest_wait_s == 2

    def test_a_drain_is_no_stay(self) -> None:
        """Who waited because nobody was to be served is no sign that a resident keeps others waiting."""
        arbiter = resident(wait_s=900)
        arbiter.withdraw(9, "a")
        arbiter.drain(10)
        arbiter.submit(20, "b", "B", "bob", CHAT)
        arbiter.resume(520)
        arbiter.unloaded(520, "A")
        arbiter.cleared(520)
        arbiter.switched(528, LOADED)

        arbiter.submit(528, "c", "C", "cid", CHAT)

        assert arbiter.look(528).first(1000)["c"].estimate_s < 60

    def test_tells_who_serves_and_who_leaves(self) -> None:
        """A victim that still serves shows as leaving."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)
        arbiter.tick(69)

        (view,) = arbiter.snapshot(70).residents

        assert (view.model, view.leases, view.since, view.leaving) == ("A", 1, 8, True)
        plan = arbiter.snapshot(70).plan
        assert (plan.load, plan.victims, plan.phase, plan.since) == ("B", ("A",), "drain", 69)

    def test_estimates_an_unknown_load_by_the_others(self) -> None:
        """A model that was never loaded is expected to take what is typical of its device."""
        arbiter = resident()
        arbiter.withdraw(9, "a")
        arbiter.submit(9, "b", "B", "bob", CHAT)

        assert estimates(arbiter, 9) == {"b": (1, 8)}

    def test_estimates_a_line_by_its_answers(self) -> None:
        """In a full model's line each place costs an answer of the length they had lately."""
        arbiter = found("A", needs=SINGLE)
        arbiter.submit(0, 1, "A", "ann", SINGLE)
        arbiter.withdraw(3, 1)
        arbiter.submit(3, 2, "A", "ann", SINGLE)
        arbiter.submit(3, 3, "A", "amy", SINGLE)
        arbiter.submit(3, 4, "A", "abe", SINGLE)

        assert estimates(arbiter, 3) == {3: (1, 3), 4: (2, 6)}

    def test_expects_a_busy_model_to_go_when_it_is_idle(self) -> None:
        """Who waits behind a model in use waits for the rest of its answer and a load, not for patience."""
        arbiter = busy(asked_again=20)
        arbiter.submit(21, "b", "B", "bob", CHAT)

        assert estimates(arbiter, 21) == {"b": (1, 1 + 8)}
        assert arbiter.withdraw(22, "a2") == [switch("B", "A")]

    def test_expects_a_model_to_be_kept_for_its_client(self) -> None:
        """To that comes the time for which the client is given to ask again."""
        arbiter = busy(asked_again=12)
        arbiter.submit(13, "b", "B", "bob", CHAT)

        assert estimates(arbiter, 13) == {"b": (1, 1 + 8 + 8)}
        assert arbiter.withdraw(14, "a2") == []
        assert arbiter.tick(22) == [switch("B", "A")]

    def test_expects_clients_to_come_back_as_lately(self) -> None:
        """Where others had to wait for a busy model for long, the next one is told to expect the same."""
        arbiter = busy(asked_again=12)
        arbiter.submit(13, "b", "B", "bob", CHAT)
        arbiter.submit(14, "a3", "A", "amy", CHAT)
        arbiter.withdraw(14, "a2")
        arbiter.withdraw(33, "a3")
        pass_through(arbiter, 33, 8)
        arbiter.submit(41, "c", "C", "cid", CHAT)

        assert estimates(arbiter, 41) == {"c": (1, 20 + 8)}

    def test_expects_a_busy_model_to_go_when_patience_ends(self) -> None:
        """However many wait for a model, others wait for their patience, its last answer and a load."""
        arbiter = found("A", needs=SINGLE)
        for ticket in range(100):
            arbiter.submit(0, ticket, "A", "ann", SINGLE)
        arbiter.submit(0, "b", "B", "bob", CHAT)

        assert arbiter.look(0).first(1000)["b"].estimate_s == 60 + 5 + 10

    def test_expects_a_victim_to_go_after_its_last_answer(self) -> None:
        """While a victim serves, the load of who waits has not begun: it takes all its time."""
        arbiter = resident()
        arbiter.submit(9, "b", "B", "bob", CHAT)
        arbiter.tick(69)

        assert arbiter.look(70).first(1000)["b"].estimate_s == 5 / 2 + 8

    def test_expects_a_model_in_doubt_to_serve_its_line(self) -> None:
        """Who waits behind a model that did not answer waits for all who wait for it, and a load."""
        arbiter = found("A", needs=SINGLE)
        arbiter.submit(1, 1, "A", "ann", SINGLE)
        arbiter.submit(2, 2, "A", "amy", SINGLE)
        arbiter.came_back(3, 1)
        arbiter.submit(3, 3, "B", "bob", CHAT)

        assert arbiter.look(3).first(1000)[3].estimate_s == 2 * 5 + 10

    def test_tells_a_full_queue_the_same(self) -> None:
        """Who is refused is told what it would have had to wait, behind those who do."""
        arbiter = busy(asked_again=20, queue=1)
        arbiter.submit(21, "b", "B", "bob", CHAT)

        (same,) = arbiter.submit(21, "b2", "B", "bea", CHAT)
        (other,) = arbiter.submit(21, "c", "C", "cid", CHAT)
        assert same == Refuse("b2", Reason.QUEUE_FULL, "", at_most(1 + 8, 1.25))
        assert other == Refuse("c", Reason.QUEUE_FULL, "", at_most(1 + 8 + 2 + 8, 1.25))


def test_a_thousand_tickets_are_cheap() -> None:
    """A thousand requests at once for three models take well under half a second of CPU."""
    arbiter = fresh(max_models=1)
    began = time.process_time()

    effects = _serve(arbiter, 1000)

    assert effects == {"switches": 3, "grants": 1000}
    assert time.process_time() - began < 0.5


def test_an_estimate_is_cheap() -> None:
    """What a full queue tells those it refuses is found quickly, however many wait or are served."""
    arbiter = resident(queue=1000)
    for ticket in range(1000):
        arbiter.submit(9, ticket, "A", ticket % 100, CHAT)
    for ticket in range(1000, 2000):
        arbiter.submit(9, ticket, ticket % 10, ticket % 100, CHAT)
    began = time.process_time()

    refusals = [arbiter.submit(9, ticket, 0, "bob", CHAT) for ticket in range(2000, 2200)]

    assert refusals[-1][0].retry_after_s > 0
    assert time.process_time() - began < 1


def test_a_crowd_of_a_lower_class_is_cheap() -> None:
    """Whoever of a crowd is lifted by age is not looked at one by one, beside a higher class that waits."""
    arbiter = found("A", needs=SINGLE, queue=10_000, wait_s=10_000)
    for ticket in range(5_000):
        arbiter.submit(1, ticket, "A", ticket % 1000, SINGLE)
    for ticket in range(5_000, 5_100):
        arbiter.submit(1, ticket, "A", "boss", SINGLE, 1)
    began = time.process_time()

    for _ in range(50):
        arbiter.withdraw(100, next(iter(arbiter.leases)))

    assert time.process_time() - began < 0.1


def test_users_of_any_number_are_cheap() -> None:
    """A client that names another user in each request cannot have more of them looked at than a few."""
    assert _time_of(8 * EXPECTED) < 2 * _time_of(EXPECTED)


def _time_of(users: int) -> float:
    """Return the CPU time of 2,500 events of so many users of one client, beside who waits."""
    arbiter = found("A", max_models=1)
    arbiter.lengths.recall(Learnt({"A": 30, "B": 30}))
    arbiter.submit(0, "long", "A", "ann", CHAT)
    arbiter.submit(0, "b", "B", "bob", CHAT)
    began = time.process_time()
    for ticket in range(2_500):
        arbiter.submit(ticket / 1000, ticket, "A", "ann", CHAT, 0, ("ann", ticket % users))
        arbiter.withdraw(ticket / 1000, ticket)
    return time.process_time() - began


def _serve(arbiter: Arbiter, count: int) -> dict[str, int]:
    """Submit *count* tickets for three models in turn, and answer each at once when it is granted."""
    needs = Needs(size_bytes=10 * GB, parallel=4)
    tally, agenda = {"switches": 0, "grants": 0}, []
    for ticket in range(count):
        agenda += arbiter.submit(0, ticket, ticket % 3, ticket % 7, needs)
    while agenda:
        match agenda.pop(0):
            case Grant(ticket):
                tally["grants"] += 1
                agenda += arbiter.withdraw(1, ticket)
            case Switch():
                tally["switches"] += 1
                agenda += pass_through(arbiter, 1, 1)
    return tally


def test_clients_that_went_are_not_expected_for_ever() -> None:
    """A resident that nobody else wants remembers only so many of those who may ask it again."""
    arbiter = found("A")
    for number in range(EXPECTED + 1):
        for ticket in ((number, 1), (number, 2)):
            arbiter.submit(number, ticket, "A", number, CHAT)
            arbiter.withdraw(number, ticket)

    assert len(arbiter.residents["A"].expected) == EXPECTED


def test_a_state_can_be_copied() -> None:
    """An arbiter is plain data: a pickled copy goes on as the original would."""
    arbiter = resident()
    copy = pickle.loads(pickle.dumps(arbiter))

    assert copy.submit(9, "a2", "A", "amy", CHAT) == [Grant("a2")]


class TestComingBack:
    """A ticket whose resident did not answer waits again, as old as it is."""

    def test_is_before_those_who_came_later(self) -> None:
        """Who comes back is served before those who came after its first ask, also after its grant."""
        arbiter = found("A", needs=SINGLE)
        arbiter.submit(1, 1, "A", "ann", SINGLE)
        arbiter.submit(2, 2, "A", "bob", SINGLE)

        assert arbiter.came_back(3, 1) == []
        assert [place.position for place in arbiter.look(3).first(1000).values()] == [1, 2]
        assert arbiter.observed(4, arbiter.epoch, {"A": SINGLE}) == [Grant(1)]
        assert arbiter.withdraw(5, 1) == [Grant(2)]

    def test_keeps_its_priority(self) -> None:
        """Who comes back is before those of a lower priority, also if it was served at once before."""
        arbiter = found("A", needs=SINGLE)
        arbiter.submit(1, 1, "A", "ann", SINGLE, 2)
        arbiter.submit(2, 2, "A", "bob", SINGLE, 1)

        arbiter.came_back(3, 1)

        assert arbiter.observed(4, arbiter.epoch, {"A": SINGLE}) == [Grant(1)]

    def test_among_waiters_of_all_models(self) -> None:
        """Who comes back stands where its age puts it, among older and younger ones of other models."""
        arbiter = fresh()
        arbiter.submit(0, 1, "B", "bob", CHAT)
        arbiter.cleared(0)
        arbiter.switched(8, LOADED)
        arbiter.submit(9, 2, "A", "ann", CHAT)
        arbiter.submit(10, 3, "B", "cid", CHAT)
        arbiter.submit(11, 4, "A", "dot", CHAT)

        arbiter.came_back(12, 3)
        arbiter.came_back(12, 1)
        arbiter.observed(12, arbiter.epoch, {})

        assert [arbiter.look(12).first(1000)[ticket].position for ticket in (1, 3, 2, 4)] == [1, 2, 3, 4]
        assert arbiter.next_deadline() == 300

    def test_its_resident_takes_nobody_until_it_was_seen(self) -> None:
        """Neither a newcomer nor one who waits gets a resident that did not answer; seen again, both do."""
        arbiter = found("A")
        arbiter.submit(1, 1, "A", "ann", CHAT)
        arbiter.came_back(2, 1)

        assert arbiter.submit(3, 2, "A", "bob", CHAT) == []
        assert arbiter.withdraw(4, 1) == []
        assert arbiter.withdraw(4, 2) == []
        assert arbiter.submit(5, 3, "A", "cid", CHAT) == []
        assert arbiter.observed(6, arbiter.epoch, {"A": CHAT}) == [Grant(3)]

    def test_what_was_read_before_says_nothing(self) -> None:
        """A look that began before the doubt does not end it."""
        arbiter = found("A")
        arbiter.submit(1, 1, "A", "ann", CHAT)
        before = arbiter.epoch
        arbiter.came_back(2, 1)

        assert arbiter.observed(3, before, {"A": CHAT}) == []
        assert arbiter.observed(3, arbiter.epoch, {"A": CHAT}) == [Grant(1)]

    def test_its_resident_has_gone(self) -> None:
        """If it turns out that the resident has gone, it is loaded again for those who came back."""
        arbiter = found("A")
        arbiter.submit(1, 1, "A", "ann", CHAT)
        arbiter.came_back(2, 1)

        assert arbiter.observed(3, arbiter.epoch, {}) == [switch("A", cause=Cause.ROOM)]
        arbiter.cleared(3)
        assert arbiter.switched(9, LOADED) == [Grant(1)]

    def test_is_charged_nothing(self) -> None:
        """A client has received nothing by a lease that came back, however long that took."""
        arbiter = found("A", needs=SINGLE)
        arbiter.submit(0, 1, "A", "ann", SINGLE)
        arbiter.submit(1, 2, "A", "bob", SINGLE)
        arbiter.submit(2, 3, "A", "ann", SINGLE)
        assert arbiter.withdraw(10, 1) == [Grant(2)]

        arbiter.came_back(30, 2)
        arbiter.submit(30, 4, "A", "ann", SINGLE)

        assert arbiter.observed(30, arbiter.epoch, {"A": SINGLE}) == [Grant(2)]

    def test_is_refused_where_a_newcomer_would_be(self) -> None:
        """Who comes back to a device that is closed is refused, but never because the queue is full."""
        arbiter = found("A", queue=1)
        arbiter.submit(1, 1, "A", "ann", CHAT)
        arbiter.submit(1, 2, "A", "bob", CHAT)
        arbiter.submit(2, 3, "B", "cid", CHAT)

        assert arbiter.came_back(3, 1) == []
        arbiter.close(4)
        assert arbiter.came_back(5, 2) == [Refuse(2, Reason.CLOSED)]

    def test_that_was_refused_asks_nothing_more(self) -> None:
        """A client that was refused when it came back is one user, who has left when it asks elsewhere."""
        arbiter = found("A")
        arbiter.submit(1, 1, "A", "ann", CHAT)
        arbiter.observed(2, arbiter.epoch, {})
        arbiter.submit(2, 2, "A", "amy", CHAT)
        arbiter.switched(3, Outcome(failed="no such file"))
        assert arbiter.came_back(3, 1) == [Refuse(1, Reason.BACK_OFF, "no such file", 2)]
        arbiter.observed(8, arbiter.epoch, {"A": CHAT})

        arbiter.submit(10, 3, "A", "ann", CHAT)
        arbiter.withdraw(12, 3)
        arbiter.submit(14, 4, "A", "ann", CHAT)
        assert arbiter.withdraw(16, 4) == []

        assert arbiter.submit(17, 5, "B", "ann", CHAT) == [switch("B", "A")]

    def test_has_waited_long_enough(self) -> None:
        """`wait_s` counts from the first ask: who comes back after that is refused at once."""
        arbiter = found("A", wait_s=60)
        arbiter.submit(1, 1, "A", "ann", CHAT)

        (refusal,) = arbiter.came_back(61, 1)

        assert (refusal.ticket, refusal.reason) == (1, Reason.WAIT_EXPIRED)

    def test_of_one_who_left_is_nothing(self) -> None:
        """What comes back after its ticket is over, or while it waits, changes nothing."""
        arbiter = found("A")
        arbiter.submit(1, 1, "A", "ann", CHAT)
        arbiter.withdraw(2, 1)

        assert arbiter.came_back(3, 1) == []
        assert arbiter.submit(4, 2, "A", "bob", CHAT) == [Grant(2)]


class TestOneLine:
    """Rules that one line of the arbiter stands for, each found when no test missed that line."""

    def test_a_plan_whose_model_turns_up_is_dropped(self) -> None:
        """A model that somebody loads by hand while its victim drains serves its waiters; no second copy."""
        arbiter = found("A", max_models=2, memory_bytes=16 * GB, patience_s=0, residency=0)
        arbiter.submit(1, 1, "A", "ann", CHAT)
        needs = Needs(size_bytes=8 * GB)
        assert arbiter.submit(2, 2, "B", "bob", needs) == []

        assert arbiter.observed(3, arbiter.epoch, {"B": needs}) == [Grant(2)]
        assert arbiter.plan is None

    def test_a_load_that_had_the_device_to_itself_is_not_tried_again(self) -> None:
        """Want of memory is no reason to try once more where nobody else was resident."""
        arbiter = fresh()
        arbiter.submit(0, 1, "A", "ann", CHAT)
        arbiter.cleared(0)

        (refusal,) = arbiter.switched(8, Outcome(failed="out of memory", crowded=True))

        assert (refusal.ticket, refusal.reason) == (1, Reason.LOAD_FAILED)

    def test_what_failed_alone_is_loaded_beside_others_again(self) -> None:
        """A model that the whole device did not help is not given the whole device a second time."""
        arbiter = found("B", needs=SMALL, max_models=2, memory_bytes=16 * GB)
        crowded = Outcome(failed="out of memory", crowded=True)
        assert arbiter.submit(0, 1, "A", "ann", CHAT) == [switch("A", cause=Cause.ROOM)]
        arbiter.cleared(0)
        assert arbiter.switched(1, crowded) == [switch("A", "B")]
        arbiter.unloaded(1, "B")
        arbiter.cleared(1)
        assert [type(effect) for effect in arbiter.switched(2, crowded)] == [Refuse]
        arbiter.observed(3, arbiter.epoch, {"B": SMALL})

        assert arbiter.submit(100, 2, "A", "ann", CHAT) == [switch("A", cause=Cause.ROOM)]

    def test_a_client_that_is_served_elsewhere_at_once_is_not_waited_for(self) -> None:
        """A resident is not kept for a client that has gone to another one, also if that was free."""
        arbiter = found("A", "B", needs=SMALL, max_models=2)
        arbiter.submit(0, 1, "A", "ann", SMALL)
        arbiter.withdraw(1, 1)
        arbiter.submit(2, 2, "A", "ann", SMALL)
        arbiter.withdraw(3, 2)
        assert arbiter.submit(3.5, 3, "B", "ann", SMALL) == [Grant(3)]

        assert arbiter.submit(3.6, 4, "C", "bob", SMALL) == [switch("C", "A")]

    def test_a_parallel_that_was_asked_for_outranks_the_report(self) -> None:
        """What the owner has set for a model bounds it, whatever its server says after the load."""
        arbiter = fresh()
        arbiter.submit(0, 1, "A", "ann", SINGLE)
        arbiter.submit(0, 2, "A", "bob", SINGLE)
        arbiter.cleared(0)

        assert arbiter.switched(8, Outcome(parallel=4)) == [Grant(1)]

    def test_estimates_an_overdue_answer_by_half_of_the_average(self) -> None:
        """An answer that has taken far longer than usual is not expected to end at once."""
        arbiter = found("A", needs=SINGLE)
        arbiter.submit(0, 1, "A", "ann", SINGLE)
        arbiter.withdraw(10, 1)
        arbiter.submit(10, 2, "A", "ann", SINGLE)
        arbiter.submit(10, 3, "A", "bob", SINGLE)

        assert arbiter.look(100).first(1000)[3].estimate_s == 5

    def test_estimates_how_long_a_load_is_used_by_its_line(self) -> None:
        """The next model comes when those who wait for the first are served, or its residency is over."""
        arbiter = fresh(residency=4)
        arbiter.submit(0, 1, "A", "ann", SINGLE)
        arbiter.submit(0, 2, "A", "bob", SINGLE)
        arbiter.submit(0, 3, "B", "cid", SINGLE)

        assert arbiter.look(0).first(1000)[3].estimate_s == 10 + 3 * 5 + 10
        arbiter.configure(0, Limits(residency=1))
        assert arbiter.look(0).first(1000)[3].estimate_s == 10 + 10 + 10


def test_who_serves() -> None:
    """A resident serves as long as it has a lease."""
    arbiter = resident()

    before = arbiter.residents["A"].leases
    arbiter.withdraw(9, "a")

    assert (before, arbiter.residents["A"].leases) == (1, 0)
