"""The emulated LM Studio really has the traps that it claims, each of them seen from outside over HTTP."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from openai import AsyncOpenAI

from tests.lmstudio_emulator import Emulator, Knobs, Traps, emulator

SMALL, OTHER, BIG, VAST = (
    "llama-3.2-1b-instruct",
    "ibm/granite-4-micro",
    "openai/gpt-oss-20b",
    "mistralai/mistral-small-3.2",
)
EMBED = "text-embedding-nomic-embed-text-v1.5"
LIMIT_S = 60
"""Only a machine that stands still takes that long."""
WHILE_S = 0.4
"""How long a load takes during which something is done: time for that on a slow machine too."""
CHAT = "/v1/chat/completions"
LONG = 100_000


class Studio:
    """A client of the emulator."""

    def __init__(self, lm: Emulator, session: aiohttp.ClientSession) -> None:
        self.lm, self.world, self.session = lm, lm.world, session

    async def get(self, path: str):
        async with self.session.get(path) as answer:
            return answer.status, await answer.json(content_type=None)

    async def post(self, path: str, **body):
        async with self.session.post(path, json=body) as answer:
            return answer.status, await answer.json(content_type=None)

    async def load(self, model: str, **options):
        return await self.post("/api/v1/models/load", model=model, **options)

    async def ask(self, model: str, **body):
        return await self.post(CHAT, model=model, messages=[{"role": "user", "content": "hi"}], **body)

    async def stream(self, model: str, text: str = "hi", path: str = CHAT, **body) -> str:
        said = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"input": text}
        async with self.session.post(path, json={"model": model, "stream": True, **said, **body}) as answer:
            assert answer.status == 200
            return await answer.text()

    async def listed(self, model: str) -> list[str]:
        _, answer = await self.get("/api/v1/models")
        found = next(one for one in answer["models"] if one["key"] == model)
        return [instance["id"] for instance in found["loaded_instances"]]

    async def state(self, model: str) -> str:
        _, answer = await self.get("/api/v0/models")
        return next(one["state"] for one in answer["data"] if one["id"] == model)

    async def until(self, event: str) -> None:
        while not self.world.happened(event):
            await asyncio.sleep(0.002)


@asynccontextmanager
async def running(**options) -> AsyncGenerator[Studio]:
    """Run an emulator with *options* for its traps and knobs."""
    traps = {name: value for name, value in options.items() if name in Traps.__dataclass_fields__}
    knobs = {name: value for name, value in options.items() if name in Knobs.__dataclass_fields__}
    async with (
        asyncio.timeout(LIMIT_S),
        emulator(replace(Traps(), **traps), replace(Knobs(), **knobs)) as lm,
        aiohttp.ClientSession(lm.url) as session,
    ):
        yield Studio(lm, session)


@pytest.fixture
async def studio() -> AsyncGenerator[Studio]:
    """An emulator with all traps on, but for the HTML page that only one test wants."""
    async with running(html_500_at_load=False) as studio:
        yield studio


# Loads


async def test_an_instance_is_listed_from_the_start_of_its_load():
    """v1 lists what is loading, v0 says `loading`."""
    async with running(load_s=60, html_500_at_load=False) as studio:
        load = asyncio.ensure_future(studio.load(SMALL))
        await studio.until("load_start")

        assert await studio.listed(SMALL) == [SMALL]
        assert await studio.state(SMALL) == "loading"
        load.cancel()


async def test_v0_lags_behind_a_load():
    """After a load v0 goes on to say not-loaded for a while."""
    async with running(v0_lag_s=WHILE_S, html_500_at_load=False) as studio:
        await studio.load(SMALL)

        assert await studio.state(SMALL) == "not-loaded"
        while await studio.state(SMALL) != "loaded":
            await asyncio.sleep(0.01)


async def test_a_load_takes_only_the_keys_it_knows(studio):
    """Unknown keys are 400 `unrecognized_keys`, and nothing is loaded."""
    status, answer = await studio.load(SMALL, ttl=60)

    assert (status, answer["error"]["code"]) == (400, "unrecognized_keys")
    assert answer["error"]["message"] == "Unrecognized key(s) in object: 'ttl'"
    assert await studio.listed(SMALL) == []


async def test_a_second_load_stacks(studio):
    """Loading what is loaded makes a second instance, which is unloaded by its own id."""
    await studio.load(SMALL)
    status, answer = await studio.load(SMALL)

    assert (status, answer["instance_id"]) == (200, f"{SMALL}:2")
    assert await studio.listed(SMALL) == [SMALL, f"{SMALL}:2"]
    assert await studio.post("/api/v1/models/unload", instance_id=SMALL) == (200, {"instance_id": SMALL})
    assert await studio.listed(SMALL) == [f"{SMALL}:2"]
    assert len(studio.world.stacks()) == 1


async def test_an_unload_wants_the_instance_id(studio):
    """`model` is refused, an unknown id too."""
    assert (await studio.post("/api/v1/models/unload", model=SMALL))[0] == 400
    assert (await studio.post("/api/v1/models/unload", instance_id="nobody"))[0] == 404


async def test_what_does_not_fit_is_refused_by_the_guardrails(studio):
    """Two big models do not fit; the second is a 500 with the reason, without a code."""
    await studio.load(BIG)

    status, answer = await studio.load(VAST)

    assert status == 500
    assert sorted(answer["error"]) == ["message", "type"]
    assert answer["error"]["type"] == "model_load_failed"
    assert "insufficient system resources" in answer["error"]["message"]


async def test_what_does_not_fit_crashes_without_guardrails():
    """Without guardrails the load takes its time and then fails, its cause lost."""
    async with running(guardrails=False) as studio:
        await studio.load(BIG)

        status, answer = await studio.load(VAST)

        assert (status, "Exit code: null" in answer["error"]["message"]) == (500, True)
        assert await studio.listed(VAST) == []


async def test_context_defaults_and_is_not_clamped(studio):
    """Without `context_length` it is some default; above the maximum it is taken as it is."""
    _, default = await studio.load(SMALL, echo_load_config=True)
    status, above = await studio.load(OTHER, echo_load_config=True, context_length=200_000)

    assert default["load_config"]["context_length"] == 4096
    assert (status, above["load_config"]["context_length"]) == (200, 200_000)


async def test_a_load_goes_on_when_its_client_leaves():
    """Closing the connection does not stop a load."""
    async with running(load_s=WHILE_S) as studio:
        load = asyncio.ensure_future(studio.load(SMALL))
        await studio.until("load_start")
        load.cancel()

        await studio.until("load_abandoned")
        await studio.until("load_end")


async def test_a_load_is_canceled_by_a_jit_load():
    """A request that loads another model has the load under way answered with 400 `Operation canceled`."""
    async with running(load_s=WHILE_S) as studio:
        load = asyncio.ensure_future(studio.load(SMALL))
        await studio.until("load_start")
        await studio.ask(OTHER)

        status, answer = await load
        assert (status, "Operation canceled." in answer["error"]["message"]) == (400, True)


# On demand


async def test_a_request_loads_what_it_names(studio):
    """With JIT on, a request for a model on disk loads it."""
    status, answer = await studio.ask(SMALL.upper())

    assert (status, answer["model"]) == (200, SMALL)
    assert answer["choices"][0]["message"]["content"].split() == [SMALL] * 8


async def test_an_eviction_cuts_a_running_answer(studio):
    """A JIT load unloads the model that JIT loaded before, and its stream ends with an error."""
    answer = asyncio.ensure_future(studio.stream(SMALL, max_tokens=LONG))
    await studio.until("generation_start")
    await studio.ask(OTHER)

    text = await answer
    assert json.loads(text.splitlines()[-2].removeprefix("data: "))["error"]["message"] == "Model unloaded"
    assert "[DONE]" not in text
    assert [cut["model"] for cut in studio.world.cuts()] == [SMALL]


async def test_an_explicit_load_is_not_evicted(studio):
    """What was loaded explicitly stays when JIT loads something else."""
    await studio.load(SMALL)
    await studio.ask(OTHER)

    assert await studio.listed(SMALL) == [SMALL]


async def test_an_unload_cuts_a_running_answer(studio):
    """An unload does not wait for anybody."""
    await studio.load(SMALL)
    answer = asyncio.ensure_future(studio.stream(SMALL, max_tokens=LONG))
    await studio.until("generation_start")
    await studio.post("/api/v1/models/unload", instance_id=SMALL)

    assert "Model unloaded" in await answer
    assert len(studio.world.cuts()) == 1


@pytest.mark.parametrize(("path", "status"), [(CHAT, 400), ("/v1/responses", 500), ("/v1/messages", 500)])
async def test_an_unload_is_told_in_a_whole_answer(studio, path, status):
    """An answer that is not streamed becomes an error in LM Studio's own words."""
    await studio.load(SMALL)
    asked = {"model": SMALL, "messages": [], "input": "hi", "max_tokens": LONG, "max_output_tokens": LONG}
    answer = asyncio.ensure_future(studio.post(path, **asked))
    await studio.until("generation_start")
    await studio.post("/api/v1/models/unload", instance_id=SMALL)

    told, body = await answer
    assert told == status
    assert "Model unloaded" in json.dumps(body)


