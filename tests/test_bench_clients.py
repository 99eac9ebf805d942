"""`bench.clients`: what is written is what was seen, and a client that is misled is seen to be."""

import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from bench.clients.place import Place, place
from bench.clients.play import play
from bench.clients.programs import PROGRAMS
from bench.clients.table import BEGIN, END, table, written
from bench.clients.verdict import TASKS, Cell, Seen, judged
from tests.programs import why_not

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
    cells = dict.fromkeys(TASKS, Cell("yes")) | {"chat": Cell("no", good=False, note="a `reason`")}

    head, _, row, _, note = table([("some client", "1.2", cells)])

    assert head.split(" | ")[1:4] == ["version", "models", "chat"]
    assert row.startswith("| some client | 1.2 | yes | no (1) | yes |")
    assert note == "1. some client, chat: `a 'reason'`"


def test_only_what_is_between_the_marks_is_written() -> None:
    """The rest of the page stays; a page without marks is left alone."""
    assert written(f"a\n{BEGIN}\nold\n{END}\nb\n", ["new"]) == f"a\n{BEGIN}\n\nnew\n\n{END}\nb\n"
    with pytest.raises(ValueError, match="lacks"):
        written("a page", ["new"])


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
