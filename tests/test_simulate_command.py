"""`dmap simulate`: what it plays, and what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmap.cli import main

QUICK = "{duration_s: 60, groups: [{loops: 1, model: A}, {loops: 1, model: B}]}"


@pytest.fixture
def quick(tmp_path: Path) -> str:
    """A workload that is played in a moment."""
    path = tmp_path / "quick.yaml"
    path.write_text(QUICK)
    return str(path)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what was written; to the terminal of errors there is nothing."""
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_a_file_of_ones_own(quick: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has a line for each policy under the name of the workload, and each word is explained."""
    assert main(["simulate", quick]) == 0

    told = lines(capsys)
    assert told[1] == "quick  (a load 8 s, parallel 1, 60 s in all)"
    assert [line.split()[0] for line in told[2:5]] == ["fifo", "drain", "dmap"]
    assert told[5] == "  bound: A, B 174 s"
    assert [line.split()[0] for line in told[7:] if line[0] != " "] == (
        ["served", "refused", "loads/100", "mean", "p95", "longest", "fifo", "drain", "dmap", "bound"]
    )


def test_names_and_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """A word chooses all workloads that have it in their names; several seeds are put together."""
    assert main(["simulate", "closed 2A", "--policies", "dmap", "--seeds", "2", "--seed", "3"]) == 0

    told = lines(capsys)
    assert told[2].split() == ["dmap", "2,857", "0", "3.26", "2.8", "1.0", "62.0"]
    assert told[-1] == "All figures but the longest wait are means over 2 seeds."


def test_no_line_is_longer_than_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """80 columns do."""
    main(["simulate", "switch3 2x2", "--policies", "fifo,drain,longest-queue,dmap"])

    assert max(map(len, lines(capsys))) <= 80


def test_progress_on_a_terminal(quick: str) -> None:
    """A terminal of errors shows which row and seed is played; a pipe gets none of it."""
    ours, theirs = os.openpty()
    command = (sys.executable, "-m", "dmap", "simulate", quick, "--policies", "dmap", "--seeds", "2")

    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=True)

    shown = os.read(ours, 4096).decode().split("\r\x1b[K")
    os.close(ours), os.close(theirs)
    assert shown == ["", "1 of 1: quick, dmap, seed 1 of 2", "1 of 1: quick, dmap, seed 2 of 2", ""]
    assert b"\r" not in done.stdout and b"1 of 1" not in done.stdout


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` shows the names and plays nothing."""
    assert main(["simulate", "--list", "closed"]) == 0

    assert lines(capsys)[:2] == ["closed 2x2", "closed 2x2 think 1"]


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    """It is told how the names are found."""
    assert main(["simulate", "nothing"]) == 78

    told = "dmap: no workload has 'nothing' in its name; `dmap simulate --list` shows them\n"
    assert capsys.readouterr().err == told


def test_a_file_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file and the key are told, and the exit code is that of a wrong configuration."""
    path = tmp_path / "mine.yaml"
    path.write_text("groups: [{loops: 1, model: A, tink: 1}]")

    assert main(["simulate", str(path)]) == 78
    assert capsys.readouterr().err == f"dmap: {path}: groups[0].tink: no such key\n"


@pytest.mark.parametrize("words", [["--policies", "best"], ["--seeds", "0"], ["--seed", "x"]])
def test_a_wrong_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with 2, as all commands do."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *words])

    assert ended.value.code == 2
    assert "usage: dmap simulate" in capsys.readouterr().err


class TestFleet:
    def test_how_many_boxes(self, quick: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A row for each count, and one in which a box dies, judged in words."""
        assert main(["simulate", "--fleet", "1,2", quick]) == 0

        told = lines(capsys)
        assert [line[:26].strip() for line in told[2:5]] == [
            "1 box, dmap",
            "2 boxes, dmap",
            "2 boxes, dmap, one dies",
        ]
        assert told[5].startswith("  2 boxes, one dies: ")
        assert any(line.startswith("  2 boxes instead of 1: ") for line in told)
        assert any(line.startswith("  2 boxes are not too many for this load") for line in told)
        assert [line.split()[0] for line in told[-2:]] == ["dmap", "one"]

    def test_which_rule(self, quick: str, capsys: pytest.CaptureFixture[str]) -> None:
        """With one count the plain hashes are played beside dmap, and each word is explained."""
        assert main(["simulate", "--fleet", "2", quick]) == 0

        told = lines(capsys)
        assert [line.split()[2] for line in told[2:5]] == ["hash", "bounded", "dmap"]
        assert [line.split()[0] for line in told if line and line[0] not in " 2"][-4:] == (
            ["hash", "bounded", "dmap", "one"]
        )

    def test_nothing_is_wider_than_a_terminal(self, quick: str, capsys: pytest.CaptureFixture[str]) -> None:
        """80 columns do."""
        main(["simulate", "--fleet", "2", quick, "--policies", "round-robin,least,resident,dmap"])

        assert max(map(len, lines(capsys))) <= 80

    def test_its_workloads_are_asked_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The list has them."""
        main(["simulate", "--list", "fleet"])

        assert lines(capsys)[:2] == ["fleet zipf 1.0", "fleet zipf 1.4"]

    @pytest.mark.parametrize(
        "words",
        [
            ["--fleet", "0"],
            ["--fleet", "101"],
            ["--fleet", "2,x"],
            ["--fleet", "2", "--policies", "fifo"],
            ["--policies", "hash"],
            ["--fleet", "2", "--plot", "two.png"],
        ],
    )
    def test_a_wrong_command_line(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """It ends with 2."""
        with pytest.raises(SystemExit) as ended:
            main(["simulate", *words])

        assert ended.value.code == 2
        assert "usage: dmap simulate" in capsys.readouterr().err
