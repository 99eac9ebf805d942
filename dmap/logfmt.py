"""One log line as `event key=value ...`, in a form that no client can forge.  Pure: it writes nothing."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["logfmt"]

_LONGEST = 256
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@+-")


def logfmt(event: str, fields: Mapping[str, Any]) -> str:
    """Return *event* and the *fields* that are not None; texts are cut at 256 characters and escaped."""
    told = (f"{name}={_value(value)}" for name, value in fields.items() if value is not None)
    return " ".join((event, *told))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)[:_LONGEST]
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)
