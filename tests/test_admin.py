"""The admin API of the running proxy: models really loaded and unloaded, whatever the kind of backend."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dmap.state import Activation, Saved, StateFile
from tests.conftest import Proxy
from tests.fakes import HERE_S, SSE, Exchange, FakeBackend, answer, chunk, delta, soon
from tests.lmstudio_emulator import Emulator, Knobs, emulator
from tests.lmstudio_world import SPECS

CHAT = "/v1/chat/completions"
SMALL = "llama-3.2-1b-instruct"
BIG = "mistralai/mistral-small-3.2"
OTHER = next(spec.key for spec in SPECS if not spec.embedding and spec.key != SMALL)


class Client:
    """Asks one proxy, as (status, JSON)."""

    def __init__(self, proxy: Proxy, session: aiohttp.ClientSession) -> None:
        self.proxy = proxy
        self.session = session

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(path) as answered:
            return answered.status, await answered.json()

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        async with self.session.post(path, json=body) as answered:
            return answered.status, await answered.json()

    async def chat(self, model: str | None = None, **fields: Any) -> tuple[int, Any]:
        named = {"model": model} if model is not None else {}
        messages = [{"role": "user", "content": "Hello"}]
        return await self.post(CHAT, messages=messages, **named, **fields)

    async def residents(self) -> list[str]:
        [device] = (await self.get("/ready"))[1]["devices"].values()
        return list(device["residents"])


@pytest.fixture
async def lm() -> AsyncGenerator[Emulator]:
    async with emulator(knobs=Knobs(load_s=0.05)) as lm:
        yield lm


Connect = Callable[[str], Any]


@pytest.fixture
async def connect(start: Any) -> AsyncGenerator[Connect]:
    """Start a proxy from a configuration and return what asks it."""
    sessions = []

    async def run(text: str) -> Client:
        proxy = await start(text)
        sessions.append(aiohttp.ClientSession(proxy.url))
        return Client(proxy, sessions[-1])

    yield run
    for session in sessions:
        await session.close()


@pytest.fixture
async def studio(connect: Connect, lm: Emulator, tmp_path: Path) -> Client:
    client: Client = await connect(
        f"""
        devices: {{gpu0: {{cooldown_s: 0, patience_s: 1}}}}
        backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
        models: {{{SMALL}: {{aliases: [tiny]}}}}
        state: {tmp_path}/state.json
        """
    )
    return client


@pytest.fixture
async def plain(connect: Connect, backend: FakeBackend, tmp_path: Path) -> Client:
    """A server that dmap cannot switch."""
    client: Client = await connect(
        f"""
        backends: {{server: {{kind: openai, url: '{backend.url}'}}}}
        state: {tmp_path}/state.json
        """
    )
    return client


async def test_a_key_sees_no_models_but_its_own(connect: Connect, lm: Emulator) -> None:
    """`/ready` names the models that a key may use; `/metrics`, which names all, is not for such a key."""
    sha = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("all", "tiny", "watch")}
    client = await connect(
        f"""
        devices: {{gpu0: {{cooldown_s: 0, patience_s: 1, max_models: 2}}}}
        backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
        models: {{{SMALL}: {{aliases: [tiny]}}}}
        access:
          keys:
            - {{name: all, sha256: {sha["all"]}, scopes: [admin, inference]}}
            - {{name: tiny, sha256: {sha["tiny"]}, models: [tiny]}}
            - {{name: watch, sha256: {sha["watch"]}, models: [tiny], scopes: [debug]}}
        """
    )
    client.session.headers["Authorization"] = "Bearer all"
    await client.post("/admin/models/load", modelKey=SMALL)
    await client.post("/admin/models/load", modelKey=OTHER)

    everything = await client.residents()
    all_metrics = (await client.session.get("/metrics")).status
    client.session.headers["Authorization"] = "Bearer tiny"
    own = await client.residents()
    status, refusal = await client.get("/metrics")
    client.session.headers["Authorization"] = "Bearer watch"
    watched = (await client.session.get("/metrics")).status
    del client.session.headers["Authorization"]
    keyless = await client.get("/ready")

    assert (sorted(everything), own) == (sorted([f"studio/{SMALL}", f"studio/{OTHER}"]), [f"studio/{SMALL}"])
    assert (all_metrics, status, watched) == (200, 403, 200)
    assert keyless == (200, {"ready": True})
    assert refusal["error"]["message"].startswith("the key 'tiny' lacks the scope 'debug' or the use of all")


async def test_an_admin_of_some_models_sees_no_others(connect: Connect, lm: Emulator) -> None:
    """A key with the scope `admin` may be for some models, too: no other is named to it."""
    sha = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("all", "tiny")}
    client = await connect(
        f"""
        devices: {{gpu0: {{cooldown_s: 0}}}}
        backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
        models: {{{SMALL}: {{aliases: [tiny]}}}}
        access:
          keys:
            - {{name: all, sha256: {sha["all"]}, scopes: [admin, inference]}}
            - {{name: tiny, sha256: {sha["tiny"]}, models: [tiny], scopes: [admin]}}
        """
    )
    client.session.headers["Authorization"] = "Bearer all"
    await client.post("/admin/models/load", modelKey=OTHER)
    _, everything = await client.get("/admin/models")

    client.session.headers["Authorization"] = "Bearer tiny"
    _, own = await client.get("/admin/models")
    _, drained = await client.post("/admin/drain", device="gpu0")
    await client.post("/admin/models/activate", modelKey="tiny")
    _, activated = await client.get("/admin/models")

    assert (everything["active"], own["active"], activated["active"]) == (OTHER, None, SMALL)
    assert ([each["id"] for each in own["models"]], OTHER in str(drained)) == ([SMALL], False)


class TestLoad:
    async def test_it_really_loads(self, studio: Client, lm: Emulator) -> None:
        """A load is a load: the server has the model, with the options, before the answer comes."""
        status, told = await studio.post(
            "/admin/models/load",
            modelKey="tiny",
            loadConfig={"contextLength": 8192, "flashAttention": True, "gpu": {"ratio": 0.5}},
        )

        assert (status, told["status"], told["model"], told["active"]) == (200, "loaded", SMALL, True)
        assert told["load_config"]["applied"] == {"context_length": 8192, "flash_attention": True}
        assert list(told["load_config"]["not_applied"]) == ["gpu"]
        assert told["loaded"]["context_length"] == 8192
        assert await studio.residents() == [f"studio/{SMALL}"]
        assert contexts(lm) == [8192]

    async def test_another_context_loads_it_anew(self, studio: Client, lm: Emulator) -> None:
        """A load with other options than the resident's takes that out first; there is never a second."""
        for length in (8192, 4096):
            _, told = await studio.post(
                "/admin/models/load", model_key=SMALL, load_config={"context_length": length}
            )
            assert told["loaded"]["context_length"] == length

        assert contexts(lm) == [4096]
        assert lm.world.stacks() == []

    async def test_it_waits_for_its_turn(self, studio: Client, lm: Emulator) -> None:
        """A load never cuts an answer: it goes through the queue like everybody else."""
        answers = await asyncio.gather(
            studio.chat(OTHER), studio.post("/admin/models/load", modelKey=SMALL), studio.chat(OTHER)
        )

        assert [status for status, _ in answers] == [200, 200, 200]
        assert lm.world.cuts() == []

    async def test_a_failed_load_changes_nothing(self, studio: Client, lm: Emulator) -> None:
        """A load that fails is told with the server's reason, and nothing of it is kept."""
        status, told = await studio.post(
            "/admin/models/load",
            modelKey=BIG,
            defaultInference={"temperature": 0.1},
            loadConfig={"contextLength": 10_000_000},
        )

        assert (status, told["error"]["code"]) == (502, "model_load_failed")
        assert studio.proxy.proxy.saved == Saved()

    async def test_a_failed_load_punishes_nobody_else(self, studio: Client) -> None:
        """Who uses a model as it was need not wait because somebody's options for it did not work."""
        impossible = {"modelKey": SMALL, "loadConfig": {"contextLength": 1_000_000_000}}
        assert (await studio.post("/admin/models/load", **impossible))[0] == 502

        assert (await studio.chat(SMALL))[0] == 200

    async def test_an_embedding_model(self, studio: Client) -> None:
        """A model that makes embeddings is loaded, but never the active one: chats would go to it."""
        embed = next(spec.key for spec in SPECS if spec.embedding)

        _, loaded = await studio.post("/admin/models/load", modelKey=embed)
        refused, _ = await studio.post("/admin/models/activate", modelKey=embed)

        assert (loaded["status"], loaded["active"], refused) == ("loaded", False, 400)

    async def test_without_activation(self, studio: Client) -> None:
        """A load may leave the active model as it is."""
        _, told = await studio.post("/admin/models/load", modelKey=SMALL, activate=False)

        assert (told["status"], told["active"]) == ("loaded", False)
        assert (await studio.chat())[0] == 400


