"""
LM Studio's own lists, as its clients read them: typed by its documentation (2_rest/list.md, endpoints.mdx).

The proxy has an emulated LM Studio behind it and a server of another kind.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict, Field

from tests.lmstudio_emulator import Emulator, Knobs, Traps, emulator
from tests.lmstudio_world import SPECS

SMALL, SEEING = "llama-3.2-1b-instruct", "google/gemma-3-12b"
EMBED = next(spec.key for spec in SPECS if spec.embedding)
ALL = [*(spec.key for spec in SPECS), "m"]
SHA = {name: hashlib.sha256(f"sk-{name}".encode()).hexdigest() for name in ("all", "some", "ops", "none")}
SERVERS = [(), ("v0",)]
"""LM Studio of today, and one without its older API."""
Ask = Callable[..., Awaitable[tuple[int, Any]]]
Count = Annotated[int, Field(ge=0, strict=True)]


class Typed(BaseModel):
    """Takes no string for a number and no number for a string; keys that are not documented may come."""

    model_config = ConfigDict(strict=True, extra="allow")


class ModelV0(Typed):
    """One of `GET /api/v0/models`."""

    id: str
    object: Literal["model"]
    type: Literal["llm", "vlm", "embeddings"]
    publisher: str
    arch: str
    compatibility_type: str
    quantization: str
    state: Literal["loaded", "not-loaded"]
    max_context_length: Count
    loaded_context_length: Count = 0


class Quantization(Typed):
    """How a model's weights are written."""

    name: str | None
    bits_per_weight: float | None


class LoadConfig(Typed):
    """What an instance was loaded with."""

    context_length: Count
    parallel: Count = 0


class LoadedInstance(Typed):
    """A copy of a model in memory."""

    id: str
    config: LoadConfig


class Capabilities(Typed):
    """What a model can do besides text."""

    vision: bool
    trained_for_tool_use: bool


class ModelV1(Typed):
    """One of `GET /api/v1/models`."""

    type: Literal["llm", "embedding"]
    publisher: str
    key: str
    display_name: str
    architecture: str | None = None
    quantization: Quantization | None
    size_bytes: Count
    params_string: str | None
    loaded_instances: list[LoadedInstance]
    max_context_length: Count
    format: Literal["gguf", "mlx"] | None
    capabilities: Capabilities | None = None
    description: str | None = None
    variants: list[str] = []
    selected_variant: str | None = None


def v0(listed: dict[str, Any]) -> dict[str, ModelV0]:
    """Read a list of the older API as its clients do."""
    assert listed["object"] == "list"
    return {model["id"]: ModelV0.model_validate(model) for model in listed["data"]}


def v1(listed: dict[str, Any]) -> dict[str, ModelV1]:
    """Read a list of the native API as its clients do."""
    return {model["key"]: ModelV1.model_validate(model) for model in listed["models"]}


@pytest.fixture
async def lm(request: pytest.FixtureRequest) -> AsyncGenerator[Emulator]:
    """Run an emulated LM Studio with all its traps but those given, whose loads are quick."""
    traps = replace(Traps(), **dict.fromkeys(getattr(request, "param", ()), False))
    async with emulator(traps, Knobs(load_s=0.02)) as lm:
        yield lm


@pytest.fixture
async def loading(lm: Emulator) -> AsyncGenerator[None]:
    """Have somebody begin a load that does not end."""
    lm.world.knobs = replace(lm.world.knobs, load_s=600.0)
    load = asyncio.ensure_future(lm.world.load(SMALL))
    yield
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)
    lm.world.drop(lm.world.instances[SMALL], "it is over")


@pytest.fixture
async def mine(lm: Emulator) -> None:
    """Have somebody load a model under a name of his own."""
    await lm.world.load(SMALL, identifier="mine")


@pytest.fixture
async def proxy(start: Any, lm: Emulator, backend: Any) -> Any:
    """Start a proxy with keys: one may use all models, one two of them, one administers, one uses none."""
    return await start(
        f"""
        access:
          keys:
            - {{name: all, sha256: {SHA["all"]}}}
            - {{name: some, sha256: {SHA["some"]}, models: [{SMALL}, m]}}
            - {{name: ops, sha256: {SHA["ops"]}, scopes: [admin]}}
            - {{name: none, sha256: {SHA["none"]}, models: []}}
        devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 1}}}}
        backends:
          studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}
          plain: {{kind: openai, url: '{backend.url}'}}
        models: {{{SMALL}: {{aliases: [tiny], load: {{context_length: 8192}}}}}}
        """
    )


