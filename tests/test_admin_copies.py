"""Orders of the admin API for a model that is on two servers, and for one of its copies."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dmap.access import Client
from dmap.web.reload import reload
from tests.conftest import Proxy
from tests.fakes import HERE_S, soon
from tests.lmstudio_emulator import Knobs, emulator
from tests.twin_soak import MODELS

OWNER = Client("owner")
Order = Callable[..., Awaitable[Any]]


def have_wait(proxy: Proxy, device: str, wait_s: float) -> None:
    """Reload the configuration with another `wait_s` of *device*."""
    config = proxy.proxy.config
    section = config.devices[device].model_copy(update={"wait_s": wait_s})
    reload(proxy.proxy, config.model_copy(update={"devices": config.devices | {device: section}}))


def told(proxy: Proxy, *types: str) -> list[str]:
    """Return the backend of each event of one of *types*."""
    return [each.fields["backend"] for each in proxy.proxy.bus.since(0, 1000)[0] if each.type in types]


@asynccontextmanager
async def studios(
    start: Callable[[str], Awaitable[Proxy]], folder: Path, gpu0: str = "", gpu1: str = "", **more: float
) -> AsyncGenerator[tuple[Proxy, Order]]:
    """Run a proxy before two LM Studios, emulated with *more* knobs; give it, and what orders something."""
    knobs = Knobs(load_s=0.01, **more)
    async with emulator(knobs=knobs) as one, emulator(knobs=knobs) as two, aiohttp.ClientSession() as session:
        proxy = await start(
            f"""
            devices: {{gpu0: {{cooldown_s: 0{gpu0}}}, gpu1: {{cooldown_s: 0{gpu1}}}}}
            backends:
              one: {{kind: lmstudio, url: '{one.url}', device: gpu0}}
              two: {{kind: lmstudio, url: '{two.url}', device: gpu1}}
            state: {folder}/state.json
            """
        )

        async def order(verb: str, model: str, **more: object) -> Any:
            body = {"model_key": model, **more}
            async with session.post(f"{proxy.url}/admin/models/{verb}", json=body) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

        yield proxy, order


async def test_an_address_is_an_order_for_one_place(start, tmp_path):
    """What is set by the address of a copy, also of the first one, leaves the others as they are."""
    async with studios(start, tmp_path) as (proxy, order):
        await order("load", f"one/{MODELS[0]}", load_config={"context_length": 8192}, activate=True)
        await order("load", f"two/{MODELS[0]}", load_config={"context_length": 2048}, activate=False)
        routes = proxy.proxy.catalog.resolve(MODELS[0], OWNER)

        assert [route.load for route in routes] == [{"context_length": 8192}, {"context_length": 2048}]
        assert [str(route.key) for route in proxy.proxy.catalog.resolve(None, OWNER)] == [f"one/{MODELS[0]}"]
        assert proxy.proxy.catalog.active == f"one/{MODELS[0]}"

        await order("unload", f"one/{MODELS[0]}")
        routes = proxy.proxy.catalog.resolve(MODELS[0], OWNER)
        assert [route.load for route in routes] == [{}, {"context_length": 2048}]
        assert proxy.proxy.saved.active is None


async def test_what_is_set_for_all_is_set_last(start, tmp_path):
    """It goes before what was set for one of them earlier, and an unload of all forgets both."""
    async with studios(start, tmp_path) as (proxy, order):
        for name, length in ((MODELS[0], 2048), (f"two/{MODELS[0]}", 8192), (MODELS[0], 4096)):
            await order("load", name, load_config={"context_length": length})
        routes = proxy.proxy.catalog.resolve(MODELS[0], OWNER)
        assert [route.load for route in routes] == [{"context_length": 4096}] * 2

        await order("unload", MODELS[0])
        assert proxy.proxy.saved.models == {}


async def test_where_the_copies_are_is_shown(start, tmp_path):
    """The owner sees at which of the places the model is loaded, and with what."""
    async with studios(start, tmp_path) as (proxy, order):
        await order("load", f"two/{MODELS[0]}", load_config={"context_length": 2048})
        async with aiohttp.ClientSession() as session, session.get(f"{proxy.url}/admin/models") as answer:
            listed = {each["id"]: each for each in (await answer.json())["models"]}

    assert listed[MODELS[0]]["copies"] == [
        {"name": f"one/{MODELS[0]}", "device": "gpu0", "resident": False, "load_config": {}},
        {
            "name": f"two/{MODELS[0]}",
            "device": "gpu1",
            "resident": True,
            "load_config": {"context_length": 2048},
        },
    ]


@pytest.mark.parametrize(("small", "at"), [("gpu0", "two"), ("gpu1", "one")])
async def test_a_load_that_fails_at_one_place_is_done_at_the_other(start, tmp_path, small, at):
    """The order was for the model, not for a place."""
    async with studios(start, tmp_path, **{small: ", memory: 1GB"}) as (proxy, order):
        assert (await order("load", MODELS[0]))["backend"] == at
        assert (await order("load", MODELS[0], activate=True))["status"] == "loaded"

        backends = told(proxy, "model.loaded", "model.activated")

    assert backends == [at] * 4


async def test_who_waits_at_a_drained_device_goes_to_the_other_one(start, tmp_path):
    """It would wait for as long as the owner likes, and the other device idles."""
    async with studios(start, tmp_path, token_s=0.05) as (proxy, order), aiohttp.ClientSession() as session:
        backend = (await order("load", MODELS[0]))["backend"]
        device, other = ("gpu0", "gpu1") if backend == "one" else ("gpu1", "gpu0")

        async def ask() -> int:
            body = {"model": MODELS[0], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40}
            async with session.post(f"{proxy.url}/v1/chat/completions", json=body) as answer:
                await answer.read()
                return answer.status

        asked = [asyncio.create_task(ask()) for _ in range(6)]
        await soon(lambda: proxy.proxy.devices[device].snapshot().waiting == 2, HERE_S)
        async with session.post(f"{proxy.url}/admin/drain", json={"device": device}) as answer:
            assert (await answer.json())["devices"][device]["waiting"] == 0

        assert [await each for each in asked] == [200] * 6
        assert proxy.proxy.devices[other].residents


async def test_who_waits_stays_where_all_is_drained(start, tmp_path):
    """A drain of all devices moves nobody: it would be the same wait in another place."""
    async with studios(start, tmp_path) as (proxy, order), aiohttp.ClientSession() as session:
        for device in ("gpu0", "gpu1"):
            proxy.proxy.drain(device, unload=False)
        body = {"model": MODELS[0], "messages": [{"role": "user", "content": "Hello"}]}
        asked = asyncio.create_task(session.post(f"{proxy.url}/v1/chat/completions", json=body))
        gates = proxy.proxy.devices.values()
        await soon(lambda: sum(gate.snapshot().waiting for gate in gates) == 1, HERE_S)
        before = [gate.snapshot().waiting for gate in gates]

        for device in ("gpu0", "gpu1"):
            proxy.proxy.drain(device, unload=False)
        assert [gate.snapshot().waiting for gate in gates] == before
        for device in ("gpu0", "gpu1"):
            proxy.proxy.resume(device)
        async with await asked as answer:
            assert answer.status == 200


async def test_one_that_stays_keeps_no_other(start, tmp_path):
    """An unload of all copies waits for each; one that will not go is told then."""
    async with studios(start, tmp_path) as (proxy, order):
        for backend in ("one", "two"):
            await order("load", f"{backend}/{MODELS[0]}")
        gpu0, gpu1 = (proxy.proxy.devices[name] for name in ("gpu0", "gpu1"))
        first, second = proxy.proxy.catalog.resolve(MODELS[0], OWNER)

        async with gpu0.lease(first, "me"):
            async with gpu1.lease(second, "me"):
                have_wait(proxy, "gpu0", 0.2)
                ordered = asyncio.create_task(order("unload", MODELS[0]))
                await soon(lambda: told(proxy, "model.kept") == ["one"], HERE_S)
                assert not ordered.done()
            with pytest.raises(AssertionError, match=r"still serves after 0\.2 s"):
                await ordered
            assert (gpu0.residents, gpu1.residents) == ({first.key}, frozenset())


async def test_orders_for_a_model_and_for_its_copies_at_once(start, tmp_path):
    """Each is carried out as a whole, so each answer tells of what it has asked for itself."""
    async with studios(start, tmp_path) as (proxy, order):
        lengths = {MODELS[0]: 2048, f"one/{MODELS[0]}": 4096, f"two/{MODELS[0]}": 8192}
        orders = [
            order("load", name, load_config={"context_length": length}, activate=False)
            for name, length in lengths.items()
        ]

        told = await asyncio.gather(*orders)

        assert [each["loaded"]["context_length"] for each in told] == list(lengths.values())
        assert proxy.proxy.turns.keys() == {
            route.key for route in proxy.proxy.catalog.resolve(MODELS[0], OWNER)
        }


async def test_copies_are_loaded_at_the_same_time(start, tmp_path):
    """An order for one copy waits for none for another: they are on devices of their own."""
    async with studios(start, tmp_path) as (proxy, order):
        gpu0 = proxy.proxy.devices["gpu0"]
        first, second = proxy.proxy.catalog.resolve(MODELS[0], OWNER)
        async with proxy.proxy.turns.setdefault(first.key, asyncio.Lock()):
            held = asyncio.create_task(order("load", str(first.key)))
            await order("load", str(second.key))

            assert gpu0.residents == frozenset()
        await held
        assert gpu0.residents == {first.key}