class TestActivate:
    async def test_requests_without_a_model(self, studio: Client) -> None:
        """The active model answers whoever names none; it is loaded when the first one asks."""
        status, told = await studio.post("/admin/models/activate", modelKey="TINY")
        before = await studio.residents()

        _, answered = await studio.chat()

        assert (status, told["status"], before) == (200, "activated", [])
        assert answered["model"] == SMALL

    async def test_its_defaults(self, plain: Client, backend: FakeBackend) -> None:
        """Defaults of an activation are put into requests that lack them; they can be replaced."""
        seen = asyncio.Queue[Any]()

        async def reply(exchange: Exchange) -> None:
            seen.put_nowait(json.loads(exchange.body))
            await exchange.end(answer(b'{"model": "m", "choices": []}'))

        backend.script = reply

        for temperature in (0.1, 0.2):
            await plain.post(
                "/admin/models/activate",
                modelKey="m",
                defaultInference={"temperature": temperature, "maxTokens": 7},
            )
            await plain.chat()
            sent = await seen.get()
            assert (sent["temperature"], sent["max_tokens"]) == (temperature, 7)

    async def test_by_hand(self, plain: Client) -> None:
        """Where dmap cannot load, the answer says what a person has to do."""
        status, loaded = await plain.post(
            "/admin/models/load", modelKey="m", loadConfig={"contextLength": 8192}
        )
        _, cleared = await plain.post("/admin/models/unload", modelKey="m")

        assert (status, loaded["status"], cleared["status"]) == (200, "activated", "cleared")
        assert list(loaded["load_config"]["not_applied"]) == ["context_length"]
        assert list(loaded["workflow"]) == list(cleared["workflow"]) == ["step1", "step2", "step3"]
        assert loaded["workflow"]["step2"] == "Load it with contextLength = 8192."
        assert not cleared["active"]


