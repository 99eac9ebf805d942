"""What is asked of the arbiter beside leases: unload, drain, and to forget what nobody uses."""

from dmap.arbiter import Arbiter, Cause, Grant, Limits, Needs, Outcome, Reason, Refuse, Switch

GB = 1_000_000_000  # a switch to a model of 10 GB is guessed to take 10 s
CHAT = Needs(size_bytes=10 * GB)
PINNED = Needs(size_bytes=10 * GB, pinned=True)
SHORT_LIVED = Needs(size_bytes=10 * GB, ttl_s=30)
LOADED = Outcome()


def found(*models: str, needs: Needs = CHAT, **limits: float) -> Arbiter:
    """Return an arbiter whose device had *models* when it was looked at, in second 0."""
    arbiter = Arbiter(Limits(**limits))
    arbiter.observed(0, arbiter.epoch, dict.fromkeys(models, needs))
    return arbiter


class TestUnload:
    def test_an_idle_model_goes_at_once(self) -> None:
        """A wish for an idle resident is carried out in the same step."""
        arbiter = found("A")

        assert arbiter.unload(1, "A") == [Switch(None, ("A",), Cause.ASKED, 0)]
        assert arbiter.unloaded(2, "A") == []
        assert not arbiter.residents
        assert arbiter.switch is None

    def test_a_serving_model_goes_after_its_last_lease(self) -> None:
        """Until then it takes nobody more."""
        arbiter = found("A")
        arbiter.submit(1, "a1", "A", "ann", CHAT)

        assert arbiter.unload(2, "A") == []
        assert arbiter.submit(3, "a2", "A", "amy", CHAT) == []
        assert arbiter.withdraw(5, "a1") == [Switch(None, ("A",), Cause.ASKED, 3)]

    def test_who_waits_for_it_has_it_loaded_again(self) -> None:
        """A ticket for a model that was unloaded causes an ordinary load."""
        arbiter = found("A")
        arbiter.unload(1, "A")
        arbiter.submit(2, "a", "A", "ann", CHAT)

        assert arbiter.unloaded(3, "A") == [Switch("A", (), Cause.ROOM, 0)]

    def test_of_what_is_not_resident_is_nothing(self) -> None:
        """A wish for an absent model is none, also later."""
        arbiter = found()

        assert arbiter.unload(1, "A") == []
        assert not arbiter.is_leaving("A")

    def test_is_one_switch_at_a_time(self) -> None:
        """While an unloading is under way no switch begins, and what was read before is out of date."""
        arbiter = found("A", max_models=2)
        before = arbiter.epoch
        arbiter.unload(1, "A")

        assert arbiter.submit(2, "b", "B", "bob", CHAT) == []
        assert arbiter.observed(2, before, {"A": CHAT, "B": CHAT}) == []
        assert arbiter.unloaded(3, "A") == [Switch("B", (), Cause.ROOM, 0)]

    def test_that_fails_leaves_the_model(self) -> None:
        """A model that could not be unloaded serves on, and nobody tries again unasked."""
        arbiter = found("A")
        arbiter.unload(1, "A")
        arbiter.submit(2, "a", "A", "ann", CHAT)

        assert arbiter.switched(3, Outcome(failed="it will not go")) == [Grant("a")]
        assert arbiter.withdraw(4, "a") == []

    def test_may_be_taken_back(self) -> None:
        """A model that is to stay after all takes those who waited."""
        arbiter = found("A")
        arbiter.submit(1, "a1", "A", "ann", CHAT)
        arbiter.unload(2, "A")
        arbiter.submit(3, "a2", "A", "amy", CHAT)

        assert arbiter.keep(4, "A") == [Grant("a2")]
        assert arbiter.withdraw(5, "a1") == []

    def test_takes_a_pinned_model_out(self) -> None:
        """A pin is no reason to stay when asked to go; who could not fit beside it may wait."""
        arbiter = found("P", needs=PINNED)
        arbiter.submit(1, "p", "P", "pam", PINNED)
        arbiter.unload(2, "P")

        assert arbiter.submit(3, "b", "B", "bob", CHAT) == []
        assert arbiter.withdraw(4, "p") == [Switch("B", ("P",), Cause.PATIENCE, 1)]

    def test_goes_with_a_switch_that_takes_it_anyway(self) -> None:
        """Who waits for another model need not wait for patience: the one that goes makes room for it."""
        arbiter = found("A")
        arbiter.submit(1, "a", "A", "ann", CHAT)
        arbiter.submit(2, "b", "B", "bob", CHAT)
        arbiter.unload(3, "A")

        assert arbiter.withdraw(4, "a") == [Switch("B", ("A",), Cause.PATIENCE, 1)]

    def test_does_not_wait_for_the_drain_of_others(self) -> None:
        """An idle model that is to go goes while a switch still waits for its victim."""
        arbiter = found("A", "S", max_models=2, patience_s=10)
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.submit(0, "s", "S", "sue", CHAT)
        arbiter.submit(0, "b", "B", "bob", Needs())
        arbiter.tick(10)
        arbiter.withdraw(11, "s")

        assert arbiter.unload(12, "S") == [Switch(None, ("S",), Cause.ASKED, 0)]
        arbiter.unloaded(13, "S")
        assert arbiter.withdraw(14, "a") == [Switch("B", ("A",), Cause.PATIENCE, 1)]

    def test_of_a_model_that_loads(self) -> None:
        """Those who wait for a load are served before the model goes again."""
        arbiter = found()
        arbiter.submit(1, "a1", "A", "ann", CHAT)
        arbiter.cleared(1)
        arbiter.unload(2, "A")

        assert arbiter.switched(8, LOADED) == [Grant("a1")]
        assert arbiter.submit(9, "a2", "A", "amy", CHAT) == []
        assert arbiter.withdraw(10, "a1") == [Switch(None, ("A",), Cause.ASKED, 8)]

    def test_of_a_load_that_fails_is_over(self) -> None:
        """A wish does not outlive the load it was about."""
        arbiter = found()
        arbiter.submit(1, "a", "A", "ann", CHAT)
        arbiter.unload(2, "A")
        arbiter.switched(3, Outcome(failed="no such file"))

        assert not arbiter.is_leaving("A")

    def test_of_a_model_that_vanishes_is_over(self) -> None:
        """A wish does not outlive the resident it was about: a copy that is loaded later stays."""
        arbiter = found("A")
        arbiter.submit(1, "a1", "A", "ann", CHAT)
        arbiter.unload(2, "A")
        arbiter.observed(3, arbiter.epoch, {})
        arbiter.submit(4, "a2", "A", "amy", CHAT)
        arbiter.cleared(4)

        assert arbiter.switched(8, LOADED) == [Grant("a2")]
        assert arbiter.submit(9, "a3", "A", "abe", CHAT) == [Grant("a3")]

    def test_shows(self) -> None:
        """A snapshot tells who is leaving, and the unloading as a switch to nothing."""
        arbiter = found("A")
        arbiter.unload(1, "A")
        arbiter.submit(1, "a", "A", "ann", CHAT)

        snapshot = arbiter.snapshot(2)

        assert snapshot.residents[0].leaving
        plan = snapshot.plan
        assert (plan.load, plan.victims, plan.phase) == (None, ("A",), "unload")
        assert arbiter.look(2).first(1000)["a"].estimate_s == 10

    def test_estimates_the_wait_for_what_is_leaving(self) -> None:
        """Who waits for a model that is to go waits for the rest of its last answer and its load."""
        arbiter = found("A", max_models=2)
        arbiter.submit(1, "a1", "A", "ann", CHAT)
        arbiter.unload(2, "A")
        arbiter.submit(3, "a2", "A", "amy", CHAT)

        assert arbiter.look(3).first(1000)["a2"].estimate_s == 5 - 2 + 10


