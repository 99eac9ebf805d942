"""What an owner's configuration means for a simulation."""

from pathlib import Path

import pytest

from dmap.arbiter.policy import fits
from dmap.cli import main
from dmap.config import load
from dmap.models import ModelInfo
from dmap.simulate import Loops, Model, Workload
from dmap.simulate.owner import Owner, owner_of

CONFIG = """
access: {keys: [{name: webui, sha256: %s, priority: 2}]}
devices: {gpu0: {memory: 22GiB, max_models: 2, patience_s: 40}, spare: {}}
backends:
  studio: {kind: lmstudio, url: 'http://127.0.0.1:1', device: gpu0, parallel: 3}
models:
  qwen: {memory: 12GiB, aliases: [gpt-4o], ttl_s: 600}
  gemma: {memory: 10GiB, parallel: 2, pin: true}
""" % ("5e" * 32)
EMBED = ModelInfo("nomic", resident=False, size_bytes=300, embedding=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The file of a configuration."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def owner(config: Path) -> Owner:
    """The same, whose backend has told of one more model."""
    return Owner("config.yaml", load(config), {"studio": [EMBED]})


def asks(*models: str, **more: object) -> Workload:
    """Return a workload in which somebody asks for each of *models*."""
    return Workload(groups=[Loops(loops=1, model=model) for model in models], **more)


def test_models_stand_for_those_of_the_device(owner: Owner) -> None:
    """One by its name or alias, the others in the file's order, for embeddings one for embeddings."""
    workload = asks("A", "E", "gpt-4o", models={"E": Model(embedding=True)})

    played, names = owner.on_device(workload, "gpu0")

    assert names == {"gpt-4o": "qwen", "A": "gemma", "E": "nomic"}
    assert played.needs_of("gpt-4o")[:5] == (12 * 2**30, 3, False, False, 600)
    assert played.needs_of("A")[:5] == (10 * 2**30, 2, False, True, None)
    assert played.needs_of("E")[:5] == (300, 3, True, False, None)


def test_models_that_fit_together_go_by_the_names_of_the_workload(config: Path) -> None:
    """A list of the device holds for those that stand for its models, if there are two of them."""
    lists = "together: [[gpt-4o, gemma], [qwen, other]]"
    config.write_text(CONFIG.replace("patience_s: 40", lists).replace("pin: true", "aliases: [g]"))
    owner = Owner("config.yaml", load(config))

    played, _ = owner.on_device(asks("A", "B", "C"), "gpu0")

    assert played.limits.together == (("A", "B"),)
    assert fits(played.bounds(), [played.needs_of("A"), played.needs_of("B")])
    assert not fits(played.bounds(), [played.needs_of("A"), played.needs_of("C")])


def test_variants_and_globs_are_no_models(config: Path) -> None:
    """A variant is its model, and a glob is none, but what it says holds for models that fit."""
    config.write_text(f"{CONFIG}  'qwen:think': {{of: qwen}}\n  'q*': {{parallel: 1}}\n")
    owner = Owner("config.yaml", load(config))

    played, names = owner.on_device(asks("A", "qwen:think", "C"), "gpu0")

    assert [key.model for key in owner.routes({})] == ["qwen", "gemma"]
    assert names == {"qwen:think": "qwen", "A": "gemma"}
    assert played.needs_of("qwen:think").parallel == 1


def test_more_models_than_the_device_has(owner: Owner) -> None:
    """The rest is as the workload says."""
    played, names = owner.on_device(asks("A", "B", "C", parallel=7), "gpu0")

    assert names == {"A": "qwen", "B": "gemma"}
    assert played.needs_of("C").parallel == 7


def test_limits_and_priorities(owner: Owner) -> None:
    """Those of the file hold, also where the workload has others."""
    played, _ = owner.on_device(asks("A", limits={"patience_s": 5, "queue": 3}), "gpu0")

    assert (played.bounds().patience_s, played.bounds().queue) == (40, 1024)
    assert (played.bounds().memory_bytes, played.bounds().max_models) == (22 * 2**30, 2)
    assert played.priorities == {"webui": 2}


def test_a_server_that_cannot_be_unloaded(config: Path) -> None:
    """What a server holds of the device is not there for its models."""
    server = "vllm: {kind: openai, url: 'http://127.0.0.1:1', device: gpu0, memory: 4GiB}"
    text = CONFIG.replace("backends:\n", f"backends:\n  {server}\n").replace(
        "gemma: {", "gemma: {backend: studio, "
    )
    config.write_text(text)

    played, _ = Owner("config.yaml", load(config)).on_device(asks("A"), "gpu0")

    assert played.bounds().memory_bytes == 18 * 2**30


def test_a_device_without_a_backend_is_none(owner: Owner) -> None:
    """Nobody's models compete for it."""
    assert list(owner.devices) == ["gpu0"]


async def test_a_backend_that_is_down(config: Path) -> None:
    """Its models are those that the file names, and the reason is kept."""
    owner = await owner_of(config)

    assert [key.model for key in owner.routes({})] == ["qwen", "gemma"]
    assert owner.silent == ["the backend 'studio' (LM Studio) does not answer: connection refused"]


def test_the_command(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says which device it plays on, what each model stands for, and what else would be."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("{duration_s: 120, groups: [{loops: 1, model: A}, {loops: 1, model: B, key: webui}]}")
    other = tmp_path / "other.yaml"
    other.write_text(CONFIG.replace("max_models: 2", "max_models: 3").replace("22GiB", "30GiB"))

    code = main(
        ["simulate", str(mine), "--config", str(config), "--config", str(other), "--policies", "dmap"]
    )

    out, err = capsys.readouterr()
    assert code == 0
    assert "  gpu0 of config.yaml: memory 22 GiB, max_models 2, embeddings 1, patience_s 40" in out
    assert "mine on gpu0  (a load 8 s" in out
    assert "  A is qwen: a load 8 s, parallel 3, 12 GiB, ttl_s 600; B is gemma: " in out
    assert "\n  dmap other.yaml " in out
    assert "\n  other.yaml: " in out
    assert err.startswith("dmap: config.yaml: the backend 'studio' (LM Studio) does not answer")


def test_the_example_with_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration that is wrong is told as `check-config` tells it."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("patience_s", "patience"))

    assert main(["simulate", "--config", str(path)]) == 78
    assert capsys.readouterr().err.endswith(
        ": devices.gpu0.patience: no such key; did you mean patience_s?\n"
    )


def test_no_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no backend is on a device nothing can be played."""
    path = tmp_path / "config.yaml"
    path.write_text("backends: {a: {kind: openai, url: 'http://127.0.0.1:1'}}")

    assert main(["simulate", "closed 2x2", "--config", str(path)]) == 78
    told = "dmap: config.yaml: no backend is on a device, so there is nothing to arbitrate\n"
    assert capsys.readouterr().err == told
