"""
The bodies of the last requests, if `debug.capture` is true; otherwise nothing is looked at or kept.

Each is kept as it came, and as it was sent on.  What is kept is short, and its secrets are taken out before
that: the values of fields that are called like a secret, at any depth and in JSON within strings; what looks
like a credential; and base64 (images, sound).  A body that is no JSON is not kept, because nobody can tell
where a secret in it ends.  The counterpart is `GET /debug/captures`.
"""

import json
import re
import string
from collections import deque
from typing import Any

from dmap.events import rounded
from dmap.record import RequestRecord
from dmap.web.request_log import facts

REQUESTS = 50
"""How many requests are kept."""
EXAMINED_BYTES, EXAMINED_VALUES = 4 * 1024 * 1024, 50_000
"""Of a body that may have more, nothing is kept.  To examine the others takes up to some 50 ms."""
KEPT_CHARACTERS = 64 * 1024
"""Of each body, and of each string in it."""
LONGEST_NAME = 256
"""Of a field, in characters.  One with a longer name is not kept."""

HIDDEN = "***"
UNREADABLE = "(no JSON, or too much)"

_SECRET = re.compile(
    r"authorization|bearer|(?:api|private|access)[\W_]?key|secret|password|passwd|passphrase|pwd|credential|cookie",
    re.IGNORECASE,
)
"""In the name of a field; see `_is_secret` for `token`."""
_FIELD = re.compile(rf"(?:{_SECRET.pattern}|token)[\w.-]{{0,64}}\\{{0,15}}[\"']\s{{0,16}}:", re.IGNORECASE)
"""Such a name in text that is not quite JSON."""
_CREDENTIAL = re.compile(r"\b((?i:bearer)\s+|Basic |sk-|dmap-(?=[\w-]{43}))[\w.~+/=-]{8,}")
_BASE64 = re.compile(r"(;base64,|(?<![\w+/=-])(?=[\w+/=-]{200}))([\w+/=-]+)", re.ASCII)
_WORD = string.ascii_letters + string.digits + "_.~+/=-"


class Captures:
    """The ring of the last `REQUESTS` bodies, with what became of their requests."""

    def __init__(self) -> None:
        self._kept: deque[tuple[RequestRecord, dict[str, Any]]] = deque(maxlen=REQUESTS)

    def note(self, record: RequestRecord, body: bytes, at: float) -> None:
        """Keep the *body* of *record*, which came *at*, wall time in seconds since 1970."""
        text, is_cut = _shown(body)
        fields = {
            "at": round(at, 3),
            "size_bytes": len(body),
            "cut": is_cut,
            "body": text,
            "sent": None,
            "sent_bytes": None,
        }
        self._kept.append((record, fields))

    def sent(self, record: RequestRecord, body: bytes) -> None:
        """Keep the *body* that the server of *record* gets, too."""
        fields = next((fields for kept, fields in reversed(self._kept) if kept is record), None)
        if fields is not None:
            fields |= {"sent": _shown(body)[0], "sent_bytes": len(body)}

    def clear(self) -> None:
        """Forget all of them."""
        self._kept.clear()

    def fields(self) -> list[dict[str, Any]]:
        """
        Return the captures, the oldest first.

        `reason` is the error that the client was told; `outcome` is None while the request is under way.
        """
        return [
            {name: rounded(value) for name, value in facts(record).items()}
            | {"stream": record.stream}
            | fields
            for record, fields in self._kept
        ]


def _shown(body: bytes) -> tuple[str, bool]:
    """Return as much of *body* as is kept, without its secrets, and whether that is less than all."""
    if len(body) > EXAMINED_BYTES or sum(map(body.count, (b",", b"[", b"{"))) > EXAMINED_VALUES:
        return UNREADABLE, True
    look = _Look()
    try:
        text = json.dumps(look.at(json.loads(body)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return UNREADABLE, True
    return text[:KEPT_CHARACTERS], look.left < 0 or len(text) > KEPT_CHARACTERS


class _Look:
    """One look through a decoded body, until more characters than are kept were seen: *left* counts down."""

    def __init__(self) -> None:
        self.left = 2 * KEPT_CHARACTERS

    def at(self, value: Any) -> Any:
        """Return *value* without its secrets."""
        match value:
            case dict():
                return dict(self._member(name, one) for name, one in value.items())
            case list():
                return [self.at(one) for one in value]
            case str():
                text = self._within(value) if self.left >= 0 else HIDDEN
                self.left -= len(text)
                return text
        return value

    def _member(self, name: str, value: Any) -> tuple[str, Any]:
        self.left -= len(name)
        if self.left < 0 or len(name) > LONGEST_NAME:
            return HIDDEN, HIDDEN
        return _clean(name), HIDDEN if _is_secret(name, value) else self.at(value)

    def _within(self, text: str) -> str:
        """Return a string's *text* without the secrets that stand in it, as JSON or otherwise."""
        try:
            inner = json.loads(text) if text.lstrip()[:1] in ("{", "[", '"') else text
        except ValueError:
            inner = text
        if inner is text:
            return _clean(text)
        shown = self.at(inner)
        return text if shown == inner else json.dumps(shown, ensure_ascii=False)


def _is_secret(name: str, value: Any) -> bool:
    """Tell whether a field called *name* holds a secret.  Counts of tokens and their ids are none."""
    if _SECRET.search(name):
        return True
    values = value if isinstance(value, list) else [value]
    is_count = all(isinstance(one, int | float | None) for one in values)
    return "token" in name.lower() and not (is_count and not name.lower().endswith("token"))


def _clean(text: str) -> str:
    """Return the beginning of *text*, which is no JSON, without base64, credentials and values of secrets."""
    short = text[:KEPT_CHARACTERS]
    more = len(text) - len(short)
    clean = _CREDENTIAL.sub(
        rf"\1{HIDDEN}",
        _BASE64.sub(
            lambda run: f"{run[1]}({len(run[2]) + more * (run.end() == len(short))} characters)", short
        ),
    )
    field = _FIELD.search(clean) if ":" in clean else None
    if field is not None:
        return f"{clean[: field.end()]} {HIDDEN}"
    # The last word may be the beginning of a credential.
    return f"{clean.rstrip(_WORD)}... ({more} more characters)" if more and clean[-1] != ")" else clean
