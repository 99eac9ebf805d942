"""
The bodies of the last requests, for whoever set `debug.capture: true`; off, nothing is looked at or kept.

What is kept is short and has its secrets taken out before it is kept: runs of base64 (images, sound) and
the values of fields that are called like a secret, of whatever type.  The counterpart is
`GET /debug/captures`.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dmap.record import RequestRecord
from dmap.web.request_log import outcome_of

REQUESTS = 50
"""How many requests are kept."""
EXAMINED_BYTES = 4 * 1024 * 1024
"""Of each body that is looked at, from its beginning; some 10 ms when it is all images."""
KEPT_CHARACTERS = 64 * 1024
"""Of each body that are kept, once the secrets and the base64 are out."""

# The end of a name, in a JSON text and in JSON within its strings, where quotes have backslashes before them.
_SECRET = re.compile(
    r"(?:(?P<token>token(?![\w.-]{0,64}(?:secret|password|key)))|authorization|bearer|(?:api|private|access)[_-]?key|secret|password|passwd|passphrase"
    r"|credential|cookie)(?P<rest>[\w.-]{0,64})(?P<quote>\\{0,15}\")\s{0,16}:\s{0,16}",
    re.IGNORECASE,
)
_COUNTS = re.compile(r"[\s\d.,\[\]+-]*|(?:true|false|null)\s*")
"""What is no secret under a name such as `max_tokens` or `token_ids`."""
_MARK = re.compile(r'\\+"?|["\[\]{},]')
_CLOSERS = {"[": "]", "{": "}"}
_SPACE = r"(?:\s|\\+[nrt])*"
_BEARER = re.compile(r"\b(Bearer |Basic |sk-)[\w.~+/=-]{8,}")
_DATA_URL = re.compile(r"(;base64,)([\w+/=-]+)", re.ASCII)
_BASE64 = re.compile(r"()((?<![\w+/=-])[\w+/=-]{200,})", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Capture:
    record: RequestRecord
    at: float
    size_bytes: int
    is_cut: bool
    body: str


class Captures:
    """The ring of the last `REQUESTS` bodies, with what became of their requests."""

    def __init__(self) -> None:
        self._kept: deque[_Capture] = deque(maxlen=REQUESTS)

    def note(self, record: RequestRecord, body: bytes, at: float) -> None:
        """Keep the *body* of *record*, that came *at*, wall time in seconds since 1970."""
        text = _without_base64(_DATA_URL, body[:EXAMINED_BYTES].decode(errors="replace"))
        short = _without_base64(_BASE64, text[: 2 * KEPT_CHARACTERS])
        kept = _without_secrets(short[:KEPT_CHARACTERS])
        is_cut = len(body) > EXAMINED_BYTES or len(text) > 2 * KEPT_CHARACTERS or len(short) > KEPT_CHARACTERS
        self._kept.append(_Capture(record, at, len(body), is_cut, kept))

    def clear(self) -> None:
        """Forget all of them."""
        self._kept.clear()

    def told(self) -> list[dict[str, Any]]:
        """
        Return the captures, the oldest first.

        `reason` is the error that the client was told; `outcome` is None while the request is under way.
        """
        return [_told(capture) for capture in self._kept]


def _told(capture: _Capture) -> dict[str, Any]:
    record = capture.record
    return {
        "id": record.id,
        "at": round(capture.at, 3),
        "client": record.client,
        "path": record.path,
        "model": record.model or None,
        "stream": record.stream,
        "status": record.status or None,
        "outcome": outcome_of(record) if record.status else (record.outcome or None),
        "reason": record.reason or None,
        "size_bytes": capture.size_bytes,
        "cut": capture.is_cut,
        "body": capture.body,
    }


def _without_base64(found: "re.Pattern[str]", text: str) -> str:
    return found.sub(lambda one: f"{one[1]}({len(one[2])} characters)", text)


def _without_secrets(text: str) -> str:
    return _BEARER.sub(r"\1***", "".join(_shown(text)))


def _shown(text: str) -> Iterator[str]:
    at = 0
    while name := _SECRET.search(text, at):
        yield text[at : name.end()]
        at = _end(text, name.end(), name["quote"])
        value = text[name.end() : at]
        is_count = name["token"] and name["rest"] and _COUNTS.fullmatch(value)
        yield value if is_count else f"{name['quote']}***{name['quote']}"
    yield text[at:]


def _end(text: str, start: int, quote: str) -> int:
    """
    Find the end of the JSON value at *start*, whose strings are in *quote*.

    It is where an object can end or go on.  So of broken JSON too much is taken rather than too little, but
    never more than the string it is in.
    """
    can_end = re.compile(rf'{_SPACE}(?:\Z|\}}|,{_SPACE}{re.escape(quote)}[^"]{{0,256}}"{_SPACE}:)').match
    closers: list[str] = []
    is_string = False
    for mark in _MARK.finditer(text, start):
        what = mark[0]
        if what[-1] == '"':
            deeper = len(what) - len(quote)
            if deeper < 0:  # the end of the string that all this is in
                return mark.start()
            if deeper % (2 * len(quote)) == 0:  # else it is escaped
                is_string = not is_string
        elif is_string:
            continue
        elif what in _CLOSERS:
            closers.append(_CLOSERS[what])
        elif closers and what == closers[-1]:
            closers.pop()
        elif not closers and what in "]}":
            return mark.start()
        at = mark.start() if what == "," else mark.end()
        if not closers and not is_string and can_end(text, at):
            return at
    return len(text)
