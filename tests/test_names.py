"""Names against a running daemon with real engines: variants, files, the alias `*`, no name; globs."""

import asyncio
import hashlib
import json
import re
import shutil
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.process import Process, daemon

KEYS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("owner", "thinker", "sailor")}
CONFIG = f"""
devices:
  gpu0: {{max_models: 1, cooldown_s: 0}}
backends:
  engine: {{kind: gguf, path: MODELS, device: gpu0, parallel: 4, context_length: 512, threads: 1}}
models:
  "tiny-*": {{defaults: {{max_tokens: 5}}, load: {{context_length: 256}}}}
  tiny-sea: {{aliases: ["*"], defaults: {{temperature: 0}}}}
  "tiny-sea:think": {{of: tiny-sea, defaults: {{max_tokens: 3}}, aliases: [thinker]}}
access:
  keys:
    - {{name: owner, sha256: {KEYS["owner"]}, scopes: [inference, debug, admin]}}
    - {{name: thinker, sha256: {KEYS["thinker"]}, models: ["tiny-sea:think"]}}
    - {{name: sailor, sha256: {KEYS["sailor"]}, models: [tiny-sea]}}
"""
HELLO: Any = [{"role": "user", "content": "Hello"}]
OWNER = {"Authorization": "Bearer owner"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Process]:
    """Run a daemon over two small models, one right in the folder and one below a folder."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "pub").mkdir()
    shutil.copy(models / "tiny-sea.gguf", folder)
    shutil.copy(models / "tiny-kitchen.gguf", folder / "pub")
    async with daemon(tmp_path_factory.mktemp("daemon"), CONFIG.replace("MODELS", str(folder))) as process:
        yield process


Of = Callable[[str], AsyncOpenAI]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of(running: Process) -> AsyncGenerator[Of]:
    """Return the client of a key."""
    clients = [
        AsyncOpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0, timeout=100) for key in KEYS
    ]
    yield dict(zip(KEYS, clients, strict=True)).__getitem__
    await asyncio.gather(*(client.close() for client in clients))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(running: Process) -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(running.url, headers=OWNER) as session:
        yield session


async def ask(client: AsyncOpenAI, model: str, **fields: Any) -> tuple[str, int]:
    """Ask *model*; return the name in the answer, and how many tokens that has."""
    answer = await client.chat.completions.create(model=model, messages=HELLO, **fields)
    assert answer.usage is not None
    return answer.model, answer.usage.completion_tokens


async def loads(session: aiohttp.ClientSession) -> float:
    """Return how many switches have ended well."""
    async with session.get("/metrics") as answer:
        found = re.findall(r"^dmap_load_seconds_count\{[^}]*\} (\S+)", await answer.text(), re.MULTILINE)
    return sum(map(float, found))


async def test_a_variant_beside_its_model(of: Of, session: aiohttp.ClientSession) -> None:
    """Both are answered by one resident, side by side, each with its parameters, and nothing is switched."""
    owner = of("owner")
    assert await ask(owner, "tiny-sea") == ("tiny-sea", 5)
    before = await loads(session)

    answers = await asyncio.gather(
        ask(owner, "tiny-sea", max_tokens=200, extra_body={"ignore_eos": True}),
        ask(owner, "tiny-sea:think"),
        ask(owner, "thinker", max_tokens=2),
        ask(owner, "tiny-sea"),
    )

    assert [name for name, _ in answers] == ["tiny-sea"] * 4
    assert [tokens for _, tokens in answers[1:]] == [3, 2, 5]
    assert await loads(session) == before


async def test_the_list(of: Of, session: aiohttp.ClientSession) -> None:
    """A variant is a model of the lists, as resident as its model; `*` and globs are not."""
    await ask(of("owner"), "thinker")

    listed = [model async for model in of("owner").models.list()]

    told = {model.id: model.model_extra or {} for model in listed}
    assert list(told) == ["pub/tiny-kitchen", "tiny-sea", "tiny-sea:think", "thinker"]
    assert (told["tiny-sea:think"]["variant_of"], told["tiny-sea:think"]["resident"]) == ("tiny-sea", True)
    assert [model.id async for model in of("thinker").models.list()] == ["tiny-sea:think", "thinker"]
    async with session.get("/api/v0/models") as answer:
        assert [(one["id"], one["state"]) for one in (await answer.json())["data"]] == [
            ("pub/tiny-kitchen", "not-loaded"),
            ("tiny-sea", "loaded"),
            ("tiny-sea:think", "loaded"),
        ]


@pytest.mark.parametrize("model", ["tiny-sea", "engine/tiny-sea", "tiny-sea.gguf", "TINY-SEA"])
async def test_a_key_for_a_variant(of: Of, model: str) -> None:
    """A key for a variant does not get its model, by whatever name."""
    with pytest.raises(openai.NotFoundError):
        await ask(of("thinker"), model)


async def test_a_key_for_a_model(of: Of) -> None:
    """A key for a model does not get its variant: for it that is a name that nobody knows."""
    assert await ask(of("sailor"), "tiny-sea:think") == ("tiny-sea", 5)


@pytest.mark.parametrize(
    "name", ["tiny-kitchen.gguf", "pub/tiny-kitchen.gguf", "/data/pub/TINY-KITCHEN.gguf", "pub/tiny-kitchen"]
)
async def test_a_file_means_its_model(of: Of, name: str) -> None:
    """The file's whole name means its model, with as many of its folders as are given."""
    assert (await ask(of("owner"), name, max_tokens=2))[0] == "pub/tiny-kitchen"


