"""What is asked of a gate beside leases: load, unload, drain; who waits; and what it tells of switches."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from dmap.arbiter import Needs
from dmap.backends import Loaded
from dmap.config import Device
from dmap.errors import BackendBroke, BackendDown, LoadFailed, ModelNotFound, ShuttingDown, WaitExpired
from dmap.gate import Gate
from dmap.models import ModelKey
from tests.fake_switcher import A, B, C, FakeSwitcher, ask, cancelled, idle, released, running_gate, until
from tests.fakes import HERE_S


@pytest.fixture
def studio() -> FakeSwitcher:
    """Return a backend with nothing resident."""
    return FakeSwitcher()


@pytest.fixture
def told() -> list[tuple[str, Mapping[str, Any]]]:
    """Return where the gate's events go."""
    return []


@pytest.fixture
async def gate(studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]) -> AsyncGenerator[Gate]:
    """Run a gate that tells its events and must leave nothing behind."""
    async with running_gate(studio, lambda name, fields: told.append((name, fields))) as gate:
        yield gate


def residents(gate: Gate) -> list[ModelKey]:
    """Return what the gate believes to be resident."""
    return [view.model for view in gate.snapshot().residents]


class TestUnload:
    async def test_takes_an_idle_model_out(self, gate: Gate, studio: FakeSwitcher) -> None:
        """When the call returns, the model is gone."""
        await gate.load(A, "me")

        await gate.unload(A.key)

        assert studio.residents == set()
        assert residents(gate) == []

    async def test_of_what_is_not_resident_does_nothing(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A model that is not there needs no unloading."""
        await gate.unload(A.key)

        assert studio.unloading.calls == []

    async def test_that_was_taken_back_leaves_nothing(self, gate: Gate, studio: FakeSwitcher) -> None:
        """An order that was taken back says nothing of a later one, whose model has gone by itself."""
        async with gate.lease(A, "me"):
            unloading = asyncio.create_task(gate.unload(A.key))
            await until(lambda: gate.snapshot().residents[0].leaving)
            await cancelled(unloading)
        studio.residents.clear()
        await gate.recheck()

        assert await gate.unload(A.key) is False

    async def test_of_what_fails_to_load_does_nothing(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A model that was about to come and did not was not unloaded."""
        studio.loading.hold()
        studio.loading.error = LoadFailed("no such file")
        loading = ask(gate, A)
        await studio.loading.started.wait()
        unloading = asyncio.create_task(gate.unload(A.key))
        await asyncio.sleep(0)
        studio.loading.release.set()

        assert await unloading is False
        with pytest.raises(LoadFailed):
            await loading

    async def test_waits_for_the_last_answer(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A model that serves takes nobody more and goes when its last lease ends; who waits gets it anew."""
        lease = await gate.lease(A, "me").__aenter__()
        studio.serving["a"] += 1
        unloading = asyncio.create_task(gate.unload(A.key))
        await asyncio.sleep(0)
        late = ask(gate, A)
        await until(lambda: gate.snapshot().waiting == 1)

        studio.serving["a"] -= 1
        lease.release()
        await unloading

        (await late).release()
        assert studio.loading.calls == ["a", "a"]
        assert studio.unloading.calls == ["a"]

    async def test_takes_a_pinned_model_out(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A pin does not hold against who asks outright."""
        await gate.load(replace(A, needs=Needs(pinned=True)), "me")

        await gate.unload(A.key)

        assert studio.residents == set()

    async def test_that_fails_is_told(self, gate: Gate, studio: FakeSwitcher) -> None:
        """What will not go stays, serves on, and who asked hears why."""
        await gate.load(A, "me")
        studio.unloading.error = RuntimeError("it will not go")

        with pytest.raises(BackendBroke, match="could not unload studio/a on 'gpu0': it will not go"):
            await gate.unload(A.key)

        async with gate.lease(A, "me"):
            assert studio.loading.calls == ["a"]

    async def test_on_a_backend_that_is_down(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A backend that does not answer is told as such."""
        await gate.load(A, "me")
        studio.unloading.error = BackendDown("studio does not answer")

        with pytest.raises(BackendDown, match="studio does not answer") as told:
            await gate.unload(A.key)

        assert told.value.retry_after_s == 5

    async def test_waits_no_longer_than_told(self, gate: Gate, studio: FakeSwitcher) -> None:
        """After its time the wish is taken back: the model takes newcomers again."""
        async with gate.lease(A, "me"):
            gate.configure(Device(cooldown_s=0, wait_s=0.01))
            with pytest.raises(WaitExpired, match=r"studio/a on 'gpu0' still serves after 0\.01 s") as told:
                await gate.unload(A.key)
            assert told.value.retry_after_s == 5

            async with gate.lease(A, "you"):
                assert gate.snapshot().leases == 2

        assert studio.unloading.calls == []

    async def test_that_is_cancelled_is_taken_back(self, gate: Gate, studio: FakeSwitcher) -> None:
        """Who leaves while the model still serves has changed nothing."""
        async with gate.lease(A, "me"):
            unloading = asyncio.create_task(gate.unload(A.key))
            await until(lambda: gate.snapshot().residents[0].leaving)

            await cancelled(unloading)

        assert residents(gate) == [A.key]

    async def test_asked_for_twice_is_done_once(self, gate: Gate, studio: FakeSwitcher) -> None:
        """Two who want a model gone share one unloading; if one leaves, the other's wish holds."""
        lease = await gate.lease(A, "me").__aenter__()
        first = asyncio.create_task(gate.unload(A.key))
        second = asyncio.create_task(gate.unload(A.key))
        await until(lambda: gate.snapshot().residents[0].leaving)

        await cancelled(first)
        lease.release()
        await second

        assert studio.unloading.calls == ["a"]

    async def test_that_fails_is_told_to_all_who_asked(self, studio: FakeSwitcher) -> None:
        """All who want a model gone hear that it will not go, even if one is cancelled at that moment."""
        studio.unloading.error = RuntimeError("it will not go")
        async with running_gate(studio, lambda name, _: name == "switch.failed" and leaving.cancel()) as gate:
            await gate.load(A, "me")

            leaving, *others = [asyncio.create_task(gate.unload(A.key)) for _ in range(3)]

            outcomes = await asyncio.gather(leaving, *others, return_exceptions=True)
        assert [type(each) for each in outcomes] == [asyncio.CancelledError, BackendBroke, BackendBroke]
        assert studio.unloading.calls == ["a"]

    async def test_of_a_model_that_loads(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A model that is being loaded serves those who wait for it, and goes then."""
        studio.loading.hold()
        task = ask(gate, A)
        await studio.loading.started.wait()
        unloading = asyncio.create_task(gate.unload(A.key))
        await asyncio.sleep(0)

        studio.loading.release.set()
        (await task).release()
        await unloading

        assert studio.residents == set()

    async def test_that_a_close_overtakes(self, studio: FakeSwitcher) -> None:
        """Who waits for an unloading when dmap ends hears so."""
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
        lease = await gate.lease(A, "me").__aenter__()
        unloading = asyncio.create_task(gate.unload(A.key))
        await until(lambda: gate.snapshot().residents[0].leaving)

        await gate.close()

        with pytest.raises(ShuttingDown, match="studio/a was not unloaded") as told:
            await unloading
        assert told.value.retry_after_s == 5
        lease.release()

    async def test_given_up_is_no_reason_to_keep_an_outdated_copy(
        self, gate: Gate, studio: FakeSwitcher
    ) -> None:
        """Who gives up an unloading does not let newcomers into a copy that is to go for other options."""
        async with gate.lease(A, "me"):
            studio.poor = {"a"}
            await gate.recheck()
            unloading = asyncio.create_task(gate.unload(A.key))
            await asyncio.sleep(0)

            await cancelled(unloading)
            late = ask(gate, A)
            await until(lambda: gate.snapshot().waiting == 1)

            assert gate.snapshot().residents[0].leaving
        studio.poor = set()
        (await late).release()
        assert studio.loading.calls == ["a", "a"]


class TestLoad:
    async def test_returns_what_the_model_got(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A load is answered with what the backend really gave, the lease on it given back."""
        studio.loaded = Loaded(size_bytes=6, context_length=4096, parallel=2)

        assert await gate.load(A, "me") == studio.loaded
        assert gate.snapshot().leases == 0

    async def test_of_what_was_loaded_before_returns_that_load(
        self, gate: Gate, studio: FakeSwitcher
    ) -> None:
        """A resident that is as asked is not loaded again; what it got at its load is known."""
        studio.loaded = Loaded(context_length=4096)
        async with gate.lease(A, "me"):
            pass

        assert await gate.load(A, "me") == studio.loaded
        assert studio.loading.calls == ["a"]

    async def test_of_a_found_model_knows_nothing(self, studio: FakeSwitcher) -> None:
        """Of a model that was resident before dmap came it is not known what it got."""
        studio.residents = {"a"}
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
        await gate.start()

        assert await gate.load(A, "me") is None
        await gate.close()

    async def test_goes_by_the_catalog(self, studio: FakeSwitcher) -> None:
        """A request that was resolved before its model got other options does not bring the old ones back."""
        now = {A.key: replace(A, load={"context_length": 4096})}
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio}, route_of=now.get)
        await gate.start()

        async with gate.lease(A, "me"):
            pass
        await gate.close()

        assert studio.options == [{"context_length": 4096}]

    async def test_with_other_options_loads_anew(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A resident that is not as asked is unloaded, and loaded with the new options."""
        await gate.load(A, "me")
        studio.poor = {"a"}

        await gate.load(replace(A, load={"context_length": 8192}), "me")

        assert studio.unloading.calls == ["a"]
        assert studio.options == [{}, {"context_length": 8192}]

    async def test_with_other_options_waits_for_those_who_are_served(
        self, gate: Gate, studio: FakeSwitcher
    ) -> None:
        """Nobody's answer is cut for other options."""
        studio.poor = {"a"}
        lease = await gate.lease(A, "me").__aenter__()
        studio.serving["a"] += 1
        task = asyncio.create_task(gate.load(A, "you"))
        await until(lambda: gate.snapshot().residents[0].leaving)

        studio.serving["a"] -= 1
        lease.release()
        await task

        assert studio.loading.calls == ["a", "a"]

    async def test_during_a_load_with_other_options(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A load under way keeps its options; the one asked for follows."""
        studio.poor = {"a"}
        studio.loading.hold()
        first = ask(gate, A)
        await studio.loading.started.wait()
        second = asyncio.create_task(gate.load(replace(A, load={"context_length": 8192}), "you"))
        await until(lambda: gate.snapshot().waiting == 2)

        studio.loading.release.set()
        (await first).release()
        await second

        assert studio.options == [{}, {"context_length": 8192}]

    async def test_that_fails_is_told_like_any_other(self, gate: Gate, studio: FakeSwitcher) -> None:
        """Who asks for a load hears why it failed."""
        studio.loading.error = LoadFailed("no such file")

        with pytest.raises(LoadFailed, match="no such file"):
            await gate.load(A, "me")

    async def test_that_failed_may_be_tried_again_at_once(self, gate: Gate, studio: FakeSwitcher) -> None:
        """Who has put right what a load failed for need not wait for its back-off."""
        studio.loading.error = LoadFailed("no such file")
        with pytest.raises(LoadFailed):
            await gate.load(A, "me")
        studio.loading.error = None
        with pytest.raises(BackendDown, match="at the last try: no such file"):
            await gate.load(A, "me")

        gate.forgive(A.key)

        await gate.load(A, "me")
        assert studio.loading.calls == ["a", "a"]

    async def test_waits_like_any_other(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A load waits for those who are served, and is given up with its caller."""
        async with gate.lease(A, "me"):
            task = asyncio.create_task(gate.load(B, "you"))
            await until(lambda: [line.client for line in gate.view.first(9)] == ["you"])
            await cancelled(task)

        assert studio.loading.calls == ["a"]


class TestRefuse:
    async def test_those_who_wait_for_what_is_gone(self, gate: Gate) -> None:
        """Who waits for a model that is gone is refused; leases on it go on, and so do the others' waits."""
        async with gate.lease(A, "me"):
            gone, other = ask(gate, B), ask(gate, C)
            await until(lambda: gate.snapshot().waiting == 2)

            gate.refuse(lambda lease: lease.route.key in (A.key, B.key), ModelNotFound("studio/b has gone"))

            with pytest.raises(ModelNotFound, match="studio/b has gone"):
                await gone
            assert (gate.snapshot().waiting, gate.snapshot().leases) == (1, 1)
        (await other).release()

    async def test_that_lets_another_in(self, gate: Gate) -> None:
        """Who gets a resident because another is refused has a lease on it, like any other."""
        gate.configure(Device(cooldown_s=0, patience_s=0.000001, residency=0))
        async with gate.lease(A, "me"):
            absent = ask(gate, B)
            await until(lambda: gate.snapshot().plan is not None)
            resident = ask(gate, A)
            await until(lambda: gate.snapshot().waiting == 2)

            gate.refuse(lambda lease: True, ModelNotFound("all have gone"))

            with pytest.raises(ModelNotFound, match="all have gone"):
                await absent
            lease = await resident
            assert gate.snapshot().leases == 2
            lease.release()


class TestDrain:
    async def test_lets_nobody_in_until_resumed(self, gate: Gate, studio: FakeSwitcher) -> None:
        """On a drained device leases end as they end, and all others wait in their places."""
        lease = await gate.lease(A, "me").__aenter__()

        gate.drain(unload=False)

        resident, absent = ask(gate, A), ask(gate, B)
        await until(lambda: gate.snapshot().waiting == 2)
        lease.release()
        assert gate.snapshot().drained
        assert studio.loading.calls == ["a"]
        gate.resume()
        await asyncio.gather(released(resident), released(absent))

    async def test_may_empty_the_device(self, gate: Gate, studio: FakeSwitcher) -> None:
        """With *unload* each resident goes when its last lease has ended; what waits is loaded later."""
        lease = await gate.lease(A, "me").__aenter__()

        gate.drain(unload=True)
        lease.release()
        await until(lambda: residents(gate) == [])

        await idle(gate)
        assert studio.residents == set()
        gate.resume()
        await gate.load(A, "me")
        assert studio.loading.calls == ["a", "a"]

    async def test_ends_a_switch_before_its_load(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A switch under way does not load any more if it had not begun to; its waiter keeps its place."""
        await gate.load(A, "me")
        studio.unloading.hold()
        task = ask(gate, B)
        await studio.unloading.started.wait()

        gate.drain(unload=False)
        studio.unloading.release.set()
        await idle(gate)

        assert studio.loading.calls == ["a"]
        gate.resume()
        (await task).release()

    async def test_tells_a_waiter_its_bound(self, studio: FakeSwitcher) -> None:
        """Nobody knows when a drained device goes on: the estimate is the time until the refusal."""
        gate = Gate("gpu0", Device(wait_s=100, cooldown_s=0), {"studio": studio})
        clock = asyncio.get_running_loop().time
        gate.drain(unload=False)
        began = clock()
        task = ask(gate, A)
        await until(lambda: gate.snapshot().waiting == 1)

        (place,) = gate.view.first(9).values()

        assert 99.99 - (clock() - began) < place.estimate_s < 100.01
        await cancelled(task)
        await gate.close()

    async def test_still_refuses_in_time(self, studio: FakeSwitcher) -> None:
        """Who has waited for `wait_s` is refused on a drained device too."""
        gate = Gate("gpu0", Device(wait_s=0.01, cooldown_s=0), {"studio": studio})
        gate.drain(unload=False)

        with pytest.raises(WaitExpired):
            await ask(gate, A)

        await gate.close()


async def test_an_idle_copy_with_other_options_is_left_until_it_is_asked_for(
    gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
) -> None:
    """It counts as gone, for it has to be loaded anew, but nobody unloads it, and it has not vanished."""
    await gate.load(A, "me")
    studio.poor = {"a"}
    told.clear()

    await gate.recheck()

    assert gate.residents == frozenset()
    assert studio.unloading.calls == []
    assert told == []


async def test_a_copy_on_a_silent_backend_is_not_called_outdated(gate: Gate, studio: FakeSwitcher) -> None:
    """A model whose backend says nothing takes newcomers as before."""
    async with gate.lease(A, "me"):
        studio.poor = {"a"}
        studio.looking.error = BackendDown("studio does not answer")

        await gate.recheck()

        assert not gate.snapshot().residents[0].leaving


async def test_a_model_that_nobody_uses_is_unloaded(gate: Gate, studio: FakeSwitcher) -> None:
    """After `ttl_s` without a lease the gate's own timer has a model unloaded."""
    await gate.load(replace(A, needs=Needs(ttl_s=0.01)), "me")

    await asyncio.wait_for(studio.unloading.started.wait(), HERE_S)

    await until(lambda: residents(gate) == [])


class TestAdopt:
    async def test_respect_leaves_the_owners_model_alone(self, studio: FakeSwitcher) -> None:
        """A model that dmap did not load is no victim: what does not fit beside it is refused."""
        studio.residents = {"x"}
        gate = Gate("gpu0", Device(cooldown_s=0, adopt="respect"), {"studio": studio})
        await gate.start()

        with pytest.raises(LoadFailed, match="beside what is pinned"):
            await gate.load(A, "me")

        assert studio.residents == {"x"}
        await gate.close()

    async def test_respect_holds_for_models_that_the_catalog_knows(self, studio: FakeSwitcher) -> None:
        """The owner's model is no victim either if dmap has a route for it."""
        studio.residents = {"a"}
        gate = Gate(
            "gpu0",
            Device(cooldown_s=0, adopt="respect"),
            {"studio": studio},
            route_of={A.key: A, B.key: B}.get,
        )
        await gate.start()
        async with gate.lease(A, "me"):
            pass

        with pytest.raises(LoadFailed, match="beside what is pinned"):
            await gate.load(B, "me")

        assert studio.residents == {"a"}
        assert studio.unloading.calls == []
        await gate.close()

    async def test_respect_takes_out_no_stranger(self, studio: FakeSwitcher) -> None:
        """A model that turned up by hand is not unloaded with the next switch either."""
        gate = Gate("gpu0", Device(cooldown_s=0, adopt="respect"), {"studio": studio})
        await gate.start()
        studio.residents = {"x"}

        await gate.load(A, "me")

        assert studio.residents == {"x", "a"}
        await gate.close()

    async def test_respect_uses_the_owners_model_as_it_is(self, studio: FakeSwitcher) -> None:
        """A model of the owner's serves, whatever options its route asks for."""
        studio.residents, studio.poor = {"a"}, {"a"}
        gate = Gate("gpu0", Device(cooldown_s=0, adopt="respect"), {"studio": studio})
        await gate.start()

        async with gate.lease(replace(A, load={"context_length": 8192}), "me"):
            pass

        assert studio.loading.calls == []
        await gate.close()

    async def test_what_dmap_loaded_itself_may_go(self, studio: FakeSwitcher) -> None:
        """With respect for others dmap still switches its own models."""
        gate = Gate("gpu0", Device(cooldown_s=0, adopt="respect"), {"studio": studio})
        await gate.start()
        await gate.load(A, "me")
        await gate.recheck()

        await gate.load(B, "me")

        assert studio.residents == {"b"}
        await gate.close()

    async def test_what_went_and_came_back_is_the_owners(self, studio: FakeSwitcher) -> None:
        """A model that dmap loaded, that vanished, and that somebody else loads again is not dmap's."""
        gate = Gate("gpu0", Device(cooldown_s=0, adopt="respect"), {"studio": studio})
        await gate.start()
        await gate.load(A, "me")
        studio.residents = set()
        await gate.recheck()
        studio.residents = {"a"}
        await gate.recheck()

        with pytest.raises(LoadFailed, match="beside what is pinned"):
            await gate.load(B, "me")

        assert studio.residents == {"a"}
        await gate.close()

    async def test_what_dmap_unloaded_is_no_longer_its_own(self, studio: FakeSwitcher) -> None:
        """A model that dmap loaded and unloaded, and that somebody else loads again, is not dmap's."""
        gate = Gate("gpu0", Device(cooldown_s=0, adopt="respect"), {"studio": studio})
        await gate.start()
        await gate.load(A, "me")
        await gate.unload(A.key)
        studio.residents = {"a"}
        await gate.recheck()

        with pytest.raises(LoadFailed, match="beside what is pinned"):
            await gate.load(B, "me")

        assert studio.residents == {"a"}
        await gate.close()

    async def test_what_dmap_loaded_stays_its_own_through_a_silence(self, studio: FakeSwitcher) -> None:
        """A backend that says nothing for a moment does not make its owner's what dmap loaded there."""
        gate = Gate("gpu0", Device(cooldown_s=0, adopt="respect"), {"studio": studio})
        await gate.start()
        await gate.load(A, "me")
        studio.looking.error = BackendDown("studio does not answer")
        await gate.recheck()
        studio.looking.error = None
        await gate.recheck()

        await gate.load(B, "me")

        assert studio.residents == {"b"}
        await gate.close()

    async def test_may_change_with_a_reload(self, studio: FakeSwitcher) -> None:
        """What is resident is looked at again when the owner changes their mind."""
        studio.residents = {"x"}
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
        await gate.start()

        gate.configure(Device(cooldown_s=0, adopt="respect"))
        await gate.recheck()
        with pytest.raises(LoadFailed, match="beside what is pinned"):
            await gate.load(A, "me")
        gate.configure(Device(cooldown_s=0, adopt="evict"))
        await gate.recheck()
        await gate.load(A, "me")

        assert studio.residents == {"a"}
        await gate.close()


async def test_a_reload_changes_how_long_silence_is_borne(studio: FakeSwitcher) -> None:
    """`gone_s` can be set while the gate runs."""
    studio.residents = {"a"}
    gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio})
    await gate.start()
    studio.looking.error = BackendDown("studio does not answer")

    gate.configure(Device.model_construct(cooldown_s=0, backend_gone_s=0))
    await gate.recheck()

    assert residents(gate) == []
    await gate.close()


async def test_a_reload_has_the_device_looked_at(gate: Gate, studio: FakeSwitcher) -> None:
    """What counts as resident may be another matter under other settings."""
    looks = len(studio.looking.calls)

    gate.configure(Device(cooldown_s=0))

    await until(lambda: len(studio.looking.calls) > looks)


class TestWaiting:
    async def test_lists_who_waits(self, gate: Gate, studio: FakeSwitcher) -> None:
        """Each waiting lease is listed with its name, its client and its place, the next one first."""
        studio.loading.hold()
        first = asyncio.create_task(gate.lease(A, "ann", name="one").__aenter__())
        await studio.loading.started.wait()
        second = asyncio.create_task(gate.lease(B, "bob", name="two").__aenter__())
        await until(lambda: len(gate.view.first(9)) == 2)

        lines = gate.view.first(9)

        assert [(lease.name, lease.client, lease.route.key) for lease in lines] == [
            ("one", "ann", A.key),
            ("two", "bob", B.key),
        ]
        assert [place.position for place in lines.values()] == [1, 2]
        one, two = lines
        assert lines[one].estimate_s < lines[two].estimate_s
        assert one.since <= two.since
        await cancelled(second)
        studio.loading.release.set()
        (await first).release()

    async def test_the_wait_of_one_who_left_is_told(self, gate: Gate, studio: FakeSwitcher) -> None:
        """A lease that was never held knows how long it waited, and for how much of it for its switch."""
        studio.loading.hold()
        lease = gate.lease(A, "me")
        task = asyncio.create_task(lease.__aenter__())
        await studio.loading.started.wait()
        asyncio.get_running_loop().call_later(0.01, task.cancel)

        with pytest.raises(asyncio.CancelledError):
            await task

        assert lease.queue_s >= lease.switch_s > 0
        studio.loading.release.set()
        await idle(gate)

    async def test_higher_priority_is_served_first(self, gate: Gate) -> None:
        """Among those who wait for one model the higher priority goes first, whenever it came."""
        one = replace(A, needs=Needs(parallel=1))
        served: list[str] = []

        async def serve(client: str, priority: int) -> None:
            async with gate.lease(one, client, priority=priority):
                served.append(client)

        async with gate.lease(one, "me"):
            tasks = [asyncio.create_task(serve("low", 0)), asyncio.create_task(serve("high", 1))]
            await until(lambda: len(gate.view.first(9)) == 2)
            assert [line.client for line in gate.view.first(9)] == ["high", "low"]
        await asyncio.gather(*tasks)

        assert served == ["high", "low"]


class TestEvents:
    async def test_of_a_switch(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A switch is told as it goes: started when it is decided, drained, unloaded, loaded."""
        studio.loaded = Loaded(context_length=4096, parallel=2, placed="33/33 layers on CUDA0")
        lease = await gate.lease(A, "me").__aenter__()
        told.clear()
        task = ask(gate, B)
        unloading = asyncio.create_task(gate.unload(A.key))
        await until(lambda: gate.snapshot().plan is not None)
        assert [name for name, _ in told] == ["model.leaving", "switch.started"]
        asyncio.get_running_loop().call_later(0.01, lease.release)
        await unloading
        (await task).release()

        (_, started, drained, unloaded, _, loaded, _) = told

        what = {"device": "gpu0", "load": "studio/b", "by": "me", "reason": "patience"}
        drain_s = drained[1]["drain_s"]
        assert started == ("switch.started", {**what, "unload": ["studio/a"], "drain_s": 0})
        assert drain_s > 0
        assert drained == ("switch.drained", {**what, "drain_s": drain_s})
        assert unloaded[0] == "switch.unloaded"
        whole = {
            "device": "gpu0",
            "load": "studio/b",
            "unload": ["studio/a"],
            "by": "me",
            "cause": "patience",
            "drain_s": drain_s,
        }
        went = {**whole, "model": "a", "backend": "studio", "reason": "patience", "unload_s": 0, "load_s": 0}
        assert unloaded[1] | {"unload_s": 0} == went
        assert 0 <= unloaded[1]["unload_s"] < 30
        assert 0 <= unloaded[1]["unload_s"] <= loaded[1]["unload_s"] < 30
        assert 0 <= loaded[1]["load_s"] < 30
        got = {"context_length": 4096, "parallel": 2, "placed": "33/33 layers on CUDA0"}
        assert (loaded[0], loaded[1] | {"unload_s": 0, "load_s": 0}) == (
            "switch.loaded",
            {**whole, "model": "b", "backend": "studio", "unload_s": 0, "load_s": 0, **got},
        )

    async def test_of_a_switch_that_only_unloads(
        self, gate: Gate, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """An unloading is told like a switch to nothing."""
        await gate.load(A, "me")
        told.clear()

        await gate.unload(A.key)

        assert [name for name, _ in told] == [
            "model.leaving",
            "switch.started",
            "switch.drained",
            "switch.unloaded",
            "model.unloaded",
        ]
        assert told[1][1]["load"] is None
        assert told[1][1]["reason"] == "asked"

    async def test_of_an_order_that_is_taken_back(
        self, gate: Gate, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A model that nobody wants away any more is told to stay, by the last who gave that up."""
        first, last = {"for": "req_1", "by": "owner"}, {"for": "req_2", "by": "other"}
        async with gate.lease(A, "me"):
            told.clear()
            unloading = asyncio.create_task(gate.unload(A.key, first))
            again = asyncio.create_task(gate.unload(A.key, last))
            await until(lambda: len(told) == 2)
            await cancelled(unloading)
            await cancelled(again)

        what = {"device": "gpu0", "model": "a", "backend": "studio", "reason": "asked"}
        assert told == [
            ("model.leaving", {**what, **first}),
            ("model.leaving", {**what, **last}),
            ("model.kept", {**what, **last}),
        ]

    async def test_of_an_order_that_is_taken_back_too_late(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A model that is just being unloaded goes, whoever leaves, and nobody is told otherwise."""
        await gate.load(A, "me")
        told.clear()
        studio.unloading.hold()
        unloading = asyncio.create_task(gate.unload(A.key))
        await studio.unloading.started.wait()

        await cancelled(unloading)
        studio.unloading.release.set()
        await idle(gate)

        assert [name for name, _ in told] == [
            "model.leaving",
            "switch.started",
            "switch.drained",
            "switch.unloaded",
            "model.unloaded",
        ]

    async def test_of_each_model_with_what_is_set_for_it(
        self, gate: Gate, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A model that comes or goes is told in LM Studio's words, with who wanted it and why."""
        route = replace(A, load={"context_length": 8192}, defaults={"top_p": 0.9, "stop": ("#",)})
        settings = {
            "loadConfig": {"contextLength": 8192},
            "defaultInference": {"topP": 0.9, "stopStrings": ("#",)},
        }
        model = {"device": "gpu0", "model": "a", "backend": "studio"}

        await gate.load(route, "me", name="req_1")
        was_there = await gate.unload(A.key, {"for": "req_2", "by": "owner"})
        was_there_again = await gate.unload(A.key, {"for": "req_3", "by": "owner"})

        assert (was_there, was_there_again) == (True, False)
        assert [(name, fields) for name, fields in told if name.startswith("model.")] == [
            (
                "model.loaded",
                {**model, "for": "req_1", "by": "me", "reason": "room", "changed": True, **settings},
            ),
            ("model.leaving", {**model, "for": "req_2", "by": "owner", "reason": "asked"}),
            (
                "model.unloaded",
                {**model, "for": "req_2", "by": "owner", "reason": "asked", "changed": True, **settings},
            ),
        ]

    async def test_of_a_copy_with_other_options(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A copy that serves with outdated options goes after its last lease: that is told at both times."""
        async with gate.lease(A, "me"):
            told.clear()
            studio.poor = {"a"}
            await gate.recheck()
            await gate.recheck()
        await until(lambda: studio.residents == set())

        what = {"device": "gpu0", "model": "a", "backend": "studio", "reason": "outdated"}
        assert told[0] == ("model.leaving", what)
        assert (told[1][0], told[1][1] | {"drain_s": 0}) == (
            "switch.started",
            {"device": "gpu0", "unload": ["studio/a"], "load": None, "reason": "outdated", "drain_s": 0},
        )

    async def test_of_a_switch_that_fails(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A failure is told with its reason and how long it took."""
        studio.loading.error = LoadFailed("no such file")

        with pytest.raises(LoadFailed):
            await gate.load(A, "me")

        name, fields = told[-1]
        assert (name, fields["model"], fields["reason"]) == ("switch.failed", "a", "no such file")
        assert fields["unload_s"] >= 0
        assert fields["load_s"] >= 0

    async def test_of_a_switch_that_fails_before_its_load(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """What has not begun took no time."""
        await gate.load(A, "me")
        studio.unloading.error = RuntimeError("it will not go")

        with pytest.raises(LoadFailed):
            await gate.load(B, "me")

        assert (told[-1][0], told[-1][1]["load_s"]) == ("switch.failed", 0)

    async def test_of_a_switch_that_is_given_up(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A switch that nobody wants any more is told as cancelled."""
        studio.looking.hold()
        task = ask(gate, A)
        await studio.looking.started.wait()

        await cancelled(task)
        studio.looking.release.set()
        await idle(gate)

        assert [name for name, _ in told] == ["switch.started", "switch.drained", "switch.cancelled"]

    async def test_of_a_drain_that_is_given_up(
        self,
        gate: Gate,
        told: list[tuple[str, Mapping[str, Any]]],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A switch that nobody wants any more while its victims still serve is cancelled, and no log line."""
        gate.configure(Device(cooldown_s=0, patience_s=1e-9, residency=0))
        async with gate.lease(A, "me"):
            told.clear()
            caplog.clear()
            task = ask(gate, B)
            await until(lambda: bool(told))

            await cancelled(task)

        assert [(name, fields.get("load", fields.get("model"))) for name, fields in told] == [
            ("switch.started", "studio/b"),
            ("switch.cancelled", "studio/b"),
        ]
        assert (told[1][1]["unload_s"], told[1][1]["load_s"]) == (0, 0)
        assert not caplog.messages

    async def test_of_a_drain_that_another_model_ends(
        self, gate: Gate, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """The end of a switch is told before the begin of the one that is decided in its place."""
        gate.configure(Device(cooldown_s=0, patience_s=1e-9, residency=0))
        async with gate.lease(A, "me"):
            told.clear()
            first = ask(gate, B, "bob")
            await until(lambda: bool(told))
            second = ask(gate, C, "cid")
            await until(lambda: gate.snapshot().waiting == 2)
            await cancelled(first)
        (await second).release()

        assert [name for name, _ in told[:4]] == [
            "switch.started",
            "switch.cancelled",
            "switch.started",
            "switch.drained",
        ]

    async def test_of_a_switch_that_the_end_cuts_short(
        self, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A load that dmap's own end interrupts is told as cancelled."""
        gate = Gate(
            "gpu0",
            Device(cooldown_s=0),
            {"studio": studio},
            tell=lambda name, fields: told.append((name, fields)),
        )
        await gate.start()
        studio.loading.hold()
        task = ask(gate, A)
        await studio.loading.started.wait()

        await gate.close()

        assert [name for name, _ in told] == ["switch.started", "switch.drained", "switch.cancelled"]
        with pytest.raises(ShuttingDown):
            await task

    async def test_of_models_that_come_and_go(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """What is loaded and unloaded by other hands is told; dmap's own switches are not told so."""
        await gate.load(A, "me")
        await gate.recheck()
        told.clear()

        studio.residents = {"x"}
        await gate.recheck()

        assert told == [
            ("model.appeared", {"device": "gpu0", "model": "x", "backend": "studio"}),
            ("model.vanished", {"device": "gpu0", "model": "a", "backend": "studio"}),
        ]

    async def test_of_models_that_a_switch_finds_or_misses(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """What others did since the last look is told by the switch that meets it; each once."""
        await gate.load(A, "me")
        await gate.recheck()
        told.clear()

        studio.residents = {"x"}
        await gate.load(B, "me")
        await gate.recheck()

        strange = [
            (name, each["model"]) for name, each in told if name in ("model.appeared", "model.vanished")
        ]
        assert sorted(strange) == [("model.appeared", "x"), ("model.vanished", "a")]

    async def test_not_of_what_dmap_has_loaded_otherwise(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A resident that is to be loaded anew, with other options, is dmap's own."""
        await gate.load(A, "me")
        await gate.recheck()
        studio.poor = {"a"}
        await gate.recheck()
        told.clear()
        studio.poor = set()

        await gate.load(B, "me")

        assert [name for name, _ in told if name in ("model.appeared", "model.vanished")] == []

    async def test_not_of_what_a_look_saw_that_a_switch_overtook(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A model that dmap loads while somebody looks has not come by other hands."""
        studio.looking.hold()
        studio.changed()
        await studio.looking.started.wait()
        look, studio.looking.release = studio.looking.release, asyncio.Event()
        studio.looking.release.set()
        studio.loading.hold()
        task = ask(gate, A)
        await studio.loading.started.wait()

        studio.residents = {"a"}
        look.set()
        await until(lambda: len(asyncio.all_tasks()) == 3)
        studio.loading.release.set()
        (await task).release()
        await gate.recheck()

        assert [name for name, _ in told] == [
            "switch.started",
            "switch.drained",
            "switch.loaded",
            "model.loaded",
        ]

    async def test_not_of_what_a_look_saw_before_a_switch(
        self, gate: Gate, studio: FakeSwitcher, told: list[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """A model that was loaded since somebody looked has not vanished."""
        studio.looking.hold()
        studio.changed()
        await studio.looking.started.wait()
        look, studio.looking.release = studio.looking.release, asyncio.Event()
        studio.looking.release.set()
        await gate.load(A, "me")

        studio.looking.hold()
        studio.residents = set()
        look.set()
        await studio.looking.started.wait()
        studio.residents = {"a"}
        studio.looking.release.set()
        await gate.recheck()

        assert [name for name, _ in told] == [
            "switch.started",
            "switch.drained",
            "switch.loaded",
            "model.loaded",
        ]
        assert gate.residents == {A.key}

    async def test_not_of_what_was_there_before(self, studio: FakeSwitcher) -> None:
        """What is resident when dmap starts has not appeared."""
        told: list[str] = []
        studio.residents = {"a"}
        gate = Gate(
            "gpu0",
            Device(cooldown_s=0),
            {"studio": studio},
            tell=lambda name, fields: told.append(name),
        )

        await gate.start()

        assert told == []
        await gate.close()
