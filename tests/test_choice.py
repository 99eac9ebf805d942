"""Where a request is answered that has several places: what is said of each, and what comes of a refusal."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from tests.conftest import Proxy
from tests.fakes import DONE, END, HERE_S, SSE, FakeBackend, chat, chunk, delta, fake_backend, soon
from tests.lmstudio_emulator import Emulator, Knobs, emulator
from tests.twin_soak import MODELS

SAID = (SSE, chunk(delta("hi")), chunk(DONE), END)
CHAT = "/v1/chat/completions"
Ask = Callable[..., "asyncio.Task[tuple[int, dict[str, Any]]]"]
Start = Callable[[str], Awaitable[Proxy]]


@pytest.fixture
async def session() -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def asking(proxy: Proxy, session: aiohttp.ClientSession) -> Ask:
    """Return what asks *proxy* and tells, later, the status and the answer."""

    def ask(**fields: object) -> "asyncio.Task[tuple[int, dict[str, Any]]]":
        async def exchange() -> tuple[int, dict[str, Any]]:
            async with session.post(proxy.url + CHAT, json=chat(**fields)) as answer:
                is_json = answer.content_type == "application/json"
                return answer.status, await answer.json() if is_json else {"text": await answer.text()}

        return asyncio.create_task(exchange())

    return ask


def ended(proxy: Proxy) -> list[Any]:
    """Return what was told of the ends of requests."""
    events = proxy.proxy.bus.since(0, 10_000)[0]
    return [each.fields for each in events if each.type in ("request.finished", "request.failed")]


class TestServers:
    """Two servers that dmap does not switch, of which each is answered by hand."""

    @pytest.fixture
    async def servers(self) -> AsyncGenerator[dict[str, FakeBackend]]:
        async with AsyncExitStack() as stack:
            servers = {name: await stack.enter_async_context(fake_backend()) for name in ("one", "two")}
            for server in servers.values():
                server.script = server.by_hand
            yield servers

    @pytest.fixture
    async def proxy(self, start: Start, servers: dict[str, FakeBackend]) -> AsyncGenerator[Proxy]:
        made = (
            f"{name}: {{kind: openai, url: '{each.url}', parallel: 1, queue: 1}}"
            for name, each in servers.items()
        )
        proxy = await start(f"backends: {{{', '.join(made)}}}")
        yield proxy
        for server in servers.values():
            server.cut_all()
        await proxy.settled()

    async def test_one_that_is_gone_is_told_by_who_found_it(
        self, proxy: Proxy, servers: dict[str, FakeBackend], session: aiohttp.ClientSession
    ) -> None:
        """Whoever moves on has it known at once that the server is down; nobody else need find out."""
        ask = asking(proxy, session)
        await servers["one"].shut()
        asked = [ask(prompt_cache_key=f"talk {number}") for number in range(2)]
        for _ in asked:
            await (await servers["two"].next()).end(*SAID)

        assert [(await each)[0] for each in asked] == [200, 200]
        assert proxy.proxy.inventory.is_down("one")

    async def test_all_that_are_gone_are_tried_once(
        self, proxy: Proxy, servers: dict[str, FakeBackend], session: aiohttp.ClientSession
    ) -> None:
        """A request that nobody takes goes round once."""
        for server in servers.values():
            await server.shut()

        status, _ = await asking(proxy, session)()

        assert status == 503
        assert [each.get("moved") for each in ended(proxy)] == [1]

    async def test_who_moves_to_a_full_queue_may_come_back(
        self, proxy: Proxy, servers: dict[str, FakeBackend], session: aiohttp.ClientSession
    ) -> None:
        """Its age makes no queue longer: it is told when to try again, and that it has moved is told, too."""
        ask = asking(proxy, session)
        asked = [ask() for _ in range(4)]
        held, dying = await servers["one"].next(), await servers["two"].next()
        await soon(lambda: all(gate.snapshot().waiting for gate in proxy.proxy.gates.values()), HERE_S)

        await servers["two"].shut()
        dying.cut()
        await soon(lambda: sum(each.done() for each in asked) == 2, HERE_S)
        refused = [each for each in asked if each.done()]
        await held.end(*SAID)
        await (await servers["one"].next()).end(*SAID)

        assert sorted([(await each)[0] for each in asked]) == [200, 200, 429, 429]
        assert {each.result()[1]["error"]["code"] for each in refused} == {"rate_limit_exceeded"}
        assert sorted(each.get("moved", 0) for each in ended(proxy)) == [0, 0, 1, 1]


class Twins:
    """A proxy in front of two LM Studios with the same models, each on a device of its own."""

    def __init__(self, one: Emulator, two: Emulator, proxy: Proxy, session: aiohttp.ClientSession) -> None:
        self.servers, self.proxy, self.url = {"one": one, "two": two}, proxy.proxy, proxy.url
        self.ask, self._proxy, self._session = asking(proxy, session), proxy, session

    async def order(self, verb: str, model: str, **more: object) -> dict[str, Any]:
        """Have the owner's order carried out."""
        body = {"model_key": model, "activate": False, **more}
        async with self._session.post(f"{self.url}/admin/models/{verb}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            told: dict[str, Any] = await answer.json()
            return told

    def asked(self, name: str) -> int:
        """Count the chats that a server was asked for."""
        return sum(path == CHAT for _, path, _ in self.servers[name].requests)

    async def busy(self) -> str:
        """Wait until one server is asked for a chat; return which."""
        await soon(lambda: any(map(self.asked, self.servers)), HERE_S)
        return next(name for name in self.servers if self.asked(name))

    def ended(self) -> list[Any]:
        """Return what was told of the ends of requests."""
        return ended(self._proxy)

    def residents(self, backend: str) -> list[str]:
        """Return what dmap believes that a server has."""
        return [key.model for key in self.proxy.residents() if key.backend == backend]


Made = Callable[..., Awaitable[Twins]]


@pytest.fixture
async def twins(start: Start, session: aiohttp.ClientSession) -> AsyncGenerator[Made]:
    """Make twins whose devices are as a test says; nothing may be held when it is over."""
    async with AsyncExitStack() as stack:
        proxies = []

        async def make(one: str = "", two: str = "", *, rest: str = "", **knobs: float) -> Twins:
            studios = [await stack.enter_async_context(emulator(knobs=Knobs(**knobs))) for _ in "12"]
            proxy = await start(
                f"""
                devices: {{gpu0: {{cooldown_s: 0{one}}}, gpu1: {{cooldown_s: 0{two}}}}}
                backends:
                  one: {{kind: lmstudio, url: '{studios[0].url}', device: gpu0}}
                  two: {{kind: lmstudio, url: '{studios[1].url}', device: gpu1}}
                {rest}
                """
            )
            proxies.append(proxy)
            return Twins(*studios, proxy, session)

        yield make
        for proxy in proxies:
            await proxy.settled()


class TestDevices:
    async def test_a_model_that_is_gone_is_not_waited_for_where_another_has_it(self, twins: Made) -> None:
        """Its server answers again, without the model: a load there takes longer than the copy next door."""
        stage = await twins(load_s=0.01, token_s=0.05)
        for name in stage.servers:
            await stage.order("load", f"{name}/{MODELS[0]}")
        asked = stage.ask(model=MODELS[0], stream=False)
        where = await stage.busy()

        await stage.servers[where].crash()

        assert (await asked)[0] == 200
        assert {name: stage.asked(name) for name in stage.servers} == {"one": 1, "two": 1}
        assert [(each.get("moved"), each.get("retried")) for each in stage.ended()] == [(1, None)]

    async def test_one_that_is_quicker_back_than_loaded_elsewhere_is_waited_for(self, twins: Made) -> None:
        """The other place has to load the model first, which nobody knows to be as quick as here."""
        stage = await twins(load_s=0.01, token_s=0.05)
        backend = (await stage.order("load", MODELS[0]))["backend"]
        asked = stage.ask(model=MODELS[0], stream=False)
        await stage.busy()

        await stage.servers[backend].crash()

        assert (await asked)[0] == 200
        assert stage.asked(backend) == 2
        assert [(each.get("moved"), each.get("retried")) for each in stage.ended()] == [(None, 1)]

    async def test_who_came_back_goes_nowhere_else_after_that(self, twins: Made) -> None:
        """A request that ends whatever server has it is sent twice, though another place was not asked."""
        stage = await twins(load_s=0.01, token_s=0.05)
        backend = (await stage.order("load", MODELS[0]))["backend"]
        asked = stage.ask(model=MODELS[0], stream=False)
        await stage.busy()
        await stage.servers[backend].crash()
        await soon(lambda: stage.asked(backend) == 2, HERE_S)

        await stage.servers[backend].crash()

        assert (await asked)[0] == 502
        assert sum(map(stage.asked, stage.servers)) == 2

    async def test_a_model_that_did_not_answer_is_looked_for(self, twins: Made) -> None:
        """Who moves on leaves word, so that nobody else is sent where the model is no more."""
        stage = await twins(load_s=0.01, token_s=0.05)
        for name in stage.servers:
            await stage.order("load", f"{name}/{MODELS[0]}")
        asked = stage.ask(model=MODELS[0], stream=False)
        where = await stage.busy()

        await stage.servers[where].crash()
        await soon(lambda: stage.residents(where) == [], HERE_S)

        assert (await asked)[0] == 200

    @pytest.mark.parametrize("small", ["one", "two"])
    async def test_a_device_that_is_too_small_is_not_tried(self, twins: Made, small: str) -> None:
        """What never fits is known before anybody asks for it, and costs nobody a try."""
        stage = await twins(**{small: ", memory: 1GB"})

        assert [(await stage.ask(model=MODELS[0]))[0] for _ in range(3)] == [200] * 3
        assert [each.get("moved") for each in stage.ended()] == [None] * 3

    @pytest.mark.parametrize("small", ["one", "two"])
    async def test_who_may_come_back_is_told_so(self, twins: Made, small: str) -> None:
        """Where one queue is full and the model never fits at the other device, a later try may do."""
        sizes = {"one": ", queue: 1", "two": ", queue: 1", small: ", memory: 1GB"}
        stage = await twins(**sizes, load_s=0.3)
        waits = stage.ask(model=MODELS[0])
        await soon(lambda: sum(gate.snapshot().waiting for gate in stage.proxy.devices.values()) == 1, HERE_S)

        status, told = await stage.ask(model=MODELS[0])

        assert (status, told["error"]["code"]) == (429, "rate_limit_exceeded")
        assert (await waits)[0] == 200
        assert [gate.view.coming for gate in stage.proxy.devices.values()] == [[], []]

    async def test_where_it_fits_nowhere_that_is_told(self, twins: Made) -> None:
        """Nobody is told to come back in vain."""
        stage = await twins(", memory: 1GB", ", memory: 1GB")

        status, told = await stage.ask(model=MODELS[0])

        assert (status, told["error"]["code"]) == (502, "model_load_failed")

    async def test_a_burst_of_pictures_is_shared(self, twins: Made) -> None:
        """Nobody knows how many the model answers at once before it is there; not all of them, that is."""
        stage = await twins(load_s=1)
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 300_000}"}}

        def seen(number: int) -> dict[str, object]:
            content = [{"type": "text", "text": f"What is in picture {number}?"}, picture]
            return {"role": "user", "content": content}

        asked = [stage.ask(model="google/gemma-3-12b", messages=[seen(number)]) for number in range(40)]

        assert [(await each)[0] for each in asked] == [200] * 40
        assert min(map(stage.asked, stage.servers)) > 10
        assert sum(len(gate.view.coming) for gate in stage.proxy.devices.values()) == 0


async def test_a_burst_that_is_looked_at_beside_the_loop_is_shared(
    start: Start, session: aiohttp.ClientSession
) -> None:
    """Each command is looked for on the disk before its request has a place: the next one counts it."""
    proxy = await start(
        """
        devices: {gpu0: {}, gpu1: {}}
        backends: {box: {kind: process, devices: [gpu0, gpu1]}}
        models: {m: {backend: box, cmd: "sleep 60 {port}", parallel: 4}}
        """
    )
    ask, gates = asking(proxy, session), proxy.proxy.devices.values()

    asked = [ask() for _ in range(40)]
    await soon(lambda: sum(gate.snapshot().waiting for gate in gates) == 40, HERE_S)

    assert min(gate.snapshot().waiting for gate in gates) > 10
    assert sum(len(gate.view.coming) for gate in gates) == 0
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await proxy.settled()
