"""The embedded engine for real: children that load, answer, are unloaded, crash, hang and outlive nobody."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import SubprocessStreamProtocol
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from httptools import HttpResponseParser

from dmap.backends.gguf import engine as program
from dmap.backends.gguf.backend import GGUFBackend
from dmap.backends.gguf.recipe import buffers_by, placed_by, reason_in
from dmap.backends.gguf.section import GGUFSection
from dmap.backends.resident import Resident
from dmap.errors import BackendDown, LoadFailed
from dmap.process import Child
from tests.models import end_token, subjects, tool_call
from tests.projectors import make_projector

LIMIT_S = 60
"""Only a machine that stands still takes that long."""
AT_ONCE_S = 15
"""Sooner than the watch would find out, which asks three times, 10 s apart."""
CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "what is new"}], "max_tokens": 20}


def section(folder: Path, **given: Any) -> GGUFSection:
    """The section of a backend over *folder*."""
    return GGUFSection(kind="gguf", device="gpu0", path=folder, **given)


@pytest.fixture
async def engine(models):
    """A backend, closed at the end, after which no child of it may be left, not even a zombie."""
    backend = GGUFBackend("engine", section(models, parallel=2, threads=1))
    async with asyncio.timeout(LIMIT_S):
        yield backend
        await backend.close()
    assert engines() == []


def engines(parent: int | None = None) -> list[psutil.Process]:
    """Return the engines that *parent* started and has not reaped; zombies count."""
    children = psutil.Process(parent).children()
    return [child for child in children if child.status() == psutil.STATUS_ZOMBIE or is_engine(child)]


def is_engine(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return program.__file__ in process.cmdline()
    return False


async def only_engine(parent: int | None = None) -> psutil.Process:
    """Wait for an engine's process to be there.  It has no name for a moment when the command begins."""
    async with asyncio.timeout(LIMIT_S):
        while len(found := engines(parent)) != 1:
            await asyncio.sleep(0.005)
    return found[0]


async def freeze(process: psutil.Process) -> None:
    """Stop a process, so that nothing but a SIGKILL ends it."""
    process.suspend()
    await until(lambda: process.status() == psutil.STATUS_STOPPED)


STOPS_ITSELF = """
import os, signal, sys
sys.path.remove(os.path.dirname(__file__))
os.kill(os.getpid(), signal.SIGSTOP)
del sys.modules["xllamacpp"]
import xllamacpp
"""
"""Becomes the installed engine once it is let go on; however late its parent is, it is not up before."""


@pytest.fixture
async def stopping(models, tmp_path):
    """Make backends whose engines stop themselves before they load: nothing but a SIGKILL ends them."""
    (tmp_path / "xllamacpp.py").write_text(STOPS_ITSELF)
    given = functools.partial(section, models, threads=1, env={"PYTHONPATH": str(tmp_path)})
    async with contextlib.AsyncExitStack() as stack:

        def make(**more):
            backend = GGUFBackend("engine", given(**more))
            stack.push_async_callback(backend.close)
            return backend

        yield make
    assert engines() == []


async def stopped_engine() -> psutil.Process:
    """Wait for an engine that has stopped itself."""
    process = await only_engine()
    await until(lambda: process.status() == psutil.STATUS_STOPPED)
    return process


async def until(condition):
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Tell whether a process that is not ours to reap has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextlib.asynccontextmanager
async def asking(backend, model, path=CHAT, *, keyless=False, **body):
    target = backend.target(model, path)
    url = f"http://{target.host}:{target.port}{target.path}"
    headers = {} if keyless else dict(target.headers)
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=body) as answer:
        yield answer


async def said(backend, model, **body) -> dict:
    async with asking(backend, model, **{**ASK, **body}) as answer:
        assert answer.status == 200, await answer.text()
        return (await answer.json())["choices"][0]


async def resident(backend) -> list[str]:
    return [model.id for model in await backend.models() if model.resident]