async def test_the_log_tells_who_asked(studio):
    """The header `X-By` names another app in the log of events; loads without it are by `rest`."""
    await studio.load(SMALL)
    studio.session.headers["X-By"] = "hand"
    await studio.load(OTHER)

    assert [one["by"] for one in studio.world.happened("load_start")] == ["rest", "hand"]


async def test_larger_models_load_longer():
    """With `load_gb_s` a load takes longer for a larger model."""
    async with running(load_s=0.0, load_gb_s=0.01) as studio:
        await asyncio.gather(studio.load(BIG), studio.load(SMALL))

        assert [one["model"] for one in studio.world.happened("load_end")] == [SMALL, BIG]


async def test_two_first_requests_make_two_instances():
    """Requests for a model that is just being loaded load it again."""
    async with running(load_s=WHILE_S) as studio:
        await asyncio.gather(studio.ask(SMALL), studio.ask(SMALL))

        assert sorted(await studio.listed(SMALL)) == [SMALL, f"{SMALL}:2"]
        assert len(studio.world.stacks()) == 1


async def test_embeddings_of_a_chat_model_load_it_each_time(studio):
    """An embeddings request that names a chat model makes another instance."""
    for _ in range(2):
        await studio.post("/v1/embeddings", model=SMALL, input="hi")

    assert sorted(await studio.listed(SMALL)) == [SMALL, f"{SMALL}:2"]