@pytest.fixture
async def ask(proxy: Any) -> AsyncGenerator[Ask]:
    """Return what asks for a path with a key, as (status, JSON)."""
    async with aiohttp.ClientSession(proxy.url) as session:

        async def ask(path: str, key: str = "all", body: dict[str, Any] | None = None) -> tuple[int, Any]:
            method, headers = "GET" if body is None else "POST", {"x-api-key": f"sk-{key}"}
            async with session.request(method, path, json=body, headers=headers) as answer:
                return answer.status, await answer.json()

        yield ask


async def load(ask: Ask, model: str = SMALL) -> None:
    """Have *model* made resident by a request for it."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    assert (await ask("/v1/chat/completions", body=body))[0] == 200


# The lists


@pytest.mark.parametrize("lm", SERVERS, indirect=True)
async def test_every_model_has_the_older_shape(ask):
    """`GET /api/v0/models` has each field of LM Studio's, typed, for models of all kinds."""
    status, listed = await ask("/api/v0/models")

    assert status == 200
    assert list(v0(listed)) == ALL


@pytest.mark.parametrize("lm", SERVERS, indirect=True)
async def test_every_model_has_the_native_shape(ask):
    """`GET /api/v1/models` has each field of LM Studio's, typed, for models of all kinds."""
    status, listed = await ask("/api/v1/models")

    assert status == 200
    assert list(v1(listed)) == ALL


async def test_what_lm_studio_says_is_passed_on(ask, lm):
    """A model that is not loaded is described in LM Studio's own words, all of them."""
    async with aiohttp.ClientSession(lm.url) as session, session.get("/api/v1/models") as answer:
        own = (await answer.json())["models"]

    _, listed = await ask("/api/v1/models")

    assert listed["models"][: len(own)] == own


async def test_a_resident_has_both_contexts(ask):
    """What a model can have and what it was loaded with are two things; LM Studio's settings come with it."""
    await load(ask)

    older, native = v0((await ask("/api/v0/models"))[1]), v1((await ask("/api/v1/models"))[1])

    assert (older[SMALL].max_context_length, older[SMALL].loaded_context_length) == (131072, 8192)
    assert native[SMALL].max_context_length == 131072
    assert [(one.id, one.config.context_length) for one in native[SMALL].loaded_instances] == [(SMALL, 8192)]
    assert native[SMALL].loaded_instances[0].config.parallel == 4


async def test_only_residents_are_loaded(ask):
    """What is loaded is told of those that are, and of no others."""
    await load(ask)

    older, native = (await ask("/api/v0/models"))[1], (await ask("/api/v1/models"))[1]

    assert [model["id"] for model in older["data"] if model["state"] == "loaded"] == [SMALL, "m"]
    assert [model["id"] for model in older["data"] if "loaded_context_length" in model] == [SMALL]
    assert [model["key"] for model in native["models"] if model["loaded_instances"]] == [SMALL, "m"]


async def test_what_kind_of_model_it_is(ask):
    """A model that sees is a `vlm`, one that embeds `embeddings` or, natively, `embedding`."""
    older, native = v0((await ask("/api/v0/models"))[1]), v1((await ask("/api/v1/models"))[1])

    assert [older[model].type for model in (SMALL, SEEING, EMBED)] == ["llm", "vlm", "embeddings"]
    assert [native[model].type for model in (SMALL, SEEING, EMBED)] == ["llm", "llm", "embedding"]
    assert native[SEEING].capabilities == Capabilities(vision=True, trained_for_tool_use=True)


async def test_a_load_under_way_is_not_told_as_loaded(loading, ask, lm):
    """An instance that LM Studio lists while it still loads is none yet."""
    _, listed = await ask("/api/v1/models")

    assert list(lm.world.instances) == [SMALL]
    assert v1(listed)[SMALL].loaded_instances == []