class TestTtl:
    def test_unloads_what_nobody_uses(self) -> None:
        """A resident without lease for its `ttl_s` goes."""
        arbiter = found("A")
        arbiter.submit(1, "a", "A", "ann", SHORT_LIVED)
        arbiter.withdraw(5, "a")

        assert arbiter.next_deadline() == 35
        assert arbiter.tick(34) == []
        assert arbiter.tick(35) == [Switch(None, ("A",), Cause.TTL, 0)]

    def test_begins_with_the_load(self) -> None:
        """A model that was loaded for somebody who left counts as used when it came."""
        arbiter = found()
        arbiter.submit(1, "a", "A", "ann", SHORT_LIVED)
        arbiter.cleared(1)
        arbiter.withdraw(2, "a")
        arbiter.switched(8, LOADED)

        assert arbiter.next_deadline() == 38

    def test_begins_anew_with_each_answer(self) -> None:
        """A model in use does not age; an early look changes nothing."""
        arbiter = found("A")
        arbiter.submit(1, "a1", "A", "ann", SHORT_LIVED)
        arbiter.withdraw(5, "a1")
        arbiter.submit(30, "a2", "A", "ann", SHORT_LIVED)

        assert arbiter.tick(35) == []
        arbiter.withdraw(50, "a2")
        assert arbiter.next_deadline() == 80

    def test_counts_as_it_is_configured_by_now(self) -> None:
        """Of a model that was asked for before, a look brings what the configuration says since."""
        arbiter = found("A")
        arbiter.submit(1, "a", "A", "ann", CHAT)
        arbiter.withdraw(5, "a")

        arbiter.observed(6, arbiter.epoch, {"A": SHORT_LIVED})

        assert arbiter.next_deadline() == 35

    def test_begins_anew_with_a_lease_that_came_back(self) -> None:
        """A model that did not answer was in use until then."""
        arbiter = found("A")
        arbiter.submit(1, "a", "A", "ann", SHORT_LIVED)
        arbiter.came_back(20, "a")
        arbiter.withdraw(21, "a")

        arbiter.observed(22, arbiter.epoch, {"A": SHORT_LIVED})

        assert arbiter.next_deadline() == 50

    def test_spares_what_somebody_waits_for(self) -> None:
        """A model that is in doubt is not unloaded for its age while a request waits for it."""
        arbiter = found("A")
        arbiter.submit(1, "a", "A", "ann", SHORT_LIVED)
        arbiter.came_back(2, "a")

        assert arbiter.tick(40) == []
        assert arbiter.observed(41, arbiter.epoch, {"A": SHORT_LIVED}) == [Grant("a")]

    def test_spares_the_pinned(self) -> None:
        """A pinned model has no `ttl_s`."""
        arbiter = found("P", needs=Needs(size_bytes=10 * GB, pinned=True, ttl_s=30))

        assert arbiter.tick(100) == []
        assert arbiter.next_deadline() is None

    def test_is_tried_again_after_a_failure(self) -> None:
        """What could not be unloaded is left alone for another `ttl_s`."""
        arbiter = found("A", needs=SHORT_LIVED)
        arbiter.tick(30)

        assert arbiter.switched(31, Outcome(failed="it will not go")) == []
        assert arbiter.next_deadline() == 61

    def test_is_noticed_with_any_event(self) -> None:
        """What is overdue goes with the next thing that happens, if that comes before the tick."""
        arbiter = found("A", "B", max_models=2)
        arbiter.submit(1, "a", "A", "ann", SHORT_LIVED)
        arbiter.withdraw(5, "a")

        assert arbiter.submit(36, "b", "B", "bob", CHAT) == [Grant("b"), Switch(None, ("A",), Cause.TTL, 0)]

    def test_waits_for_a_switch(self) -> None:
        """During a switch nothing else begins; what is overdue goes after it."""
        arbiter = found("A", needs=SHORT_LIVED, max_models=2)
        arbiter.submit(29, "b", "B", "bob", CHAT)
        arbiter.cleared(29)

        assert arbiter.tick(30) == []
        assert arbiter.switched(37, LOADED) == [Grant("b"), Switch(None, ("A",), Cause.TTL, 0)]


