"""For how long newcomers will wait, what became of it, and who would wait in vain."""

from dmap.arbiter import Arbiter, Grant, Learnt, Limits, Needs, Outcome, Reason, Refuse

ONE = Needs(size_bytes=6, parallel=1)


def found(**limits: float) -> Arbiter:
    """Return an arbiter whose device had A, which answers one at a time, when it was looked at."""
    arbiter = Arbiter(Limits(**limits))
    arbiter.observed(0, arbiter.epoch, {"A": ONE})
    return arbiter


def crowd(arbiter: Arbiter, now: float, count: int, model: str = "A") -> list[Refuse]:
    """Let so many clients come at once, each with one request; return who is refused."""
    asked = (arbiter.submit(now, (model, now, each), model, (model, each), ONE) for each in range(count))
    return [effect for effects in asked for effect in effects if isinstance(effect, Refuse)]


def serve(arbiter: Arbiter, now: float, answer_s: float, count: int) -> float:
    """Let so many answers end, one after the other; return the time then."""
    for _ in range(count):
        now += answer_s
        arbiter.withdraw(now, next(iter(arbiter.leases)))
    return now


def p80_s(arbiter: Arbiter, now: float) -> float:
    """Return what one more is told as p80."""
    arbiter.submit(now, ("late", now), "A", ("late", now), ONE)
    told = arbiter.foretold(now, ("late", now)).p80_s
    arbiter.withdraw(now, ("late", now))
    return told


class TestTold:
    def test_the_newcomer_is_told_the_line(self) -> None:
        """One answer for each that is ahead, and what is left of the one under way."""
        arbiter = found()
        crowd(arbiter, 0, 4)

        assert arbiter.foretold(0, ("A", 0, 3)).estimate_s == 3 * 5
        assert p80_s(arbiter, 0) == (4 * 5 + 1) * 1.5 - 1

    def test_a_client_with_many_requests_waits_for_its_own(self) -> None:
        """Each other client has one turn before each of its own; another one has its turn before most."""
        arbiter = found()
        for each in range(20):
            arbiter.submit(0, each, "A", "greedy", ONE)

        arbiter.submit(0, "more", "A", "greedy", ONE)
        arbiter.submit(0, "polite", "A", "polite", ONE)

        assert arbiter.foretold(0, "more").estimate_s == 20 * 5
        assert arbiter.foretold(0, "polite").estimate_s == 2 * 5

    def test_who_is_of_a_higher_class_does_not_wait_for_lower_ones(self) -> None:
        """Only those of its class and above are ahead."""
        arbiter = found()
        crowd(arbiter, 0, 10)

        arbiter.submit(0, "first", "A", "boss", ONE, priority=1)

        assert arbiter.foretold(0, "first").estimate_s == 5

    def test_who_left_late_tells_that_it_takes_longer(self) -> None:
        """Else only those would count who were served soon."""
        arbiter, patient = found(), found()
        for each in range(60):
            arbiter.submit(each, each, "A", each, ONE)
            patient.submit(each, each, "A", each, ONE)
        before = p80_s(arbiter, 100)

        for each in range(1, 40):
            arbiter.withdraw(290, each)

        assert p80_s(arbiter, 290) > 20 * 5 * 2
        assert before < 61 * 5 * 1.6

    def test_who_was_refused_after_its_wait_tells_the_same(self) -> None:
        """It would have waited for longer than that."""
        arbiter = found()
        crowd(arbiter, 0, 40)
        arbiter.tick(300)

        arbiter.submit(300, "late", "A", "late", ONE)

        assert arbiter.foretold(300, "late").estimate_s > 2 * 2.5

    def test_many_who_come_at_once_are_seen(self) -> None:
        """The turns of others are laid out anew when there are many more than there were."""
        arbiter = found()
        arbiter.lengths.recall(Learnt({"B": 10, "C": 10}))
        arbiter.submit(0, "a", "A", "ann", ONE)
        arbiter.submit(0, "c", "C", "cid", ONE)
        for ticket in ("b1", "b2"):
            arbiter.submit(0, ticket, "B", ticket, ONE)
        crowd(arbiter, 0, 40, "C")

        arbiter.submit(0, "b3", "B", "b3", ONE)

        told = [arbiter.foretold(0, ticket).estimate_s for ticket in ("b2", "b3")]
        assert told[1] > told[0] + 20

    def test_who_left_soon_tells_nothing(self) -> None:
        """Nobody knows for how long it would have waited."""
        arbiter = found()
        crowd(arbiter, 0, 60)
        before = arbiter.foretold(0, ("A", 0, 40))

        for each in range(41, 60):
            arbiter.withdraw(1, ("A", 0, each))

        assert arbiter.foretold(1, ("A", 0, 40)) == before

    def test_a_drain_teaches_nothing(self) -> None:
        """Who waited because nobody was served is no sign that waits are long."""
        arbiter = found(wait_s=100_000)
        crowd(arbiter, 0, 10)
        before = arbiter.foretold(0, ("A", 0, 9))

        arbiter.drain(1)
        arbiter.resume(5_000)
        serve(arbiter, 5_000, 5, 5)

        assert arbiter.foretold(5_025, ("A", 0, 9)) == before

    def test_who_leaves_a_drained_device_teaches_nothing(self) -> None:
        """It left because nobody was served, and so it is with those whose time is over meanwhile."""
        arbiter = found()
        crowd(arbiter, 0, 10)
        before = arbiter.foretold(0, ("A", 0, 9))

        arbiter.drain(1)
        for each in range(1, 9):
            arbiter.withdraw(250, ("A", 0, each))

        assert arbiter.foretold(250, ("A", 0, 9)) == before

    def test_who_came_back_teaches_nothing(self) -> None:
        """Its wait began with a model that did not answer, which nothing foretells."""
        arbiter = found(wait_s=100_000)
        crowd(arbiter, 0, 2)
        arbiter.withdraw(5, ("A", 0, 0))
        before = p80_s(arbiter, 5)

        for _ in range(20):
            arbiter.came_back(6, ("A", 0, 1))
            arbiter.observed(9_000, arbiter.epoch, {"A": ONE})

        assert ("A", 0, 1) in arbiter.leases
        assert p80_s(arbiter, 9_000) == before