@pytest.mark.parametrize(
    ("lms", "words"),
    [
        (
            "",
            {
                "gpu": "LM Studio's REST API has no such option; "
                "its lms command has, so set lms for this backend",
                "gpu_layers": "LM Studio cannot be told this",
                "cpu_threads": "LM Studio cannot be told this",
                "rope_frequency_base": "LM Studio cannot be told this",
            },
        ),
        (
            ", lms: /bin/true",
            {
                "flash_attention": "LM Studio takes this over REST only, "
                "and not beside an option that needs lms",
                "gpu_layers": "LM Studio cannot be told this",
                "cpu_threads": "LM Studio cannot be told this",
                "rope_frequency_base": "LM Studio cannot be told this",
            },
        ),
    ],
    ids=["REST", "lms"],
)
async def test_why_an_option_is_not_applied(
    connect: Connect, lm: Emulator, lms: str, words: dict[str, str]
) -> None:
    """The reason names `lms` for what that takes, and nothing for what no way of LM Studio's takes."""
    client = await connect(
        f"""
        devices: {{gpu0: {{}}}}
        backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0{lms}}}}}
        """
    )
    options = {"gpu": {"ratio": 0.5, "layers": 9}, "cpuThreads": 2, "ropeFrequencyBase": 1.0}

    _, told = await client.post(
        "/admin/models/activate", modelKey=SMALL, loadConfig=options | {"flashAttention": True}
    )

    assert told["load_config"]["not_applied"] == words


class TestUnload:
    async def test_it_really_unloads(self, studio: Client, lm: Emulator) -> None:
        """An unload leaves nothing in memory, and no active model."""
        await studio.post("/admin/models/load", modelKey=SMALL)

        status, told = await studio.post("/admin/models/unload", modelKey=SMALL)

        assert (status, told["status"], told["active"]) == (200, "unloaded", False)
        assert (lm.world.instances, await studio.residents()) == ({}, [])

    async def test_it_waits_for_answers(self, studio: Client, lm: Emulator) -> None:
        """An unload waits for the answers that are under way, and cuts none."""
        asking = asyncio.ensure_future(studio.chat(SMALL, max_tokens=200))
        await until(lambda: bool(lm.world.instances))

        await studio.post("/admin/models/unload", modelKey=SMALL)

        assert (await asking)[0] == 200
        assert (lm.world.cuts(), lm.world.instances) == ([], {})

    async def test_what_is_not_loaded(self, studio: Client) -> None:
        """To unload what is not loaded is no error, and the answer and the event say so."""
        status, told = await studio.post("/admin/models/unload", modelKey=SMALL)

        assert (status, told["status"], told["changed"]) == (200, "not_loaded", False)
        assert told["message"] == f"{SMALL!r} was not loaded. What was set for it here is forgotten."
        assert orders(studio) == [("model.unloaded", SMALL, "not loaded", False)]