def lines(caplog) -> list[str]:
    """Return what dmap logged."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("dmap")]


# Loading, answering, unloading


async def test_a_loaded_model_answers_in_its_own_words(engine):
    """Each model speaks from its own vocabulary, so one sees who answered."""
    await engine.load("tiny-sea", {})
    await engine.load("tiny-kitchen", {})

    sea = (await said(engine, "tiny-sea", max_tokens=40))["message"]["content"]
    kitchen = (await said(engine, "tiny-kitchen", max_tokens=40))["message"]["content"]

    assert (subjects(sea), subjects(kitchen)) == ({"sea"}, {"kitchen"})
    assert sorted(await resident(engine)) == ["tiny-kitchen", "tiny-sea"]


async def test_an_engine_tells_of_its_load_and_then_of_errors_alone(engine, caplog):
    """What llama.cpp says of a load is kept, not what it says of each request; our own log has none of it."""
    loaded = await engine.load("tiny-sea", {})
    await said(engine, "tiny-sea")

    await engine.unload("tiny-sea")

    told = "".join(engine.log("tiny-sea").since(0))
    assert (" model buffer size = " in told, "print_timing" in told) == (True, False)
    assert loaded.placed == "CPU"
    assert loaded.buffers_bytes is not None
    assert 0.9 * loaded.size_bytes < loaded.buffers_bytes < loaded.size_bytes + 64 * 2**20
    assert not [line for line in lines(caplog) if line.startswith("engine_says")]


async def test_the_environment_of_the_engines(models):
    """A backend's `env` is put into that of its engines, beside what dmap itself has, but for secrets."""
    backend = GGUFBackend("engine", section(models, env={"CUDA_VISIBLE_DEVICES": "1"}))
    try:
        await backend.load("tiny-sea", {})
        environment = (await only_engine()).environ()
    finally:
        await backend.close()

    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("lines", "placed"),
    [
        (
            [
                "0.1 I prepare_model_devices: using device CUDA0 (A card (big)) (0000:01:00.0) - 9 MiB free",
                "0.1 I prepare_model_devices: using device CUDA1 (NVIDIA L4) (unknown id) - 9 MiB free",
                "0.00.2 I load_tensors: offloaded 3/33 layers to GPU",
            ],
            "3/33 layers on CUDA0 (A card (big)), CUDA1 (NVIDIA L4)",
        ),
        (["0.00.1 I load_tensors:   CPU_Mapped model buffer size =     0.29 MiB"], "CPU"),
        (["READY 4711"], None),
    ],
    ids=["two cards", "none", "not told"],
)
def test_where_a_model_computes(lines, placed):
    """llama.cpp's own lines tell the devices and the layers."""
    assert placed_by(lines) == placed


async def test_an_unloaded_model_is_gone_and_reaped(engine):
    """When unload returns there is no process, no resident and no target any more."""
    await engine.load("tiny-sea", {})

    await engine.unload("tiny-sea")

    assert engines() == []
    assert await resident(engine) == []
    with pytest.raises(BackendDown, match="not resident"):
        engine.target("tiny-sea", CHAT)


async def test_what_a_resident_held(engine, uncollected):
    """What a resident held, as its key, is freed with it, and not some day by the collector."""
    kinds = (Resident, Child, SubprocessStreamProtocol, HttpResponseParser)
    await engine.load("tiny-sea", {})
    assert {type(one) for one in uncollected(*kinds)} == {Resident, Child, SubprocessStreamProtocol}

    await engine.unload("tiny-sea")

    await until(lambda: uncollected(*kinds) == [])


async def test_load_and_unload_may_be_repeated(engine):
    """Loading a resident starts nothing, unloading an absent model ends nothing."""
    first = await engine.load("tiny-sea", {})
    process = await only_engine()

    assert await engine.load("tiny-sea", {}) == first
    assert engines() == [process]
    await engine.unload("tiny-sea")
    await engine.unload("tiny-sea")
    await engine.unload("never-heard-of")


async def test_loads_at_once_start_one_child(engine):
    """Two loads of one model end with the same single child."""
    one, two = await asyncio.gather(engine.load("tiny-sea", {}), engine.load("tiny-sea", {}))

    assert one == two
    assert len(engines()) == 1


async def test_a_load_tells_what_it_gives(engine):
    """No model gets more context than it was trained for, and each request can have all that is told."""
    loaded = await engine.load("tiny-sea", {"context_length": 100_000})

    assert (loaded.context_length, loaded.parallel) == (2048, 2)
    long = {"messages": [{"role": "user", "content": " keel" * 1900}], "max_tokens": 1}
    async with asking(engine, "tiny-sea", **long) as one, asking(engine, "tiny-sea", **long) as two:
        assert (one.status, two.status) == (200, 200)


