"""A server that dmap cannot unload, on a device whose models dmap switches: its memory counts, always."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dmap.config import parse
from dmap.state import Saved, StateFile
from dmap.web.reload import reload
from tests.fakes import HERE_S, FakeBackend, answer, soon
from tests.lmstudio_emulator import Emulator, Knobs, emulator
from tests.test_admin import Client

SMALL, BIG = "llama-3.2-1b-instruct", "openai/gpt-oss-20b"
CONFIG = """
devices: {{gpu0: {{memory: 16GiB, max_models: 2, cooldown_s: 0}}}}
backends:
  studio: {{kind: lmstudio, url: '{lm}', device: gpu0}}
  vllm: {{kind: openai, url: '{server}', device: gpu0, memory: {memory}, parallel: 1}}
"""


@pytest.fixture
async def lm() -> AsyncGenerator[Emulator]:
    async with emulator(knobs=Knobs(load_s=0.05)) as lm:
        yield lm


Connect = Callable[..., Any]


@pytest.fixture
async def connect(start: Any, lm: Emulator, backend: FakeBackend) -> AsyncGenerator[Connect]:
    """Start a proxy whose server holds so much *memory*; return what asks it."""
    sessions = []

    async def run(memory: str = "14GiB") -> Client:
        proxy = await start(CONFIG.format(lm=lm.url, server=backend.url, memory=memory))
        sessions.append(aiohttp.ClientSession(proxy.url))
        return Client(proxy, sessions[-1])

    yield run
    for session in sessions:
        await session.close()


async def test_what_does_not_fit_beside_it(connect: Connect) -> None:
    """A model that fits the device but not beside the server is refused, and told who holds the memory."""
    client = await connect()

    status, told = await client.chat(BIG)

    assert (status, told["error"]["code"]) == (502, "model_load_failed")
    assert "beside 'vllm', which holds 14 GiB" in told["error"]["message"]
    assert "backends.vllm.memory" in told["error"]["message"]


async def test_what_fits_beside_it(connect: Connect, backend: FakeBackend) -> None:
    """A model that fits what is left is loaded, and the server is asked without a switch."""
    client = await connect()
    backend.script = lambda exchange: exchange.write(answer(b'{"choices": []}'))

    statuses = [(await client.chat(model))[0] for model in (SMALL, "m", SMALL)]

    assert (statuses, await client.residents()) == ([200, 200, 200], [f"studio/{SMALL}"])


async def test_a_reload_changes_how_much(connect: Connect, lm: Emulator, backend: FakeBackend) -> None:
    """What the server holds may change with a reload, in both directions."""
    client = await connect()
    proxy, config = client.proxy.proxy, client.proxy.proxy.config
    less = CONFIG.format(lm=lm.url, server=backend.url, memory="500MiB")

    reload(proxy, parse(less, {}).model_copy(update={"listen": config.listen}))
    with_less, _ = await client.chat(BIG)
    reload(proxy, config)
    await client.post("/admin/models/unload", modelKey=BIG)
    with_more, _ = await client.chat(BIG)

    assert (with_less, with_more) == (200, 502)


async def test_a_server_that_is_down(connect: Connect, backend: FakeBackend) -> None:
    """Its memory stays counted while it does not answer, for its owner may start it at any time."""
    await backend.shut()
    client = await connect()

    assert (await client.chat(BIG))[0] == 502
    assert (await client.chat(SMALL))[0] == 200


async def test_it_is_seen(connect: Connect) -> None:
    """Every page tells how much of which device the server holds."""
    client = await connect()
    bound = 14 * 2**30

    _, status = await client.get("/debug/status")
    _, ready = await client.get("/ready")
    _, admin = await client.get("/admin/models")
    _, models = await client.get("/v1/models")

    assert status["devices"]["gpu0"]["held"] == ready["devices"]["gpu0"]["held"] == {"vllm": bound}
    assert status["backends"]["vllm"]["device"] == "gpu0"
    [known] = [model for model in admin["models"] if model["id"] == "m"]
    assert (known["device"], known["loadable"], known["held_bytes"]) == ("gpu0", False, bound)
    [listed] = [model for model in models["data"] if model["id"] == "m"]
    assert listed["resident"] is True


async def test_an_order_to_unload_it(connect: Connect) -> None:
    """Whoever orders it out is told that dmap cannot, and that its memory stays counted."""
    client = await connect()

    status, told = await client.post("/admin/models/unload", modelKey="m")

    assert (status, told["status"]) == (200, "cleared")
    assert "dmap cannot switch models there" in told["workflow"]["step1"]
    assert "14 GiB of device 'gpu0' stay counted" in told["workflow"]["step2"]


async def test_a_drain_outlasts_a_restart(
    start: Any, lm: Emulator, backend: FakeBackend, tmp_path: Path
) -> None:
    """A device that is drained when dmap starts has its server idle, too."""
    state = f"state: {tmp_path}/state.json"
    await StateFile(tmp_path / "state.json").write(Saved(drained=frozenset(("gpu0",))))

    proxy = await start(CONFIG.format(lm=lm.url, server=backend.url, memory="1GiB") + state)

    assert [gate.snapshot().drained for gate in proxy.proxy.gates.values()] == [True, True]


async def test_a_drain_keeps_it_idle(connect: Connect, backend: FakeBackend) -> None:
    """A drained device serves nobody, so its server is not asked either until it is resumed."""
    client = await connect()
    backend.script = lambda exchange: exchange.write(answer(b'{"choices": []}'))
    await client.post("/admin/drain", device="gpu0", unload=True)
    asking = asyncio.ensure_future(client.chat("m"))
    await soon(lambda: any(client.proxy.proxy.visits.open()), HERE_S)
    _, ready = await client.get("/ready")
    asked = len(backend.requests)

    await client.post("/admin/resume", device="gpu0")

    assert ready["backends"]["vllm"]["drained"] is True
    assert (asked, (await asking)[0], len(backend.requests)) == (0, 200, 1)
    assert (await client.get("/ready"))[1]["backends"]["vllm"]["drained"] is False