async def test_what_jit_loaded_expires():
    """A time to live in the request that loads is kept."""
    async with running(ttl_s=0.05) as studio:
        await studio.ask(SMALL)
        await studio.load(OTHER)

        await studio.until("gone")

        assert [gone["model"] for gone in studio.world.happened("gone")] == [SMALL]


# Who answers


async def test_one_loaded_model_answers_for_any_name(studio):
    """With one chat model loaded, an unknown name is answered by it, and the log of events tells."""
    await studio.load(SMALL)

    status, answer = await studio.ask("gpt-4o-mini")

    assert (status, answer["model"]) == (200, SMALL)
    assert [(one["asked"], one["model"]) for one in studio.world.wrong()] == [("gpt-4o-mini", SMALL)]


async def test_an_unknown_name_is_refused_when_two_are_loaded(studio):
    """With two chat models loaded an unknown name is 400 `model_not_found`; natively it is 404."""
    await studio.load(SMALL)
    await studio.load(OTHER)

    assert (await studio.ask("gpt-4o-mini"))[1]["error"]["code"] == "model_not_found"
    assert (await studio.post("/api/v1/chat", model="gpt-4o-mini", input="hi"))[0] == 404


async def test_nothing_loaded_and_no_jit():
    """Without JIT and without a model the answer is 400, No models loaded."""
    async with running(jit=False) as studio:
        status, answer = await studio.ask(SMALL)

        assert (status, answer["error"]["message"][:16]) == (400, "No models loaded")