async def test_a_smaller_context_is_kept(engine):
    """A prompt beyond the asked-for context is refused, not cut."""
    loaded = await engine.load("tiny-sea", {"context_length": 512, "flash_attention": False})

    assert loaded.context_length == 512
    async with asking(engine, "tiny-sea", messages=[{"role": "user", "content": " keel" * 600}]) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "exceed_context_size_error"


@pytest.mark.parametrize(
    ("lines", "mib"),
    [
        (
            [
                "0.1 I load_tensors:   CPU_Mapped model buffer size =   150.00 MiB",
                "0.1 I load_tensors:        CUDA0 model buffer size =  4000.50 MiB",
                "0.1 I load_tensors:        CUDA1 model buffer size =  3000.00 MiB",
                "0.1 I llama_context:  CUDA_Host  output buffer size =     0.50 MiB",
                "0.1 I llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB",
                "0.1 I llama_kv_cache:      CUDA0 KV buffer size =    64.00 MiB",
                "0.1 I sched_reserve:      CUDA0 compute buffer size =   300.00 MiB",
                "0.1 I sched_reserve:      CUDA0 compute buffer size =   320.00 MiB",
                "0.1 I sched_reserve:  CUDA_Host compute buffer size =    16.00 MiB",
            ],
            4000.5 + 3000 + 512 + 64 + 320,
        ),
        (
            [
                "0.1 I load_tensors:   CPU_Mapped model buffer size =     0.25 MiB",
                "0.1 I llama_kv_cache:        CPU KV buffer size =     0.50 MiB",
            ],
            0.75,
        ),
    ],
)
def test_what_it_says_that_it_took(lines, mib):
    """What counts are the buffers on GPUs, each cache, and of what is computed in the last that was made."""
    assert buffers_by(lines) == mib * 2**20
    assert buffers_by(["0.1 I srv: nothing of buffers"]) is None


async def test_models_tells_size_and_context(engine, models):
    """A model's size is its file and the cache of all its requests; a resident's is what it was given."""
    await engine.load("tiny-sea", {"context_length": 512})

    listed = {model.id: model for model in await engine.models()}

    cache_bytes = 2 * 2 * (16 + 16) * 2
    sea = (models / "tiny-sea.gguf").stat().st_size
    assert listed["tiny-sea"].size_bytes == sea + cache_bytes * 512 * 2
    assert listed["tiny-sea"].context_length == 512
    assert (listed["tiny-brief"].context_length, listed["tiny-brief"].parallel) == (2048, 2)
    assert [model for model in listed if listed[model].embedding] == ["tiny-embed"]


async def test_models_tells_what_a_load_would_give(engine):
    """Before a load a model has the size and context of its own load options, whatever the others have."""
    engine.contexts = {"tiny-sea": 512, "tiny-kitchen": 100_000}

    before = {model.id: model for model in await engine.models()}
    for model, asked in engine.contexts.items():
        await engine.load(model, {"context_length": asked})
    after = {model.id: model for model in await engine.models()}

    for model, given in {"tiny-sea": 512, "tiny-kitchen": 2048, "tiny-brief": 2048}.items():
        assert before[model].context_length == after[model].context_length == given
        assert before[model].size_bytes == after[model].size_bytes


async def test_contexts_may_come_with_the_backend(models):
    """The contexts that a backend is made with count from its first look."""
    backend = GGUFBackend("engine", section(models))
    backend.contexts = {"tiny-sea": 512}

    listed = {model.id: model.context_length for model in await backend.models()}

    assert (listed["tiny-sea"], listed["tiny-kitchen"]) == (512, 2048)


async def test_a_cut_context_is_logged(engine, caplog):
    """A load that gives less context than it was asked for says so in one line; a default is no wish."""
    await engine.load("tiny-sea", {"context_length": 100_000})
    await engine.load("tiny-kitchen", {})
    await engine.load("tiny-brief", {"context_length": 2048})

    assert lines(caplog) == ["context_cut model=tiny-sea asked=100000 given=2048"]


