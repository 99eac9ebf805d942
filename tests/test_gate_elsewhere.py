"""What has waited at another gate, and what a gate says to whoever chooses among several."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from dmap.arbiter import Arbiter, Grant, Limits, Needs, Reason, Refuse
from dmap.config import Device
from dmap.errors import BackendDown
from dmap.gate import Gate
from dmap.placement import Standing
from tests.fake_switcher import A, B, FakeSwitcher, idle, running_gate
from tests.fakes import soon

ONE = Needs(size_bytes=6, parallel=1)


@pytest.fixture
def studio() -> FakeSwitcher:
    """Return a backend with nothing resident."""
    return FakeSwitcher()


@pytest.fixture
async def gate(studio: FakeSwitcher) -> AsyncGenerator[Gate]:
    """Run a gate that must leave nothing behind."""
    async with running_gate(studio) as gate:
        yield gate


def busy(**limits: float) -> Arbiter:
    """Return an arbiter whose one slot is taken from second 100 on."""
    arbiter = Arbiter(Limits(**limits))
    arbiter.observed(0, arbiter.epoch, {"A": ONE})
    arbiter.submit(100, "first", "A", "first", ONE)
    return arbiter


class TestSeniority:
    def test_the_wait_elsewhere_counts_for_the_place(self) -> None:
        """Who has waited for longer is served first, wherever it was."""
        arbiter = busy()
        arbiter.submit(110, "here", "A", "here", ONE)
        arbiter.submit(120, "came", "A", "came", ONE, since=105)

        assert list(arbiter.waiting) == ["came", "here"]
        assert arbiter.withdraw(121, "first") == [Grant("came")]

    def test_the_order_is_that_of_age_however_many_come(self) -> None:
        """Each of those that come finds its place among those that were there."""
        arbiter = busy()
        for at in (102, 104, 106, 108):
            arbiter.submit(at, at, "A", at, ONE)

        for at in (103, 107, 101, 105):
            arbiter.submit(110, at, "A", at, ONE, since=at)

        assert list(arbiter.waiting) == [101, 102, 103, 104, 105, 106, 107, 108]

    def test_the_wait_elsewhere_counts_for_its_bound(self) -> None:
        """`wait_s` bounds the whole wait."""
        arbiter = busy(wait_s=60)
        arbiter.submit(150, "came", "A", "came", ONE, since=110)

        assert arbiter.next_deadline() == 170
        assert [(each.ticket, each.reason) for each in arbiter.tick(170)] == [("came", Reason.WAIT_EXPIRED)]

    def test_it_is_not_refused_because_others_wait_for_long(self) -> None:
        """Where a newcomer would wait in vain, it may have its turn, for its age goes before theirs."""
        arbiter = busy(wait_s=60, queue=10_000)
        for each in range(2000):
            arbiter.submit(100, each, "A", each, ONE)

        newcomer = arbiter.submit(100, "new", "A", "new", ONE)
        came = arbiter.submit(100, "came", "A", "came", ONE, since=95)

        assert list(map(type, newcomer)) == [Refuse]
        assert came == []

    async def test_a_lease_that_has_waited_goes_first(self, gate: Gate, studio: FakeSwitcher) -> None:
        """The gate tells its arbiter since when it waits, and what it waited here by itself."""
        async with gate.lease(A, "me"):
            pass
        studio.loading.hold()
        here = gate.lease(B, "here")
        here.ask()
        came = gate.lease(B, "came", waited_s=100)
        came.ask()

        assert came.since == pytest.approx(here.since - 100, abs=5)
        assert next(iter(gate.view.first(1))) is came
        studio.loading.release.set()
        assert came.granted is not None
        await came.granted
        assert came.queue_s < 50
        here.release()
        came.release()


class TestPlace:
    async def test_what_is_resident_and_free_answers_at_once(self, gate: Gate) -> None:
        """What is not takes its load first."""
        absent = gate.place(B)
        async with gate.lease(A, "me"):
            pass
        free = gate.place(A)

        assert absent.wait_s > 0
        assert not absent.resident
        assert (free.name, free.wait_s, free.resident, free.standing) == ("studio/a", 0, True, Standing.SOUND)

    async def test_who_is_drained_comes_last(self, gate: Gate) -> None:
        """Nobody is served there until it is resumed."""
        gate.drain(unload=False)

        assert gate.place(A).standing is Standing.LAST

    async def test_a_full_queue_comes_last(self, gate: Gate, studio: FakeSwitcher) -> None:
        """One more would be refused."""
        gate.configure(Device(queue=1, cooldown_s=0))
        studio.loading.hold()
        waiting = gate.lease(A, "me")
        waiting.ask()

        assert gate.place(A).standing is Standing.LAST

        waiting.release()
        studio.loading.release.set()
        await idle(gate)

    async def test_a_backend_that_is_silent_comes_last(self, gate: Gate, studio: FakeSwitcher) -> None:
        """What it was believed to have is no promise."""
        studio.looking.error = BackendDown("it is gone")

        await gate.recheck()

        assert gate.place(A).standing is Standing.LAST

    def test_a_model_that_did_not_answer_may_have_to_be_loaded(self) -> None:
        """Until somebody has looked, that is what it takes."""
        arbiter, large = Arbiter(Limits()), Needs(size_bytes=10 * 10**9, parallel=4)
        arbiter.observed(0, arbiter.epoch, {"A": large})
        arbiter.submit(100, "first", "A", "first", large)
        before = arbiter.view(101).wait_s("A", 0)

        arbiter.came_back(101, "first")

        assert before == 0
        assert arbiter.view(101).wait_s("A", 0) == 10

    async def test_who_has_chosen_it_and_has_not_asked_yet_counts(self, gate: Gate) -> None:
        """Four answers at once are given, as far as is known: the fifth of a burst would wait for one."""
        before = gate.place(A)
        gate.view.coming += [A.key] * 4

        assert gate.place(A).score_s > before.score_s
        assert gate.place(A).in_flight == before.in_flight + 4

    async def test_a_model_that_never_fits_comes_last(self, gate: Gate) -> None:
        """It is known to be too large before anybody asks for it; if it is there all the same, it serves."""
        large = replace(A, needs=Needs(size_bytes=2 * 10**9))
        gate.configure(Device(memory=10**9, cooldown_s=0))

        assert gate.place(large).standing is Standing.LAST
        assert gate.place(A).standing is Standing.SOUND

    async def test_what_is_pinned_counts_for_what_fits(self, gate: Gate) -> None:
        """Beside a model that stays there is no room for another, but for itself."""
        pinned = replace(A, needs=Needs(pinned=True))
        async with gate.lease(pinned, "me"):
            pass

        assert gate.place(B).standing is Standing.LAST
        assert gate.place(pinned).standing is Standing.SOUND


class TestLeaving:
    async def test_a_model_that_is_given_up_is_looked_for(self, gate: Gate, studio: FakeSwitcher) -> None:
        """It counts as one to be loaded from the same moment, and is gone when somebody has looked."""
        studio.loading.hold()
        lease, loop = gate.lease(A, "me"), asyncio.get_running_loop()
        lease.ask()
        assert lease.granted is not None
        await studio.loading.started.wait()
        begun = loop.time()
        await soon(lambda: loop.time() > begun, 10)  # the loop counts milliseconds: a load takes one at least
        studio.loading.release.set()
        await lease.granted
        free = gate.place(A).wait_s
        studio.residents.clear()

        lease.give_up()
        doubted = gate.place(A).wait_s
        await gate.recheck()

        assert (free, gate.residents) == (0, frozenset())
        assert doubted is not None
        assert doubted > 0

    async def test_who_is_granted_by_the_refusal_of_another_keeps_that(self, gate: Gate) -> None:
        """Without the first that waits the model stays, and takes the second: that one is not refused."""
        gate.configure(Device(patience_s=0.001, residency=0, cooldown_s=0))
        held = gate.lease(A, "held")
        held.ask()
        assert held.granted is not None
        await held.granted
        first, second = gate.lease(B, "first"), gate.lease(A, "second")
        first.ask()
        await soon(lambda: gate.snapshot().plan is not None, 2)
        second.ask()
        assert (first.granted is not None, second.granted is not None) == (True, True)

        gate.refuse(lambda lease: True, BackendDown("it is gone"))

        assert first.granted is not None
        assert isinstance(first.granted.exception(), BackendDown)
        assert second.granted is not None
        assert (second.granted.done(), second.granted.exception()) == (True, None)
        assert gate.snapshot().leases == 2
        held.release()
        second.release()
