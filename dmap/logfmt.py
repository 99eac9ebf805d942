"""
What the log says, in a form that nobody can forge: neither a client nor a backend makes a line of its own.

A record is a line `event key=value ...`.  What belongs to it besides, such as a traceback, follows on lines
that begin with a bar.  Pure: it writes nothing.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST = 2**16
"""Of one record, in characters; a traceback has the text of its error in it, however long that is."""
_LONGEST = 256
_is_plain = re.compile(r"[A-Za-z0-9._:/@+-]+").fullmatch


@dataclass(slots=True)
class Line:
    """
    A record: an *event* and its *fields*, written when it is read; they must stay as they are until then.

    A field that is None is left out.
    """

    event: str
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        """Return it as logfmt; texts are cut at 256 characters and escaped."""
        words = [self.event]
        for name, value in self.fields.items():
            if isinstance(value, float):
                words.append(f"{name}={value:.3f}")
            elif isinstance(value, int):
                words.append(f"{name}={value}")
            elif value is not None:
                text = str(value)[:_LONGEST]
                words.append(f"{name}={text if _is_plain(text) else json.dumps(text)}")
        return " ".join(words)

    def plain(self) -> dict[str, Any]:
        """Return it as an object for JSON; texts are cut as in logfmt."""
        told = {name: value for name, value in self.fields.items() if value is not None}
        return {"event": self.event, **{name: _plain(value) for name, value in told.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    return value if isinstance(value, int) else str(value)[:_LONGEST]


logfmt = Line


def barred(record: str) -> str:
    """
    Return the text of a whole *record* with a bar before each line but the first.

    So no line of it is taken for a record, or for a priority (`<3>`, sd-daemon(3)).  Characters that are not
    printable are escaped, because a terminal acts on some of them.
    """
    record = record[:LONGEST]
    if record.isprintable():
        return record
    escaped = (each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in record)
    return "".join(escaped).replace("\n", "\n| ")