async def test_a_request_without_the_key_is_refused(engine):
    """A child answers nobody but who was given its key."""
    await engine.load("tiny-sea", {})

    async with asking(engine, "tiny-sea", keyless=True, **ASK) as answer:
        assert answer.status == 401


async def test_children_have_ports_and_keys_of_their_own(engine):
    """No two children share a port or a key, and a model loaded again gets another key."""
    await engine.load("tiny-sea", {})
    await engine.load("tiny-kitchen", {})
    sea, kitchen = engine.target("tiny-sea", CHAT), engine.target("tiny-kitchen", CHAT)
    await engine.unload("tiny-sea")
    await engine.load("tiny-sea", {})

    keys = {sea.headers, kitchen.headers, engine.target("tiny-sea", CHAT).headers}
    assert len(keys) == 3
    assert sea.port != kitchen.port


async def test_a_model_may_stop_by_itself(engine):
    """A model that is made to draw the end of a turn now and then ends its answers before any limit does."""
    await engine.load("tiny-brief", {})
    bias = [[end_token("tiny-brief"), 32]]

    choice = await said(engine, "tiny-brief", seed=1, max_tokens=500, logit_bias=bias)

    assert choice["finish_reason"] == "stop"


async def test_a_tool_is_called(engine):
    """A tiny model makes a whole tool call when it is steered to."""
    await engine.load("tiny-kitchen", {})

    choice = await said(engine, "tiny-kitchen", **tool_call("tiny-kitchen"), max_tokens=200)

    call = choice["message"]["tool_calls"][0]["function"]
    assert (choice["finish_reason"], call["name"]) == ("tool_calls", "weather")
    assert list(json.loads(call["arguments"])) == ["city"]


async def test_tools_may_be_offered_in_vain(engine):
    """A request that only offers tools is answered like any other."""
    await engine.load("tiny-kitchen", {})

    choice = await said(engine, "tiny-kitchen", tools=tool_call("tiny-kitchen")["tools"])

    assert choice["message"]["content"]


@pytest.mark.parametrize("model", ["tiny-embed", "tiny-kitchen"])
async def test_chat_models_embed_too(engine, model):
    """Embeddings work on models made for them and on chat models alike, longer than one batch too."""
    await engine.load(model, {})

    async with asking(engine, model, "/v1/embeddings", input=["a stew", "the soup " * 300]) as answer:
        assert answer.status == 200
        vectors = [item["embedding"] for item in (await answer.json())["data"]]
    assert [len(vector) for vector in vectors] == [len(vectors[0])] * 2
    assert vectors[0] != vectors[1]


# Options of a load


async def test_every_option_goes_through(engine):
    """An engine starts with every option that it takes, and answers."""
    options = {
        "context_length": 512,
        "flash_attention": False,
        "eval_batch_size": 64,
        "offload_kv_cache_to_gpu": False,
        "gpu_layers": 1,
        "cpu_threads": 1,
        "rope_frequency_base": 10000.0,
        "rope_frequency_scale": 1.0,
    }
    loaded = await engine.load("tiny-sea", options)

    assert loaded.context_length == 512
    assert await said(engine, "tiny-sea")


async def test_a_resident_satisfies_its_own_options_only(engine):
    """A model that was loaded with other options is not as it is asked for."""
    await engine.load("tiny-sea", {"context_length": 512})

    assert engine.satisfies("tiny-sea", {"context_length": 512})
    assert not engine.satisfies("tiny-sea", {"context_length": 256})
    assert not engine.satisfies("tiny-sea", {})
    assert not engine.satisfies("tiny-kitchen", {})


# Loads that fail


async def test_a_missing_file_is_named(engine, models):
    """A load of what the folder does not hold says where it looked."""
    with pytest.raises(LoadFailed, match=f"'../secret'.*{models}"):
        await engine.load("../secret", {})


async def broken(tmp_path: Path, content: bytes) -> str:
    (tmp_path / "broken.gguf").write_bytes(content)
    backend = GGUFBackend("engine", section(tmp_path))
    with pytest.raises(LoadFailed) as caught:
        await backend.load("broken", {})
    [model] = await backend.models()
    assert (model.id, model.resident) == ("broken", False)
    await backend.close()
    assert engines() == []
    return caught.value.message


