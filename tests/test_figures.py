"""`bench.figures`: what it prints was measured, and its medians are medians."""

import re
from pathlib import Path

import pytest

from bench.figures import BENCHES, routing, span

PAGE = (Path(__file__).parent.parent / "docs/benchmarks.md").read_text()


def test_a_figure_has_its_spread() -> None:
    """The median comes first, then the lowest and the highest."""
    assert span([3.0, 1.0, 1000.0], 1) == "3.0 (1.0-1,000.0)"


def test_the_page_names_each_bench() -> None:
    """Each bench is on the page, with the command that makes its figures."""
    named = set(re.findall(r"python -m bench\.figures (\w+)", PAGE))

    assert named == set(BENCHES)


async def test_a_server_is_asked_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real server answers directly and through dmap, and what dmap adds is told."""
    await routing(tmp_path, 1)

    head, _, whole, stream = capsys.readouterr().out.strip().splitlines()
    assert head.split(" | ")[1:] == ["ms directly", "ms through dmap", "ms added |"]
    assert [row.split(" | ")[0] for row in (whole, stream)] == [
        "| whole answer of one token",
        "| first word of a stream",
    ]
    assert all(re.search(r"[1-9]", cell) for cell in whole.split(" | ")[1:3])
