"""What is loaded though nobody asks: at the start and after idling, and never in anybody's way."""

import pytest

from dmap.arbiter import Arbiter, Cause, Effect, Grant, Limits, Needs, Outcome, Reason, Refuse, Stop, Switch
from dmap.arbiter.preload import FIRST_RETRY_S, RETRY_CAP_S

CHAT = Needs(size_bytes=10)
EMBED = Needs(size_bytes=2, embedding=True)
LOADED, STOPPED, BROKEN = Outcome(), Outcome(stopped=True), Outcome("no")


def started(*preload: str, **limits: float) -> tuple[Arbiter, list[Effect]]:
    """Return an arbiter that has just started, with models that are to be there, and what it does at once."""
    arbiter = Arbiter(Limits(**{"memory_bytes": 12, **limits}))
    return arbiter, arbiter.preload(0, {model: EMBED if model == "E" else CHAT for model in preload})


def load(model: str, *unload: str, cause: Cause = Cause.PRELOAD) -> Switch:
    """Return the effect that a test expects."""
    return Switch(model, unload, cause, 0)


def carry_out(arbiter: Arbiter, now: float, outcome: Outcome = LOADED) -> list[Effect]:
    """Carry out the switch under way in no time."""
    for model in arbiter.switch.unload:
        arbiter.unloaded(now, model)
    arbiter.cleared(now)
    return arbiter.switched(now, outcome)


def used(arbiter: Arbiter, now: float, model: str) -> list[Effect]:
    """Have *model* asked for, loaded and answered, all at one time; return what comes of its end."""
    arbiter.submit(now, now, model, "ann", CHAT)
    if arbiter.switch is not None:
        carry_out(arbiter, now)
    return arbiter.withdraw(now, now)


def idle(*preload: str, **limits: float) -> Arbiter:
    """Return an arbiter whose preloaded models are there, since second 0."""
    arbiter, effects = started(*preload, **limits)
    while effects:
        effects = carry_out(arbiter, 0)
    return arbiter


def failures(arbiter: Arbiter, count: int) -> list[float]:
    """Have all that is loaded next fail, so many times; return when."""
    times = []
    while len(times) < count:
        times.append(arbiter.next_deadline())
        arbiter.tick(times[-1])
        carry_out(arbiter, times[-1], BROKEN)
    return times