class TestDrain:
    def test_grants_nothing(self) -> None:
        """On a drained device newcomers wait, and a switch that only drained is dropped."""
        arbiter = found("A")
        arbiter.submit(0, "a1", "A", "ann", CHAT)
        arbiter.submit(0, "b", "B", "bob", CHAT)
        arbiter.tick(60)

        assert arbiter.drain(61) == []
        assert arbiter.submit(62, "a2", "A", "amy", CHAT) == []
        assert arbiter.withdraw(63, "a1") == []
        assert arbiter.snapshot(63).drained
        assert arbiter.resume(64) == [Switch("B", ("A",), Cause.IDLE, 0)]

    def test_a_load_under_way_makes_a_resident(self) -> None:
        """A load that had begun is finished; its waiters are served after the resume."""
        arbiter = found()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.cleared(0)
        arbiter.drain(1)

        assert arbiter.switched(8, LOADED) == []
        assert arbiter.resume(9) == [Grant("a")]

    def test_a_load_that_had_not_begun_does_not(self) -> None:
        """A switch ends before its load, and its waiters keep their places."""
        arbiter = found()
        arbiter.submit(0, "a", "A", "ann", CHAT)
        arbiter.drain(1)
        arbiter.cleared(2)

        assert arbiter.switch is None
        assert arbiter.resume(3) == [Switch("A", (), Cause.ROOM, 0)]

    def test_empties_the_device_when_asked_to(self) -> None:
        """Each resident goes when it is idle, one at a time, also one that comes later."""
        arbiter = found("A", "B", max_models=2)
        arbiter.submit(1, "a", "A", "ann", CHAT)

        assert arbiter.drain(2, unload=True) == [Switch(None, ("B",), Cause.DRAIN, 0)]
        assert arbiter.withdraw(3, "a") == []
        assert arbiter.unloaded(4, "B") == [Switch(None, ("A",), Cause.DRAIN, 2)]
        assert arbiter.unloaded(5, "A") == []
        assert arbiter.observed(6, arbiter.epoch, {"C": CHAT}) == [Switch(None, ("C",), Cause.DRAIN, 0)]

    def test_what_has_not_gone_by_the_resume_stays(self) -> None:
        """A wish that came of the drain ends with it; one that somebody asked for does not."""
        arbiter = found("A", "B", max_models=2)
        arbiter.submit(1, "a", "A", "ann", CHAT)
        arbiter.submit(1, "b", "B", "bob", CHAT)
        arbiter.unload(1, "B")
        arbiter.drain(2, unload=True)
        arbiter.resume(3)

        assert arbiter.submit(4, "a2", "A", "amy", CHAT) == [Grant("a2")]
        assert arbiter.withdraw(5, "b") == [Switch(None, ("B",), Cause.ASKED, 4)]

    def test_an_unloading_that_fails_is_not_repeated(self) -> None:
        """A model that will not go is left alone."""
        arbiter = found("A")
        arbiter.drain(1, unload=True)

        assert arbiter.switched(2, Outcome(failed="it will not go")) == []

    def test_refuses_in_time_and_tells_when(self) -> None:
        """On a drained device the estimate is the time until the refusal."""
        arbiter = found("A", wait_s=100)
        arbiter.drain(0)
        arbiter.submit(10, "a", "A", "ann", CHAT)

        assert arbiter.look(30).first(1000)["a"].estimate_s == 80
        assert arbiter.tick(110) == [Refuse("a", Reason.WAIT_EXPIRED, "", 100)]

    def test_forgets_nothing_for_its_age(self) -> None:
        """A drained device is left as it is."""
        arbiter = found("A", needs=SHORT_LIVED)
        arbiter.drain(1)

        assert arbiter.tick(100) == []
        assert arbiter.resume(101) == [Switch(None, ("A",), Cause.TTL, 0)]


def test_a_wish_taken_back_leaves_those_of_others() -> None:
    """An outdated copy takes nobody after somebody has given up unloading it; nor does one of a drain."""
    arbiter = found("A")
    arbiter.submit(0, 1, "A", "ann", CHAT)
    arbiter.unload(1, "A", Cause.OUTDATED)
    arbiter.unload(2, "A")

    assert arbiter.keep(3, "A") == []
    assert arbiter.submit(4, 2, "A", "bob", CHAT) == []
    assert arbiter.withdraw(5, 1) == [Switch(None, ("A",), Cause.OUTDATED, 4)]
