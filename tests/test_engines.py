"""The engines of this installation: what `check-config`, the start and `/ready` make of them."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil
import pytest

from dmap.backends import Engine
from dmap.backends.gguf.look import LOOK_S
from dmap.config import ConfigProblem, parse
from dmap.engines import look_at, said, warnings_of
from dmap.extras import how
from tests.fakes import chat
from tests.process import daemon

EXTRA = ("xllamacpp", "gguf", "numpy")
NOT_INSTALLED = f"the engine is not installed; {how('engine')}"
ON_CPU = Engine("xllamacpp 1", ("CPU (Some CPU, 8.0 GiB)",))
ON_GPU = Engine("xllamacpp 1", ("CUDA0 (Some card, 24.0 GiB)",), on_gpu=True)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """Make a venv with all that this one has but the extra `engine`; return its interpreter."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    (into,) = folder.glob("lib/python*/site-packages")
    here = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    for package in here.iterdir():
        if not package.name.startswith(EXTRA):
            (into / package.name).symlink_to(package)
    return folder / "bin" / "python"


def config(folder: Path, count: int = 1, more: str = "") -> str:
    backends = "".join(f"  engine{at}: {{kind: gguf, path: {folder}, device: gpu0}}\n" for at in range(count))
    return f"devices: {{gpu0: {{}}}}\nbackends:\n{backends}{more}"


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(config(tmp_path))
    return path


def dmap(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "dmap", *map(str, arguments)]
    environment = {**os.environ, "STATE_DIRECTORY": "/nonexistent"}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)


# An installation without the extra


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_not_installed(bare, written, command):
    """An engine that is not installed is a wrong configuration, told in one sentence with what to type."""
    ended = dmap(bare, command, written)

    assert ended.stderr == f"{written}:3:3: backends.engine0: {NOT_INSTALLED}\n"
    assert (ended.returncode, ended.stdout) == (78, "")


def test_the_demo_is_not_installed(bare):
    """The demo says the same."""
    ended = dmap(bare, "demo", "--port", 0)

    assert ended.stderr == f"dmap: the demo takes numpy; {how('engine')}\n"
    assert (ended.returncode, ended.stdout) == (78, "")


def test_not_needed(bare, tmp_path):
    """Who has no backend that takes an engine needs none."""
    (tmp_path / "config.yaml").write_text("backends: {far: {kind: openai, url: 'http://127.0.0.1:9'}}")

    ended = dmap(bare, "check-config", tmp_path / "config.yaml")

    assert (ended.returncode, ended.stdout) == (0, f"{tmp_path}/config.yaml: ok\n")
    assert "engine" not in ended.stderr


# What they say


def test_check_config_tells_the_device(written):
    """`check-config` says which engine there is and what it computes on."""
    ended = dmap(Path(sys.executable), "check-config", written)

    first, last = ended.stdout.splitlines()
    assert first.startswith("backends.engine0: xllamacpp 202") and ", device: CPU (" in first
    assert first.endswith("; it sees no GPU (docs/gpu.md)") and last == f"{written}: ok"
    assert (ended.returncode, ended.stderr.count("engine0")) == (0, 1)
    assert ": warning: backends.engine0: no model found there\n" in ended.stderr


async def test_all_that_are_wrong(tmp_path, monkeypatch):
    """Each backend whose engine cannot run is told, not only the first."""
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('no libcuda.so.1')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(ConfigProblem) as caught:
        await look_at(parse(config(tmp_path, 2), {}))

    why = "the engine cannot be imported (no libcuda.so.1); docs/gpu.md tells which build fits this host"
    assert caught.value.problems == [f"backends.engine{at}: {why}" for at in (0, 1)]


def test_said():
    """A GPU is named; that there is none is said, too."""
    assert said(ON_GPU) == "xllamacpp 1, device: CUDA0 (Some card, 24.0 GiB)"
    assert said(ON_CPU) == "xllamacpp 1, device: CPU (Some CPU, 8.0 GiB); it sees no GPU (docs/gpu.md)"
    assert said(replace(ON_CPU, hint="no driver")).endswith("; it sees no GPU (no driver; docs/gpu.md)")


@pytest.mark.parametrize(
    ("load", "engine", "warnings"),
    [
        ("gpu_layers: 99", ON_CPU, 1),
        ("gpu: max", ON_CPU, 1),
        ("gpu_layers: 99", ON_GPU, 0),
        ("gpu_layers: 0", ON_CPU, 0),
        ("gpu: off", ON_CPU, 0),
        ("context_length: 512", ON_CPU, 0),
        ("gpu_layers: 99", Engine("xllamacpp 1", trouble="nobody knows"), 1),
    ],
)
def test_a_gpu_that_is_not_there(tmp_path, load, engine, warnings):
    """A model that is told to be on a GPU gets a warning where there is none; so do unknown devices."""
    read = parse(config(tmp_path, 1, f"models: {{it: {{load: {{{load}}}}}}}\n"), {})

    assert len(list(warnings_of(read, {"engine0": engine}))) == warnings


def test_the_words_of_the_warning(tmp_path):
    """It says that the option has no effect, and where the model computes instead."""
    read = parse(config(tmp_path, 1, "models: {it: {load: {gpu_layers: 99}}}\n"), {})

    assert list(warnings_of(read, {"engine0": ON_CPU})) == [
        "models.it.load.gpu_layers: has no effect, for xllamacpp 1 sees no GPU here and computes on "
        "CPU (Some CPU, 8.0 GiB); see docs/gpu.md"
    ]


async def test_a_signal_while_a_driver_hangs(tmp_path, written):
    """Who stops a start that waits for a driver need not wait for it, too, and nothing of it is left."""
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    (tmp_path / "xllamacpp.py").write_text(f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(600)")
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    command = (sys.executable, "-m", "dmap", "serve", str(written))
    pipe = asyncio.subprocess.PIPE
    start = await asyncio.create_subprocess_exec(*command, env=environment, stderr=pipe)
    await asyncio.to_thread(begun.read_bytes)
    (child,) = psutil.Process(start.pid).children()

    start.send_signal(signal.SIGTERM)

    async with asyncio.timeout(LOOK_S - 5):
        assert (await start.wait(), await start.stderr.read()) == (0, b"")
    assert not child.is_running()


async def test_a_running_daemon(tmp_path, models):
    """The start tells the engine; `/ready` and the line of its switch tell where a model computes."""
    text = config(models, 1, "models: {tiny-sea: {load: {gpu_layers: 99}}}\n")
    async with daemon(tmp_path, text) as process, aiohttp.ClientSession(process.url) as session:
        async with session.post("/v1/chat/completions", json=chat(model="tiny-sea", max_tokens=1)) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
        async with session.get("/ready") as answer:
            ready = await answer.json()
        async with session.get("/debug/status") as answer:
            status = await answer.json()

    assert ready["backends"]["engine0"]["engine"]["name"].startswith("xllamacpp 202")
    assert ready["backends"]["engine0"]["engine"]["devices"][0].startswith("CPU (")
    assert ready["devices"]["gpu0"]["placed"] == {"engine0/tiny-sea": "CPU"}
    assert status["devices"]["gpu0"]["residents"][0]["placed"] == "CPU"
    log = "".join(process.log)
    assert re.search("switch device=gpu0 .* outcome=ok placed=CPU", log)
    assert re.search('backend name=engine0 kind=gguf .* engine="xllamacpp 202.*" devices="CPU ', log)
    assert log.count("has no effect, for xllamacpp") == 1 and "engine_says" not in log