@pytest.mark.parametrize(("path", "member"), [("/api/v0/models", "data"), ("/api/v1/models", "models")])
async def test_a_key_sees_only_its_models(ask, path, member):
    """What a key may not use is nowhere in its lists."""
    _, some = await ask(path, "some")
    _, none = await ask(path, "none")

    assert [model.get("id", model.get("key")) for model in some[member]] == [SMALL, "m"]
    assert none[member] == []


# One model


@pytest.mark.parametrize("prefix", ["/v1/models/", "/api/v0/models/"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (SMALL, SMALL),
        (SMALL.upper(), SMALL),
        (f"{SMALL}@q4_k_m", SMALL),
        (f"studio/{SMALL}", SMALL),
        ("tiny", "tiny"),
        ("Tiny", SMALL),
        (SEEING, SEEING),
        (SEEING.replace("/", "%2F"), SEEING),
        ("mine", SMALL),
        ("m", "m"),
        ("plain/M", "m"),
    ],
)
async def test_one_model_by_any_name(mine, ask, prefix, name, shown):
    """One model is found by every name that a request for it may use, an instance's own included."""
    status, model = await ask(prefix + name)

    assert (status, model["id"], model["object"]) == (200, shown, "model")


async def test_one_model_is_as_in_the_list(ask):
    """A model by itself has the same fields as in the list."""
    _, listed = await ask("/api/v0/models")
    one = [(await ask(f"/api/v0/models/{name}"))[1] for name in (SMALL, "m")]

    assert one == [listed["data"][ALL.index(name)] for name in (SMALL, "m")]


@pytest.mark.parametrize("prefix", ["/v1/models/", "/api/v0/models/"])
@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("all", "gpt-9"),
        ("all", f"{SMALL}@q8_0"),
        ("all", "other/m"),
        ("some", SEEING),
        ("some", SEEING.upper()),
        ("some", f"studio/{SEEING}"),
        ("some", f"{SEEING}@q4_k_m"),
        ("none", "tiny"),
    ],
)
async def test_no_such_model_for_this_key(ask, prefix, key, name):
    """A model that there is not, and one that the key may not use, are the same 404."""
    status, answer = await ask(prefix + name, key)

    error = answer["error"]
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"].startswith(f"the model {name!r} does not exist, or is not for this client;")


@pytest.mark.parametrize("key", ["all", "some", "ops"])
async def test_any_key_may_look_at_one(ask, key):
    """One model of the older API is looked at with any key, as the list is."""
    assert (await ask("/api/v0/models/m", key))[0] == 200


async def test_without_a_key_nobody_looks_at_one(ask):
    """Where there are keys, one is needed for one model, too."""
    status, answer = await ask("/api/v0/models/m", "wrong")

    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")


async def test_nothing_can_be_sent_there(ask, lm):
    """The path of one model takes no orders, whoever gives them."""
    before = len(lm.requests)

    status, answer = await ask(f"/api/v0/models/{SMALL}", "ops", {"model": SMALL})

    assert (status, answer["error"]["code"]) == (405, "invalid_request")
    assert [path for method, path, _ in lm.requests[before:] if method == "POST"] == []


# OpenAI's client


@pytest.fixture
async def client(proxy: Any) -> AsyncGenerator[AsyncOpenAI]:
    """Make OpenAI's own client, with the key that may use two models."""
    async with AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="sk-some", max_retries=0) as client:
        yield client


async def test_openai_lists_and_retrieves(client):
    """OpenAI's client lists the models and retrieves each of them, by other names, too."""
    listed = [model async for model in client.models.list()]
    names = [*(model.id for model in listed), SMALL.upper(), f"{SMALL}@q4_k_m", "plain/m"]
    models = [await client.models.retrieve(name) for name in names]

    assert [model.id for model in listed] == [SMALL, "tiny", "m"]
    assert [model.id for model in models] == [SMALL, "tiny", "m", SMALL, SMALL, "m"]
    assert {(model.object, model.created, type(model.owned_by)) for model in models} == {("model", 0, str)}


async def test_openai_is_told_that_there_is_none(client):
    """OpenAI's client raises its own error for a model that the key may not use."""
    with pytest.raises(openai.NotFoundError) as refused:
        await client.models.retrieve(SEEING)

    assert refused.value.code == "model_not_found"