async def test_an_identifier_answers_for_its_key(studio):
    """The key of a model also finds an instance that has a name of its own."""
    await studio.world.load(SMALL, identifier="mine")

    assert (await studio.ask(SMALL))[1]["model"] == "mine"
    assert studio.world.wrong() == []


# The HTTP server


async def test_unknown_paths_are_200_with_an_error(studio):
    """The error is a string, the status 200."""
    status, answer = await studio.get("/props")

    assert (status, answer) == (200, {"error": "Unexpected endpoint or method. (GET /props)"})


async def test_older_servers_have_no_native_routes():
    """Without `native` the routes of v1 are unknown paths, v0 stays."""
    async with running(native=False) as studio:
        assert "error" in (await studio.get("/api/v1/models"))[1]
        assert "error" in (await studio.load(SMALL))[1]
        assert "data" in (await studio.get("/api/v0/models"))[1]


async def test_the_first_look_into_a_load_is_a_page_of_html():
    """One GET of v0 answers 500 with HTML when a load begins."""
    async with running() as studio:
        await studio.load(SMALL)
        async with studio.session.get("/api/v0/models") as answer:
            assert (answer.status, answer.content_type) == (500, "text/html")
        assert (await studio.get("/api/v0/models"))[0] == 200


async def test_idle_connections_are_closed():
    """The server says how long it keeps a connection, and does not keep it longer."""
    async with running(idle_s=0.05) as studio:
        reader, writer = await asyncio.open_connection("127.0.0.1", studio.lm.port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")

        head = await reader.readuntil(b"\r\n\r\n")
        rest = await reader.read()

        assert b"Keep-Alive: timeout=5\r\n" in head
        assert b"X-Powered-By: Express\r\n" in head
        assert rest.endswith(b"}")
        writer.close()


async def test_a_token_is_wanted():
    """Without the token everything is 401 with a code; with it, or as x-api-key, all is well."""
    async with running(api_token="sk-lm-abcdefgh:12345678901234567890") as studio:
        status, answer = await studio.get("/v1/models")
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")

        bearer = {"Authorization": f"Bearer {studio.world.knobs.api_token}"}
        async with studio.session.get("/v1/models", headers=bearer) as answer:
            assert answer.status == 200


async def test_the_lists_spell_embeddings_differently(studio):
    """v1 says `embedding`, v0 `embeddings`."""
    _, v1 = await studio.get("/api/v1/models")
    _, v0 = await studio.get("/api/v0/models")

    assert [one["key"] for one in v1["models"] if one["type"] == "embedding"] == [EMBED]
    assert [one["id"] for one in v0["data"] if one["type"] == "embeddings"] == [EMBED]


async def test_the_openai_list_betrays_jit(studio):
    """With JIT all models are listed, without only those that are loaded."""
    assert len((await studio.get("/v1/models"))[1]["data"]) == 7

    async with running(jit=False) as strict:
        await strict.load(SMALL)
        assert [one["id"] for one in (await strict.get("/v1/models"))[1]["data"]] == [SMALL]


# Answers


async def test_a_stream_ends_with_done(studio):
    """A chat stream is records of chunks, closed by `[DONE]`."""
    text = await studio.stream(SMALL, max_tokens=2)

    assert text.endswith("data: [DONE]\n\n")
    assert text.count(f"{SMALL} ") == 2


async def test_the_helpers_of_openai_put_answers_together(studio):
    """OpenAI's client has what it builds an answer from: indices, usage, null where there is nothing."""
    async with AsyncOpenAI(base_url=f"{studio.lm.url}/v1", api_key="none", max_retries=0) as client:
        async with client.responses.stream(model=SMALL, input="Hello", max_output_tokens=3) as events:
            response = await events.get_final_response()
        async with client.chat.completions.stream(
            model=SMALL, messages=[{"role": "user", "content": "Hello"}], max_tokens=3,
            stream_options={"include_usage": True},
        ) as events:  # fmt: skip
            chat = await events.get_final_completion()

    assert len(response.output_text.split()) == len(chat.choices[0].message.content.split()) == 3
    assert response.usage.output_tokens == chat.usage.completion_tokens == 3
    assert (chat.choices[0].finish_reason, chat.system_fingerprint) == ("stop", SMALL)


async def test_anthropics_events_have_what_its_client_adds_up(studio):
    """Anthropic's client reads the usage of `message_delta`; without it it raises."""
    fields = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "stream": True}
    async with studio.session.post("/v1/messages", json={"model": SMALL, **fields}) as answer:
        records = [json.loads(line[6:]) async for line in answer.content if line.startswith(b"data: ")]

    (delta,) = [record for record in records if record["type"] == "message_delta"]
    assert delta["usage"] == {"output_tokens": 3}
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