async def test_a_file_of_another_kind_is_told(tmp_path):
    """A file that is no GGUF file fails with llama.cpp's own words."""
    assert "invalid magic characters" in await broken(tmp_path, b"<html>not found</html>")


async def test_a_truncated_file_is_told(tmp_path, models):
    """A download that stopped halfway fails with llama.cpp's own words."""
    whole = (models / "tiny-sea.gguf").read_bytes()

    assert "corrupted or incomplete" in await broken(tmp_path, whole[:200_000])


async def test_a_truncated_header_is_told(tmp_path, models):
    """A file that ends within its header fails with llama.cpp's own words."""
    whole = (models / "tiny-sea.gguf").read_bytes()

    assert "failed to read key-value pairs" in await broken(tmp_path, whole[:3000])


async def test_what_is_found_is_told_once(tmp_path, models, caplog):
    """A line says how many models there are, another one when that changes; what is left out has its own."""
    caplog.set_level("INFO")
    (tmp_path / "a.gguf").symlink_to(models / "tiny-sea.gguf")
    backend = GGUFBackend("engine", section(tmp_path))
    await backend.models()
    await backend.models()
    (tmp_path / "b-00001-of-00002.gguf").symlink_to(models / "tiny-sea.gguf")
    await backend.models()
    await backend.models()

    part = f"{tmp_path}/b-00001-of-00002.gguf"
    assert lines(caplog) == [
        f"models_found backend=engine models=1 skipped=0 path={tmp_path}",
        f'model_skipped backend=engine path={part} reason="1 of its 2 parts are there"',
        f"models_found backend=engine models=1 skipped=1 path={tmp_path}",
    ]


async def test_an_empty_folder_is_a_warning(tmp_path, caplog):
    """Who has named the wrong folder is told what was looked for."""
    caplog.set_level("INFO")

    await GGUFBackend("engine", section(tmp_path)).models()

    [record] = [each for each in caplog.records if each.name.startswith("dmap")]
    assert record.levelname == "WARNING"
    assert "models=0" in record.getMessage() and "NAME.gguf" in record.getMessage()


async def test_eyes_that_come_later_take_another_load(tmp_path, models):
    """A resident without the projector that came since is blind still, and is not as it is asked for."""
    (tmp_path / "tiny-sea.gguf").symlink_to(models / "tiny-sea.gguf")
    backend = GGUFBackend("engine", section(tmp_path, threads=1))
    await backend.load("tiny-sea", {})
    assert backend.satisfies("tiny-sea", {})

    make_projector(tmp_path / "mmproj-tiny-sea.gguf", 64)
    assert [model.vision for model in await backend.models()] == [False]
    assert not backend.satisfies("tiny-sea", {})

    await backend.unload("tiny-sea")
    await backend.load("tiny-sea", {})
    assert [model.vision for model in await backend.models()] == [True]
    assert backend.satisfies("tiny-sea", {})
    await backend.close()


async def test_an_unknown_architecture_is_tried_once(tmp_path, models):
    """What the engine does not know it is not asked for again: the next check says so."""
    whole = (models / "tiny-sea.gguf").read_bytes()
    name = b"\5\0\0\0\0\0\0\0"
    (tmp_path / "new.gguf").write_bytes(whole.replace(name + b"llama", name + b"lxama", 1))
    backend = GGUFBackend("engine", section(tmp_path, threads=1))
    await backend.check("new")
    with pytest.raises(LoadFailed, match="unknown model architecture"):
        await backend.load("new", {})

    with pytest.raises(LoadFailed, match="'lxama' is unknown to the engine"):
        await backend.check("new")
    await backend.close()


async def test_a_missing_folder_is_backend_down(tmp_path):
    """Without its folder the backend has no answer."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    backend = GGUFBackend("engine", section(folder))
    folder.rmdir()

    with pytest.raises(BackendDown, match="nowhere"):
        await backend.models()


async def test_a_missing_folder_does_not_hide_residents(tmp_path, models):
    """While the folder cannot be read residents are listed as before; without any nothing is."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("tiny-embed.gguf", "tiny-sea.gguf"):
        (folder / name).symlink_to(models / name)
    backend = GGUFBackend("engine", section(folder, threads=1))
    await backend.load("tiny-embed", {})
    before = {model.id: model for model in await backend.models()}
    folder.rename(tmp_path / "elsewhere")

    assert await backend.models() == [before["tiny-embed"]]
    await backend.unload("tiny-embed")
    with pytest.raises(BackendDown, match="cannot read the model folder"):
        await backend.models()
    await backend.close()