async def test_the_embedded_engine(connect: Connect, models: Path) -> None:
    """The embedded engine is loaded with its own options, and says what it gives."""
    client = await connect(
        f"""
        devices: {{gpu0: {{cooldown_s: 0}}}}
        backends: {{engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 1, threads: 1}}}}
        """
    )

    _, told = await client.post(
        "/admin/models/load",
        modelKey="tiny-sea",
        loadConfig={"contextLength": 512, "evalBatchSize": 64, "cpuThreads": 1, "numExperts": 2},
    )
    _, again = await client.post("/admin/models/load", modelKey="tiny-sea", loadConfig={"contextLength": 256})

    assert told["load_config"]["applied"] == {"context_length": 512, "eval_batch_size": 64, "cpu_threads": 1}
    assert list(told["load_config"]["not_applied"]) == ["num_experts"]
    assert (told["loaded"]["context_length"], again["loaded"]["context_length"]) == (512, 256)
    assert (await client.chat())[0] == 200


class TestOrders:
    @pytest.mark.parametrize("path", ["load", "unload", "activate"])
    async def test_an_unknown_model(self, plain: Client, path: str) -> None:
        """A model that nobody has is 404, and nothing is set."""
        status, told = await plain.post(f"/admin/models/{path}", modelKey="nobody")

        assert (status, told["error"]["code"]) == (404, "model_not_found")
        assert plain.proxy.proxy.saved == Saved()

    async def test_every_problem_is_told(self, plain: Client) -> None:
        """All that is wrong with an order is told at once, each with its place."""
        status, told = await plain.post(
            "/admin/models/load",
            activate="perhaps",
            defaultInference={"temperature": 3, "topP": "x"},
            loadConfig={"contextLength": 1, "gpu": {"ratio": 2}, "turbo": True},
        )

        assert status == 400
        assert sorted(problem.partition(": ")[0] for problem in told["error"]["problems"]) == [
            "activate",
            "defaultInference.temperature",
            "defaultInference.topP",
            "loadConfig.contextLength",
            "loadConfig.gpu",
            "loadConfig.turbo",
            "modelKey",
        ]

    @pytest.mark.parametrize(
        ("section", "field", "value"),
        [
            ("defaultInference", "maxTokens", -1),
            ("defaultInference", "max_tokens", -1),
            ("default_inference", "maxOutputTokens", -1),
            ("default_inference", "max_completion_tokens", -1),
            ("defaultInference", "stopStrings", 7),
            ("loadConfig", "offloadKvCache", "x"),
            ("load_config", "gpu_layers", "x"),
        ],
    )
    async def test_a_problem_is_named_as_it_was_written(
        self, plain: Client, section: str, field: str, value: object
    ) -> None:
        """A field that is wrong has the name that the client gave it."""
        _, told = await plain.post("/admin/models/activate", model="m", **{section: {field: value}})

        assert told["error"]["param"] == f"{section}.{field}"

    @pytest.mark.parametrize(
        ("order", "missing"),
        [
            ({}, "modelKey"),
            ({"loadConfig": {}}, "modelKey"),
            ({"load_config": {}}, "model_key"),
            ({"activate": True, "default_inference": {}}, "model_key"),
        ],
    )
    async def test_what_is_missing_is_named_as_the_others(
        self, plain: Client, order: dict[str, Any], missing: str
    ) -> None:
        """A field that is not there has the name that it would have beside the others."""
        _, told = await plain.post("/admin/models/load", **order)

        assert told["error"]["problems"] == [f"{missing}: is missing"]

    async def test_a_problem_with_a_part_of_gpu(self, plain: Client) -> None:
        """So has one inside LM Studio's own `gpu`, and the model's name."""
        _, told = await plain.post(
            "/admin/models/load", model=5, loadConfig={"gpu": {"ratio": 1, "layers": -1}}
        )

        assert [problem.partition(": ")[0] for problem in told["error"]["problems"]] == [
            "model",
            "loadConfig.gpu.layers",
        ]

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"[]", b"{", b"\xff", b"[" * 9000, b'{"modelKey": 5}', b'{"a":' + b"9" * 70_000 + b"}"),
            '{"modelKey": "m"}'.encode("utf-16"),
        ],
    )
    async def test_rubbish(self, plain: Client, body: bytes) -> None:
        """What is no order is refused in OpenAI's shape."""
        headers = {"Content-Type": "application/json"}
        async with plain.session.post("/admin/models/load", data=body, headers=headers) as answered:
            assert answered.status in (400, 413)
            assert (await answered.json())["error"]["type"] == "invalid_request_error"

    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            ('{"modelKey": "m", "modelKey": "n"}', "modelKey"),
            ('{"modelKey": "m", "modelKey": "m"}', "modelKey"),
            ('{"modelKey": "m", "model\\u004bey": "n"}', "modelKey"),
            ('{"modelKey": [1%s], "modelKey": "m"}' % ("0" * 4000), "modelKey"),
            ('{"modelKey": [NaN, -Infinity], "modelKey": "m"}', "modelKey"),
            ('{"modelKey": "m", "model_key": "n"}', "modelKey"),
            ('{"modelKey": "m", "MODEL_KEY": "n"}', "MODEL_KEY"),
            ('{"modelKey": "m", "ModelKey": "n"}', "ModelKey"),
            ('{"modelKey": "m", "model": "n"}', "model"),
            ('{"modelKey": "m", "modelkey": "n"}', "modelkey"),
            ('{"modelKey": "m", "activate": true, "activate": false}', "activate"),
            ('{"modelKey": "m", "loadConfig": {}, "loadConfig": {}}', "loadConfig"),
            ('{"modelKey": "m", "loadConfig": {"ttl_s": 5, "ttl_s": 6}}', "ttl_s"),
            ('{"modelKey": "m", "loadConfig": {"ttl_s": 5, "TTL_S": 6}}', "loadConfig.TTL_S"),
            ('{"modelKey": "m", "loadConfig": {"gpu": {"ratio": 1, "ratio": 0}}}', "ratio"),
        ],
    )
    async def test_what_is_there_twice(self, plain: Client, body: str, problem: str) -> None:
        """A field that is there twice, in whatever spelling, is refused: dmap does not guess which counts."""
        headers = {"Content-Type": "application/json"}
        async with plain.session.post("/admin/models/activate", data=body, headers=headers) as answered:
            told = await answered.json()

        assert (answered.status, told["error"]["param"]) == (400, problem)
        assert plain.proxy.proxy.saved == Saved()

    @pytest.mark.parametrize(
        "path",
        ["models/load", "models/unload", "models/activate", "drain", "resume", "reload", "queue/x/cancel"],
    )
    async def test_nothing_changes_by_get(self, plain: Client, path: str) -> None:
        """Whatever changes something is a POST, of JSON."""
        assert (await plain.get(f"/admin/{path}"))[0] == 405
        async with plain.session.post(f"/admin/{path}", data={"modelKey": "m"}) as answered:
            assert answered.status == 400


