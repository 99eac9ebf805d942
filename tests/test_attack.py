"""The fast part of the campaign in `bench/attack`: bodies and forms read in this process, and some bugs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.attack.attack import CHAT, MAY, Attack
from bench.attack.bodies import bodies
from bench.attack.forms import forms
from bench.attack.unheard import bug_at
from dmap.errors import BadRequest
from dmap.wire.body import Call, check_permits, peek
from dmap.wire.form import peek_form
from tests.models import make

FUZZED = 1000


def attempts() -> Iterator[Attack]:
    return (each.dressed(number) for number, each in enumerate(bodies(7, FUZZED)))


def taken(attempt: Attack) -> Call | None:
    """Return what dmap reads in a body; None if it refuses it."""
    try:
        call = peek(attempt.body)
        check_permits(call.needs, frozenset(), frozenset())
    except BadRequest:
        return None
    return call


def folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Read an object as a decoder does that takes names in any letter case, up to a NUL; the last wins."""
    return {name.partition("\0")[0].casefold(): value for name, value in pairs}


def in_a_form(attempt: Attack) -> str | None:
    """Return the model of a form; None if dmap refuses the form."""
    kind = attempt.headers[0].partition(": ")[2]
    try:
        return peek_form(attempt.body, kind).model
    except BadRequest:
        return None


def test_a_body_that_is_taken_is_read_alike():
    """What dmap takes has the same model and `stream` for decoders that fold letters and that do not."""
    calls = [(attempt.body, call) for attempt in attempts() if (call := taken(attempt)) is not None]

    by_us = [(call.model, call.stream) for _, call in calls]
    by_others = [
        [
            (read.get("model"), bool(read.get("stream")))
            for read in (json.loads(body), json.loads(body, object_pairs_hook=folded))
        ]
        for body, _ in calls
    ]

    assert len(calls) > 100
    assert by_others == [[each, each] for each in by_us]


def test_what_clients_send_is_taken():
    """Words that are guarded elsewhere are refused neither in schemas and texts nor in names of files."""
    innocent = [attempt for attempt in attempts() if attempt.innocent and attempt.path == CHAT]
    uploads = [attempt for attempt in forms(7, 0) if attempt.innocent]

    assert [attempt.body for attempt in innocent if taken(attempt) is None] == []
    assert [in_a_form(attempt) for attempt in uploads] == [MAY.decode()] * len(uploads)
    assert len(innocent) > 90 and len(uploads) == 2


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("dmap.gate.upkeep:Upkeep.looked", 1),
        ("dmap.catalog.core:_may_list", 1),
        ("dmap.backends.sections:SwitchingSection.placed_on", 23),
    ],
)
async def test_a_bug_in_the_background(tmp_path: Path, place: str, number: int) -> None:
    """What the campaign once found dead after a bug serves on, and the bug is in the log."""
    for model in ("tiny-sea", "tiny-kitchen"):
        make(model, tmp_path)

    found = await bug_at(tmp_path, place, number, "RuntimeError")

    assert (found.outcome, found.complaint) == ("served on", "")
