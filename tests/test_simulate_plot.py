"""The plot of a simulation: files that programs for pictures can read, with all that they are to show."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from dmap.cli import main

SVG = "{http://www.w3.org/2000/svg}"
MINE = """
duration_s: 120
groups: [{loops: 2, model: A}, {loops: 1, model: B}, {rate: .1, shares: {C: 1}}]
cases: {one: {}, two: {parallel: 2}}
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A file with two workloads."""
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return str(path)


@pytest.fixture
def one(tmp_path: Path) -> str:
    """A file with one."""
    path = tmp_path / "one.yaml"
    path.write_text(MINE.replace("cases", "parallel: 1\nmodels: {}\n#"))
    return str(path)


def texts(path: Path) -> list[str]:
    """Return all that is written in a picture."""
    return ["".join(each.itertext()) for each in ElementTree.parse(path).iter(f"{SVG}text")]


def test_svg(one: str, tmp_path: Path) -> None:
    """Each policy is drawn, with axes and units, each model and each client."""
    path = tmp_path / "plot.svg"

    assert main(["simulate", one, "--plot", str(path), "--set", "residency=1"]) == 0

    written = texts(path)
    assert {
        "one  (a load 8 s, parallel 1, 120 s in all)",
        "fifo",
        "drain",
        "dmap",
        "dmap residency=1",
    } <= set(written)
    assert {
        "resident",
        "requests waiting",
        "seconds since the start",
        "pale: it loads, or is there for a part of the time",
    } <= set(written)
    assert {"seconds of wait until the answer begins", "client (model)"} <= set(written)
    assert {"A", "B", "C"} <= set(written)


def test_png(one: str, tmp_path: Path) -> None:
    """The picture can be decoded, and is not of one colour."""
    path = tmp_path / "plot.png"

    main(["simulate", one, "--plot", str(path), "--policies", "fifo,dmap"])

    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(picture.convert("P").getcolors()) > 20


def test_few_clients_are_named(tmp_path: Path) -> None:
    """Each of a few clients has its waits; with many, those of a model are one."""
    few, many = tmp_path / "few.svg", tmp_path / "many.svg"

    main(["simulate", "switch3 2A 1B", "--plot", str(few), "--policies", "dmap"])
    main(["simulate", "switch3 24A 24B 1C 180", "--plot", str(many), "--policies", "dmap"])

    assert {"0.0 (A)", "0.1 (A)", "1.0 (B)"} <= set(texts(few))
    assert {"all (A)", "all (B)", "all (C)"} <= set(texts(many))


def test_those_who_ask_most_are_named(tmp_path: Path) -> None:
    """Of more clients than there is room for, the busiest are named, and the others are one."""
    mine, path = tmp_path / "mine.yaml", tmp_path / "plot.svg"
    mine.write_text("groups: [{loops: 3, model: A}, {rate: .02, shares: {B: 1}}]\nduration_s: 900")

    main(["simulate", str(mine), "--plot", str(path), "--policies", "dmap"])

    assert {"0.0 (A)", "0.1 (A)", "0.2 (A)"} <= set(texts(path))
    assert re.search(r"\n\d+ others\n", "\n".join(texts(path)))


@pytest.mark.parametrize("name", ["plot.pdf", "plot", "plot.PNG.txt"])
def test_another_format(one: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The suffix tells the format; another one is refused before anything is played."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", one, "--plot", str(tmp_path / name)])

    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert "--plot: the file's name ends in .png or .svg" in err


def test_several_workloads(mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a picture, under its own name, and it is told where."""
    main(["simulate", mine, "--plot", str(tmp_path / "plot.svg"), "--policies", "dmap"])

    assert "mine one  (a load 8 s, parallel 1, 120 s in all)" in texts(tmp_path / "plot-mine-one.svg")
    assert "mine two  (a load 8 s, parallel 2, 120 s in all)" in texts(tmp_path / "plot-mine-two.svg")
    assert "drawn: " in capsys.readouterr().out


WITHOUT = (
    "import sys; sys.modules['matplotlib'] = None; from dmap.cli import main; sys.exit(main(sys.argv[1:]))"
)


def test_without_matplotlib(one: str, tmp_path: Path) -> None:
    """What is missing is told in one sentence; all but the picture works without it."""
    command = [sys.executable, "-c", WITHOUT, "simulate", one]

    drawn = subprocess.run(
        [*command, "--plot", str(tmp_path / "a.png")], capture_output=True, text=True, timeout=600
    )
    told = subprocess.run(command, capture_output=True, text=True, timeout=600)

    assert (drawn.returncode, drawn.stdout) == (78, "")
    how = "run: .venv/bin/pip install -e '.[plot]' (a service: see docs/service.md)"
    assert drawn.stderr == f"dmap: --plot takes matplotlib; {how}\n"
    assert told.returncode == 0
