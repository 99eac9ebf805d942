"""What backends have, asked without a daemon, and what of the file fits none of it."""

import asyncio

from aiohttp import web

from dmap.config import Config, parse
from dmap.models import ModelInfo
from dmap.survey import Survey, kind_of_server, survey, warnings_of_models
from tests.fakes import FakeBackend
from tests.lmstudio_emulator import emulator

TWO = """
backends: {a: {kind: openai, url: 'http://h:1'}, b: {kind: openai, url: 'http://h:2'}}
allow_models: ['qwen*', 'gpt-*']
models: {qwen3: {}, llama: {backend: a}}
"""
QWEN = [ModelInfo("qwen3-8b", resident=True)]


def of(url: str, kind: str = "openai") -> Config:
    """Return a configuration with one backend at *url*."""
    device = ", device: g" if kind == "lmstudio" else ""
    return parse(f"devices: {{g: {{}}}}\nbackends: {{server: {{kind: {kind}, url: '{url}'{device}}}}}", {})


async def test_a_server_that_answers_and_one_that_does_not(backend: FakeBackend) -> None:
    """What one has is known whether another one answers or not."""
    text = f"backends: {{a: {{kind: openai, url: '{backend.url}'}}, b: {{kind: openai, url: 'http://127.0.0.1:9'}}}}"

    found = await survey(parse(text, {}), ["a", "b"])

    assert [info.id for info in found.reports["a"]] == ["m"]
    assert found.silent == {"b": "the backend 'b' does not list its models: connection refused"}


async def test_one_that_says_nothing(backend: FakeBackend) -> None:
    """A server that takes the question and never answers is not waited for."""
    backend.hangs = True

    found = await survey(of(backend.url), ["server"], within_s=0.05)

    assert found.silent == {"server": "the backend 'server' does not answer within 0.05 s"}


async def test_commands_are_not_asked() -> None:
    """Of commands the file says what there is: nothing is started, and nothing is stopped."""
    models = "models: {m: {backend: box, cmd: /no, stop: /no}}"
    text = f"devices: {{g: {{}}}}\nbackends: {{box: {{kind: process, device: g}}}}\n{models}"

    found = await survey(parse(text, {}), ["box"])

    assert [info.id for info in found.reports["box"]] == ["m"]


async def test_the_kind_of_a_server(backend: FakeBackend) -> None:
    """An LM Studio is told from other servers by what it answers; where nobody answers nothing is known."""
    async with emulator() as studio:
        url = studio.url
        assert await kind_of_server(lambda kind: of(url, kind)) == "lmstudio"
    assert await kind_of_server(lambda kind: of(backend.url, kind)) == "openai"
    assert await kind_of_server(lambda kind: of("http://127.0.0.1:9", kind)) is None


async def test_a_slow_lm_studio() -> None:
    """A server that is late with what only an LM Studio knows is of no kind: it may be one."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def silent(_: web.Request) -> web.Response:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.get("/{other:.*}", silent)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    found = await kind_of_server(lambda kind: of(url, kind), within_s=0.5)

    await runner.cleanup()
    assert found is None


def test_what_nobody_has() -> None:
    """A model that is on no list, and a list that fits no model, are told with what is like them."""
    found = Survey({"a": QWEN, "b": QWEN})

    assert [*warnings_of_models(parse(TWO, {}), found)] == [
        "models.qwen3: no backend lists this model; did you mean qwen3-8b?",
        "models.llama: the backend 'a' does not list this model",
        "allow_models[1]: fits no model that there is",
    ]


def test_who_is_silent_may_have_it() -> None:
    """Where a backend could not be asked, it may be the one that has a model; the others are judged."""
    found = Survey({"a": QWEN}, {"b": "gone"})

    assert [*warnings_of_models(parse(TWO, {}), found)] == [
        "backends.b: could not be asked what models it has: gone",
        "models.llama: the backend 'a' does not list this model",
    ]


def test_a_server_that_keeps_no_list() -> None:
    """A server without a list may have any model that the file says is there."""
    text = "backends: {a: {kind: openai, url: 'http://h'}}\nmodels: {llama: {backend: a}}"

    assert [*warnings_of_models(parse(text, {}), Survey({"a": []}))] == []


def test_variants_and_globs_of_nobody() -> None:
    """A variant without its model is told, and a glob that fits none; keys may name variants."""
    text = """
backends: {a: {kind: openai, url: 'http://h:1'}}
models: {'qwen*': {defaults: {seed: 1}}, 'gpt-*': {}, v: {of: qwen3-8b}, w: {of: qwne3-8b}}
allow_models: ['qwen*', v]
"""

    warned = warnings_of_models(parse(text, {}), Survey({"a": QWEN}, {}))

    assert list(warned) == [
        "models.w.of: no backend lists this model; did you mean qwen3-8b?",
        "models.gpt-*: fits no model that there is",
    ]


def test_names_at_devices_that_no_server_has() -> None:
    """A list of residents, or what is to be there from the start, may name what only a server knows."""
    text = """
devices: {g: {together: [[qwen3-8b, qwne3-8b]], preload: [qwen3-8b, c, nobody]}}
backends: {e: {kind: lmstudio, url: 'http://h:1', device: g}, box: {kind: process, device: g}}
models: {qwen3-8: {aliases: [c]}}
"""

    warned = warnings_of_models(parse(text, {}), Survey({"e": QWEN, "box": []}))

    assert list(warned) == [
        "backends.box: no model found there",
        "models.qwen3-8: no backend lists this model; did you mean qwen3-8b?",
        "devices.g.together[0]: no model here is called 'qwne3-8b'; did you mean qwen3-8b?",
        "devices.g.preload: no model here is called 'nobody'",
    ]