class TestQueue:
    async def test_who_waits_is_ended(self, connect: Connect, backend: FakeBackend) -> None:
        """A waiting request is listed, and ended by its id; its client is told so and does not try again."""
        asked = asyncio.Event()

        async def hang(exchange: Exchange) -> None:
            asked.set()
            await exchange.left.wait()

        backend.script = hang
        client = await connect(
            f"""
            backends: {{server: {{kind: openai, url: '{backend.url}', parallel: 1}}}}
            """
        )
        first = asyncio.ensure_future(client.chat("m"))
        await asked.wait()
        second = asyncio.ensure_future(client.chat("m"))
        await until(lambda: waiters(client) == 1)

        _, told = await client.get("/admin/queue")
        [waiting] = told["waiting"]["backend server"]
        assert (waiting["model"], waiting["backend"], waiting["position"]) == ("m", "server", 1)
        assert len(told["open"]) == 2
        for entry in told["open"]:
            assert (await client.post(f"/admin/queue/{entry['id']}/cancel"))[0] == 200

        for status, answered in await asyncio.gather(first, second):
            assert (status, answered["error"]["code"]) == (503, "cancelled")
        await client.proxy.settled()

    async def test_of_models_that_the_key_may_not_use(self, connect: Connect, backend: FakeBackend) -> None:
        """Requests of all clients are listed and can be ended, but not which model others ask for."""
        asked = asyncio.Event()

        async def hang(exchange: Exchange) -> None:
            asked.set()
            await exchange.left.wait()

        backend.script = hang
        sha = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("all", "some")}
        client = await connect(
            f"""
            backends: {{server: {{kind: openai, url: '{backend.url}', parallel: 1}}}}
            access:
              keys:
                - {{name: all, sha256: {sha["all"]}, scopes: [admin, inference]}}
                - {{name: some, sha256: {sha["some"]}, scopes: [admin], models: [other]}}
            """
        )
        client.session.headers["Authorization"] = "Bearer all"
        first = asyncio.ensure_future(client.chat("m"))
        await asked.wait()
        second = asyncio.ensure_future(client.chat("m"))
        await until(lambda: waiters(client) == 1)

        client.session.headers["Authorization"] = "Bearer some"
        _, told = await client.get("/admin/queue")
        for entry in told["open"]:
            await client.post(f"/admin/queue/{entry['id']}/cancel")
        await asyncio.gather(first, second)

        [waiting] = told["waiting"]["backend server"]
        listed = [waiting, *told["open"]]
        assert [(each["client"], each["model"]) for each in listed] == [("all", None)] * 3
        await client.proxy.settled()

    async def test_a_stream_is_ended(self, plain: Client, backend: FakeBackend) -> None:
        """A stream that is ended says so inside, and is cut: it never looks complete."""

        async def drip(exchange: Exchange) -> None:
            await exchange.write(SSE, chunk(delta("one")))
            await exchange.left.wait()

        backend.script = drip
        body = {"model": "m", "stream": True, "messages": []}
        async with plain.session.post(CHAT, json=body) as streaming:
            id = streaming.headers["x-request-id"]
            assert (await plain.post(f"/admin/queue/{id}/cancel"))[0] == 200

            with pytest.raises(aiohttp.ClientPayloadError):
                await streaming.read()

    async def test_an_unknown_request(self, plain: Client) -> None:
        """To end what is not there is 404."""
        status, told = await plain.post("/admin/queue/req_1/cancel")

        assert (status, told["error"]["code"]) == (404, "request_not_found")


