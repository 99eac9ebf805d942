"""The gate on a real loop, in front of a backend whose every step the test lets through by hand."""

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator
from dataclasses import fields, replace

import pytest

from dmap.arbiter import Limits, Needs
from dmap.backends import Loaded
from dmap.config import Device
from dmap.errors import BackendDown, LoadFailed, Overloaded, ShuttingDown, WaitExpired
from dmap.gate import Gate
from dmap.gate.live import limits_of
from dmap.models import ModelKey, Route
from tests.fake_switcher import A, B, C, FakeSwitcher, ask, cancelled, idle, released, running_gate, until
from tests.fakes import HERE_S, within


@pytest.fixture
def studio() -> FakeSwitcher:
    """Return a backend with nothing resident."""
    return FakeSwitcher()


@pytest.fixture
async def gate(studio: FakeSwitcher) -> AsyncGenerator[Gate]:
    """Run a gate that must leave nothing behind."""
    async with running_gate(studio) as gate:
        yield gate


async def turned(loop: asyncio.AbstractEventLoop, after_s: float) -> None:
    """Return when the loop's clock has gone on by *after_s*."""
    later = loop.create_future()
    loop.call_later(after_s, later.set_result, None)
    await later


async def turn(times: int) -> None:
    """Let the loop turn so often."""
    for _ in range(times):
        await asyncio.sleep(0)


