"""What an adverse crowd found: orders, drains, reloads and traffic at the same moment, and nobody pays."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dmap.arbiter import Arbiter, Limits, Needs, Refuse
from dmap.config import Device
from dmap.errors import ShuttingDown
from dmap.gate import Gate
from dmap.state import Activation, Saved, StateFile
from dmap.web.reload import reload
from tests.conftest import Proxy, config_of
from tests.fake_switcher import A, B, FakeSwitcher
from tests.fakes import HERE_S
from tests.lmstudio_clients import Call, Client, Tally, drawn
from tests.lmstudio_emulator import Emulator, Knobs, emulator
from tests.test_retries import children

CHAT = "/v1/chat/completions"
ONE = Needs(size_bytes=6)
SMALL, OTHER, THIRD = "llama-3.2-1b-instruct", "ibm/granite-4-micro", "qwen/qwen3-8b"
QUICK = Knobs(load_s=0.02, load_gb_s=0.01, token_s=0.002, v0_lag_s=0)


class TestArbiter:
    def test_drained_and_smaller(self) -> None:
        """Who waits on a drained device that a reload made too small is shown, and refused at the end."""
        arbiter = Arbiter(Limits(memory_bytes=10))
        arbiter.drain(0)
        arbiter.submit(0, 1, "a", "me", ONE)
        arbiter.configure(1, Limits(memory_bytes=5))

        assert arbiter.look(1).first(1000).keys() == {1}
        assert [type(effect) for effect in arbiter.resume(2)] == [Refuse]

    def test_drained_to_be_empty(self) -> None:
        """Who takes an unloading back does not keep a model that a drain has sent away."""
        arbiter = Arbiter(Limits())
        arbiter.observed(0, arbiter.epoch, {"a": ONE})
        arbiter.submit(0, 1, "a", "me", ONE)
        arbiter.drain(1, unload=True)
        arbiter.unload(2, "a")
        arbiter.keep(3, "a")

        (switch,) = arbiter.withdraw(4, 1)
        assert (switch.load, switch.unload) == (None, ("a",))


class TestGate:
    async def test_its_own_model_is_never_the_owners(self) -> None:
        """With `adopt: respect` a model that dmap loaded may go, also when other options are asked by now."""
        studio = FakeSwitcher()
        gate = Gate("gpu0", Device(cooldown_s=0, adopt="respect"), {"studio": studio})
        await gate.start()
        await gate.load(A, "me")
        studio.poor = {"a"}
        await gate.recheck()
        await gate.recheck()
        async with gate.lease(B, "me"):
            assert studio.residents == {"b"}
        await gate.close()

    async def test_an_unloading_after_the_end(self) -> None:
        """Who wants a model unloaded while dmap stops is told so at once."""
        gate = Gate("gpu0", Device(cooldown_s=0), {"studio": FakeSwitcher()})
        await gate.start()
        await gate.load(A, "me")
        await gate.close()
        async with asyncio.timeout(HERE_S):
            with pytest.raises(ShuttingDown):
                await gate.unload(A.key)


@pytest.mark.parametrize("attempt", range(12))
async def test_an_order_that_is_left_spoils_no_other(tmp_path: Path, attempt: int) -> None:
    """A write whose client leaves goes on alone: the next one succeeds, and is what the file says."""
    file = StateFile(tmp_path / "state.json")
    many = {f"m{number}": Activation({}, {}) for number in range(500)}
    first = asyncio.create_task(file.write(Saved("first", many, frozenset())))
    await asyncio.sleep(attempt * 0.0003)

    first.cancel()
    await file.write(Saved("second", {}, frozenset()))

    await asyncio.gather(first, return_exceptions=True)
    assert file.read().active == "second"


# Real engines


@pytest.fixture
async def engine(start: Any, models: Path, tmp_path: Path) -> Proxy:
    proxy: Proxy = await start(
        f"""
        devices: {{gpu0: {{cooldown_s: 0, patience_s: 0.2}}}}
        backends: {{engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 2, threads: 1}}}}
        state: {tmp_path}/state.json
        """
    )
    return proxy


@pytest.fixture
async def session(engine: Proxy) -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(engine.url) as session:
        yield session


def asked(model: str, tokens: int) -> dict[str, Any]:
    words = [{"role": "user", "content": "Hello"}]
    return {"model": model, "stream": True, "max_tokens": tokens, "messages": words}


async def answered(session: aiohttp.ClientSession, model: str) -> bytes:
    async with session.post(CHAT, json=asked(model, 5)) as answer:
        return await answer.read()


async def loaded(session: aiohttp.ClientSession, length: int, order: str = "load") -> Any:
    """Order `slow` with a context of *length*; return what it got."""
    body = {"modelKey": "slow", "loadConfig": {"contextLength": length}}
    async with session.post(f"/admin/models/{order}", json=body) as told:
        return (await told.json()).get("loaded", {}).get("context_length")


async def waiting(proxy: Proxy, count: int) -> None:
    """Wait until so many wait at the device."""
    async with asyncio.timeout(HERE_S):
        while proxy.proxy.devices["gpu0"].snapshot().waiting != count:
            await asyncio.sleep(0.002)


async def test_other_options_cut_nobody(session: aiohttp.ClientSession, engine: Proxy) -> None:
    """A model that serves when other options are set for it serves to the end, and is then loaded anew."""
    async with session.post(CHAT, json=asked("slow", 100)) as answer:
        await answer.content.readline()
        await loaded(session, 512, "activate")
        assert b"[DONE]" in await answered(session, "slow")  # asks with the new options
        await engine.proxy.devices["gpu0"].recheck()
        other = asyncio.create_task(answered(session, "tiny-sea"))
        whole = await answer.read()

    assert b"data: [DONE]" in whole
    assert b"data: [DONE]" in await other
    assert b"data: [DONE]" in await answered(session, "slow")
    assert await loaded(session, 512) == 512


async def test_two_loads_of_one_model_at_once(session: aiohttp.ClientSession, engine: Proxy) -> None:
    """Each of several orders for one model gets what it asked for, one after the other; the last holds."""
    lengths = [512, 768, 1024]
    orders = asyncio.as_completed([loaded(session, length) for length in lengths])
    got = [await order for order in orders]

    assert sorted(got) == lengths
    assert engine.proxy.saved.models["slow"].load == {"context_length": got[-1]}


async def test_an_order_that_is_left_takes_no_other_along(
    session: aiohttp.ClientSession, engine: Proxy
) -> None:
    """Who leaves while its load waits changes nothing of what another has ordered for the same model."""
    async with session.post(CHAT, json=asked("tiny-sea", 1000)) as answer:
        await answer.content.readline()
        (serving,) = children()
        serving.suspend()
        staying = asyncio.create_task(loaded(session, 512))
        leaving = asyncio.create_task(loaded(session, 768))
        await waiting(engine, 1)
        leaving.cancel()
        client = asyncio.create_task(answered(session, "slow"))
        await waiting(engine, 2)
        serving.resume()
        await answer.read()

    assert await staying == 512
    assert b"data: [DONE]" in await client


# An emulated LM Studio


@pytest.fixture
async def lm() -> AsyncGenerator[Emulator]:
    async with emulator(knobs=QUICK) as lm:
        yield lm


async def test_a_pinned_model_that_was_there_before(start: Any, lm: Emulator) -> None:
    """A pin holds from the first moment, also for a model that nobody has asked this dmap for."""
    await lm.world.load(SMALL)
    proxy = await start(
        f"""
        devices: {{gpu0: {{cooldown_s: 0, max_models: 2}}}}
        backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
        models: {{{SMALL}: {{backend: studio, pin: true}}}}
        """
    )
    async with aiohttp.ClientSession(proxy.url) as session:
        assert b"[DONE]" in await answered(session, OTHER)
        assert b"[DONE]" in await answered(session, THIRD)

    assert lm.world.instances.keys() == {SMALL, THIRD}


class Crowd:
    """Twelve clients of four models, and people who give orders meanwhile, all drawn from one seed."""

    def __init__(self, proxy: Proxy, text: Callable[[random.Random], str], seed: int) -> None:
        self.proxy, self.text, self.rng = proxy, text, random.Random(seed)
        self.tally, self.statuses, self.over = Tally(), set[int](), asyncio.Event()

    async def run(self, seconds: float) -> None:
        async with aiohttp.ClientSession(self.proxy.url) as session:
            self.session = session
            orders = (self.loads, self.loads, self.drains, self.cancels, self.reloads)
            crowd = [asyncio.create_task(self.asks(number)) for number in range(12)]
            people = [asyncio.create_task(self.repeat(order)) for order in orders]
            await asyncio.sleep(seconds)
            self.over.set()
            await asyncio.gather(*people)
            await self.post("resume", {})
            await asyncio.gather(*crowd)

    async def asks(self, number: int) -> None:
        client = Client(number, self.proxy.url, bound_s=HERE_S)
        while not self.over.is_set():
            call = drawn(self.rng, (SMALL, OTHER, THIRD)[number % 3])
            self.tally.verdicts.append(await client.ask(call))
            await asyncio.sleep(self.rng.random() / 10)
        self.tally.verdicts.append(await client.ask(Call(CHAT, SMALL, 5, stream=True)))
        await client.close()

    async def repeat(self, order: Callable[[], Awaitable[None]]) -> None:
        while not self.over.is_set():
            await asyncio.sleep(self.rng.random() / 4)
            await order()

    async def post(self, path: str, body: dict[str, Any], within_s: float | None = None) -> None:
        """Give an order, and leave if it is not done in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self.session.post(f"/admin/{path}", json=body) as told:
                self.statuses.add(told.status)

    async def loads(self) -> None:
        path = self.rng.choice(["models/load", "models/load", "models/unload", "models/activate"])
        body: dict[str, Any] = {"modelKey": self.rng.choice([SMALL, OTHER, THIRD])}
        if path != "models/unload":
            body["loadConfig"] = {"contextLength": self.rng.choice([1024, 2048, 4096])}
        await self.post(path, body, self.rng.choice([None, 0.02, 0.1]))

    async def drains(self) -> None:
        await self.post("drain", {"unload": self.rng.random() < 0.5})
        await asyncio.sleep(self.rng.random() / 10)
        await self.post("resume", {})

    async def cancels(self) -> None:
        async with self.session.get("/admin/queue") as told:
            assert told.status == 200
            found = [each["id"] for each in (await told.json())["open"]]
        await self.post(f"queue/{self.rng.choice([*found, 'nobody'])}/cancel", {})

    async def reloads(self) -> None:
        listen = self.proxy.proxy.config.listen
        config = config_of(self.text(self.rng)).model_copy(update={"listen": listen})
        reload(self.proxy.proxy, config)


