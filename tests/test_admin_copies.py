"""Orders of the admin API for a model that is on two servers, and for one of its copies."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dmap.access import Client
from tests.conftest import Proxy
from tests.lmstudio_emulator import Knobs, emulator
from tests.twin_soak import MODELS

OWNER = Client("owner")
TOLD = ("model.loaded", "model.activated")
Order = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def studios(
    start: Callable[[str], Awaitable[Proxy]], folder: Path, gpu0: str = "", gpu1: str = ""
) -> AsyncGenerator[tuple[Proxy, Order]]:
    """Run a proxy before two emulated LM Studios; give it, and what orders something of it."""
    knobs = Knobs(load_s=0.01)
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

        told = [each.fields for each in proxy.proxy.bus.since(0, 1000)[0] if each.type in TOLD]

    assert [each["backend"] for each in told] == [at] * 4
