"""A gate on a device whose memory is measured: when it is back, what loads took, who else has it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from dmap.backends import Loaded
from dmap.config import Device
from dmap.errors import SAID, DmapError, LoadFailed
from dmap.gate import Gate, Lease
from dmap.memory import Meter, Usage
from tests.fake_switcher import A, B, C, FakeSwitcher, cancelled
from tests.fakes import HERE_S

GIB = 2**30
DAY_S = 86_400.0


class GPUs:
    """A GPU of 24 GiB, of which a test says how much is used; *late* is given back when it is told to."""

    def __init__(self) -> None:
        self.used = GIB
        self.processes: dict[int, int] | None = None
        self.error: Exception | None = None
        self.looks = 0

    def names(self) -> list[str]:
        return ["test"]

    def read(self) -> Usage:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return Usage(24 * GIB, self.used, self.processes)


class Studio(FakeSwitcher):
    """A server whose models take 8 GiB each on *gpus*; what *frees* of it is free when an unload returns."""

    def __init__(self, gpus: GPUs) -> None:
        super().__init__()
        self.gpus, self.frees = gpus, 8 * GIB

    async def load(self, model: str, options: object) -> Loaded:
        loaded = await super().load(model, {})
        self.gpus.used += 8 * GIB
        return loaded

    async def unload(self, model: str) -> None:
        await super().unload(model)
        self.gpus.used -= self.frees


@pytest.fixture
def gpus() -> GPUs:
    return GPUs()


@pytest.fixture
def studio(gpus: GPUs) -> Studio:
    return Studio(gpus)


@asynccontextmanager
async def running(studio: Studio, *, cooldown_s: float = DAY_S) -> AsyncGenerator[Gate]:
    meter = Meter("gpu0", studio.gpus, ids_are_ours=lambda: True)
    gate = Gate("gpu0", Device(cooldown_s=cooldown_s), {"studio": studio}, meter=meter)
    await gate.start()
    try:
        yield gate
    finally:
        await gate.close()


async def switched(gate: Gate) -> None:
    """Have B in the place of A."""
    async with gate.lease(A, "me"):
        pass
    async with asyncio.timeout(HERE_S), gate.lease(B, "me"):
        pass


async def switching(gate: Gate, gpus: GPUs) -> "asyncio.Task[Lease]":
    """Have one wait for another model; return when the memory of the first one is looked for."""
    async with gate.lease(A, "me"):
        pass
    task = asyncio.create_task(gate.lease(B, "me").__aenter__())
    await until_looked(gpus, 3)
    return task


async def test_memory_that_is_back_is_not_waited_for(studio: Studio) -> None:
    """The next load begins once as much is free as the model took, however long the cool-down may be."""
    async with running(studio) as gate:
        await switched(gate)

        assert studio.residents == {"b"}


async def test_memory_that_comes_back_late_is_waited_for(studio: Studio, gpus: GPUs) -> None:
    """As long as the memory is not back nothing is loaded; when it is, the load begins."""
    studio.frees = 0
    async with running(studio) as gate:
        task = await switching(gate, gpus)

        assert studio.residents == set()
        gpus.used -= 8 * GIB
        async with asyncio.timeout(HERE_S):
            (await task).release()


async def test_who_leaves_during_the_cool_down(studio: Studio, gpus: GPUs) -> None:
    """A switch whose only waiter leaves while memory is waited for does not load."""
    studio.frees = 0
    async with running(studio) as gate:
        task = await switching(gate, gpus)

        await cancelled(task)
        gpus.used -= 8 * GIB
        async with asyncio.timeout(HERE_S), gate.lease(C, "me"):
            pass

        assert studio.loading.calls == ["a", "c"]


async def test_less_than_it_took(studio: Studio) -> None:
    """Memory that has fallen, though by less than was taken, and stays so, is all that comes back."""
    studio.frees = GIB
    async with running(studio) as gate:
        await switched(gate)

        assert studio.residents == {"b"}


async def test_what_was_used_before_an_unload_that_failed(studio: Studio, gpus: GPUs) -> None:
    """What others have given back since an unload that failed is not taken for the model's memory."""
    gpus.used = 9 * GIB
    async with running(studio) as gate:
        async with gate.lease(A, "me"):
            pass
        studio.unloading.error = LoadFailed("not now")
        with pytest.raises(DmapError, match="not now"):
            await gate.unload(A.key)
        studio.unloading.error, studio.frees = None, 0
        gpus.used -= 8 * GIB
        task = asyncio.create_task(gate.lease(B, "me").__aenter__())
        await until_looked(gpus, 4)

        assert studio.residents == set()
        gpus.used -= 8 * GIB
        async with asyncio.timeout(HERE_S):
            (await task).release()


