"""The state file: whole or not at all, and never a reason not to start."""

import asyncio
import json
import logging
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dmap.errors import NotSaved
from dmap.state import DEVICES, MODELS, Activation, Durations, Saved, StateFile, default_path

FULL = Saved(
    active="qwen",
    models={"qwen": Activation({"temperature": 0.5, "stop": ("a", "b")}, {"context_length": 8192})},
    drained=frozenset({"gpu0"}),
    durations={
        "gpu0": Durations({"studio/qwen": 12.0}, {"studio/qwen": 3.4}, 2e9, {"studio/qwen": 2.0}, 8e9)
    },
)


async def test_what_is_written_is_read(tmp_path: Path) -> None:
    """What is saved comes back the same, and is for its owner's eyes only."""
    file = StateFile(tmp_path / "deep" / "state.json")

    await file.write(FULL)

    assert StateFile(file.path).read() == FULL
    assert file.path is not None and stat.S_IMODE(os.stat(file.path).st_mode) == 0o600


def test_what_was_set_is_kept_as_it_is() -> None:
    """Nobody can change what was set but by saving another state, whatever it was made from."""
    drained = {"gpu0"}

    saved = Saved(drained=drained)
    drained.add("gpu1")

    assert isinstance(replace(saved, drained=saved.drained | drained).drained, frozenset)
    assert saved.drained == {"gpu0"}


def test_no_file_yet(tmp_path: Path) -> None:
    """Before the first save there is nothing, and nothing is said of it."""
    assert StateFile(tmp_path / "state.json").read() == Saved()


async def test_without_a_path() -> None:
    """Without a path nothing is kept."""
    file = StateFile(None)

    await file.write(FULL)

    assert file.read() == Saved()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "EOF"),
        (b"{", "EOF"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "object"),
        (b"[" * 100_000, "recursion"),
        (b"x" * 2_000_000, "over"),
        (b'{"version": 0}', "version"),
        (b'{"active": "a"}', "version"),
        (b'{"version": 1, "activ": "a"}', "activ"),
        (b'{"version": 1, "models": {"m": {"defaults": {"temperature": 9}}}}', "temperature"),
        (b'{"version": 1, "models": {"m": {"load": {"context_length": "no"}}}}', "context_length"),
    ],
)
def test_what_cannot_be_understood(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: bytes, reason: str
) -> None:
    """A file that is corrupt, or of another version, is put aside and told, with the reason."""
    path = tmp_path / "state.json"
    path.write_bytes(text)

    with caplog.at_level(logging.ERROR):
        assert StateFile(path).read() == Saved()

    assert [path.name for path in tmp_path.iterdir()] == ["state.json.bad"]
    assert "state_not_understood" in caplog.text and reason in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "7",
        '{"gpu0": 7}',
        '{"gpu0": {"loads": {}}}',
        '{"gpu0": {"loads_s": {"a/b": 0}}}',
        '{"gpu0": {"loads_s": {"a/b": -1}}}',
        '{"gpu0": {"loads_s": {"a/b": 1e9}}}',
        '{"gpu0": {"loads_s": {"a/b": NaN}}}',
        '{"gpu0": {"answers_s": {"a/b": Infinity}}}',
        '{"gpu0": {"answers_s": {"a/b": "x"}}}',
        '{"gpu0": {"answers_s": {"%s": 1}}}' % ("x" * 1000),
        '{"gpu0": {"bytes_per_s": 0}}',
        '{"gpu0": {"bytes_per_s": 1e300}}',
        json.dumps({"gpu0": {"loads_s": {f"a/{number}": 1 for number in range(MODELS + 1)}}}),
        json.dumps({f"gpu{number}": {} for number in range(DEVICES + 1)}),
    ],
)
def test_what_was_learnt_cannot_be_understood(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """It is told and learnt again; what was set holds."""
    path = tmp_path / "state.json"
    path.write_text(f'{{"version": 1, "active": "m", "durations": {text}}}')

    assert StateFile(path).read() == Saved("m")
    assert "durations_not_understood" in caplog.text


def test_what_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be read is told, and left where it is."""
    path = tmp_path / "state.json"
    path.mkdir()

    assert StateFile(path).read() == Saved()
    assert "state_unreadable" in caplog.text and path.is_dir()


async def test_what_cannot_be_written(tmp_path: Path) -> None:
    """A save that fails says so and leaves what was saved before."""
    file = StateFile(tmp_path / "state.json")
    await file.write(FULL)
    (tmp_path / "state.json.new").mkdir()

    with pytest.raises(NotSaved, match=r"state\.json cannot be written"):
        await file.write(Saved())

    assert file.read() == FULL


async def test_nothing_is_left_of_a_save_that_failed(tmp_path: Path) -> None:
    """What was written for a save that fails is taken away again."""
    path = tmp_path / "state.json"
    (path / "in the way").mkdir(parents=True)

    with pytest.raises(NotSaved):
        await StateFile(path).write(FULL)

    assert [left.name for left in tmp_path.iterdir()] == ["state.json"]


async def test_the_last_save_wins(tmp_path: Path) -> None:
    """Saves at the same time go one after the other, in the order of the calls."""
    file = StateFile(tmp_path / "state.json")

    await asyncio.gather(*(file.write(Saved(active=f"m{number}")) for number in range(20)))

    assert file.read().active == "m19"


SAVER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from dmap.state import Saved, StateFile

async def main():
    file = StateFile(Path(sys.argv[1]))
    for number in range(1_000_000):
        await file.write(Saved(active=f"m{number}" + "x" * (number % 5000)))
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("answers", [1, 2, 3, 5, 8, 13])
def test_killed_while_it_saves(tmp_path: Path, answers: int) -> None:
    """A process that is killed while it saves leaves a file that can be read, as new as its last answer."""
    path = tmp_path / "state.json"
    with subprocess.Popen(
        [sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(answers)]
        process.send_signal(signal.SIGKILL)

    active = StateFile(path).read().active
    assert active is not None and int(active.rstrip("x")[1:]) >= told[-1]


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"STATE_DIRECTORY": "/var/lib/dmap"}, "/var/lib/dmap/state.json"),
        ({"STATE_DIRECTORY": "/a:/b", "HOME": "/home/x"}, "/a/state.json"),
        ({"XDG_STATE_HOME": "/s", "HOME": "/home/x"}, "/s/dmap/state.json"),
        ({"HOME": "/home/x"}, "/home/x/.local/state/dmap/state.json"),
    ],
)
def test_where_it_is(environ: dict[str, str], path: str) -> None:
    """The state is where systemd wants it, else where the user's other state is."""
    assert default_path(environ) == Path(path)


def test_the_format(tmp_path: Path) -> None:
    """The file is JSON that a person can read, with a version."""
    path = tmp_path / "state.json"

    asyncio.run(StateFile(path).write(FULL))

    assert json.loads(path.read_text()) == {
        "version": 1,
        "active": "qwen",
        "models": {
            "qwen": {
                "defaults": {"temperature": 0.5, "stop": ["a", "b"]},
                "load": {"context_length": 8192},
            }
        },
        "drained": ["gpu0"],
        "durations": {
            "gpu0": {
                "loads_s": {"studio/qwen": 12.0},
                "answers_s": {"studio/qwen": 3.4},
                "bytes_per_s": 2e9,
                "cached_loads_s": {"studio/qwen": 2.0},
                "cached_bytes_per_s": 8e9,
            }
        },
    }