async def test_a_child_killed_while_loading_fails_the_load(engine):
    """A child that dies before it is ready is a failed load, told with its exit status, and forgotten."""
    load = asyncio.create_task(engine.load("slow", {}))
    (await only_engine()).kill()

    with pytest.raises(LoadFailed, match="status -9"):
        await load
    assert engines() == []
    assert (await engine.load("slow", {})).context_length == 2048


async def test_a_cancelled_load_leaves_nothing_behind(engine):
    """When a cancelled load returns its child is reaped, and the model can be loaded again."""
    load = asyncio.create_task(engine.load("slow", {}))
    await only_engine()

    load.cancel()

    with pytest.raises(asyncio.CancelledError):
        await load
    assert engines() == []
    assert await resident(engine) == []
    await engine.load("slow", {})


@pytest.mark.parametrize(
    "moment_s", [0, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.04, 0.06]
)
async def test_a_load_can_be_cancelled_at_any_moment(engine, moment_s):
    """There is no moment in which cancelling a load loses its child."""
    load = asyncio.create_task(engine.load("tiny-sea", {}))
    await asyncio.wait([load], timeout=moment_s)

    load.cancel()

    await asyncio.wait([load])
    assert engines() == [] or await resident(engine) == ["tiny-sea"]


async def test_a_load_that_hangs_is_bounded(stopping):
    """A child that says nothing for load_s is killed, and the message names the bound."""
    backend = stopping(load_s=2)

    with pytest.raises(LoadFailed, match="load_s is 2"):
        await backend.load("slow", {})
    assert engines() == []


async def test_an_unload_ends_a_load(stopping):
    """Unloading a loading model fails its load at once, even when SIGTERM does not reach the child."""
    backend = stopping()
    load = asyncio.create_task(backend.load("slow", {}))
    await stopped_engine()

    await backend.unload("slow")

    assert engines() == []
    with pytest.raises(LoadFailed, match="unloaded meanwhile"):
        await load


async def test_close_ends_loads_and_residents(engine):
    """After close there is no child, nothing is loaded any more, and closing again does nothing."""
    await engine.load("tiny-sea", {})
    load = asyncio.create_task(engine.load("slow", {}))
    await until(lambda: len(engines()) == 2)

    await engine.close()

    assert engines() == []
    with pytest.raises(LoadFailed):
        await load
    with pytest.raises(BackendDown, match="closed"):
        await engine.load("tiny-sea", {})
    await engine.close()


# Children and parents that die


async def test_a_child_killed_mid_stream_is_noticed_at_once(engine, caplog):
    """A resident that dies by itself is forgotten, told to the gate once, and logged in one line."""
    told = asyncio.Event()
    engine.changed = told.set
    await engine.load("slow", {})
    async with asking(engine, "slow", **{**ASK, "max_tokens": 2000}, stream=True) as answer:
        assert (await answer.content.readline()).startswith(b"data: ")

        (await only_engine()).kill()

        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    await asyncio.wait_for(told.wait(), AT_ONCE_S)
    assert await resident(engine) == []
    assert engines() == []
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("dmap")]
    assert "model=slow" in line and "status=-9" in line
    await engine.load("slow", {})


async def test_a_doubted_child_is_asked(engine):
    """One that is ending is not listed any more, though nobody was told of its end; one that lives is."""
    await engine.load("tiny-sea", {})
    engine.doubt("tiny-sea")
    engine.doubt("tiny-kitchen")
    before = await resident(engine)

    engines()[0].kill()
    engine.doubt("tiny-sea")

    assert (before, await resident(engine), engines()) == (["tiny-sea"], [], [])


async def test_a_child_that_loads_is_not_doubted(stopping):
    """A request that was meant for the copy before it says nothing of it."""
    backend = stopping()
    load = asyncio.create_task(backend.load("slow", {}))
    process = await stopped_engine()

    backend.doubt("slow")
    assert await resident(backend) == []

    process.resume()
    assert (await load).context_length == 2048