class TestEvents:
    async def test_of_a_server_that_dmap_switches(self, studio: Client) -> None:
        """Each order is told: what was loaded, what was there already, and what became the active model."""
        setting = {"defaultInference": {"temperature": 0.3}, "loadConfig": {"contextLength": 8192}}
        await studio.post("/admin/models/load", modelKey=SMALL, activate=False, **setting)
        await studio.post("/admin/models/load", modelKey=SMALL, activate=False)
        await studio.post("/admin/models/load", modelKey=SMALL)
        await studio.post("/admin/models/activate", modelKey=OTHER)
        await studio.post("/admin/models/unload", modelKey=SMALL)

        assert orders(studio) == [
            ("model.loaded", SMALL, "room", True),
            ("model.loaded", SMALL, "already loaded", False),
            ("model.loaded", SMALL, "already loaded", False),
            ("model.activated", SMALL, None, None),
            ("model.activated", OTHER, None, None),
            ("model.leaving", SMALL, "asked", None),
            ("model.unloaded", SMALL, "asked", True),
        ]
        told = [settings_of(fields) for kind, fields in models_told(studio) if kind != "model.leaving"]
        assert told == [
            *[({"contextLength": 8192}, {"temperature": 0.3})] * 4,
            ({}, {}),
            ({"contextLength": 8192}, {"temperature": 0.3}),
        ]
        assert {fields["by"] for _, fields in models_told(studio)} == {"127.0.0.1"}

    async def test_of_a_variant(self, connect: Connect, lm: Emulator) -> None:
        """An order for a variant is told of its model, with the variant; so is the end of the active one."""
        client = await connect(
            f"""
            devices: {{gpu0: {{cooldown_s: 0}}}}
            backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
            models: {{hot: {{of: {SMALL}}}}}
            """
        )
        await client.post("/admin/models/activate", modelKey="hot")
        _, told = await client.post("/admin/models/unload", modelKey="hot")

        assert told["message"].endswith("It was the active model; now none is.")
        assert [(name, each["model"], each["variant"]) for name, each in models_told(client)] == [
            ("model.activated", SMALL, "hot"),
            ("model.unloaded", SMALL, "hot"),
        ]

    async def test_of_a_device_that_is_drained(self, studio: Client) -> None:
        """An order for a device is told before what follows from it, and whether its models go."""
        await studio.post("/admin/models/load", modelKey=SMALL, activate=False)
        last = studio.proxy.proxy.bus.last
        await studio.post("/admin/drain", unload=True)
        await studio.post("/admin/resume")

        events = studio.proxy.proxy.bus.since(last, 100)[0]
        drained, resumed = (event for event in events if event.type.startswith("device."))
        assert [event.type for event in events][:2] == ["device.drained", "switch.started"]
        assert (drained.fields["unload"], drained.fields["by"]) == (True, "127.0.0.1")
        assert (resumed.type, resumed.fields["by"]) == ("device.resumed", "127.0.0.1")

    async def test_of_a_server_that_dmap_cannot_switch(self, plain: Client) -> None:
        """Where a person has to load the model, the orders are told all the same, also without activation."""
        setting = {"defaultInference": {"topP": 0.9}, "loadConfig": {"contextLength": 8192}}
        _, noted = await plain.post("/admin/models/load", modelKey="m", activate=False, **setting)
        _, activated = await plain.post("/admin/models/load", modelKey="m")
        _, again = await plain.post("/admin/models/activate", modelKey="m")
        _, cleared = await plain.post("/admin/models/unload", modelKey="m")

        assert orders(plain) == [
            ("model.loaded", "m", "by hand", False),
            ("model.loaded", "m", "by hand", False),
            ("model.activated", "m", None, None),
            ("model.activated", "m", None, None),
            ("model.unloaded", "m", "by hand", False),
        ]
        settings = [settings_of(fields) for _, fields in models_told(plain)]
        assert settings == [({"contextLength": 8192}, {"topP": 0.9})] * 5
        assert [each["status"] for each in (noted, activated, again, cleared)] == [
            "noted",
            "activated",
            "activated",
            "cleared",
        ]

    async def test_of_a_load_that_takes_another_out(self, studio: Client) -> None:
        """A model that has to go for an order is told with that order."""
        await studio.chat(OTHER)
        await studio.post("/admin/models/load", modelKey=SMALL)

        (loaded, unloaded, came, _) = models_told(studio)

        assert (loaded[0], unloaded[0], came[0]) == ("model.loaded", "model.unloaded", "model.loaded")
        assert (unloaded[1]["model"], unloaded[1]["reason"]) == (OTHER, "idle")
        assert unloaded[1]["for"] == came[1]["for"] != loaded[1]["for"]

    async def test_what_could_not_be_saved(self, plain: Client, tmp_path: Path) -> None:
        """What is in effect is told, on the disk or not."""
        (tmp_path / "state.json.new").mkdir()

        assert (await plain.post("/admin/models/activate", modelKey="m"))[0] == 500

        assert orders(plain) == [("model.activated", "m", None, None)]