async def test_a_glob_loads(of: Of, session: aiohttp.ClientSession) -> None:
    """What a glob says of the load is what the engine gets."""
    await ask(of("owner"), "tiny-sea")

    async with session.get("/admin/models") as answer:
        [sea] = [one for one in (await answer.json())["models"] if one["id"] == "tiny-sea"]

    assert sea["load_config"] == {"context_length": 256}
    assert (sea["context_length"], sea["default_inference"]) == (256, {"max_tokens": 5, "temperature": 0.0})


@pytest.mark.parametrize("name", ["gpt-4o", "x" * 999, "e\u0301t\u00e9 \u2028 \x1b[31m"])
async def test_a_name_that_nobody_knows(
    of: Of, running: Process, session: aiohttp.ClientSession, name: str
) -> None:
    """The alias `*` takes it; event and log line tell the name that was asked, and what it became."""
    stream = await session.get("/debug/stream?type=request.granted,request.finished")

    answer = await of("sailor").chat.completions.with_raw_response.create(model=name, messages=HELLO)

    id = answer.headers["x-request-id"]
    assert answer.parse().model == "tiny-sea"
    assert (await of("sailor").models.retrieve("gpt-4o")).id == "tiny-sea"
    events = [await _event(stream, id), await _event(stream, id)]
    stream.close()
    assert [(one["type"], one["model"], one["asked"]) for one in events] == [
        ("request.granted", "tiny-sea", name[:256]),
        ("request.finished", "tiny-sea", name[:256]),
    ]


async def _logged(running: Process, id: str) -> str:
    """Return the line about the end of the request *id*."""
    while not (found := [line for line in running.log if f"id={id}" in line and "total_s=" in line]):
        await asyncio.sleep(0.01)
    return found[0]


async def _event(stream: aiohttp.ClientResponse, id: str) -> dict[str, Any]:
    """Return the next event of the request *id*."""
    while line := await asyncio.wait_for(stream.content.readline(), 30):
        if line.startswith(b"data:") and (event := json.loads(line[5:])).get("id") == id:
            return dict(event)
    raise AssertionError("the stream has ended")


async def test_a_key_that_may_not_use_the_fallback(of: Of) -> None:
    """A key that may not use the model behind `*` gets the 404 that it always got."""
    with pytest.raises(openai.NotFoundError, match="'gpt-4o' does not exist, or is not for this client"):
        await ask(of("thinker"), "gpt-4o")


async def test_no_name(of: Of, session: aiohttp.ClientSession) -> None:
    """An empty name is none: 400 while nothing is active, then what is active, a variant too."""
    with pytest.raises(openai.BadRequestError, match="none is active"):
        await ask(of("owner"), " ")

    async with session.post("/admin/models/activate", json={"modelKey": "thinker"}) as answer:
        assert (await answer.json())["model"] == "tiny-sea:think"
    told = [await ask(of("owner"), ""), await ask(of("thinker"), " \t")]
    with pytest.raises(openai.NotFoundError, match="the active one is gone, or is not for this client"):
        await ask(of("sailor"), "")
    async with session.post("/admin/models/unload", json={"modelKey": "tiny-sea"}) as answer:
        assert (await answer.json())["status"] == "unloaded"

    assert told == [("tiny-sea", 3), ("tiny-sea", 3)]
    with pytest.raises(openai.BadRequestError, match="none is active"):
        await ask(of("owner"), "")


@pytest.mark.parametrize("order", ["load", "activate", "unload"])
async def test_an_order_needs_a_name_that_is_known(session: aiohttp.ClientSession, order: str) -> None:
    """The alias `*` is for requests: an order with a typing error must not move another model."""
    async with session.post(f"/admin/models/{order}", json={"modelKey": "tiny-see"}) as answer:
        assert answer.status == 404


async def test_orders_for_a_variant(of: Of, session: aiohttp.ClientSession) -> None:
    """Parameters are the variant's, the load its model's; an unload takes back what a load has set."""
    order = {
        "modelKey": "thinker",
        "defaultInference": {"maxTokens": 2},
        "loadConfig": {"contextLength": 512},
    }

    async with session.post("/admin/models/load", json=order) as answer:
        loaded = await answer.json()
    given = [await ask(of("owner"), name) for name in ("thinker", "tiny-sea", "")]
    async with session.get("/admin/models") as answer:
        set_here = {one["id"]: one["set_here"] for one in (await answer.json())["models"]}
    async with session.post("/admin/models/unload", json={"modelKey": "tiny-sea:think"}) as answer:
        unloaded = await answer.json()
    async with session.get("/admin/models") as answer:
        left = await answer.json()

    assert (loaded["model"], loaded["active"]) == ("tiny-sea:think", True)
    assert loaded["loaded"]["context_length"] == 512
    assert [tokens for _, tokens in given] == [2, 5, 2]
    assert set_here == {"pub/tiny-kitchen": False, "tiny-sea": True, "tiny-sea:think": True}
    assert (unloaded["status"], unloaded["model"]) == ("unloaded", "tiny-sea:think")
    assert left["active"] is None
    assert [one["id"] for one in left["models"] if one["set_here"] or one["resident"]] == []


async def test_what_the_log_and_the_metrics_have(
    of: Of, running: Process, session: aiohttp.ClientSession
) -> None:
    """The line of a request tells the name that was asked; metrics know models by their own names alone."""
    answer = await of("owner").chat.completions.with_raw_response.create(model="thinker", messages=HELLO)
    id = answer.headers["x-request-id"]
    async with asyncio.timeout(30):
        line = await _logged(running, id)
    async with session.get("/metrics") as scraped:
        labels = set(re.findall(r'[{,]model="([^"]*)"', await scraped.text()))

    assert " asked=thinker model=tiny-sea backend=engine " in line
    assert labels <= {"tiny-sea", "pub/tiny-kitchen", "(none)"}
