"""Who asks the backends, when, and what it means for requests that one does not answer."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

import pytest

from dmap.access import Client
from dmap.backends import ModelInfo, Target
from dmap.backends.lmstudio.backend import LMStudioBackend
from dmap.catalog import Catalog
from dmap.config import parse
from dmap.errors import BackendDown, ModelNotFound
from dmap.inventory import Inventory
from tests.fakes import HERE_S
from tests.lmstudio_emulator import Knobs, Traps, emulator, section
from tests.test_standstill import stand_still

STUDIO = "{devices: {gpu0: {}}, backends: {studio: {kind: lmstudio, url: 'http://a', device: gpu0}}}"
SMALL = "llama-3.2-1b-instruct"
TWO = "backends: {a: {kind: openai, url: 'http://a'}, b: {kind: openai, url: 'http://b'}}"


class FakeBackend:
    """A backend that lists *has*, or is down while that is None; `release` lets its answers through."""

    def __init__(self, name: str, has: list[str] | None) -> None:
        self.name = name
        self.url = None
        self.has = has
        self.asked = 0
        self.bug: Exception | None = None
        self.form: Callable[[Iterable[ModelInfo]], Sequence[ModelInfo]] = list
        self.release = asyncio.Event()
        self.release.set()
        self.answered = asyncio.Event()

    async def models(self) -> Sequence[ModelInfo]:
        self.asked += 1
        await self.release.wait()
        self.answered.set()
        if self.bug is not None:
            bug, self.bug = self.bug, None
            raise bug
        if self.has is None:
            raise BackendDown(f"no answer from {self.name}")
        return self.form(ModelInfo(model, resident=True) for model in self.has)

    def target(self, model: str, path: str) -> Target:
        raise AssertionError("nothing is sent")

    async def close(self) -> None:
        """Nothing to close."""


class House:
    """Two fake backends, their catalog and their inventory."""

    def __init__(self) -> None:
        self.a, self.b = FakeBackend("a", ["m"]), FakeBackend("b", ["n"])
        self.catalog = Catalog(parse(TWO, {}))
        self.inventory = Inventory({"a": self.a, "b": self.b}, self.catalog)

    @property
    def models(self) -> list[str]:
        return [shown.name for shown in self.catalog.shown(Client("c"), ())]


@pytest.fixture
async def house() -> AsyncGenerator[House]:
    house = House()
    yield house
    house.a.release.set()
    await house.inventory.close()


async def test_all_are_asked_at_the_start(house):
    """After `start` the catalog knows what every backend has."""
    await house.inventory.start()

    assert house.models == ["m", "n"]
    assert house.inventory.answering == ["a", "b"]


async def test_one_that_is_down_stops_nobody(house):
    """A backend that does not answer is no failure of the start; requests for it are refused at once."""
    house.a.has = None

    await house.inventory.start()

    assert (house.models, house.inventory.answering) == (["n"], ["b"])
    house.inventory.check("b")
    with pytest.raises(BackendDown, match="no answer from a") as refused:
        house.inventory.check("a")
    assert refused.value.headers() == {"Retry-After": "2"}


@pytest.mark.parametrize(("gone_s", "error"), [(3600.0, BackendDown), (0.0, ModelNotFound)])
async def test_one_that_is_silent_for_long_counts_as_gone(gone_s, error):
    """Who asks for what only such a backend may have is not told to come back."""
    house = House()
    house.a.has = None
    inventory = Inventory({"a": house.a, "b": house.b}, house.catalog, gone_s=gone_s)

    await inventory.start()

    with pytest.raises(error, match="no answer from"):
        house.catalog.resolve("other", Client("c"))
    await inventory.close()


async def test_a_slow_one_delays_nobodys_answer(house):
    """Backends are asked side by side."""
    house.a.release.clear()

    refreshing = asyncio.create_task(house.inventory.refresh())
    await house.b.answered.wait()
    house.a.release.set()
    await refreshing

    assert house.models == ["m", "n"]


async def test_a_fresh_answer_is_not_asked_for_again(house):
    """Clients that look at the list do not make dmap ask each time."""
    await refreshed(house, 100)

    assert max(house.a.asked, house.b.asked) < 50, "one for each second that the machine takes"


async def refreshed(house: House, times: int) -> None:
    for _ in range(times):
        await house.inventory.refresh()


async def test_a_start_that_stands_still_knows_what_is_there(house):
    """What a backend has answered meanwhile is known when `start` returns."""

    async def known_at_the_start() -> list[str]:
        await house.inventory.start()
        return house.models

    house.a.release.clear()
    starting = asyncio.create_task(known_at_the_start())
    await until(lambda: house.a.asked)
    await late_by(1.1)
    house.a.release.set()

    assert await starting == ["m", "n"]


async def late_by(for_s: float) -> None:
    """Stand still, and take some turns of the loop after that, as an answer over a connection does."""
    stand_still(for_s)
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_comes_meanwhile_takes_the_same_answer(house):
    """Who looks while a backend is being asked waits for that answer and does not ask once more."""
    house.a.release.clear()
    house.b.release.clear()

    both = asyncio.gather(house.inventory.refresh(), house.inventory.refresh())
    await until(lambda: house.a.asked and house.b.asked)
    house.a.release.set()
    house.b.release.set()
    await both

    assert house.models == ["m", "n"]
    assert (house.a.asked, house.b.asked) == (1, 1)


async def test_one_that_is_down_is_not_waited_for(house):
    """Who looks at the list does not wait for a backend that is down; the probe looks after it."""
    house.inventory.report("a", BackendDown("refused"))
    house.a.release.clear()

    async with asyncio.timeout(HERE_S):
        await house.inventory.refresh()

    assert (house.a.asked, house.models) == (0, ["n"])


async def test_a_backend_found_down_is_probed(house, caplog):
    """A request that finds a backend down opens the circuit for all; a probe closes it again."""
    caplog.set_level(logging.INFO, "dmap.inventory")
    await house.inventory.start()
    house.a.answered.clear()

    house.inventory.report("a", BackendDown("refused"))
    house.inventory.report("a", BackendDown("refused once more"))

    with pytest.raises(BackendDown, match="refused once more"):
        house.inventory.check("a")
    assert house.models == ["m", "n"]
    async with asyncio.timeout(HERE_S):
        await house.a.answered.wait()
        await asyncio.sleep(0)
    house.inventory.check("a")
    assert [record.getMessage() for record in caplog.records] == [
        "backend_down backend=a reason=refused",
        "backend_up backend=a",
    ]


@pytest.mark.parametrize(("at_first", "later"), [(KeyError("it"), None), (None, KeyError("it"))])
async def test_a_bug_ends_no_watch(house, caplog, at_first, later):
    """A bug in what asks a backend is logged with its traceback, and the backend is asked again."""
    house.a.bug = at_first
    await house.inventory.start()
    house.a.bug = later
    house.a.answered.clear()

    house.inventory.report("a", BackendDown("refused"))

    async with asyncio.timeout(HERE_S):
        await until(lambda: [record for record in caplog.records if record.exc_info])
        await until(lambda: _is_up(house.inventory))
    (found,) = [record for record in caplog.records if record.exc_info]
    assert found.getMessage().startswith("bug what=\"task '") and "KeyError" in found.getMessage()
    assert house.models == ["m", "n"]


async def test_a_bug_in_taking_an_answer_is_no_answer(house, caplog):
    """A backend whose answer could not be taken is asked again at the next beat, not half a minute later."""
    house.a.form = bool
    await house.inventory.start()
    house.a.form = list
    house.a.answered.clear()

    async with asyncio.timeout(20):
        await house.a.answered.wait()
        await until(lambda: house.models == ["m", "n"])
    assert [record.exc_info[0] for record in caplog.records] == [TypeError]


def _is_up(inventory: Inventory) -> bool:
    with contextlib.suppress(BackendDown):
        inventory.check("a")
        return True
    return False


async def test_close_ends_what_is_being_asked(house):
    """`close` waits for no backend."""
    await house.inventory.start()
    house.a.release.clear()
    house.inventory.report("a", BackendDown("refused"))

    async with asyncio.timeout(HERE_S):
        await house.inventory.close()

    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("inventory")]


async def test_an_lm_studio_is_known_as_its_watch_finds_it():
    """An LM Studio's end, its return and what is loaded there are known with the next look of its watch."""
    async with emulator() as lm, asyncio.timeout(HERE_S):
        backend = LMStudioBackend("studio", section(lm.url), watch_s=0.02)
        catalog = Catalog(parse(STUDIO, {}))
        inventory = Inventory({"studio": backend}, catalog)
        await inventory.start()
        backend.start()

        await lm.kill()
        await until(lambda: inventory.answering == [])
        with pytest.raises(BackendDown, match="does not answer: "):
            inventory.check("studio")
        await lm.start()
        await until(lambda: inventory.answering == ["studio"])
        await backend.load(SMALL, {"context_length": 2048})

        listed = {shown.name: shown.entry.info.context_length for shown in catalog.shown(Client("c"), ())}
        assert listed[SMALL] == 2048
        await inventory.close()
        await backend.close()


