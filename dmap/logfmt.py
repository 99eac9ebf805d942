"""One log line as `event key=value ...`, in a form that no client can forge.  Pure: it writes nothing."""

import json
import re
from collections.abc import Mapping
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


class Line:
    """What `logfmt` says, put into words when somebody reads it; the *fields* must stay as they are."""

    __slots__ = ("event", "fields")

    def __init__(self, event: str, fields: Mapping[str, Any]) -> None:
        self.event = event
        self.fields = fields

    def __str__(self) -> str:
        """Return the line."""
        return logfmt(self.event, self.fields)