class TestStart:
    def test_models_are_loaded_in_order(self) -> None:
        """One after the other, before anybody asks."""
        arbiter, effects = started("A", "E")

        assert effects == [load("A")]
        assert carry_out(arbiter, 8) == [load("E")]
        assert carry_out(arbiter, 9) == []
        assert list(arbiter.residents) == ["A", "E"]

    def test_as_far_as_they_fit_together(self) -> None:
        """One that does not fit beside those before it is left out, and the next one is not."""
        arbiter, effects = started("A", "B", "E")

        assert effects == [load("A")]
        assert carry_out(arbiter, 8) == [load("E")]
        assert arbiter.snapshot(8).preload == {"A": "resident", "B": "away", "E": "loading"}

    def test_what_others_left_there_goes(self) -> None:
        """As long as nobody has asked for it; what is preloaded as well stays."""
        arbiter = Arbiter(Limits(memory_bytes=12))
        arbiter.observed(0, 0, {"X": CHAT, "E": EMBED})

        assert arbiter.preload(0, {"A": CHAT, "E": EMBED}) == [load("A", "X")]

    def test_none_of_them_goes_for_another(self) -> None:
        """Whatever else is there does, though it was used later."""
        arbiter = Arbiter(Limits(memory_bytes=12))
        arbiter.observed(0, 0, {"A": CHAT})
        arbiter.observed(1, 0, {"A": CHAT, "X": Needs(size_bytes=2)})

        assert arbiter.preload(2, {"A": CHAT, "E": EMBED}) == [load("E", "X")]

    def test_what_may_not_be_unloaded_stays(self) -> None:
        """A pinned resident, or one that is its owner's, leaves no room for what does not fit beside it."""
        arbiter = Arbiter(Limits(memory_bytes=12))
        arbiter.observed(0, 0, {"X": CHAT._replace(pinned=True)})

        assert arbiter.preload(0, {"A": CHAT, "E": EMBED}) == [load("E")]

    def test_a_request_stops_a_load_that_is_in_its_way(self) -> None:
        """It waits for no more than the switch under way, and what fits beside its model comes then."""
        arbiter, _ = started("A", "E")
        arbiter.cleared(0)

        assert arbiter.submit(1, "b", "B", "bob", CHAT) == [Stop("A")]
        assert arbiter.switched(2, STOPPED) == [Switch("B", (), Cause.ROOM, 0)]
        assert carry_out(arbiter, 3) == [Grant("b"), load("E")]
        assert arbiter.snapshot(3).preload == {"A": "away", "E": "loading"}

    def test_a_request_comes_before_a_load_that_has_not_begun(self) -> None:
        """While others are still being unloaded for it, the switch ends there."""
        arbiter = Arbiter(Limits(memory_bytes=12))
        arbiter.observed(0, 0, {"X": CHAT})
        arbiter.preload(0, {"A": CHAT})
        arbiter.submit(1, "b", "B", "bob", CHAT)

        assert arbiter.unloaded(2, "X") == [Switch("B", (), Cause.ROOM, 0)]

    def test_who_wants_one_that_is_about_to_go_keeps_it(self) -> None:
        """Of several that were to go, none goes any more once somebody waits for one of them."""
        arbiter = Arbiter(Limits(memory_bytes=12, max_models=2))
        arbiter.observed(0, 0, {"X": Needs(size_bytes=5), "Y": Needs(size_bytes=5)})
        arbiter.preload(0, {"A": Needs(size_bytes=12)})
        assert arbiter.submit(1, "y", "Y", "bob", Needs(size_bytes=5)) == []

        assert arbiter.unloaded(2, "X") == [Grant("y")]

    def test_what_a_load_really_took_counts(self) -> None:
        """What is larger than thought leaves no room, and what is smaller leaves some."""
        arbiter, _ = started("A", "E")
        assert carry_out(arbiter, 8, Outcome(size_bytes=11)) == []
        assert arbiter.snapshot(8).preload == {"A": "resident", "E": "away"}

        arbiter = Arbiter(Limits(memory_bytes=12))
        arbiter.preload(0, {"A": Needs(), "E": EMBED})
        assert carry_out(arbiter, 8, Outcome(size_bytes=10)) == [load("E")]

    def test_a_load_for_nobody_is_followed_by_no_stay(self) -> None:
        """Who comes meanwhile is told of the rest of that load and of its own, and of nothing between."""
        arbiter, _ = started("A")
        arbiter.cleared(0)
        arbiter.submit(0.5, "b", "B", "bob", CHAT)

        assert arbiter.foretold(0.5, "b").estimate_s == 1.5

    def test_a_request_for_the_model_waits_for_its_load(self) -> None:
        """As for any other; the one who leaves it has caused no switch."""
        arbiter, _ = started("A")
        arbiter.cleared(0)
        arbiter.submit(1, "a", "A", "ann", CHAT)
        arbiter.submit(1, "a2", "A", "ann", CHAT)
        arbiter.withdraw(2, "a2")

        assert arbiter.switched(8, LOADED) == [Grant("a")]

    def test_what_does_not_fit_beside_what_was_asked_for_is_given_up(self) -> None:
        """It is not loaded later out of the blue, when there is room again."""
        arbiter, _ = started("A")
        arbiter.cleared(0)
        arbiter.submit(1, "b", "B", "bob", CHAT)
        arbiter.switched(2, STOPPED)
        carry_out(arbiter, 3)
        arbiter.withdraw(4, "b")
        arbiter.unload(5, "B")

        assert arbiter.unloaded(6, "B") == []

    def test_a_drained_device_loads_nothing(self) -> None:
        """Until it goes on."""
        arbiter = Arbiter(Limits())
        arbiter.drain(0)

        assert arbiter.preload(0, {"A": CHAT}) == []
        assert arbiter.resume(1) == [load("A")]

    def test_a_closed_device_loads_nothing(self) -> None:
        """Nor does it begin what was decided."""
        arbiter = Arbiter(Limits())
        arbiter.close(0)

        assert arbiter.preload(0, {"A": CHAT}) == []

    def test_one_that_fails_is_not_tried_again(self) -> None:
        """The others are; and a request has its own try at once."""
        arbiter, _ = started("A", "E")

        assert carry_out(arbiter, 8, BROKEN) == [load("E")]
        assert carry_out(arbiter, 9) == []
        assert arbiter.next_deadline() is None
        assert arbiter.submit(10, "a", "A", "ann", CHAT) == [Switch("A", (), Cause.ROOM, 0)]

    def test_who_waits_for_one_that_fails_is_told(self) -> None:
        """By a refusal, as ever."""
        arbiter, _ = started("A")
        arbiter.submit(1, "a", "A", "ann", CHAT)

        assert carry_out(arbiter, 8, BROKEN) == [Refuse("a", Reason.LOAD_FAILED, "no", 2.0)]

    def test_a_reload_loads_what_is_new_if_there_is_room(self) -> None:
        """It evicts nobody."""
        arbiter = idle("A")
        used(arbiter, 10, "A")

        assert arbiter.preload(11, {"B": CHAT, "A": CHAT, "E": EMBED}) == [load("E")]