async def test_an_unload_is_no_death(engine, caplog):
    """Neither the gate nor the log hears of a child that was told to end."""
    told = asyncio.Event()
    engine.changed = told.set
    await engine.load("tiny-sea", {})

    await engine.unload("tiny-sea")

    assert not told.is_set()
    assert [record for record in caplog.records if record.name.startswith("dmap")] == []


async def test_a_death_is_one_line_whatever_the_name(tmp_path, models, caplog):
    """A model's name cannot forge a line of the log."""
    (tmp_path / "two lines=x.gguf").symlink_to(models / "tiny-sea.gguf")
    backend = GGUFBackend("engine", section(tmp_path, threads=1))
    told = asyncio.Event()
    backend.changed = told.set
    await backend.load("two lines=x", {})

    (await only_engine()).kill()

    await asyncio.wait_for(told.wait(), AT_ONCE_S)
    [line] = lines(caplog)
    assert line.startswith('engine_died model="two lines=x" pid=') and "\n" not in line
    await backend.close()


# Children that hang


@contextlib.asynccontextmanager
async def watched(models, health_s):
    """A backend that asks its children often, and the event of its `changed`."""
    backend = GGUFBackend("engine", section(models, parallel=2, threads=1), health_s=health_s)
    told = asyncio.Event()
    backend.changed = told.set
    try:
        async with asyncio.timeout(LIMIT_S):
            yield backend, told
    finally:
        await backend.close()
    assert engines() == []
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("watch")] == []


async def test_a_hung_child_is_killed(models, caplog):
    """A resident that answers no more is killed, told to the gate and the log; the others are left alone."""
    async with watched(models, 1) as (backend, told):
        await backend.load("tiny-sea", {})
        hung = await only_engine()
        await backend.load("tiny-kitchen", {})
        hung.suspend()

        await told.wait()

        assert await resident(backend) == ["tiny-kitchen"]
        assert is_gone(hung.pid)
        [why, end] = lines(caplog)
        assert why == f"engine_hung backend=engine model=tiny-sea pid={hung.pid} misses=3"
        assert end.startswith(f"engine_died model=tiny-sea pid={hung.pid} status=-9")
        await backend.load("tiny-sea", {})


async def test_a_child_that_stumbles_lives(models, monkeypatch, caplog):
    """Questions without an answer count only in a row, for each child of its own."""
    answers = []

    async def stumbling(one, within_s):
        answers.append(len(answers) % 3 == 2)
        return answers[-1]

    monkeypatch.setattr(Resident, "says_anything", stumbling)
    async with watched(models, 0.01) as (backend, told):
        await backend.load("tiny-sea", {})
        await until(lambda: len(answers) > 12)

        assert await resident(backend) == ["tiny-sea"]
        assert not told.is_set() and lines(caplog) == []


async def test_a_busy_child_is_not_hung(models, monkeypatch, caplog):
    """A child that computes on all its slots, and has more waiting, answers its watch all the while."""
    asked = []

    async def counting(one, within_s, says_anything=Resident.says_anything):
        asked.append(one.server)
        return await says_anything(one, within_s)

    async def ask(number):
        while len(asked) < 6:
            await said(backend, "slow", messages=[{"role": "user", "content": f"{number}" + " stew" * 300}])

    monkeypatch.setattr(Resident, "says_anything", counting)
    async with watched(models, 1) as (backend, told):
        await backend.load("slow", {})

        await asyncio.gather(*map(ask, range(3)))

        assert not told.is_set() and lines(caplog) == []


async def test_the_watch_is_the_backends_own(models):
    """There is one watch however often it is started, none after close, and it ends while it waits."""

    def watches():
        return [task for task in asyncio.all_tasks() if task.get_name() == "watch engine"]

    async with watched(models, 60) as (backend, _):
        assert watches() == []
        backend.start()
        backend.start()
        await backend.load("tiny-sea", {})
        assert len(watches()) == 1
    backend.start()
    assert watches() == []


PARENT = """
import asyncio, sys, uvloop
from pathlib import Path
from dmap.backends.gguf.backend import GGUFBackend
from dmap.backends.gguf.section import GGUFSection
from dmap.backends.resident import Resident

async def main():
    section = GGUFSection(kind="gguf", device="gpu0", path=Path(sys.argv[1]), threads=1)
    backend = GGUFBackend("engine", section)
    await backend.load("slow", {})
    sys.stdout.write("loaded\\n")
    sys.stdout.flush()
    await asyncio.Event().wait()

uvloop.run(main())
"""


