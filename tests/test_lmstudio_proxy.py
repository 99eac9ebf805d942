"""The whole proxy in front of an emulated LM Studio with all its traps."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from tests.fakes import HERE_S, soon
from tests.lmstudio_emulator import Emulator, Knobs, Traps, emulator
from tests.lmstudio_world import SPECS

SMALL, OTHER, BIG = "llama-3.2-1b-instruct", "ibm/granite-4-micro", "openai/gpt-oss-20b"
CHATS = [spec.key for spec in SPECS if not spec.embedding]
EMBED = next(spec.key for spec in SPECS if spec.embedding)
CHAT = "/v1/chat/completions"
WAIT_S = 5
Ask = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
async def lm() -> AsyncGenerator[Emulator]:
    async with emulator(knobs=Knobs(load_s=0.05)) as lm:
        yield lm


@pytest.fixture
async def ask(start: Any, lm: Emulator) -> AsyncGenerator[Ask]:
    """Run a proxy for one chat model at a time; return what asks it, as (status, JSON or text)."""
    proxy = await start(
        f"""
        devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 1}}}}
        backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
        models: {{{SMALL}: {{aliases: [tiny], load: {{context_length: 8192}}}}}}
        """
    )
    async with aiohttp.ClientSession(proxy.url) as session:

        async def ask(path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
            method = session.get(path) if body is None else session.post(path, json=body)
            async with method as answer:
                text = await answer.text()
                return answer.status, text if "event-stream" in answer.content_type else json.loads(text)

        yield ask


def chat(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}


@pytest.mark.parametrize("name", [SMALL, "tiny", SMALL.upper(), f"{SMALL}@q4_k_m", f"studio/{SMALL}"])
async def test_a_model_under_all_its_names(ask: Ask, lm: Emulator, name: str) -> None:
    """Alias, other letters and `@quant` reach the model under its key, loaded once, as the file says."""
    status, answer = await ask(CHAT, chat(name))

    assert (status, answer["model"]) == (200, SMALL)
    assert [
        (body["model"], body["context_length"]) for _, path, body in lm.requests if path.endswith("/load")
    ] == [(SMALL, 8192)]


async def test_two_models_take_turns(ask: Ask, lm: Emulator) -> None:
    """Two models that do not fit together answer each for itself, the one before unloaded first."""
    answers = [(await ask(CHAT, chat(model)))[1]["model"] for model in (SMALL, BIG, SMALL)]

    assert answers == [SMALL, BIG, SMALL]
    assert (lm.world.most(), lm.world.cuts(), lm.world.stacks()) == (1, [], [])


async def test_an_unknown_name_is_not_answered_by_another(ask: Ask) -> None:
    """Where LM Studio would let the one loaded model answer for any name, dmap says 404."""
    await ask(CHAT, chat(SMALL))

    status, answer = await ask(CHAT, chat("gpt-9"))

    assert (status, answer["error"]["code"]) == (404, "model_not_found")


async def test_its_own_routes(ask: Ask) -> None:
    """Clients of LM Studio's REST find its chat routes, streamed and not, and its lists."""
    native = await ask("/api/v1/chat", {"model": SMALL, "input": "Hello"})
    streamed = await ask("/api/v1/chat", {"model": SMALL, "input": "Hello", "stream": True})
    older = await ask("/api/v0/chat/completions", chat(SMALL))
    v0, v1 = await ask("/api/v0/models"), await ask("/api/v1/models")

    assert (native[0], native[1]["model_instance_id"]) == (200, SMALL)
    assert (streamed[0], "event: chat.end" in streamed[1]) == (200, True)
    assert (older[0], older[1]["model"]) == (200, SMALL)
    assert {m["id"]: m["state"] for m in v0[1]["data"]}[SMALL] == "loaded"
    assert [m["key"] for m in v1[1]["models"] if m["loaded_instances"]] == [SMALL]


@pytest.mark.parametrize("path", ["/api/v1/models/load", "/api/v1/models/unload", "/api/v1/models/download"])
async def test_its_control_paths_are_not_forwarded(ask: Ask, lm: Emulator, path: str) -> None:
    """Nobody loads or unloads past dmap."""
    before = len(lm.requests)

    status, _ = await ask(path, {"model": SMALL, "instance_id": SMALL})

    assert status == 404
    assert [asked for _, asked, _ in lm.requests[before:] if asked == path] == []


@pytest.mark.parametrize(
    "fields",
    [{"context_length": 99}, {"integrations": ["mcp"]}, {"draft_model": "x"}],
    ids=lambda f: next(iter(f)),
)
async def test_fields_that_move_memory(ask: Ask, fields: dict[str, Any]) -> None:
    """What would make LM Studio reload, or reach out of the box, is refused with the field's name."""
    status, answer = await ask("/api/v1/chat", {"model": SMALL, "input": "Hello", **fields})

    assert (status, answer["error"]["param"]) == (400, next(iter(fields)))


