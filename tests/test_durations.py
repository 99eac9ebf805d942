"""How long loads and answers take, over a restart of the proxy."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from dmap.arbiter import Learnt
from dmap.daemon import RunningDaemon, listening
from dmap.models import ModelKey
from dmap.state import MODELS, NAME, Durations, Saved, StateFile
from dmap.web.durations import learnt
from tests.conftest import config_of
from tests.fakes import HERE_S
from tests.lmstudio_emulator import emulator

SMALL = "llama-3.2-1b-instruct"


@pytest.fixture
async def lm() -> AsyncGenerator[str]:
    """LM Studio, as a backend of the configuration."""
    async with emulator() as lm:
        yield f"{{kind: lmstudio, url: '{lm.url}', device: gpu0}}"


@asynccontextmanager
async def running(backend: str, folder: Path) -> AsyncGenerator[RunningDaemon]:
    """Run a proxy in front of *backend*, with its state in *folder*."""
    text = f"""
        listen: {{port: 0}}
        devices: {{gpu0: {{cooldown_s: 0}}}}
        backends: {{studio: {backend}}}
        state: {folder}/state.json
    """
    async with listening(config_of(text)) as daemon:
        yield daemon


async def ask(daemon: RunningDaemon, model: str) -> None:
    """Have *model* answer once."""
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{daemon.url}/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status == 200


async def test_what_was_learnt_survives(lm: str, tmp_path: Path) -> None:
    """What a load and an answer took, and what loads read, is in the file; the next proxy begins with it."""
    async with running(lm, tmp_path) as daemon:
        await ask(daemon, SMALL)
        before = daemon.proxy.devices["gpu0"].lengths.learnt()

    kept = StateFile(tmp_path / "state.json").read().durations["gpu0"]
    async with running(lm, tmp_path) as daemon:
        after = daemon.proxy.devices["gpu0"].lengths.learnt()

    key = ModelKey("studio", SMALL)
    assert abs(kept.loads_s[f"studio/{SMALL}"] / before.loads_s[key] - 1) < 0.06
    assert after.loads_s == {key: kept.loads_s[f"studio/{SMALL}"]}
    assert after.answers_s == {key: kept.answers_s[f"studio/{SMALL}"]}
    assert after.bytes_per_s == kept.bytes_per_s is not None


async def test_what_was_learnt_is_told(lm: str, tmp_path: Path) -> None:
    """The first wait after a restart is told by what a load took before it."""
    path = tmp_path / "state.json"
    await StateFile(path).write(Saved(durations={"gpu0": Durations({f"studio/{SMALL}": 77.0})}))

    async with running(lm, tmp_path) as daemon:
        route = daemon.proxy.catalog.route_of(ModelKey("studio", SMALL))
        lease = daemon.proxy.devices["gpu0"].lease(route, "me")
        lease.ask()
        told = daemon.proxy.devices["gpu0"].view.of_newcomer(lease)
        lease.release()

    assert told.estimate_s == 77
    assert told.p80_s == 78 * 1.5 - 1


async def test_what_is_gone_is_dropped(lm: str, tmp_path: Path) -> None:
    """Models that their backend has no more, other backends and devices, and names without a backend, go."""
    known = {f"studio/{SMALL}": 7.0, "studio/gone": 7.0, "other/x": 7.0, "nothing": 7.0}
    path = tmp_path / "state.json"
    durations = {"gpu0": Durations(known, known, 2e9, known, 8e9), "gpu9": Durations(known)}
    await StateFile(path).write(Saved("x", durations=durations))

    async with running(lm, tmp_path):
        pass

    left = {f"studio/{SMALL}": 7.0}
    assert StateFile(path).read() == Saved("x", durations={"gpu0": Durations(left, left, 2e9, left, 8e9)})


async def test_what_has_not_changed_is_not_written(lm: str, tmp_path: Path) -> None:
    """A proxy that learnt nothing leaves the file alone, and makes none."""
    async with running(lm, tmp_path):
        pass

    assert not (tmp_path / "state.json").exists()


async def test_that_it_cannot_be_saved_keeps_nobody_from_stopping(lm, tmp_path, caplog) -> None:
    """It is told in the log, and forgotten."""
    async with running(lm, tmp_path) as daemon:
        await ask(daemon, SMALL)
        (tmp_path / "state.json.new").mkdir()

    assert "durations_not_saved" in caplog.text


async def test_a_disk_that_does_not_answer_keeps_nobody_from_stopping(lm, tmp_path, caplog) -> None:
    """Nobody waits for it long: the end goes on, and so servers that dmap has started are ended."""
    async with asyncio.timeout(HERE_S):
        async with running(lm, tmp_path) as daemon:
            await ask(daemon, SMALL)
            os.mkfifo(beside := tmp_path / "state.json.new")

        os.close(os.open(beside, os.O_RDONLY | os.O_NONBLOCK))  # it answers now

    assert "durations_not_saved" in caplog.text


async def test_what_could_not_be_saved_is_saved_later(lm: str, tmp_path: Path) -> None:
    """A disk that was full for a while costs nothing of what was learnt, though nothing is learnt since."""
    async with running(lm, tmp_path) as daemon:
        await ask(daemon, SMALL)
        (beside := tmp_path / "state.json.new").mkdir()
        await daemon.proxy._save_durations()
        beside.rmdir()

    assert f"studio/{SMALL}" in StateFile(tmp_path / "state.json").read().durations["gpu0"].loads_s


async def test_it_is_bounded(lm: str, tmp_path: Path) -> None:
    """Of too many models the last ones are kept, and none whose name is beyond measure."""
    async with running(lm, tmp_path) as daemon:
        gate = daemon.proxy.devices["gpu0"]
        many = {ModelKey("studio", f"m{number}"): 1e9 for number in range(MODELS + 5)}
        too_long = {ModelKey("studio", name): 1.0 for name in ("x" * NAME, "\N{CLOUD}" * 100)}
        gate.lengths.recall(Learnt(many | too_long, bytes_per_s=1e30))

        found = learnt({"gpu0": gate}, lambda key: False)["gpu0"]

    assert list(found.loads_s) == [f"studio/m{number}" for number in range(5, MODELS + 5)]
    assert set(found.loads_s.values()) == {3600}
    assert found.bytes_per_s == 1e15


async def test_a_load_from_memory_is_told_from_one_from_the_disk(models: Path, tmp_path: Path) -> None:
    """What a load takes is learnt by where its file was: in the system's memory, as it has just been read."""
    (model, *_) = sorted(models.glob("*.gguf"))
    model.read_bytes()

    async with running(
        f"{{kind: gguf, path: {models}, device: gpu0, threads: 1, parallel: 1}}", tmp_path
    ) as daemon:
        await ask(daemon, model.stem)
        found = daemon.proxy.devices["gpu0"].lengths.learnt()

    assert list(found.cached_loads_s) == [ModelKey("studio", model.stem)]
    assert not found.loads_s