async def test_a_crash_is_told_inside_the_stream(studio):
    """An engine that dies is an error in a record of a 200, and its model is gone."""
    text = await studio.stream(SMALL, "please [crash]")

    assert json.loads(text.splitlines()[-2].removeprefix("data: "))["error"]["type"] == "model_load_failed"
    assert await studio.listed(SMALL) == []


async def test_the_native_stream_goes_on_after_an_error(studio):
    """`/api/v1/chat` sends `chat.end` with what there is after its `error` event, and never `[DONE]`."""
    text = await studio.stream(SMALL, "please [crash]", path="/api/v1/chat")

    events = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert events[:2] == ["chat.start", "prompt_processing.start"]
    assert events[-3:] == ["error", "message.end", "chat.end"]
    assert events.count("prompt_processing.end") == 2


@pytest.mark.parametrize(
    ("path", "mark"),
    [("/v1/responses", "response.completed"), ("/v1/messages", "message_stop"), ("/api/v1/chat", "chat.end")],
)
async def test_the_other_dialects_end_with_their_own_mark(studio, path, mark):
    """Each family of routes ends its streams in its own way."""
    text = await studio.stream(SMALL, path=path)

    assert f"event: {mark}\n" in text
    assert f"{SMALL} " in text


async def test_a_prompt_that_is_too_long_differs_by_route(studio):
    """The OpenAI route says 400 with a string, the native one 500 with an object."""
    text = "word " * 5000
    status, answer = await studio.post(CHAT, model=SMALL, messages=[{"role": "user", "content": text}])
    assert (status, type(answer["error"])) == (400, str)

    status, answer = await studio.post("/api/v1/chat", model=SMALL, input=text)
    assert (status, answer["error"]["code"]) == (500, "unknown")


async def test_a_generation_stops_when_its_client_leaves(studio):
    """Closing the connection stops the prediction, which is no cut."""
    answer = asyncio.ensure_future(studio.stream(SMALL, max_tokens=LONG))
    await studio.until("generation_start")
    answer.cancel()

    await studio.until("generation_left")
    assert studio.world.cuts() == []


async def test_more_requests_than_parallel_queue_inside():
    """An instance serves `parallel` requests at once."""
    async with running(parallel=2, token_s=0.01, tokens=2) as studio:
        await studio.load(SMALL)
        began = studio.world.now()

        await asyncio.gather(*(studio.ask(SMALL) for _ in range(6)))

        assert studio.world.now() - began > 0.05  # of 0.06; timers may come early


async def test_a_killed_server_comes_back_empty(studio):
    """After a kill the port is the same, and nothing is loaded."""
    await studio.load(SMALL)
    await studio.lm.kill()
    with pytest.raises(aiohttp.ClientConnectionError):
        await studio.get("/v1/models")

    await studio.lm.start()

    assert await studio.listed(SMALL) == []
