"""The models of one device, as its backends tell of them."""

import asyncio

import pytest

from dmap.arbiter import Arbiter, Limits
from dmap.backends import Loaded
from dmap.config import Device
from dmap.errors import BackendDown
from dmap.gate.device_models import DeviceModels
from dmap.gate.lease import Lease
from dmap.models import ModelKey
from tests.fake_switcher import A, B, FakeSwitcher
from tests.fakes import HERE_S

DAY_S = 86_400.0


def backends_of(*switchers: FakeSwitcher, cooldown_s: float = DAY_S, gone_s: float = DAY_S) -> DeviceModels:
    """Return *switchers* as those of one device."""
    section = Device.model_construct(cooldown_s=cooldown_s, backend_gone_s=gone_s)
    return DeviceModels(Arbiter(Limits()), {each.name: each for each in switchers}, section)


async def test_memory_counts_as_free_after_a_cool_down() -> None:
    """After an unloading the next load waits; the wait is over after `cooldown_s`, once."""
    cooling = backends_of(FakeSwitcher())
    await cooling.unload(A.key)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(cooling.cool_down(), 0.01)

    cooling.section = Device.model_construct(cooldown_s=0)
    await cooling.cool_down()
    cooling.section = Device.model_construct(cooldown_s=DAY_S)
    await cooling.cool_down()


async def test_a_backend_that_frees_at_once_needs_no_cool_down() -> None:
    """Where a process has ended nothing is left to wait for."""
    switcher = FakeSwitcher()
    switcher.frees_at_once = True
    warm = backends_of(switcher)

    await warm.unload(A.key)

    await asyncio.wait_for(warm.cool_down(), HERE_S)


async def test_reads_what_is_resident_on_all() -> None:
    """A reading has the residents of each backend, and why one of them is silent."""
    studio, other, down = FakeSwitcher(), FakeSwitcher("other"), FakeSwitcher("down")
    studio.residents, other.residents = {"a"}, {"a", "b"}
    down.looking.error = BackendDown("down does not answer")

    reading = await backends_of(studio, other, down).read()

    assert reading.residents.keys() == {A.key, ModelKey("other", "a"), ModelKey("other", "b")}
    assert reading.silent.keys() == {"down"}
    assert reading.gone == frozenset()
    reading.check([A.key])
    with pytest.raises(BackendDown, match="down does not answer"):
        reading.check([A.key, ModelKey("down", "a")])


async def test_a_bug_in_a_backend_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    """A backend that fails by a bug of dmap's counts as silent too, and the bug is in the log."""
    studio = FakeSwitcher()
    studio.looking.error = KeyError("a bug")

    assert (await backends_of(studio).read()).silent.keys() == {"studio"}

    assert "KeyError" in caplog.text


async def test_a_socket_that_fails_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    """A backend that cannot be reached is silent, and the log has no traceback of that."""
    studio = FakeSwitcher()
    studio.looking.error = ConnectionResetError("reset by peer")

    assert (await backends_of(studio).read()).silent.keys() == {"studio"}

    assert caplog.text == ""


async def test_a_backend_that_breaks_off_is_silent() -> None:
    """A backend that cancels its own answer says nothing; whoever asked is not cancelled with it."""
    studio, other = FakeSwitcher(), FakeSwitcher("other")
    studio.residents = {"a"}
    other.looking.error = asyncio.CancelledError()

    reading = await backends_of(studio, other).read()

    assert reading.residents.keys() == {A.key}
    with pytest.raises(BackendDown, match="backend 'other' broke off"):
        reading.check([ModelKey("other", "a")])


async def test_a_backend_that_stays_silent_is_gone() -> None:
    """Silence of `backend_gone_s` or more is told, and forgotten with the first answer."""
    studio = FakeSwitcher()
    studio.looking.error = BackendDown("studio does not answer")
    silent = backends_of(studio, gone_s=0)

    assert (await silent.read()).gone == {"studio"}

    studio.looking.error = None
    assert (await silent.read()).gone == frozenset()


async def test_silence_is_counted_from_its_first_moment() -> None:
    """A backend is gone `backend_gone_s` after it first said nothing, however often it was asked."""
    studio, passed = FakeSwitcher(), asyncio.Event()
    studio.looking.error = BackendDown("studio does not answer")
    silent = backends_of(studio, gone_s=0.02)
    assert (await silent.read()).gone == frozenset()

    asyncio.get_running_loop().call_later(0.03, passed.set)
    await passed.wait()

    assert (await silent.read()).gone == {"studio"}


async def test_loads_with_the_options_given() -> None:
    """Options go to the backend as they are, and what it gave comes back."""
    studio = FakeSwitcher()
    studio.loaded = Loaded(context_length=8192)

    assert await backends_of(studio).load(B.key, {"context_length": 8192}) == studio.loaded
    assert studio.options == [{"context_length": 8192}]


async def test_routes_of_models_that_are_gone_are_forgotten() -> None:
    """A backend may list other models each day; who waits for one that is gone by now keeps its route."""
    studio = FakeSwitcher()
    models = backends_of(studio)
    models.asked = {A.key: A, B.key: B}
    models._arbiter.submit(0, Lease(None, B, "me"), B.key, "me", B.needs)

    models.forget(await models.read())

    assert models.asked == {B.key: B}


async def test_routes_of_models_that_are_there_are_kept() -> None:
    """The catalog has them, or their backend has them resident."""
    studio = FakeSwitcher()
    studio.residents = {"a"}
    models = backends_of(studio)
    models.route_of = {B.key: B}.get
    models.asked = {A.key: A, B.key: B}

    models.forget(await models.read())

    assert models.asked == {A.key: A, B.key: B}
