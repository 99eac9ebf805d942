"""
What every driver says: `first` once something has come, and one line of JSON in the end.

A driver is a program of its own, in the environment of its client: `python DRIVER TASK URL KEY`.  Its last
line has `text` and, by task, `pieces`, `tool`, `city`, `size`, `models`; or `error`, with the client's words;
`lacks`, where the client has no such thing; or `untried`, with the reason.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

HELLO = [{"role": "user", "content": "Hello"}]
LONG = 1500
"""Tokens of an answer that is to be cancelled or broken."""
RED = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII="
"""A picture of 8 by 8 in one colour, as PNG."""
PICTURE = f"data:image/png;base64,{RED}"
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
BIAS: Any = json.loads(os.environ.get("BIAS", "[]"))
"""What makes a model with random weights call a tool once, as `logit_bias`."""
UNLED = "a model with random weights calls none unless it is led"
"""Why a tool could not be tried."""


def first() -> None:
    """Say that the answer has begun."""
    print("first", flush=True)


def gathered(pieces: Iterable[str]) -> dict[str, Any]:
    """Say `first` with the first piece that has text; return the whole."""
    words: list[str] = []
    for piece in pieces:
        if piece and not words:
            first()
        words.extend([piece] if piece else [])
    return {"text": "".join(words), "pieces": len(words)}


def run(tasks: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
    """Do the task that the command line names; say what came of it."""
    try:
        said = tasks[sys.argv[1]]() if sys.argv[1] in tasks else {"lacks": True}
    except Exception as exc:
        traceback.print_exc()
        status = getattr(exc, "status_code", None)
        said = {"error": f"{type(exc).__name__}: {exc}", "status": status}
    print(json.dumps(said), flush=True)