async def test_embeddings_of_a_chat_model(ask: Ask, lm: Emulator) -> None:
    """A chat model is not asked for embeddings: LM Studio would load a copy of its own for each request."""
    await ask(CHAT, chat(SMALL))

    status, answer = await ask("/v1/embeddings", {"model": SMALL, "input": "Hello"})

    assert (status, answer["error"]["param"]) == (400, "model")
    assert list(lm.world.instances) == [SMALL]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/api/v1/chat"])
async def test_chats_with_an_embedding_model(ask: Ask, lm: Emulator, path: str) -> None:
    """A model that only makes embeddings is not loaded for a request that it cannot answer."""
    status, answer = await ask(path, chat(EMBED, input="Hello", prompt="Hello", max_tokens=5))

    assert (status, answer["error"]["param"]) == (400, "model")
    assert "makes embeddings and nothing else" in answer["error"]["message"]
    assert lm.world.happened("load_start") == []


async def test_embeddings_beside_chat(ask: Ask, lm: Emulator) -> None:
    """An embedding model stays beside a chat model: neither pushes the other out."""
    await ask(CHAT, chat(SMALL))
    await ask("/v1/embeddings", {"model": EMBED, "input": "x"})
    await ask(CHAT, chat(SMALL))

    assert len([path for _, path, _ in lm.requests if path.endswith("/load")]) == 2


async def test_a_load_that_is_refused(ask: Ask, lm: Emulator) -> None:
    """A load that LM Studio's guardrails stop is 502 with LM Studio's own words."""
    lm.world.knobs = Knobs(memory_bytes=1)

    status, answer = await ask(CHAT, chat(BIG))

    assert (status, answer["error"]["code"]) == (502, "model_load_failed")
    assert "insufficient system resources" in answer["error"]["message"]


async def test_a_request_that_an_unload_by_hand_resets(ask: Ask, lm: Emulator) -> None:
    """It is not sent again without a look: dmap loads the model, not LM Studio on demand."""
    lm.world.traps = replace(lm.world.traps, cut_resets=True)
    await ask(CHAT, chat(SMALL))  # which leaves an idle connection

    def unloaded(event: dict[str, Any]) -> None:
        if event["event"] == "generation_start":
            lm.world.told = lambda event: None
            lm.world.unload(SMALL)

    lm.world.told = unloaded
    status, answer = await ask(CHAT, chat(SMALL))

    assert (status, answer["model"]) == (200, SMALL)
    assert len(lm.world.cuts()) == 1
    assert [one["by"] for one in lm.world.happened("load_start")] == ["rest", "rest"]


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, chat(SMALL)), ("/api/v1/chat", {"model": SMALL, "input": "Hello"})]
)
async def test_a_model_that_goes_between_look_and_request(
    ask: Ask, lm: Emulator, path: str, body: dict[str, Any]
) -> None:
    """That LM Studio knows it no more is 502, to be tried again: it is not the client who named it wrong."""
    lm.world.traps = replace(lm.world.traps, jit=False, any_name=False)
    await ask(CHAT, chat(SMALL))
    find = lm.world.find

    async def replaced(name: str, **how: Any) -> Any:
        lm.world.unload(SMALL)
        await lm.world.load(OTHER)
        return await find(name, **how)

    lm.world.find = replaced
    status, answer = await ask(path, body)

    assert (status, answer["error"]["code"]) == (502, "backend_error")
    assert answer["error"]["message"].startswith("Invalid model identifier")


async def test_a_server_that_comes_back(ask: Ask, lm: Emulator) -> None:
    """After a crash of the server requests are refused honestly, and served again once it is back."""
    await ask(CHAT, chat(SMALL))
    await lm.kill()
    down, _ = await ask(CHAT, chat(SMALL))

    await lm.start()
    async with asyncio.timeout(30):
        while (back := await ask(CHAT, chat(SMALL)))[0] != 200:
            await asyncio.sleep(0.05)

    assert down in (502, 503)
    assert back[1]["model"] == SMALL