class TestLease:
    async def test_loads_what_is_not_resident(self, gate: Gate, studio: FakeSwitcher) -> None:
        """The first request of a model has it loaded with the options of its route."""
        route = Route(A.key, device="gpu0", load={"context_length": 8192})

        async with gate.lease(route, "me"):
            assert studio.residents == {"a"}

        assert studio.options == [{"context_length": 8192}]

    async def test_costs_no_turn_of_the_loop_when_the_model_is_free(self, gate: Gate) -> None:
        """A lease on a free resident is entered without giving way to anyone."""
        async with gate.lease(A, "me"):
            pass
        entering = gate.lease(A, "me").__aenter__()

        with pytest.raises(StopIteration) as stopped:
            entering.send(None)

        stopped.value.value.release()

    async def test_tells_how_long_it_waited(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A request that found its model absent spent all its wait in its own switch."""
        studio.loading.hold()
        asyncio.get_running_loop().call_later(0.01, studio.loading.release.set)

        async with gate.lease(A, "me") as lease:
            assert lease.queue_s >= lease.switch_s > 0

        async with gate.lease(A, "me") as lease:
            assert (lease.queue_s, lease.switch_s) == (0, 0)

    async def test_counts_each_switch_of_its_model(self, studio: FakeSwitcher) -> None:
        """A load that failed beside others is part of the wait for its own switch, as is the second try."""
        gate = Gate("gpu0", Device(max_models=2, memory=10, cooldown_s=0), {"studio": studio})
        await gate.load(replace(B, needs=Needs(size_bytes=1)), "me")
        studio.loading.error = LoadFailed("out of memory")
        studio.loading.hold()
        studio.unloading.hold()
        lease = gate.lease(replace(A, needs=Needs(size_bytes=1)), "me")
        lease.ask()
        await studio.loading.started.wait()
        asyncio.get_running_loop().call_later(0.05, studio.loading.release.set)
        await studio.unloading.started.wait()

        studio.loading.error = None
        studio.unloading.release.set()
        await lease.granted

        assert lease.queue_s >= lease.switch_s > 0.04  # a timer may come early
        lease.release()
        await gate.close()

    async def test_release_may_come_early_and_twice(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A lease released early is over, whatever happens later, and counts once."""
        async with gate.lease(A, "me") as lease:
            lease.release()
            assert gate.snapshot().leases == 0
            lease.release()

        async with gate.lease(A, "me"):
            assert studio.in_use("a")

    async def test_release_without_an_ask(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A lease that was never asked for has nothing to give back."""
        gate.lease(A, "me").release()

        async with gate.lease(A, "me"):
            assert studio.in_use("a")

    async def test_is_given_back_when_the_body_raises(self, gate: Gate) -> None:
        """An exception inside the context ends the lease and goes on."""
        with pytest.raises(KeyError):
            async with gate.lease(A, "me"):
                raise KeyError

        assert gate.snapshot().leases == 0

    async def test_a_switch_waits_for_the_last_answer(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A model is not unloaded before its last lease has ended."""
        async with gate.lease(A, "me"):
            studio.serving["a"] += 1
            other = ask(gate, B)
            await until(lambda: gate.snapshot().waiting == 1)
            assert studio.residents == {"a"}
            studio.serving["a"] -= 1

        (await other).release()

        assert studio.residents == {"b"}

    async def test_parallel_as_the_backend_reports_it(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A resident takes as many as the load said it serves."""
        studio.loaded = Loaded(parallel=1)

        async with gate.lease(A, "me"):
            second = ask(gate, A)
            await until(lambda: gate.snapshot().waiting == 1)

        (await second).release()

    @pytest.mark.parametrize(("configured", "reported"), [(1, 4), (None, 1)])
    async def test_parallel_of_what_was_there(
        self, studio: FakeSwitcher, configured: int | None, reported: int
    ) -> None:
        """Of a model that was resident before, the owner's `parallel` counts, else what the backend says."""
        studio.residents, studio.reports = {"a"}, reported
        route = Route(A.key, device="gpu0", needs=Needs(parallel=configured))

        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio}, route_of={A.key: route}.get)
        await gate.start()

        async with gate.lease(route, "me"):
            second = ask(gate, route)
            await until(lambda: gate.snapshot().waiting == 1)
        (await second).release()
        await gate.close()

        assert studio.loading.calls == []

    @pytest.mark.parametrize(("given", "unloaded"), [(True, []), (False, ["a"])])
    async def test_size_as_the_load_reports_it(
        self, studio: FakeSwitcher, given: bool, unloaded: list[str]
    ) -> None:
        """Of a model that dmap loads, the owner's size counts, else what the load reports."""
        gate = Gate("gpu0", Device(max_models=2, memory=10, cooldown_s=0), {"studio": studio})
        await gate.start()

        studio.loaded = Loaded(size_bytes=6)
        async with gate.lease(replace(A, needs=Needs(size_bytes=4), size_given=given), "me"):
            pass
        async with gate.lease(replace(B, needs=Needs(size_bytes=6), size_given=True), "me"):
            assert studio.unloading.calls == unloaded
        await gate.close()

    async def test_an_embedding_that_was_there(self, studio: FakeSwitcher) -> None:
        """An embedding model that nobody knows takes no other model's place."""
        studio.residents, studio.embeds, studio.weighs = {"x"}, True, 1
        gate = Gate("gpu0", Device(memory=10, cooldown_s=0), {"studio": studio})
        await gate.start()

        await gate.load(replace(A, needs=Needs(size_bytes=6)), "me")

        assert studio.residents == {"x", "a"}
        await gate.close()

    @pytest.mark.parametrize(("given", "unloaded"), [(True, []), (False, ["a"])])
    async def test_size_of_what_was_there(
        self, studio: FakeSwitcher, given: bool, unloaded: list[str]
    ) -> None:
        """Of a model that was resident before, the owner's size counts, else what the backend says."""
        studio.residents, studio.weighs = {"a"}, 6
        gate = Gate(
            "gpu0",
            Device(max_models=2, memory=10, cooldown_s=0),
            {"studio": studio},
            route_of={A.key: replace(A, needs=Needs(size_bytes=4), size_given=given)}.get,
        )
        await gate.start()

        async with gate.lease(replace(B, needs=Needs(size_bytes=6), size_given=True), "me"):
            assert studio.unloading.calls == unloaded
        await gate.close()

    @pytest.mark.parametrize(("users", "stays"), [((1, 2), True), ((1, 1), False), ((None, None), False)])
    async def test_users_of_one_client(self, users: tuple[int, int], stays: bool) -> None:
        """A model is kept for a user that is due, though another one of its name asks elsewhere."""
        studio = FakeSwitcher()
        studio.residents.add("a")
        async with running_gate(studio) as gate:
            for _ in range(3):
                async with gate.lease(A, "app", user=users[0]):
                    pass
            other = gate.lease(B, "app", user=users[1])
            other.ask()

            assert (gate.snapshot().plan is None) is stays
            other.release()
            await idle(gate)

    async def test_a_backend_knows_what_is_in_use(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A model is in use while there is a lease on it, whatever else is in use."""
        gate.configure(Device(cooldown_s=0, max_models=2, memory=10))
        small = Needs(size_bytes=1)

        async with gate.lease(replace(A, needs=small), "me"), gate.lease(replace(B, needs=small), "me"):
            assert [studio.in_use(model) for model in "abc"] == [True, True, False]
        assert [studio.in_use(model) for model in "abc"] == [False, False, False]


class TestCancellation:
    async def test_while_queued(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A waiter that is cancelled in the queue causes no switch."""
        async with gate.lease(A, "me"):
            task = ask(gate, B)
            await until(lambda: gate.snapshot().waiting == 1)
            await cancelled(task)

        await idle(gate)
        assert studio.loading.calls == ["a"]

    async def test_while_the_backend_is_asked(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A switch whose only waiter leaves before the load call does not load."""
        studio.looking.hold()
        task = ask(gate, A)
        await studio.looking.started.wait()

        await cancelled(task)
        studio.looking.release.set()

        await idle(gate)
        assert studio.loading.calls == []

    async def test_during_unload(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A switch whose only waiter leaves during the unload ends after it."""
        async with gate.lease(A, "me"):
            pass
        studio.unloading.hold()
        task = ask(gate, B)
        await studio.unloading.started.wait()

        await cancelled(task)
        studio.unloading.release.set()

        await idle(gate)
        assert studio.loading.calls == ["a"]
        assert gate.snapshot().residents == ()

    async def test_between_two_unloads(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A switch whose only waiter leaves during the first of two unloads leaves the other model."""
        gate.configure(Device(cooldown_s=0, max_models=2, memory=10))
        await gate.load(replace(A, needs=Needs(size_bytes=1)), "me")
        await gate.load(replace(B, needs=Needs(size_bytes=1)), "me")
        studio.unloading.hold()
        task = ask(gate, C)
        await studio.unloading.started.wait()

        await cancelled(task)
        studio.unloading.release.set()

        await idle(gate)
        assert studio.unloading.calls == ["a"]
        assert studio.residents == {"b"}

    async def test_during_load(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A load under way goes on without its waiter, and its model is kept."""
        studio.loading.hold()
        task = ask(gate, A)
        await studio.loading.started.wait()

        await cancelled(task)
        studio.loading.release.set()

        await idle(gate)
        assert [view.model for view in gate.snapshot().residents] == [A.key]

    async def test_during_a_load_that_can_be_stopped(self, gate: Gate, studio: FakeSwitcher) -> None:
        """It is stopped for who waits for another model, and is nobody's failure."""
        studio.frees_at_once = True
        studio.loading.hold()
        task, other = ask(gate, A), ask(gate, B)
        await studio.loading.started.wait()

        await cancelled(task)
        await until(lambda: studio.unloading.calls == ["a"])
        studio.loading.release.set()

        (await other).release()
        async with gate.lease(A, "me"):
            assert studio.loading.calls == ["a", "b", "a"]

    async def test_during_a_load_that_cannot_be_stopped(self, gate: Gate, studio: FakeSwitcher) -> None:
        """It goes on to its end, whoever waits."""
        studio.loading.hold()
        task, other = ask(gate, A), ask(gate, B)
        await studio.loading.started.wait()

        await cancelled(task)
        await asyncio.sleep(0)
        assert (studio.under_way, studio.unloading.calls) == (1, [])
        studio.loading.release.set()

        (await other).release()
        assert (studio.loading.calls, studio.unloading.calls) == (["a", "b"], ["a"])

    @pytest.mark.parametrize("turns", range(8))
    async def test_as_a_load_ends(self, gate: Gate, studio: FakeSwitcher, turns: int) -> None:
        """Whether a load is stopped or has just ended, who waits is served, and nothing is left over."""
        studio.frees_at_once = True
        studio.loading.hold()
        task, other = ask(gate, A), ask(gate, B)
        await studio.loading.started.wait()
        task.cancel()
        await turn(turns)

        studio.loading.release.set()

        (await other).release()
        assert studio.residents == {"b"} == {key.model for key in gate.residents}

    async def test_who_comes_while_a_load_is_stopped(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A newcomer for the model that is just being stopped is served by another load."""
        studio.frees_at_once = True
        studio.loading.hold()
        studio.unloading.hold()
        task, other = ask(gate, A), ask(gate, B)
        await studio.loading.started.wait()
        await cancelled(task)
        await studio.unloading.started.wait()
        late = ask(gate, A, "late")
        await until(lambda: gate.snapshot().waiting == 2)

        studio.loading.release.set()
        studio.unloading.release.set()

        await asyncio.gather(released(other), released(late))

    async def test_a_load_that_will_not_stop_has_failed(self, gate: Gate, studio: FakeSwitcher) -> None:
        """If something of it stays, its memory is not free: the model backs off, and others are tried."""
        studio.frees_at_once = True
        studio.loading.hold()
        studio.unloading.error = BackendDown("it survives a SIGKILL")
        task, other = ask(gate, A), ask(gate, B)
        await studio.loading.started.wait()

        await cancelled(task)
        studio.loading.release.set()

        (await other).release()
        with pytest.raises(BackendDown, match="survives a SIGKILL"):
            await ask(gate, A)

    async def test_at_the_moment_of_the_grant(self, gate: Gate) -> None:
        """A grant that meets a cancelled waiter is handed back."""
        one = Route(A.key, device="gpu0", needs=Needs(parallel=1))
        first = await gate.lease(one, "me").__aenter__()
        second, third = ask(gate, one), ask(gate, one)
        await until(lambda: gate.snapshot().waiting == 2)

        first.release()
        await cancelled(second)

        (await third).release()

    async def test_just_before_the_grant(self, gate: Gate) -> None:
        """A waiter that was cancelled, and has not left yet when its turn comes, hands the grant on."""
        one = Route(A.key, device="gpu0", needs=Needs(parallel=1))
        first = await gate.lease(one, "me").__aenter__()
        second, third = ask(gate, one), ask(gate, one)
        await until(lambda: gate.snapshot().waiting == 2)

        second.cancel()
        first.release()

        (await third).release()
        assert second.cancelled()


class TestWaitingByHand:
    async def test_tells_place_and_estimate(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A lease that waits knows its position, from 1, an estimate, and what it waits behind."""
        studio.loading.hold()
        lease, clock = gate.lease(A, "me"), asyncio.get_running_loop().time
        began = clock()
        lease.ask()
        await studio.loading.started.wait()

        position, estimate_s, p80_s = gate.view.of_newcomer(lease)

        assert position == 1
        assert 9.99 - (clock() - began) < estimate_s < 10.01
        assert p80_s == pytest.approx((estimate_s + 1) * 1.5 - 1)
        assert gate.view.obstacle(lease) == "switch to studio/a"
        studio.loading.release.set()
        await lease.granted
        lease.release()

    async def test_has_nothing_to_wait_for_when_the_model_is_free(self, gate: Gate) -> None:
        """A request that is served at once has no future to wait for."""
        await gate.load(A, "me")

        async with gate.lease(A, "me") as lease:
            assert lease.granted is None

    async def test_a_refusal_at_once_is_raised(self, studio: FakeSwitcher) -> None:
        """What is refused at once is raised by `ask`, and nothing is held."""
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
        await gate.close()
        lease = gate.lease(A, "me")

        with pytest.raises(ShuttingDown):
            lease.ask()

        lease.release()
        assert gate.snapshot().leases == 0

    async def test_a_refusal_that_nobody_hears_is_no_bug(
        self, studio: FakeSwitcher, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A future whose error nobody fetches any more leaves no line in the log."""
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
        studio.loading.hold()
        lease = gate.lease(A, "me")
        lease.ask()

        await gate.close()
        del lease
        gc.collect()

        assert not [record for record in caplog.records if record.levelno > logging.INFO]


class TestComingBack:
    async def test_waits_in_its_place_while_the_device_is_looked_at(
        self, gate: Gate, studio: FakeSwitcher
    ) -> None:
        """A request whose model did not answer waits in the queue, with a place and a future."""
        lease = await gate.lease(A, "me").__aenter__()
        studio.looking.hold()

        lease.come_back()
        await studio.looking.started.wait()

        assert [line.client for line in gate.view.first(9)] == ["me"]
        assert gate.view.of(lease)[0] == 1
        assert gate.snapshot().leases == 0
        assert not studio.in_use("a")
        studio.looking.release.set()
        await lease.granted
        assert studio.loading.calls == ["a"]
        lease.release()

    async def test_has_a_model_that_vanished_loaded_again(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A resident that turns out to be gone is loaded again, once, for all who came back."""
        first = await gate.lease(A, "me").__aenter__()
        second = await gate.lease(A, "you").__aenter__()
        studio.residents = set()

        first.come_back()
        second.come_back()
        await first.granted
        await second.granted

        assert studio.loading.calls == ["a", "a"]
        first.release()
        second.release()

    async def test_keeps_newcomers_from_a_model_in_doubt(self, gate: Gate, studio: FakeSwitcher) -> None:
        """Nobody is sent to a resident that did not answer before somebody has looked at it."""
        lease = await gate.lease(A, "me").__aenter__()
        studio.looking.hold()
        lease.come_back()

        lease.release()
        late = gate.lease(A, "you")
        late.ask()

        assert late.granted is not None
        studio.looking.release.set()
        await late.granted
        late.release()

    async def test_waits_no_longer_in_all(self, studio: FakeSwitcher) -> None:
        """The wait is bounded from the first ask on, with all that lies between."""
        gate = Gate("gpu0", Device(wait_s=0.05, cooldown_s=0), {"studio": studio})
        await gate.start()
        lease = await gate.lease(A, "me").__aenter__()
        studio.looking.hold()

        lease.come_back()
        with pytest.raises(WaitExpired):
            await within(1, lease.granted)

        assert gate.snapshot().leases == 0
        studio.looking.release.set()
        await gate.close()

    async def test_counts_both_waits(self, gate: Gate, studio: FakeSwitcher) -> None:
        """What a lease that came back has waited is both its waits together."""
        loop = asyncio.get_running_loop()
        studio.loading.hold()
        loop.call_later(0.05, studio.loading.release.set)
        lease = await gate.lease(A, "me").__aenter__()
        studio.looking.hold()

        lease.come_back()
        loop.call_later(0.05, studio.looking.release.set)
        await lease.granted

        assert 0.08 < lease.queue_s < 30  # timers may come early
        lease.release()

    async def test_counts_both_services(self, gate: Gate, studio: FakeSwitcher) -> None:
        """From ask to release a lease either waits or serves, also one that came back."""
        loop = asyncio.get_running_loop()
        lease = gate.lease(A, "me")
        studio.loading.hold()
        began = loop.time()
        lease.ask()
        loop.call_later(0.05, studio.loading.release.set)
        await lease.granted
        studio.looking.hold()
        await turned(loop, 0.05)

        lease.come_back()
        loop.call_later(0.05, studio.looking.release.set)
        await lease.granted
        await turned(loop, 0.05)
        lease.release()

        assert lease.service_s > 0.09
        assert lease.queue_s + lease.service_s == pytest.approx(loop.time() - began, abs=0.005)

    async def test_to_a_gate_that_closed_is_refused(self, studio: FakeSwitcher) -> None:
        """A request that comes back when dmap ends hears so."""
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
        lease = await gate.lease(A, "me").__aenter__()
        await gate.close()

        with pytest.raises(ShuttingDown):
            lease.come_back()

        lease.release()
        assert gate.snapshot().leases == 0

    async def test_to_a_model_that_backs_off_is_refused(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A model whose load has failed meanwhile is not loaded for one who comes back either."""
        first = await gate.lease(A, "me").__aenter__()
        studio.residents = set()
        studio.loading.error = LoadFailed("no such file")
        await gate.recheck()
        with pytest.raises(LoadFailed):
            await ask(gate, A)

        with pytest.raises(BackendDown, match="no such file"):
            first.come_back()

        assert gate.snapshot().leases == 0


class TestRefusals:
    async def test_a_failed_load_is_told_with_its_reason(self, gate: Gate, studio: FakeSwitcher) -> None:
        """All who wait for a load that fails hear the backend's own words; the next to come is put off."""
        studio.loading.error = LoadFailed("no such file")

        first, second = ask(gate, A), ask(gate, A)

        with pytest.raises(LoadFailed, match="could not load studio/a on 'gpu0': no such file"):
            await first
        with pytest.raises(LoadFailed):
            await second
        with pytest.raises(BackendDown, match="no such file") as told:
            await ask(gate, A)
        assert 0 < told.value.retry_after_s <= 2

    async def test_a_failure_without_words_is_told_by_its_name(
        self, gate: Gate, studio: FakeSwitcher
    ) -> None:
        """An error that says nothing is told by what it is."""
        studio.loading.error = MemoryError()

        with pytest.raises(LoadFailed, match="could not load studio/a on 'gpu0': MemoryError"):
            await ask(gate, A)

    async def test_a_socket_that_fails_is_a_backend_that_is_down(
        self, gate: Gate, studio: FakeSwitcher
    ) -> None:
        """Where nobody listens there is no fault of the model: the client may try again."""
        studio.loading.error = ConnectionRefusedError("nobody listens")

        with pytest.raises(BackendDown, match="nobody listens"):
            await ask(gate, A)

    async def test_a_nearer_deadline_is_kept(self, gate: Gate) -> None:
        """A wait ends in time also where the gate has been waiting for something later."""
        await gate.load(replace(A, needs=Needs(ttl_s=1000)), "me")
        gate.configure(Device(cooldown_s=0, wait_s=0.01))

        async with gate.lease(A, "me"), asyncio.timeout(HERE_S):
            with pytest.raises(WaitExpired):
                await ask(gate, B)

    async def test_a_backend_that_is_down_is_told_as_such(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A switch fails when its backend does not answer, and the client may try again."""
        studio.looking.error = BackendDown("studio does not answer")

        with pytest.raises(BackendDown, match="studio does not answer") as told:
            await ask(gate, A)

        assert told.value.retry_after_s == 2

    async def test_the_queue_is_bounded(self, studio: FakeSwitcher) -> None:
        """Who finds the queue full is refused at once, with an estimate."""
        gate = Gate("gpu0", Device(queue=1, cooldown_s=0), {"studio": studio})
        studio.loading.hold()
        first = ask(gate, A)
        await studio.loading.started.wait()

        with pytest.raises(Overloaded) as told:
            await ask(gate, A)

        assert 9 * 1.5 < told.value.retry_after_s <= 11 * 1.5 - 1
        await cancelled(first)
        await gate.close()

    async def test_the_wait_is_bounded(self, studio: FakeSwitcher) -> None:
        """Who has waited for `wait_s` is refused, by the gate's own timer."""
        gate = Gate("gpu0", Device(wait_s=0.01, cooldown_s=0), {"studio": studio})
        studio.loading.hold()

        with pytest.raises(WaitExpired, match="waited 0.01 s for studio/a"):
            await ask(gate, A)

        await gate.close()

    async def test_each_wait_is_bounded(self, studio: FakeSwitcher) -> None:
        """The timer that has ended one wait ends the next one, too."""
        gate = Gate("gpu0", Device(wait_s=0.01, cooldown_s=0), {"studio": studio})
        studio.loading.hold()
        with pytest.raises(WaitExpired):
            await ask(gate, A)

        async with asyncio.timeout(HERE_S):
            with pytest.raises(WaitExpired):
                await ask(gate, A)

        await gate.close()

    async def test_what_never_fits(self, studio: FakeSwitcher) -> None:
        """A model larger than the device is refused without a switch."""
        gate = Gate("gpu0", Device(memory=10, cooldown_s=0), {"studio": studio})

        with pytest.raises(LoadFailed, match="does not fit on 'gpu0'"):
            await ask(gate, Route(A.key, device="gpu0", needs=Needs(size_bytes=11)))

        assert studio.loading.calls == []
        await gate.close()


class TestTruth:
    async def test_start_adopts_what_is_resident(self, studio: FakeSwitcher) -> None:
        """A model that is resident already is used as it is."""
        studio.residents = {"b"}
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
        await gate.start()

        async with gate.lease(B, "me"):
            pass

        assert studio.loading.calls == []
        await gate.close()

    async def test_start_survives_a_backend_that_is_down(self, studio: FakeSwitcher) -> None:
        """A backend that is down at the start is no reason not to start."""
        studio.looking.error = BackendDown("studio does not answer")
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})

        await gate.start()

        assert gate.snapshot().residents == ()
        await gate.close()

    async def test_a_model_that_nobody_let_in_goes_with_the_next_switch(
        self, gate: Gate, studio: FakeSwitcher
    ) -> None:
        """A switch unloads what the backend reports and the arbiter never let in."""
        studio.residents = {"x"}

        async with gate.lease(A, "me"):
            pass

        assert studio.unloading.calls == ["x"]
        assert studio.residents == {"a"}

    async def test_what_has_gone_is_not_unloaded(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A switch does not unload a victim that the backend no longer has."""
        async with gate.lease(A, "me"):
            pass
        studio.residents = set()

        async with gate.lease(B, "me"):
            pass

        assert studio.unloading.calls == []

    async def test_a_vanished_model_is_loaded_again(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A resident that vanishes takes no more; whoever asks for it has it loaded again."""
        async with gate.lease(A, "me"):
            studio.residents = set()
            studio.changed()
            await until(lambda: gate.snapshot().residents == ())

            async with gate.lease(A, "you"):
                assert studio.loading.calls == ["a", "a"]

    async def test_calls_of_changed_join(self, gate: Gate, studio: FakeSwitcher) -> None:
        """However often a backend says that it changed, one look is under way and one to follow."""
        studio.looking.hold()
        studio.changed()
        await studio.looking.started.wait()
        looks = len(studio.looking.calls)

        studio.changed()
        studio.changed()
        studio.looking.release.set()

        await until(lambda: len(studio.looking.calls) == looks + 1)
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert len(studio.looking.calls) == looks + 1

    async def test_a_change_during_a_switch_is_looked_at_after_it(
        self, gate: Gate, studio: FakeSwitcher
    ) -> None:
        """What a backend says during a switch is not lost."""
        studio.loading.hold()
        task = ask(gate, A)
        await studio.loading.started.wait()
        studio.changed()
        studio.residents.add("x")

        studio.loading.release.set()
        (await task).release()

        await until(lambda: len(gate.snapshot().residents) == 2)

    async def test_another_backend_that_is_down_does_not_matter(self, studio: FakeSwitcher) -> None:
        """A backend that is neither loaded on nor unloaded from need not answer."""
        other = FakeSwitcher("other")
        other.looking.error = BackendDown("other does not answer")
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio, "other": other})
        await gate.start()

        async with gate.lease(A, "me"):
            pass

        await gate.close()

    async def test_a_victim_on_a_silent_backend(self, studio: FakeSwitcher) -> None:
        """Where a backend says nothing, its model may be in memory yet: nothing is loaded in its place."""
        other, b = FakeSwitcher("other"), Route(ModelKey("other", "b"), device="gpu0")
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio, "other": other})
        await gate.start()
        await gate.load(b, "me")
        other.looking.error = BackendDown("other does not answer")

        with pytest.raises(BackendDown, match="other does not answer"):
            await gate.load(A, "me")

        assert studio.loading.calls == []
        await gate.close()

    async def test_a_victim_on_a_backend_that_is_gone(self, studio: FakeSwitcher) -> None:
        """A backend that has said nothing for `backend_gone_s` has nothing in memory, and delays nobody."""
        other, b = FakeSwitcher("other"), Route(ModelKey("other", "b"), device="gpu0")
        section = Device.model_construct(cooldown_s=0, backend_gone_s=0)
        gate = Gate("gpu0", section, {"studio": studio, "other": other})
        await gate.start()
        await gate.load(b, "me")
        other.looking.error = BackendDown("other does not answer")

        await gate.load(A, "me")

        assert gate.residents == {A.key}
        assert other.unloading.calls == []
        await gate.close()

    async def test_a_silent_backend_keeps_its_residents(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A backend that does not answer for a moment is believed to have what it had."""
        async with gate.lease(A, "me"):
            pass
        studio.looking.error = BackendDown("studio does not answer")

        looks = len(studio.looking.calls)
        studio.changed()
        await until(lambda: len(studio.looking.calls) > looks)

        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert [view.model for view in gate.snapshot().residents] == [A.key]

    async def test_a_backend_that_stays_silent_loses_its_residents(self, studio: FakeSwitcher) -> None:
        """A backend that has not answered for `backend_gone_s` is believed to have nothing."""
        studio.residents = {"a"}
        gate = Gate("gpu0", Device.model_construct(cooldown_s=0, backend_gone_s=0), {"studio": studio})
        await gate.start()
        studio.looking.error = BackendDown("studio does not answer")

        studio.changed()

        await until(lambda: gate.snapshot().residents == ())
        await gate.close()

    async def test_a_failed_unload_fails_the_switch(self, gate: Gate, studio: FakeSwitcher) -> None:
        """What cannot be unloaded stays, and those who wait for its place hear why."""
        async with gate.lease(A, "me"):
            pass
        studio.unloading.error = RuntimeError("it will not go")

        with pytest.raises(LoadFailed, match="it will not go"):
            await ask(gate, B)

        assert [view.model for view in gate.snapshot().residents] == [A.key]
        assert studio.loading.calls == ["a"]
        assert studio.unloading.calls == ["a"]


async def test_a_look_during_a_switch_is_waited_for(gate: Gate, studio: FakeSwitcher) -> None:
    """Whoever wants to know what is resident hears it after the switch under way, not before."""
    studio.loading.hold()
    switching = ask(gate, A)
    await studio.loading.started.wait()
    looks = len(studio.looking.calls)

    looking = asyncio.create_task(gate.recheck())
    studio.looking.hold()
    studio.loading.release.set()
    await studio.looking.started.wait()
    is_waiting = not looking.done()
    studio.looking.release.set()
    await looking

    assert is_waiting
    assert len(studio.looking.calls) == looks + 1
    (await switching).release()


class TestModelsThatCannotBeLoaded:
    async def test_nobody_is_unloaded_for_one(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A switch to a model that cannot be loaded ends before anything is unloaded for it."""
        await gate.load(B, "me")
        studio.checking.error = LoadFailed("a.gguf is cut off")

        with pytest.raises(LoadFailed, match="cut off"):
            async with gate.lease(A, "me"):
                pass

        assert studio.unloading.calls == []
        assert gate.residents == {B.key}

    async def test_it_is_told_before_anybody_waits(self, gate: Gate, studio: FakeSwitcher) -> None:
        """Who asks first is told at once, without a place in the queue and without a switch."""
        studio.checking.error = LoadFailed("a.gguf is cut off")

        with pytest.raises(LoadFailed, match="cut off"):
            await gate.check(A)
        with pytest.raises(LoadFailed, match="cut off"):
            await gate.load(A, "me")

        assert gate.snapshot().plan is None
        assert studio.loading.calls == []

    async def test_it_stays_with_other_options(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A resident that could not be loaded again is not unloaded for the sake of other options."""
        await gate.load(A, "me")
        studio.poor = {"a"}
        studio.checking.error = LoadFailed("a.gguf is cut off")

        with pytest.raises(LoadFailed, match="cut off"):
            await gate.load(A, "me")

        assert studio.unloading.calls == []
        studio.poor = set()

    async def test_a_resident_is_not_looked_at(self, gate: Gate, studio: FakeSwitcher) -> None:
        """What is in memory answers, whatever has become of its file."""
        await gate.load(A, "me")
        studio.checking.error = LoadFailed("a.gguf is cut off")

        await gate.check(A)
        async with gate.lease(A, "me"):
            pass


class TestAfterAFailure:
    async def test_the_device_is_looked_at(self, gate: Gate, studio: FakeSwitcher) -> None:
        """Nobody knows what a switch that failed has left behind, so that is looked at unasked."""
        studio.loading.error = LoadFailed("no such file")
        studio.loading.hold()
        task = ask(gate, A)
        await studio.loading.started.wait()
        studio.residents = {"x"}

        studio.loading.release.set()
        with pytest.raises(LoadFailed):
            await task

        await until(lambda: gate.residents == {ModelKey("studio", "x")})

    async def test_of_the_backend_the_load_is_not_tried_alone(self, studio: FakeSwitcher) -> None:
        """A backend that went down in a load was no want of memory: nobody is unloaded for a second try."""
        gate = Gate("gpu0", Device(max_models=2, memory=10, cooldown_s=0), {"studio": studio})
        await gate.load(Route(B.key, device="gpu0", needs=Needs(size_bytes=1)), "me")
        studio.loading.error = BackendDown("studio does not answer")

        with pytest.raises(BackendDown):
            await gate.load(Route(A.key, device="gpu0", needs=Needs(size_bytes=1)), "me")

        assert studio.loading.calls == ["b", "a"]
        assert studio.residents == {"b"}
        await gate.close()

    async def test_for_want_of_memory_the_load_is_tried_alone(self, studio: FakeSwitcher) -> None:
        """A load that a backend refuses beside others is tried once more with the device to itself."""
        gate = Gate("gpu0", Device(max_models=2, memory=10, cooldown_s=0), {"studio": studio})
        await gate.load(Route(B.key, device="gpu0", needs=Needs(size_bytes=1)), "me")
        studio.loading.error = LoadFailed("out of memory")

        with pytest.raises(LoadFailed):
            await gate.load(Route(A.key, device="gpu0", needs=Needs(size_bytes=1)), "me")

        assert studio.loading.calls == ["b", "a", "a"]
        assert studio.unloading.calls == ["b"]
        await gate.close()

    async def test_a_backend_that_answers_again_is_tried_at_once(
        self, gate: Gate, studio: FakeSwitcher
    ) -> None:
        """When a look finds that a backend is back, its models need not back off any longer; not before."""
        studio.looking.error = BackendDown("studio does not answer")
        with pytest.raises(BackendDown):
            await ask(gate, A)
        await gate.recheck()
        looks = len(studio.looking.calls)
        with pytest.raises(BackendDown, match="at the last try"):
            await ask(gate, A)
        assert len(studio.looking.calls) == looks

        studio.looking.error = None
        await gate.recheck()

        await gate.load(A, "me")

    async def test_a_backend_that_breaks_a_load_off_is_not_back_at_once(self, studio: FakeSwitcher) -> None:
        """Whether it goes on or is started anew: the load may break it each time, so its model backs off."""
        studio.loading.error = BackendDown("the connection was reset")
        device = Device(cooldown_s=0, preload=("a",), return_s=0.01)
        gate = Gate("gpu0", device, {"studio": studio}, preloads=lambda: {A.key: A})
        await gate.start()
        await until(lambda: len(studio.loading.calls) == 1)
        await idle(gate)

        await gate.recheck()
        studio.looking.error = BackendDown("studio does not answer")
        await gate.recheck()
        studio.looking.error = None
        await gate.recheck()
        await turned(asyncio.get_running_loop(), 0.05)

        assert studio.loading.calls == ["a"]
        assert gate.snapshot().preload == {A.key: "failed"}
        await gate.close()

    async def test_each_failure_is_told_as_what_it_was(self, gate: Gate, studio: FakeSwitcher) -> None:
        """That a backend was down at the last try is no reason to say so of a load that it refuses now."""
        studio.looking.error = BackendDown("studio does not answer")
        with pytest.raises(BackendDown):
            await ask(gate, A)
        await gate.recheck()
        studio.looking.error, studio.loading.error = None, LoadFailed("no such file")
        gate.forgive(A.key)

        with pytest.raises(LoadFailed, match="could not load studio/a on 'gpu0': no such file"):
            await ask(gate, A)

    async def test_a_look_that_a_switch_overtook_is_taken_again(
        self, gate: Gate, studio: FakeSwitcher
    ) -> None:
        """What was read when a switch began may be out of date, so somebody looks again after it."""
        studio.looking.hold()
        studio.changed()
        await studio.looking.started.wait()
        looks = len(studio.looking.calls)
        task = ask(gate, A)
        await until(lambda: len(studio.looking.calls) == looks + 1)

        studio.looking.release.set()
        (await task).release()

        await until(lambda: len(studio.looking.calls) == looks + 2)


async def test_a_bug_in_the_gate_stops_the_daemon(
    studio: FakeSwitcher, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong while the arbiter's answer is carried out may have cost a grant: that is told."""
    stops: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: stops.append(context["message"]))

    def tell(name: str, fields: object) -> None:
        raise KeyError("a bug")

    gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio}, tell=tell)

    with pytest.raises(KeyError):
        gate.lease(A, "me").ask()

    assert stops == ["dmap has to stop: a bug in the gate of 'gpu0'"]
    assert "in tell" in caplog.text


class TestClose:
    async def test_refuses_those_who_wait_and_those_who_come(self, studio: FakeSwitcher) -> None:
        """After `close` nobody waits and nobody comes in; a lease that is out may end later."""
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
        lease = await gate.lease(A, "me").__aenter__()
        task = ask(gate, B)
        await until(lambda: gate.snapshot().waiting == 1)

        await gate.close()

        with pytest.raises(ShuttingDown, match="studio/b was not asked") as told:
            await task
        assert told.value.retry_after_s == 5
        with pytest.raises(ShuttingDown):
            await ask(gate, A)
        lease.release()
        assert gate.snapshot().leases == 0

    async def test_cancels_a_switch(self, studio: FakeSwitcher) -> None:
        """A load under way is cancelled and awaited."""
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
        studio.loading.hold()
        task = ask(gate, A)
        await studio.loading.started.wait()

        await gate.close()

        with pytest.raises(ShuttingDown):
            await task
        assert studio.under_way == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_ends_the_looks(self, studio: FakeSwitcher) -> None:
        """What a backend tells after the end has nobody look any more."""
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
        await gate.start()
        await gate.close()
        looks = len(studio.looking.calls)

        studio.changed()

        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert len(studio.looking.calls) == looks


class TestPassing:
    async def test_bounds_by_parallel_alone(self) -> None:
        """Without a device all models pass, at most `parallel` at once."""
        gate = Gate("cloud", Device(), parallel=2)
        first = await gate.lease(A, "me").__aenter__()
        second = await gate.lease(B, "me").__aenter__()
        third = ask(gate, C)
        await until(lambda: gate.snapshot().waiting == 1)
        assert [lease.route.key for lease in gate.view.first(9)] == [C.key]
        assert gate.snapshot().residents == ()
        assert gate.residents == frozenset()

        second.release()

        (await third).release()
        first.release()
        await gate.close()

    async def test_never_waits_without_a_bound(self) -> None:
        """Without `parallel` nobody waits."""
        gate = Gate("cloud", Device(queue=1))

        leases = [await gate.lease(A, "me").__aenter__() for _ in range(100)]

        assert gate.snapshot().leases == 100
        assert [lease.queue_s for lease in leases] == [0] * 100
        await gate.close()


async def test_the_log_tells_a_switch(
    gate: Gate, studio: FakeSwitcher, caplog: pytest.LogCaptureFixture
) -> None:
    """Each switch is two lines, where it begins and ends: what goes, what comes, why, and what it took."""
    caplog.set_level(logging.INFO, "dmap.gate")
    async with gate.lease(A, "me"):
        pass
    caplog.clear()

    async with gate.lease(B, "me"):
        pass

    begun, line = caplog.messages
    assert begun == "switch_begun device=gpu0 unload=studio/a load=studio/b by=me reason=idle drain_s=0.000"
    assert line.startswith(
        "switch device=gpu0 unload=studio/a load=studio/b by=me reason=idle drain_s=0.000 unload_s="
    )
    assert line.endswith(" outcome=ok")


async def test_the_log_tells_how_a_switch_ended(
    gate: Gate, studio: FakeSwitcher, caplog: pytest.LogCaptureFixture
) -> None:
    """An unloading has nothing that came; a switch that failed has the reason, and is a warning."""
    caplog.set_level(logging.INFO, "dmap.gate")
    await gate.load(A, "me")
    caplog.clear()

    await gate.unload(A.key, {"for": "req_1", "by": "owner"})
    studio.loading.error = LoadFailed("no such file")
    with pytest.raises(LoadFailed):
        await gate.load(B, "me")

    leaving, _, unloading, _, failed = caplog.messages
    orders = "for=req_1 by=owner reason=asked"
    assert leaving == "model_leaving device=gpu0 model=a backend=studio for=req_1 by=owner reason=asked"
    assert unloading.startswith(f"switch device=gpu0 unload=studio/a load=- {orders} drain_s=0.000 ")
    assert unloading.endswith(" load_s=0.000 outcome=ok")
    assert failed.startswith("switch device=gpu0 unload=- load=studio/b by=me reason=room drain_s=0.000 ")
    assert failed.endswith(' outcome=failed error="no such file"')
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "INFO", "INFO", "WARNING"]


async def test_a_thousand_leases_over_three_models(gate: Gate, studio: FakeSwitcher) -> None:
    """A thousand requests at once for three models take three switches and leave nothing behind."""

    async def serve(route: Route, client: str) -> None:
        async with gate.lease(route, client):
            studio.serving[route.key.model] += 1
            await asyncio.sleep(0)
            studio.serving[route.key.model] -= 1

    routes = [
        Route(ModelKey("studio", "abc"[number % 3]), device="gpu0", needs=Needs(parallel=4))
        for number in range(1000)
    ]

    await asyncio.gather(*(serve(route, f"client{number % 7}") for number, route in enumerate(routes)))

    assert sorted(studio.loading.calls) == ["a", "b", "c"]


async def test_a_size_that_was_given_outranks_the_report():
    """What the owner says a model takes holds after the load too, whatever the backend estimates."""
    switcher = FakeSwitcher()
    switcher.loaded = Loaded(size_bytes=1)
    gate = Gate("gpu0", Device(max_models=2, memory=10, cooldown_s=0), {"studio": switcher})
    await gate.start()

    for model in ("a", "b"):
        async with gate.lease(
            Route(ModelKey("studio", model), needs=Needs(size_bytes=6), size_given=True), "client"
        ):
            pass

    assert [str(view.model) for view in gate.snapshot().residents] == ["studio/b"]
    await gate.close()


async def test_nobody_is_served_before_the_first_look(studio: FakeSwitcher):
    """A start does not wait for a slow backend; requests do, and what was there all along is not loaded."""
    studio.residents = {"a"}
    studio.looking.hold()
    gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
    async with asyncio.timeout(HERE_S):
        await gate.start()
    waiting = ask(gate, A)
    await until(lambda: gate.snapshot().waiting == 1)

    studio.looking.release.set()
    lease = await waiting

    assert studio.loading.calls == []
    lease.release()
    await gate.close()


async def test_a_drain_outlasts_the_first_look(studio: FakeSwitcher):
    """Who drains a device before dmap has looked at it finds it drained afterwards."""
    studio.looking.hold()
    gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
    await gate.start()
    gate.drain(unload=False)
    waiting = ask(gate, A)

    studio.looking.release.set()
    await gate.recheck()
    before = gate.drained, gate.snapshot().waiting
    gate.resume()

    assert before == (True, 1)
    (await waiting).release()
    await gate.close()


async def test_a_resume_does_not_precede_the_first_look(studio: FakeSwitcher):
    """Who resumes a device before dmap has looked at it has nothing loaded blindly."""
    studio.residents = {"a"}
    studio.looking.hold()
    gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
    await gate.start()
    waiting = ask(gate, B)

    gate.resume()
    before = list(studio.loading.calls)
    studio.looking.release.set()
    (await waiting).release()

    assert (before, studio.unloading.calls, studio.loading.calls) == ([], ["a"], ["b"])
    await gate.close()


async def test_a_resume_before_the_first_look_loads_nothing_twice(studio: FakeSwitcher):
    """Who resumes a device before dmap has looked at it has nothing loaded that was there all along."""
    studio.residents = {"a"}
    studio.looking.hold()
    gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
    await gate.start()
    waiting = ask(gate, A)
    await until(lambda: gate.snapshot().waiting == 1)

    gate.resume()
    studio.looking.release.set()
    (await waiting).release()

    assert studio.loading.calls == []
    await gate.close()


async def test_a_close_before_the_first_look(studio: FakeSwitcher):
    """A gate that is closed before its backend has answered refuses who waits, and leaves no task behind."""
    studio.looking.hold()
    gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
    await gate.start()
    waiting = ask(gate, A)
    await until(lambda: gate.snapshot().waiting == 1)

    await gate.close()

    with pytest.raises(ShuttingDown):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_the_arbiter_goes_by_the_section() -> None:
    """Every limit of the arbiter is a key of the device's section."""
    section = {
        "max_models": 2,
        "embeddings": 3,
        "patience_s": 4,
        "residency": 5,
        "wait_s": 6,
        "queue": 7,
        "return_s": 8,
    }

    assert limits_of(Device(memory=1, **section)) == Limits(memory_bytes=1, **section)
    assert {field.name for field in fields(Limits)} == {"memory_bytes", *section}