async def test_every_answer_has_a_message(studio: Client) -> None:
    """What was done is said in plain words, whatever was asked."""
    orders = [
        ("models/load", {"modelKey": "tiny"}),
        ("models/load", {"modelKey": SMALL, "activate": False, "loadConfig": {"cpuThreads": 2}}),
        ("models/activate", {"modelKey": SMALL}),
        ("models/activate", {"modelKey": OTHER}),
        ("models/unload", {"modelKey": SMALL}),
        ("drain", {"device": "gpu0", "unload": True}),
        ("resume", {}),
    ]
    answers = [await studio.post(f"/admin/{path}", **order) for path, order in orders]
    answers += [await studio.get("/admin/models"), await studio.get("/admin/queue")]

    assert [told["message"] for _, told in answers] == [
        f"{SMALL!r} is loaded. Requests that name no model get it.",
        f"{SMALL!r} was loaded already. Requests that name no model get it. "
        "Not applied: cpu_threads; load_config says why.",
        f"Requests that name no model get {SMALL!r} from now on, and it is loaded.",
        f"Requests that name no model get {OTHER!r} from now on; the first of them has it loaded.",
        f"{SMALL!r} was unloaded. What was set for it here is forgotten.",
        "'gpu0': nobody is served there until it is resumed; its models go once they are idle.",
        "'gpu0': requests are served again.",
        f"{len(answers[7][1]['models'])} models for this key; requests that name no model get {OTHER!r}.",
        "0 open requests, 0 of them waiting.",
    ]


