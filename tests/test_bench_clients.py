"""`bench.clients`: what is written is what was seen, and a client that is misled is seen to be."""

import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from bench.clients.place import Place, place
from bench.clients.play import play
from bench.clients.programs import PROGRAMS
from bench.clients.table import BEGIN, END, keep, table, written
from bench.clients.verdict import TASKS, Cell, Seen, judged
from tests.programs import why_not

PAGE = (Path(__file__).parent.parent / "docs/clients.md").read_text()
SEA = " anchor of mast"
CURL = next(program for program in PROGRAMS if program.environment == {"HTTP": "1.1"})

needs_curl = pytest.mark.skipif(bool(why_not("curl")), reason=why_not("curl"))


@pytest.mark.parametrize(
    ("task", "said", "seen", "word"),
    [
        ("chat", {"text": SEA}, Seen(), "yes"),
        ("chat", {"text": " pan and salt"}, Seen(), "no"),
        ("stream", {"text": SEA, "pieces": 1}, Seen(), "no"),
        ("tools", {"tool": "weather", "city": "Paris"}, Seen(), "no"),
        ("tools", {"untried": "no bias"}, Seen(), "not tried"),
        ("count", {"lacks": True}, Seen(), "-"),
        ("cancel", {"text": ""}, Seen(left=True), "yes"),
        ("cancel", {"text": ""}, Seen(), "no"),
        ("broken", {"text": SEA, "pieces": 3}, Seen(), "no"),
        ("broken", {"error": "APIError: it broke"}, Seen(), "told"),
        ("queue", {"text": SEA, "pieces": 3}, Seen(queue_s=0.1), "no"),
        ("busy 429", {"text": SEA}, Seen(refusals=1), "again"),
        ("busy 429", {"text": SEA}, Seen(), "no"),
        ("busy 503", {"error": "refused", "status": 503}, Seen(refusals=3), "told"),
        ("wrong key", {"text": SEA}, Seen(), "no"),
        ("unknown model", {"error": "NotFoundError", "status": 404}, Seen(), "told"),
    ],
)
def test_what_was_seen_is_judged(task: str, said: dict[str, Any], seen: Seen, word: str) -> None:
    """A client is misled where it takes a cut or foreign answer for a good one."""
    assert judged(task, said, seen).word == word


def test_the_table() -> None:
    """Each client is a row; what needs more words is told below, by its number."""
    bad = Cell("no", good=False, note="a `reason` at 127.0.0.1:5")
    cells = dict.fromkeys(TASKS, Cell("yes")) | {"chat": bad, "stream": bad}

    head, _, row, _, note = table([("some client", "1.2", cells)])

    assert head.split(" | ")[1:4] == ["version", "models", "chat"]
    assert row.startswith("| some client | 1.2 | yes | no (1) | no (1) | yes |")
    assert note == "1. some client, chat, stream: `a 'reason' at HOST:PORT`"


def test_a_client_may_be_run_alone(tmp_path: Path) -> None:
    """Its row takes the place of its older one; the others stay."""
    old, new = {"chat": Cell("no", good=False, note="why")}, {"chat": Cell("yes")}
    keep(tmp_path / "rows.json", [("a", "1", old), ("b", "1", old)])

    kept = keep(tmp_path / "rows.json", [("a", "2", new)])

    assert kept == [("a", "2", new), ("b", "1", old)]


def test_only_what_is_between_the_marks_is_written() -> None:
    """The rest of the page stays; a page without marks is left alone."""
    assert written(f"a\n{BEGIN}\nold\n{END}\nb\n", ["new"]) == f"a\n{BEGIN}\n\nnew\n\n{END}\nb\n"
    with pytest.raises(ValueError, match="lacks"):
        written("a page", ["new"])


def test_the_page_is_what_the_script_writes() -> None:
    """The page has the script's columns, and its clients in their order."""
    rows = PAGE.partition(BEGIN)[2].partition(END)[0].split("\n1. ")[0].strip().splitlines()
    shown = [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]]

    assert rows[0] == f"| client | version | {' | '.join(TASKS)} |"
    assert shown == [each.title for each in PROGRAMS if each.title in shown] != []


@pytest.fixture
async def running(models: Path, tmp_path: Path) -> AsyncGenerator[Place]:
    async with place(tmp_path, models) as running:
        yield running


@needs_curl
async def test_a_client_is_run(running: Place) -> None:
    """What happens to a client really happens: it waits, it is refused, its engine dies."""
    tasks = ("stream", "queue", "cancel", "busy 429", "broken", "wrong key")

    cells = [await play(running, task, CURL.command(sys.executable), CURL.environment) for task in tasks]

    assert [cell.word for cell in cells] == ["yes", "yes", "yes", "again", "told", "told"]
