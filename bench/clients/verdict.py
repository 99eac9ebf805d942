"""What a driver has said, judged: the word in the table's cell, and a note where there is more to say."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.models import subjects

Said = Mapping[str, Any]
LONGEST_NOTE = 300


@dataclass(frozen=True)
class Cell:
    """One cell; *good* is False where a user would be stuck or misled."""

    word: str
    good: bool = True
    note: str = ""


@dataclass(frozen=True)
class Seen:
    """What was seen from outside while a driver ran: log lines of dmap, and how often it refused."""

    refusals: int = 0
    left: bool = False
    queue_s: float = 0.0


LACKS = Cell("-")
"""The client has no such thing."""


def judged(task: str, said: Said, seen: Seen) -> Cell:
    """Judge what came of *task*."""
    if said.get("lacks"):
        return LACKS
    if untried := said.get("untried"):
        return Cell("not tried", note=untried)
    return _JUDGES[task](said, seen)


def _yes_if(holds: Callable[[Said], bool]) -> Callable[[Said, Seen], Cell]:
    def judge(said: Said, seen: Seen) -> Cell:
        return Cell("yes") if "error" not in said and holds(said) else _no(said)

    return judge


def _no(said: Said) -> Cell:
    words = str(said.get("error") or dict(said))
    return Cell("no", good=False, note=re.sub(r"\s+", " ", words)[:LONGEST_NOTE])


def _of_the_sea(said: Said) -> bool:
    return subjects(said["text"]) == {"sea"}


def _refused(status: int) -> Callable[[Said, Seen], Cell]:
    def judge(said: Said, seen: Seen) -> Cell:
        told = said.get("status") == status or str(status) in said.get("error", "")
        return Cell("told") if told else _no(said)

    return judge


def _busy(status: int) -> Callable[[Said, Seen], Cell]:
    """A client that comes back by itself is answered; another one tells its user."""

    def judge(said: Said, seen: Seen) -> Cell:
        if "error" in said:
            return _refused(status)(said, seen)
        return Cell("again") if seen.refusals and said["text"] else _no(said)

    return judge


def _broken(said: Said, seen: Seen) -> Cell:
    return Cell("told") if said.get("error") else Cell("no", good=False, note="a cut answer passes for whole")


def _cancelled(said: Said, seen: Seen) -> Cell:
    return Cell("yes") if seen.left else Cell("no", good=False, note="the model went on to its end")


def _queued(said: Said, seen: Seen) -> Cell:
    whole = "error" not in said and _of_the_sea(said)
    return Cell("yes") if whole and seen.queue_s > 1 else _no({**said, "queue_s": seen.queue_s})


_JUDGES: Mapping[str, Callable[[Said, Seen], Cell]] = {
    "models": _yes_if(lambda said: "tiny-sea" in said["models"]),
    "chat": _yes_if(_of_the_sea),
    "stream": _yes_if(lambda said: _of_the_sea(said) and said["pieces"] > 1),
    "tools": _yes_if(lambda said: said["tool"] == "weather" and said["city"] in ("Rome", "Oslo")),
    "embeddings": _yes_if(lambda said: said["size"] == 64),
    "vision": _yes_if(_of_the_sea),
    "responses": _yes_if(lambda said: _of_the_sea(said) and said["pieces"] > 1),
    "responses helper": _yes_if(lambda said: _of_the_sea(said) and said["pieces"] > 1),
    "count": _yes_if(lambda said: said["count"] > 0),
    "cancel": _cancelled,
    "queue": _queued,
    "busy 429": _busy(429),
    "busy 503": _busy(503),
    "broken": _broken,
    "wrong key": _refused(401),
    "unknown model": _refused(404),
}
TASKS = tuple(_JUDGES)
"""The columns, in their order."""