class TestDeathBetweenGrantAndRequest:
    """
    The server crashes when the model is resident and the request is on its way to it.

    How long a request may wait is what the test names.
    """

    @pytest.fixture
    async def load(self, lm: Emulator) -> asyncio.Event:
        """Have loads wait for the event."""
        may_load, load = asyncio.Event(), lm.world.load

        async def held(*args: Any, **options: Any) -> Any:
            await may_load.wait()
            return await load(*args, **options)

        lm.world.load = held
        return may_load

    @pytest.fixture
    async def answer(
        self, start: Any, lm: Emulator, load: asyncio.Event, request: pytest.FixtureRequest
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Ask for a model by a stream; the server crashes after the load and is back at once."""
        proxy = await start(
            f"""
            devices: {{gpu0: {{max_models: 1, cooldown_s: 0, wait_s: {request.param}}}}}
            backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
            server: {{heartbeat_s: 0.2}}
            """
        )
        crashes: list[asyncio.Task[None]] = []

        def granted(event: Any) -> None:
            if not crashes:
                load.clear()
                crashes.append(asyncio.create_task(lm.crash()))

        proxy.proxy.bus.listen(granted, "request.granted")
        body = chat(SMALL, stream=True)
        async with aiohttp.ClientSession(proxy.url) as session, session.post(CHAT, json=body) as answer:
            await beats(answer, 5)
            load.set()
            yield answer
        load.set()
        await asyncio.gather(*crashes)

    @pytest.mark.parametrize("answer", [HERE_S], indirect=True)
    async def test_a_client_hears_its_place_meanwhile(
        self, answer: aiohttp.ClientResponse, load: asyncio.Event, lm: Emulator
    ) -> None:
        """A request that is back in the queue is told its place, and served by the next load."""
        await beats(answer, 5)
        load.set()

        assert b"data: [DONE]" in await answer.read()
        assert len(lm.world.happened("server_down")) == 1

    @pytest.mark.parametrize("answer", [WAIT_S], indirect=True)
    async def test_its_wait_counts_from_its_first_ask(
        self, answer: aiohttp.ClientResponse, lm: Emulator
    ) -> None:
        """What a client had waited before is not given to it again."""
        heard = (await answer.content.readuntil(b"wait_expired")).count(b"position 1 in the queue")

        assert heard < WAIT_S / 0.2 - 2
        assert len(lm.world.happened("server_down")) == 1


async def beats(answer: aiohttp.ClientResponse, count: int) -> None:
    """Read on until *count* more comments have told of a place."""
    for _ in range(count):
        while b"position 1 in the queue" not in await answer.content.readline():
            assert not answer.content.at_eof()


async def test_a_crowd(ask: Ask, lm: Emulator) -> None:
    """24 clients over six chat models and one for embeddings: all served, nothing cut or mixed up."""

    async def client(n: int) -> list[bool]:
        model = CHATS[n % len(CHATS)]
        return [(await ask(CHAT, chat(model)))[1].get("model") == model for _ in range(6)]

    async def embedder() -> list[bool]:
        return [(await ask("/v1/embeddings", {"model": EMBED, "input": "x"}))[0] == 200 for _ in range(12)]

    served = await asyncio.gather(*(client(n) for n in range(24)), embedder())

    assert all(all(answers) for answers in served)
    assert (lm.world.cuts(), lm.world.stacks(), lm.world.wrong(), lm.world.most()) == ([], [], [], 1)


@pytest.mark.parametrize("slots", [1, 8])
async def test_as_many_at_once_as_it_serves(start: Any, slots: int) -> None:
    """Of ten requests for a model that dmap loads, as many have it at once as LM Studio's instance says."""
    async with emulator(knobs=Knobs(parallel=slots, token_s=HERE_S)) as lm:
        proxy = await start(
            f"""
            devices: {{gpu0: {{}}}}
            backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
            """
        )
        async with aiohttp.ClientSession(proxy.url) as session:
            asked = [asyncio.ensure_future(said(session, SMALL)) for _ in range(10)]
            device = proxy.proxy.devices["gpu0"]
            await soon(lambda: device.snapshot().leases + device.snapshot().waiting == 10, HERE_S)
            await soon(lambda: device.snapshot().leases, HERE_S)

            view = device.snapshot()

            assert (view.leases, view.waiting) == (slots, 10 - slots)
            for each in asked:
                each.cancel()
            await asyncio.wait(asked)


async def test_an_older_server_by_hand(start: Any) -> None:
    """One that dmap cannot tell to load serves what its owner loads by hand, as a backend of kind openai."""
    async with emulator(Traps(native=False, jit=False), Knobs(v0_lag_s=0)) as lm:
        await lm.world.load(SMALL)
        proxy = await start(f"backends: {{studio: {{kind: openai, url: '{lm.url}'}}}}")
        async with aiohttp.ClientSession(proxy.url) as session, asyncio.timeout(30):
            served, refused, again = [await said(session, model) for model in (SMALL, OTHER, SMALL)]

        assert (served[0], served[1]["model"], again[0]) == (200, SMALL, 200)
        assert (refused[0], refused[1]["error"]["code"]) == (404, "model_not_found")
        assert [event["model"] for event in lm.world.happened("load_start")] == [SMALL]


async def said(session: aiohttp.ClientSession, model: str) -> tuple[int, Any]:
    async with session.post(CHAT, json=chat(model)) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("given", ["", ", api_key: sk-lm-wrongone:12345678901234567890"])
async def test_a_token_that_is_not_good_enough(start: Any, given: str) -> None:
    """Clients are told that LM Studio refused dmap's own credentials, and never a token."""
    async with emulator(knobs=Knobs(api_token="sk-lm-abcdefgh:12345678901234567890")) as lm:
        proxy = await start(
            f"""
            devices: {{gpu0: {{}}}}
            backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0{given}}}}}
            """
        )
        async with (
            aiohttp.ClientSession(proxy.url) as session,
            session.post(CHAT, json=chat(SMALL)) as answer,
        ):
            error = (await answer.json())["error"]

    assert (answer.status, error["code"]) == (503, "backend_down")
    assert "refused dmap's own credentials (status 401); see backends.studio.api_key" in error["message"]
    assert "sk-lm" not in error["message"]
