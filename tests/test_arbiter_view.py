"""What a device tells of the waits of newcomers, for all of its models at once."""

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmap.arbiter import Arbiter, Cause, Limits, Needs, Outcome, View

GB = 2**30
CHAT = Needs(parallel=2)


def with_a(**limits: float) -> Arbiter:
    """Return an arbiter whose device had A, which answers two at a time, when it was looked at."""
    arbiter = Arbiter(Limits(**limits))
    arbiter.observed(0, arbiter.epoch, {"A": CHAT})
    return arbiter


def asked(arbiter: Arbiter, now: float, count: int, model: str = "A", client: str | None = None) -> Arbiter:
    """Let so many requests come at once, each from a client of its own unless there is a *client*."""
    for each in range(count):
        arbiter.submit(now, (model, now, each), model, client or (model, now, each), CHAT)
    return arbiter


def test_an_empty_device_loads_anything_at_once() -> None:
    """Nothing is known of any model, and nothing is raised: a load would begin now."""
    arbiter = Arbiter(Limits())

    assert arbiter.view(0) == View({}, 0.0)
    assert arbiter.view(0).wait_s("never seen", arbiter.load_s("never seen")) == arbiter.load_s("any other")


def test_a_burst_for_a_model_that_has_not_said_how_many_it_answers() -> None:
    """Until it is there, a usual number is taken for it: a server that says "any" is another matter."""
    absent, there = Arbiter(Limits()), Arbiter(Limits())
    there.observed(0, there.epoch, {"A": Needs()})
    for each in range(40):
        absent.submit(0, each, "A", each, Needs())
        there.submit(0, each, "A", each, Needs())

    assert absent.view(0).models["A"].wait_s >= absent.load_s("A") + 40 // 4 * absent.view(0).answer_s
    assert (there.view(0).models["A"].wait_s, there.view(0).models["A"].parallel) == (0, None)


def test_an_idle_resident_is_no_wait_and_goes_for_others() -> None:
    """Its answers begin at once; a load of another model, too."""
    view = with_a().view(10)

    assert view.models["A"].wait_s == 0
    assert view.models["A"].resident
    assert view.cold_s == 0


def test_those_who_are_served_and_wait_are_told() -> None:
    """Two answers at a time: the fifth request waits for the two before it, and one more for those."""
    view = asked(with_a(), 0, 5).view(0)

    assert (view.models["A"].leases, view.models["A"].waiting, view.models["A"].parallel) == (2, 3, 2)
    assert view.models["A"].wait_s == 2 * view.models["A"].answer_s == 10


def test_another_model_waits_until_a_busy_one_may_go() -> None:
    """A serves a crowd: a load of another model begins later than with one request, and not at once."""
    one, crowd = asked(with_a(), 0, 1).view(0), asked(with_a(), 0, 40).view(0)

    assert 0 < one.cold_s < crowd.cold_s <= Limits().patience_s * 2


def test_a_model_that_somebody_waits_for_has_its_load_in_its_wait() -> None:
    """B is being loaded: the next one for B waits for the rest of it, one for C for a turn of B."""
    arbiter = asked(with_a(), 0, 1, "B")
    load_s = arbiter.load_s("B")

    view = arbiter.view(4)

    assert view.models["B"].wait_s == pytest.approx(load_s - 4)
    assert not view.models["B"].resident
    assert view.cold_s > load_s - 4


def test_one_client_sees_its_own_crowd() -> None:
    """A client that waits with many requests is to go elsewhere: they all count as ahead."""
    crowd, batch = asked(with_a(), 0, 42), asked(with_a(), 0, 42, client="batch")

    assert batch.view(0).models["A"].wait_s == crowd.view(0).models["A"].wait_s > 60


def test_a_model_that_leaves_is_not_resident() -> None:
    """It was wished away: who asks for it waits until its answer has ended, and for a load."""
    arbiter = asked(with_a(), 0, 1)
    arbiter.unload(0, "A", Cause.ASKED)

    view = arbiter.view(0)

    assert "A" not in view.models
    assert view.cold_s > 0


