"""
What the log says, in a form that nobody can forge: neither a client nor a backend makes a line of its own.

A record is a line `event key=value ...`.  What belongs to it besides, such as a traceback, follows on lines
that begin with a bar.  Pure: it writes nothing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST = 2**16
"""Of one record, in characters; a traceback has the text of its error in it, however long that is."""
_LONGEST = 256
_is_plain = re.compile(r"[A-Za-z0-9._:/@+-]+").fullmatch


def logfmt(event: str, fields: Mapping[str, Any]) -> str:
    """Return *event* and the *fields* that are not None; texts are cut at 256 characters and escaped."""
    words = [event]
    for name, value in fields.items():
        if isinstance(value, float):
            words.append(f"{name}={value:.3f}")
        elif isinstance(value, int):
            words.append(f"{name}={value}")
        elif value is not None:
            text = str(value)[:_LONGEST]
            words.append(f"{name}={text if _is_plain(text) else json.dumps(text)}")
    return " ".join(words)


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


@dataclass(slots=True)
class Line:
    """A line of `logfmt` that is formatted when it is read; the *fields* must stay as they are until then."""

    event: str
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the line."""
        return logfmt(self.event, self.fields)