class TestHopeless:
    def test_a_crowd_that_is_too_large_is_refused_in_part(self) -> None:
        """Whoever may be served comes in; the others know at once that they would wait in vain."""
        refused = crowd(found(), 0, 400)

        assert 200 < len(refused) < 340
        assert {each.reason for each in refused} == {Reason.HOPELESS}
        assert min(each.retry_after_s for each in refused) > 300

    def test_nobody_is_refused_who_would_be_served(self) -> None:
        """Whom dmap lets in of such a crowd is more than it can serve by `wait_s`."""
        arbiter = found()
        crowd(arbiter, 0, 400)

        now = serve(arbiter, 0, 5, 59)

        assert now < 300 < now + 5 * len(arbiter.waiting)

    def test_a_steady_load_leaves_everybody_a_chance(self) -> None:
        """Where those ahead are refused one by one, a turn may come to whoever is left; so all come in."""
        arbiter = found()
        asked = (arbiter.submit(2 * each, each, "A", each, ONE) for each in range(145))

        assert [effect for effects in asked for effect in effects] == [Grant(0)]
        assert len(arbiter.waiting) * 5 / 2 > 300

    def test_a_load_that_takes_too_long_is_in_vain(self) -> None:
        """However long ago others began to wait for it."""
        arbiter = Arbiter(Limits())
        arbiter.lengths.recall(Learnt({"A": 1000}))
        arbiter.submit(0, "a", "A", "ann", ONE)
        arbiter.cleared(0)

        (refused,) = arbiter.submit(250, "a2", "A", "amy", ONE)

        assert refused.reason is Reason.HOPELESS

    def test_models_for_which_there_is_room_do_not_wait_for_answers(self) -> None:
        """They are loaded one right after the other, so the last of twenty is ready after twenty loads."""
        arbiter = Arbiter(Limits(max_models=20, memory_bytes=120))
        models = [f"m{number}" for number in range(20)]
        arbiter.lengths.recall(Learnt(dict.fromkeys(models, 10), dict.fromkeys(models, 60)))

        refused = [each for model in models for each in crowd(arbiter, 0, 2, model)]

        assert refused == []
        assert arbiter.foretold(0, ("m19", 0, 1)).estimate_s == 20 * 10 + 60

    def test_the_first_in_line_is_let_in(self) -> None:
        """Else a load that took too long once would never be tried again."""
        arbiter = Arbiter(Limits(wait_s=20))
        arbiter.submit(0, "a", "A", "ann", ONE)
        arbiter.cleared(0)
        arbiter.switched(19, Outcome())
        arbiter.withdraw(20, "a")
        arbiter.unload(20, "A")
        arbiter.unloaded(20, "A")
        arbiter.submit(30, "b", "B", "bob", ONE)
        arbiter.cleared(30)
        arbiter.switched(30, Outcome())

        assert not [each for each in arbiter.submit(31, "a2", "A", "ann", ONE) if isinstance(each, Refuse)]

    def test_who_need_not_wait_is_served(self) -> None:
        """However long the line of another model is."""
        arbiter = Arbiter(Limits(max_models=2))
        arbiter.observed(0, arbiter.epoch, {"A": ONE, "B": ONE})
        crowd(arbiter, 0, 400)

        assert Grant("b") in arbiter.submit(0, "b", "B", "bob", ONE)

    def test_nobody_is_while_the_device_is_drained(self) -> None:
        """Nobody knows when it goes on."""
        arbiter = found()
        arbiter.drain(0)

        assert crowd(arbiter, 0, 400) == []
