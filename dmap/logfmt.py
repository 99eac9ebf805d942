"""One log line as `event key=value ...`, in a form that no client can forge.  Pure: it writes nothing."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LONGEST = 256
_is_plain = re.compile(r"[A-Za-z0-9._:/@+-]+").fullmatch


def logfmt(event: str, fields: Mapping[str, Any]) -> str:
    """Return *event* and the *fields* that are not None; texts are cut at 256 characters and escaped."""
    words = [event]
    for name, value in fields.items():
        if isinstance(value, float):
            words.append(f"{name}={value:.3f}")
        elif value is not None:
            text = str(value)[:_LONGEST]
            words.append(f"{name}={text if _is_plain(text) else json.dumps(text)}")
    return " ".join(words)


@dataclass(slots=True)
class Line:
    """A line of `logfmt` that is formatted when it is read; the *fields* must stay as they are until then."""

    event: str
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the line."""
        return logfmt(self.event, self.fields)