@pytest.fixture
def parent(models):
    command = [sys.executable, "-c", PARENT, str(models)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


async def test_children_end_with_a_killed_parent(parent):
    """A SIGKILL of the daemon leaves no engine behind."""
    assert await asyncio.to_thread(parent.stdout.readline) == "loaded\n"
    child = (await only_engine(parent.pid)).pid

    parent.kill()

    await until(lambda: is_gone(child))


async def test_a_loading_child_ends_with_a_killed_parent(parent):
    """A child that cannot run any code of its own ends with its parent all the same."""
    child = await only_engine(parent.pid)
    await until(lambda: maps(child.pid, "slow.gguf"))
    await freeze(child)

    parent.kill()

    await until(lambda: is_gone(child.pid))


def maps(pid: int, name: str) -> bool:
    return name in Path(f"/proc/{pid}/maps").read_text()


async def test_a_child_inherits_no_files(engine, tmp_path):
    """A child gets nothing that its parent has open, not even what is marked inheritable."""
    with (tmp_path / "mine").open("w") as mine:
        os.set_inheritable(mine.fileno(), True)
        await engine.load("tiny-sea", {})
        files = [os.readlink(path) for path in Path(f"/proc/{(await only_engine()).pid}/fd").iterdir()]

    assert str(tmp_path / "mine") not in files


async def test_a_child_inherits_no_secrets(engine, monkeypatch):
    """What is named like a secret stays here, in any case of letters; all else goes along."""
    for name in ("HF_TOKEN", "my_api_key", "DMAP_SECRET_1", "DbPassword", "DMAP_ENGINE_KEY"):
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("DMAP_PLAIN", "said")
    await engine.load("tiny-sea", {})

    told = Path(f"/proc/{(await only_engine()).pid}/environ").read_bytes().split(b"\0")

    assert b"DMAP_PLAIN=said" in told
    assert [line for line in told if b"hush" in line] == []
    assert len([line for line in told if line.startswith(b"DMAP_ENGINE_KEY=")]) == 1


async def test_a_child_is_out_of_reach_of_the_terminal(engine):
    """A child is in a session of its own, where Ctrl-C and a closed terminal do not get at it."""
    await engine.load("tiny-sea", {})

    assert os.getsid((await only_engine()).pid) != os.getsid(0)


def test_all_of_it_works_on_plain_asyncio(models):
    """Python's own loop loads, answers, unloads, cancels and notices a death as uvloop does."""

    async def main():
        backend = GGUFBackend("engine", section(models, threads=1))
        told = asyncio.Event()
        backend.changed = told.set
        cancelled = asyncio.create_task(backend.load("slow", {}))
        await only_engine()
        cancelled.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cancelled
        assert engines() == []
        await backend.load("tiny-sea", {})
        await said(backend, "tiny-sea")
        os.kill((await only_engine()).pid, signal.SIGKILL)
        await told.wait()
        await backend.load("tiny-sea", {})
        await backend.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))

    assert engines() == []


# The last words


def test_the_reason_is_the_first_error():
    """The cause is told, not the functions that failed for it."""
    lines = [
        "0.00.001.000 E gguf_init_from_reader: invalid magic characters: 'hell', expected 'GGUF'",
        "0.00.001.100 E llama_model_load: error loading model: loader: failed to load model from x",
        "0.00.001.200 E srv    load_model: failed to load model, 'x'",
        "dmap.engine: Failed to init server, please check the input params.",
    ]

    assert reason_in(lines) == "invalid magic characters: 'hell', expected 'GGUF'"


def test_the_reason_is_the_last_line_without_an_error():
    """A child that dies of something unknown is quoted."""
    assert reason_in(["one", "two"]) == "two"
    assert reason_in([]) == ""


def test_what_each_load_says_is_no_reason():
    """What llama.cpp says without an error is never quoted, what came after it is."""
    load = ["0.00.1 I srv init: example_format: '<|im_start|>system", "Hello", "0.00.2 I srv init: listening"]

    assert reason_in(load) == ""
    assert reason_in([*load, "terminate called"]) == "terminate called"