class TestDrain:
    async def test_a_drained_device_serves_nobody(self, studio: Client, lm: Emulator) -> None:
        """Who comes while a device is drained waits, and is served when it is resumed."""
        await studio.post("/admin/models/load", modelKey=SMALL)
        _, told = await studio.post("/admin/drain", device="gpu0", unload=True)
        await until(lambda: not lm.world.instances)
        asking = asyncio.ensure_future(studio.chat(SMALL))
        await until(lambda: waiters(studio) == 1)
        _, queued = await studio.get("/admin/queue")
        _, ready = await studio.get("/ready")

        _, resumed = await studio.post("/admin/resume")

        assert told["devices"]["gpu0"]["drained"] and not resumed["devices"]["gpu0"]["drained"]
        assert len(queued["waiting"]["gpu0"]) == 1
        assert ready["devices"]["gpu0"]["drained"] is True
        assert (await asking)[0] == 200

    async def test_an_unknown_device(self, studio: Client) -> None:
        """A device that is not there is 400, with those that are."""
        status, told = await studio.post("/admin/drain", device="gpu7")

        assert (status, told["error"]["param"]) == (400, "device")
        assert "gpu0" in told["error"]["message"]


class TestState:
    async def test_it_survives(self, studio: Client, tmp_path: Path) -> None:
        """What was set is on the disk when the answer comes."""
        await studio.post(
            "/admin/models/activate",
            modelKey="tiny",
            defaultInference={"temperature": 0.5},
            loadConfig={"contextLength": 8192},
        )
        await studio.post("/admin/drain")

        assert StateFile(tmp_path / "state.json").read() == Saved(
            active=SMALL,
            models={SMALL: Activation({"temperature": 0.5}, {"context_length": 8192})},
            drained=frozenset({"gpu0"}),
        )

    async def test_a_new_daemon_goes_by_it(self, connect: Connect, lm: Emulator, tmp_path: Path) -> None:
        """A daemon that starts goes by what was set before: active model, load options, drained devices."""
        file = StateFile(tmp_path / "state.json")
        await file.write(Saved(SMALL, {SMALL: Activation({}, {"context_length": 8192})}, frozenset({"gpu0"})))
        client = await connect(
            f"""
            devices: {{gpu0: {{cooldown_s: 0}}}}
            backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
            state: {file.path}
            """
        )
        asking = asyncio.ensure_future(client.chat())
        await until(lambda: waiters(client) == 1)
        assert (await client.get("/admin/queue"))[1]["waiting"]["gpu0"] != []

        await client.post("/admin/resume")

        assert (await asking)[1]["model"] == SMALL
        assert contexts(lm) == [8192]
        assert file.read().drained == frozenset()

    async def test_it_cannot_be_kept(self, plain: Client, tmp_path: Path) -> None:
        """What cannot be saved is in effect all the same, and the answer says how long."""
        (tmp_path / "state.json.new").mkdir()

        status, told = await plain.post("/admin/models/activate", modelKey="m")

        assert (status, told["error"]["code"]) == (500, "not_saved")
        assert plain.proxy.proxy.saved.active == "m"


async def test_the_models(studio: Client) -> None:
    """The list says of each model where it is, what it takes and what is set for it."""
    await studio.post("/admin/models/activate", modelKey=SMALL, defaultInference={"topK": 5})

    _, told = await studio.get("/admin/models")

    [small] = [model for model in told["models"] if model["id"] == SMALL]
    assert told["active"] == SMALL
    assert (small["kind"], small["device"], small["loadable"], small["set_here"]) == (
        "lmstudio",
        "gpu0",
        True,
        True,
    )
    assert small["default_inference"] == {"top_k": 5}


def models_told(client: Client) -> list[tuple[str, dict[str, Any]]]:
    """Return the events so far that are about models."""
    events = client.proxy.proxy.bus.since(0, 1000)[0]
    return [(event.type, dict(event.fields)) for event in events if event.type.startswith("model.")]


def orders(client: Client) -> list[tuple[str, str, str | None, bool | None]]:
    """Return their types, models, reasons, and whether they changed what is loaded."""
    return [
        (kind, fields["model"], fields.get("reason"), fields.get("changed"))
        for kind, fields in models_told(client)
    ]


def settings_of(fields: dict[str, Any]) -> tuple[Any, Any]:
    """Return what was set, for the load and for requests."""
    return fields["loadConfig"], fields["defaultInference"]


def contexts(lm: Emulator) -> list[int]:
    """List the context of each instance that is loaded."""
    return [instance.config["context_length"] for instance in lm.world.instances.values()]


def waiters(client: Client) -> int:
    """Count who waits for a model."""
    return sum(gate.snapshot().waiting for gate in client.proxy.proxy.gates.values())


async def until(done: Callable[[], bool]) -> None:
    """Wait until *done*."""
    await soon(done, HERE_S)