async def test_an_outage_of_an_lm_studio_is_two_lines(caplog):
    """Its end and its return are one line each; the log has its address, clients are told without."""
    caplog.set_level(logging.INFO)
    async with emulator() as lm, asyncio.timeout(HERE_S):
        backend = LMStudioBackend("studio", section(lm.url), watch_s=3600)  # no look is under way at the kill
        inventory = Inventory({"studio": backend}, Catalog(parse(STUDIO, {})))
        await inventory.start()
        backend.start()
        changes = asyncio.Queue()
        backend.changed = lambda: changes.put_nowait(None)
        await until(lambda: "jit_is_on" in caplog.text)
        caplog.clear()

        await lm.kill()
        with pytest.raises(BackendDown):
            await backend.models()
        await changes.get()
        with pytest.raises(BackendDown) as told:
            inventory.check("studio")
        await lm.start()
        await changes.get()

        why = "the backend 'studio' (LM Studio) does not answer: connection refused"
        assert told.value.message == why
        assert [record.getMessage() for record in caplog.records if record.name.startswith("dmap")] == [
            f'backend_down backend=studio url={lm.url} reason="{why}"',
            "backend_up backend=studio",
        ]
        await inventory.close()
        await backend.close()


async def test_an_older_lm_studio_is_one_line(caplog):
    """The log says once that it is too old, and what its owner can do."""
    async with emulator(Traps(native=False), Knobs(v0_lag_s=0)) as lm, asyncio.timeout(HERE_S):
        backend = LMStudioBackend("studio", section(lm.url), watch_s=0.01)
        inventory = Inventory({"studio": backend}, Catalog(parse(STUDIO, {})))
        await inventory.start()
        backend.start()
        await until(lambda: len(lm.requests) > 10)

        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith("backend_down backend=studio")
        assert (
            "came with 0.4.0; update it, or give this backend `kind: openai` and load models by hand" in line
        )
        await inventory.close()
        await backend.close()


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.002)
