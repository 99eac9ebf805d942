"""
The bodies of the last requests, for whoever set `debug.capture: true`; off, nothing is looked at or kept.

What is kept is short and has its secrets taken out before it is kept: runs of base64 (images, sound) and
the values of fields that are called like a secret.  The counterpart is `GET /debug/captures`.
"""

import re
from collections import deque
from dataclasses import dataclass
from typing import Any

from dmap.trip import Trip
from dmap.web.story import outcome_of

__all__ = ["Captures"]

REQUESTS = 50
"""How many requests are kept."""
EXAMINED_BYTES = 4 * 1024 * 1024
"""Of each body that is looked at, from its beginning; some 10 ms when it is all images."""
KEPT_CHARACTERS = 64 * 1024
"""Of each body that are kept, once the secrets and the base64 are out."""

# The end of a name and the string after it, in a JSON text and in JSON within its strings, where each quote
# has backslashes before it.  What was cut has no last quote.
_SECRET = re.compile(
    r"((?:authorization|api[_-]?key|token|secret|password|passwd|credential|cookie)[\w.-]{0,64}"
    r'(\\{0,7}")\s{0,16}:\s{0,16}\2).*?((?<!\\)\2|\Z)',
    re.IGNORECASE | re.DOTALL,
)
_BEARER = re.compile(r"\b(Bearer |Basic |sk-)[\w.~+/=-]{8,}")
_DATA_URL = re.compile(r"(;base64,)([\w+/=-]+)", re.ASCII)
_BASE64 = re.compile(r"()((?<![\w+/=-])[\w+/=-]{200,})", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Capture:
    trip: Trip
    at: float
    size_bytes: int
    is_cut: bool
    body: str


class Captures:
    """The ring of the last `REQUESTS` bodies, with what became of their requests."""

    def __init__(self) -> None:
        self._kept: deque[_Capture] = deque(maxlen=REQUESTS)

    def note(self, trip: Trip, body: bytes, at: float) -> None:
        """Keep the *body* of *trip*, that came *at*, wall time in seconds since 1970."""
        text = _without_base64(_DATA_URL, body[:EXAMINED_BYTES].decode(errors="replace"))
        short = _without_base64(_BASE64, text[: 2 * KEPT_CHARACTERS])
        kept = _without_secrets(short[:KEPT_CHARACTERS])
        is_cut = len(body) > EXAMINED_BYTES or len(text) > 2 * KEPT_CHARACTERS or len(short) > KEPT_CHARACTERS
        self._kept.append(_Capture(trip, at, len(body), is_cut, kept))

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
    trip = capture.trip
    return {
        "id": trip.id,
        "at": round(capture.at, 3),
        "client": trip.client,
        "path": trip.path,
        "model": trip.model or None,
        "stream": trip.stream,
        "status": trip.status or None,
        "outcome": outcome_of(trip) if trip.status else (trip.outcome or None),
        "reason": trip.reason or None,
        "size_bytes": capture.size_bytes,
        "cut": capture.is_cut,
        "body": capture.body,
    }


def _without_base64(found: "re.Pattern[str]", text: str) -> str:
    return found.sub(lambda one: f"{one[1]}({len(one[2])} characters)", text)


def _without_secrets(text: str) -> str:
    return _BEARER.sub(r"\1***", _SECRET.sub(r"\1***\3", text))