async def test_the_cool_down_is_the_bound(studio: Studio) -> None:
    """Memory that does not come back at all is waited for as long as the cool-down says, and no longer."""
    studio.frees = 0
    clock = asyncio.get_running_loop().time
    async with running(studio, cooldown_s=0.4) as gate:
        async with gate.lease(A, "me"):
            pass
        began = clock()
        async with gate.lease(B, "me"):
            assert 0.39 < clock() - began < HERE_S  # a timer may come early


async def test_no_cool_down(studio: Studio) -> None:
    """With a cool-down of 0 nothing is waited for."""
    studio.frees = 0
    async with running(studio, cooldown_s=0) as gate:
        await switched(gate)


async def test_a_driver_that_does_not_tell(
    studio: Studio, gpus: GPUs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the memory cannot be read the time counts, as where nobody measures it."""
    monkeypatch.setattr(gpus, "read", lambda: 1 / 0)
    clock = asyncio.get_running_loop().time
    async with running(studio, cooldown_s=0.4) as gate:
        async with gate.lease(A, "me"):
            pass
        began = clock()
        async with gate.lease(B, "me"):
            assert 0.39 < clock() - began < HERE_S  # a timer may come early


async def test_what_a_load_took(studio: Studio, gpus: GPUs) -> None:
    """What is used more after a load than before it counts as the model's, until it goes."""
    gpus.processes = {7: 8 * GIB, 9: GIB}
    async with running(studio) as gate:
        async with gate.lease(A, "me"):
            gpus.processes = {7: 8 * GIB, 9: GIB}
            found = await gate.memory.meter.look() if gate.memory.meter else None

            assert gate.memory.took == {A.key: 8 * GIB}
            assert found is not None
            assert found.kinds == {
                "total": 24 * GIB,
                "used": 9 * GIB,
                "models": 8 * GIB,
                "others": GIB,
                "unaccounted": 0,
            }
        await gate.unload(A.key)

        assert gate.memory.took == {}


async def test_a_load_that_fails_names_others(studio: Studio, gpus: GPUs) -> None:
    """Who else has memory stands before what the server said; those who may not read that see no names."""
    gpus.used, gpus.processes = 9 * GIB, {4194304: 8 * GIB}
    studio.loading.error = LoadFailed(f"it ended{SAID}out of memory")
    async with running(studio) as gate:
        with pytest.raises(LoadFailed) as raised:
            await gate.lease(A, "me").__aenter__()

    error, others = raised.value, "it ended; 8 GiB of 'gpu0' are used by others"
    assert f"{others}: pid 4194304 8 GiB; its last lines: out of memory" in error.message
    error.leave_out_lines()
    assert f"{others}; " in error.message
    assert "4194304" not in error.message and "out of memory" not in error.message


async def test_a_little_is_nobodys_fault(studio: Studio, gpus: GPUs) -> None:
    """Others that have next to nothing are not named, nor where nobody knows what they have."""
    gpus.used, gpus.processes = GIB, {4194304: GIB}
    studio.loading.error = LoadFailed("it ended")
    async with running(studio) as gate:
        with pytest.raises(LoadFailed, match="it ended$"):
            await gate.lease(A, "me").__aenter__()
        gpus.used, gpus.processes = 9 * GIB, None
        gate.forgive(A.key)
        with pytest.raises(LoadFailed, match="it ended$"):
            await gate.lease(A, "me").__aenter__()


async def until_looked(gpus: GPUs, more: int) -> None:
    """Wait until the GPU was looked at so many times *more*."""
    seen = gpus.looks
    async with asyncio.timeout(HERE_S):
        while gpus.looks < seen + more:
            await asyncio.sleep(0.01)