def test_what_is_usual_is_told_of_other_models() -> None:
    """Who sends many requests for a model that is nowhere is to know that they do not all begin at once."""
    arbiter = asked(with_a(), 0, 2)
    arbiter.withdraw(3, ("A", 0, 0))

    assert (Arbiter(Limits()).view(0).answer_s, Arbiter(Limits()).view(0).parallel) == (5, 4)
    assert (arbiter.view(3).answer_s, arbiter.view(3).parallel) == (3, 2)


def test_a_drained_device_is_the_last_choice() -> None:
    """Nobody is served until it goes on: each wait is `wait_s`."""
    arbiter = asked(with_a(wait_s=100), 0, 1)
    arbiter.drain(0)

    view = arbiter.view(0)

    assert view.drained
    assert view.models["A"].wait_s == view.wait_s("B", arbiter.load_s("B")) == 100


def test_a_model_that_backs_off_is_the_last_choice() -> None:
    """Its load has failed: for some seconds it would be refused, then it may be tried again."""
    arbiter = asked(with_a(wait_s=100), 0, 1, "B")
    arbiter.unloaded(0, "A")
    arbiter.switched(1, Outcome(failed="broken"))

    assert arbiter.view(1).models["B"].wait_s == 100
    assert "B" not in arbiter.view(60).models


def test_a_small_model_finds_room_beside_others() -> None:
    """The models here take 4 GB of 24: a load of the usual kind begins at once, beside whoever serves."""
    arbiter = Arbiter(Limits(max_models=8, memory_bytes=24 * GB))
    arbiter.submit(0, 1, "A", "ann", Needs(4 * GB))
    arbiter.switched(5, Outcome())

    assert arbiter.view(5).cold_s == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "switch", "end"]), st.sampled_from("ABCD"), st.floats(0, 20)),
    min_size=1,
    max_size=40,
)


@given(STEPS, st.integers(1, 3))
def test_a_view_is_of_whatever_may_be(steps, most) -> None:
    """After any events each wait is a time that can be told, and whatever serves is among the models."""
    looked = list(views(Arbiter(Limits(max_models=most)), steps))

    assert all(0 <= wait_s < math.inf for view, _ in looked for wait_s in waits_of(view))
    assert all(serving <= view.models.keys() for view, serving in looked)


@given(STEPS, st.integers(1, 3))
def test_a_look_decides_nothing(steps, most) -> None:
    """Whether somebody looks or not, the same is decided."""
    looked, alone = (Arbiter(Limits(max_models=most)) for _ in range(2))

    assert len(list(views(looked, steps))) == len(list(played(alone, steps)))
    assert looked.snapshot(1000) == alone.snapshot(1000)


def waits_of(view: View) -> list[float]:
    """Return all waits of a view."""
    return [view.cold_s, *(model.wait_s for model in view.models.values())]


def views(arbiter: Arbiter, steps) -> Iterator[tuple[View, set[str]]]:
    """Yield a look after each of *steps*, and what serves then."""
    for now in played(arbiter, steps):
        yield arbiter.view(now), {model for model in arbiter.residents if not arbiter.is_leaving(model)}


def played(arbiter: Arbiter, steps) -> Iterator[float]:
    """Let something happen that may happen, and yield the time."""
    now = 0.0
    for step, (what, model, later_s) in enumerate(steps):
        now += later_s
        if what == "end" and arbiter.leases:
            arbiter.withdraw(now, next(iter(arbiter.leases)))
        elif what == "switch" and arbiter.switch is not None:
            for gone in arbiter.switch.unload:
                arbiter.unloaded(now, gone)
            arbiter.switched(now, Outcome())
        else:
            arbiter.submit(now, step, model, step % 3, Needs(1, parallel=2))
        yield now
