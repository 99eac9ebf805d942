"""`docs/simulate.md`: its commands do what it says, and its workload is one."""

import re
import shlex
from pathlib import Path

import pytest

import dmap
from dmap.activity import Request, line_of
from dmap.cli import main
from dmap.simulate import read_file
from dmap.simulate.groups import KINDS, Group
from dmap.simulate.owner import PLAYED
from dmap.simulate.workload import Workload

PAGE = (Path(dmap.__file__).parent.parent / "docs" / "simulate.md").read_text()
COMMANDS = re.findall(r"^dmap (simulate.*?)(?: +#.*)?$", PAGE, re.MULTILINE)
(MINE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
CONFIG = """
devices: {gpu0: {}}
backends: {engine: {kind: gguf, path: ., device: gpu0}}
models: {small: {}, large: {}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all files that the page names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(MINE)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "tomorrow.yaml").write_text(CONFIG + "allow_models: ['*']\n")
    (tmp_path / "activity").mkdir()
    facts = {
        "client": "ann",
        "path": "/v1/completions",
        "model": "small",
        "backend": "engine",
        "device": "gpu0",
    }
    facts |= {"v": 1, "priority": 0, "switch_s": 0.0, "total_s": 5.0, "outcome": "success"}
    asked = Request(at=1_700_000_000.0, queue_s=3.0, service_s=2.0, **facts)
    (tmp_path / "activity" / "20231114T221320Z.jsonl").write_bytes(line_of(asked))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command(folder: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command of the page works as it is written."""
    assert main(shlex.split(command)) == 0

    assert capsys.readouterr().err == ""


def test_the_workload(folder: Path) -> None:
    """It has the cases that it shows."""
    assert [workload.name for workload in read_file(folder / "mine.yaml")] == ["mine morning", "mine evening"]


def test_every_key_is_told() -> None:
    """The page has each key of a workload, of groups and of models, and of what `--set` takes."""
    groups = {key for kind in KINDS.values() for key in kind.model_fields}
    models = {"memory", "parallel", "embedding", "pin", "ttl_s"}
    keys = (Workload.model_fields.keys() - {"name"}) | groups | models | {"cases", "first", *PLAYED}

    assert Group.model_fields.keys() <= groups
    assert {key for key in keys if not re.search(rf"`{key}[`:]", PAGE)} == set()