class TestReturn:
    def test_after_idling_the_models_come_back(self) -> None:
        """What was asked for meanwhile goes."""
        arbiter = idle("A", return_s=60)
        used(arbiter, 10, "B")

        assert arbiter.next_deadline() == 70
        assert arbiter.tick(70) == [load("A", "B", cause=Cause.RETURN)]
        assert carry_out(arbiter, 71) == []
        assert arbiter.next_deadline() is None

    def test_without_return_s_they_do_not(self) -> None:
        """They were loaded at the start."""
        arbiter = idle("A")
        used(arbiter, 10, "B")

        assert arbiter.next_deadline() is None
        assert arbiter.snapshot(10).preload == {"A": "away"}

    def test_what_fits_beside_them_stays(self) -> None:
        """Nobody goes in vain."""
        arbiter = idle("A", return_s=60)
        used(arbiter, 10, "B")
        arbiter.submit(11, "e", "E", "eve", EMBED)
        carry_out(arbiter, 11)
        arbiter.withdraw(12, "e")

        assert arbiter.tick(72) == [load("A", "B", cause=Cause.RETURN)]

    def test_each_answer_begins_the_time_anew(self) -> None:
        """An answer under way is no idling, and a request neither."""
        arbiter = idle("A", return_s=60)
        used(arbiter, 10, "B")
        arbiter.submit(60, "b", "B", "bob", CHAT)

        assert arbiter.tick(200) == []
        assert arbiter.withdraw(200, "b") == []
        assert arbiter.next_deadline() == 260

    def test_what_is_kept_for_a_client_that_is_due_stays_for_it(self) -> None:
        """However short the time is, a client that asks again after each answer pays for no switch."""
        arbiter = idle("A", return_s=0.5)
        arbiter.submit(10, "b", "B", "bob", CHAT)
        carry_out(arbiter, 18)
        arbiter.withdraw(19, "b")
        arbiter.submit(19.4, "b2", "B", "bob", CHAT)
        arbiter.withdraw(20, "b2")

        assert arbiter.tick(20.5) == []
        assert arbiter.next_deadline() == pytest.approx(22)
        assert arbiter.tick(22.1) == [load("A", "B", cause=Cause.RETURN)]

    def test_it_says_nothing_of_how_long_others_keep_somebody_waiting(self) -> None:
        """Nobody waited for what goes then to go."""
        arbiter = idle("A", return_s=60)
        arbiter.submit(10, "a", "A", "ann", CHAT)
        arbiter.submit(10, "b", "B", "bob", CHAT)
        arbiter.withdraw(40, "a")
        carry_out(arbiter, 40)
        before = arbiter._device.stays.values.copy()
        arbiter.withdraw(41, "b")

        assert arbiter.tick(101) == [load("A", "B", cause=Cause.RETURN)]
        assert arbiter._device.stays.values == before

    def test_what_was_unloaded_by_hand_stays_away_until_somebody_asks(self) -> None:
        """However long that is; then it comes back as ever."""
        arbiter = idle("A", return_s=60)
        used(arbiter, 10, "A")
        arbiter.unload(11, "A")
        arbiter.unloaded(12, "A")

        assert arbiter.tick(10_000) == []
        assert arbiter.snapshot(10_000).preload == {"A": "unloaded"}
        used(arbiter, 10_001, "B")
        assert arbiter.tick(10_061) == [load("A", "B", cause=Cause.RETURN)]

    def test_what_others_unloaded_stays_away_too(self) -> None:
        """In the window of LM Studio, say."""
        arbiter = idle("A", return_s=60)
        arbiter.observed(10, arbiter.epoch, {}, {"A"})

        assert arbiter.next_deadline() is None
        assert arbiter.tick(10_000) == []

    def test_what_went_for_its_ttl_stays_away_too(self) -> None:
        """So it does not come and go by turns."""
        arbiter = Arbiter(Limits(return_s=60))
        arbiter.preload(0, {"A": CHAT._replace(ttl_s=20)})
        carry_out(arbiter, 10)

        assert arbiter.tick(30) == [Switch(None, ("A",), Cause.TTL, 0)]
        assert arbiter.unloaded(31, "A") == []
        assert arbiter.tick(10_000) == []

    def test_what_has_crashed_comes_back(self) -> None:
        """After a while, which is longer each time until it answers somebody."""
        arbiter = idle("A", return_s=5)

        arbiter.observed(10, arbiter.epoch, {})
        assert arbiter.next_deadline() == 10 + FIRST_RETRY_S
        assert arbiter.tick(20) == [load("A", cause=Cause.RETURN)]
        carry_out(arbiter, 20)
        arbiter.observed(30, arbiter.epoch, {})
        assert arbiter.next_deadline() == 30 + 2 * FIRST_RETRY_S
        arbiter.tick(50)
        carry_out(arbiter, 50)
        used(arbiter, 51, "A")
        arbiter.observed(60, arbiter.epoch, {})
        assert arbiter.next_deadline() == 60 + FIRST_RETRY_S

    def test_a_return_that_fails_backs_off(self) -> None:
        """By twice as long each time, up to a cap, and nobody is refused for it."""
        arbiter = idle("A", return_s=5)
        used(arbiter, 10, "B")

        times = failures(arbiter, 12)

        assert times[:3] == [15, 15 + FIRST_RETRY_S, 15 + 3 * FIRST_RETRY_S]
        assert times[-1] - times[-2] == RETRY_CAP_S
        assert arbiter.snapshot(times[-1]).preload == {"A": "failed"}
        assert arbiter.submit(times[-1], "a", "A", "ann", CHAT) == [Switch("A", (), Cause.ROOM, 0)]

    def test_a_backend_that_is_back_ends_that(self) -> None:
        """What made the load fail is over."""
        arbiter = idle("A", return_s=5)
        used(arbiter, 10, "B")
        arbiter.tick(15)
        carry_out(arbiter, 15, BROKEN)

        assert arbiter.recovered(16, "A") == [load("A", cause=Cause.RETURN)]

    def test_a_drain_is_no_idling(self) -> None:
        """Nothing comes back meanwhile; after it the time begins anew, and what went by hand may come."""
        arbiter = idle("A", return_s=60)
        used(arbiter, 10, "A")
        arbiter.drain(20, unload=True)
        arbiter.unloaded(21, "A")

        assert arbiter.tick(10_000) == []
        assert arbiter.resume(10_000) == []
        assert arbiter.next_deadline() == 10_060

    def test_a_request_stops_a_return(self) -> None:
        """Like any load that nobody waits for."""
        arbiter = idle("A", return_s=60)
        used(arbiter, 10, "B")
        arbiter.tick(70)
        arbiter.unloaded(71, "B")
        arbiter.cleared(71)

        assert arbiter.submit(72, "b", "B", "bob", CHAT) == [Stop("A")]

    def test_an_order_stops_a_return(self) -> None:
        """Whoever unloads the model by hand while it comes does not want it."""
        arbiter = idle("A", return_s=60)
        used(arbiter, 10, "B")
        arbiter.tick(70)
        arbiter.unloaded(71, "B")
        arbiter.cleared(71)

        assert arbiter.unload(72, "A") == [Stop("A")]
        assert arbiter.switched(73, STOPPED) == []
        assert arbiter.tick(10_000) == []