TOLD = ("cancelled", "server_error", "overloaded_error")
"""What an order does to a request; the last one is how a 503 is told to those who speak as Anthropic does."""


@pytest.mark.parametrize("seed", [1, 2])
async def test_orders_in_a_crowd(start: Any, lm: Emulator, tmp_path: Path, seed: int) -> None:
    """Whatever is ordered meanwhile: nobody is cut off or mistaken, all are answered, nothing is left."""

    def text(rng: random.Random) -> str:
        return f"""
        devices:
          gpu0: {{max_models: {rng.choice([1, 2])}, cooldown_s: 0, patience_s: {rng.choice([0.2, 1])}}}
        backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
        models:
          {SMALL}: {{ttl_s: {rng.choice([0.2, 5])}, parallel: {rng.choice([1, 4])}}}
          {OTHER}: {{load: {{context_length: {rng.choice([2048, 8192])}}}}}
        state: {tmp_path}/state.json
        """

    proxy = await start(text(random.Random(seed)))
    crowd = Crowd(proxy, text, seed)
    await crowd.run(3)

    assert crowd.tally.bad == []
    assert crowd.tally.reasons().keys() <= {"503 cancelled", *(f"in-band {each}" for each in TOLD)}
    assert crowd.statuses <= {200, 404, 503}
    assert len(crowd.tally.of("answer")) >= 12
    assert (lm.world.cuts(), lm.world.wrong()) == ([], [])
    assert [one for one in lm.world.stacks() if one["by"] == "rest"] == []
    await proxy.settled()
    assert (len(proxy.proxy.visits), proxy.proxy.trials) == (0, {})
