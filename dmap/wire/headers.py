"""
Which header lines cross dmap, in either direction.

Requests go by an allowlist, so that a client's credentials or forwarding tricks never reach a backend;
answers by a denylist, since what a server says of its own answer is for the client.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache

from multidict import CIMultiDict

_TO_BACKEND = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "traceparent",
        "tracestate",
        "user-agent",
    }
)
_NOT_TO_CLIENT = frozenset(
    {
        # hop-by-hop, RFC 9110 section 7.6.1
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # said by dmap itself
        "content-length",
        "date",
        "server",
        "x-request-id",
        # about the backend or its token, not about the answer
        "set-cookie",
        "www-authenticate",
        "x-powered-by",
    }
)

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
"""Headers by which a proxy tells who it speaks for; believed from `access.trusted_proxies` only."""

_REMEMBERED = 256
"""Header names that are not looked at anew for each message."""
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def to_backend(theirs: Iterable[tuple[str, str]], own: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the request headers for a backend: the allowed ones of *theirs*, then our *own*."""
    kept = [line for line in theirs if _goes_up(line[0])]
    # Encoded answers could not be searched for their end mark.
    return [*kept, ("Accept-Encoding", "identity"), *own]


def to_client(theirs: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    """Return the answer's headers that may go down, doubles kept."""
    lines = list(theirs)
    kept = [line for line in lines if _goes_down(line[0])]
    named = {name for line in lines if line[0].lower() == "connection" for name in _names(line[1])}
    return CIMultiDict([line for line in kept if line[0].lower() not in named] if named else kept)


@lru_cache(maxsize=_REMEMBERED)
def _goes_up(name: str) -> bool:
    return name.lower() in _TO_BACKEND


@lru_cache(maxsize=_REMEMBERED)
def _goes_down(name: str) -> bool:
    return name.lower() not in _NOT_TO_CLIENT and not name.lower().startswith("access-control-")


def _names(value: str) -> Iterable[str]:
    return (name.strip().lower() for name in value.split(","))


def request_id(theirs: Mapping[str, str]) -> str:
    """Return the client's own `x-request-id` when it is sane, else a new one."""
    given = theirs.get("x-request-id")
    return given if given is not None and _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"
