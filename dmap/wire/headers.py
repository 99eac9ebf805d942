"""
Which headers cross dmap, in either direction.

Of a request only the headers on a list go on, so that no backend sees a client's credentials or believes its
forwarding headers.  Of an answer all headers go on but those on a list, because what a server says of its
answer is for the client.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from multidict import CIMultiDict, MultiMapping

from dmap.wire.ids import new_word

_TO_BACKEND = frozenset(
    ("accept", "anthropic-beta", "anthropic-version", "traceparent", "tracestate", "user-agent")
)
_OF_NO_MEANING = ("traceparent", "tracestate", "user-agent")
_HOP_BY_HOP = ("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
"""Headers about one connection (RFC 9110, section 7.6.1), as are those that begin with `proxy-`."""
_OWN = ("content-length", "date", "dmap-cache", "server", "x-request-id")
"""Headers that dmap writes itself."""
_OF_BACKEND = ("content-location", "location", "set-cookie", "www-authenticate", "x-powered-by")
"""Headers about the backend, where it is, or its token, not about the answer."""
_NOT_TO_CLIENT = frozenset((*_HOP_BY_HOP, *_OWN, *_OF_BACKEND))

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
"""Headers in which a proxy says for whom it speaks; only `access.trusted_proxies` are believed."""

_REMEMBERED = 256
"""How many names of headers are remembered with whether a client gets them."""
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def to_backend(
    theirs: Iterable[tuple[str, str]], own: Sequence[tuple[str, str]], drop: str = ""
) -> list[tuple[str, str]]:
    """Return the headers of a request to a backend: our *own*, and others of *theirs* but for *drop*."""
    passed = _TO_BACKEND.difference((drop, *(name.lower() for name, _ in own)))
    kept = [line for line in theirs if line[0].lower() in passed]
    # Encoded answers could not be searched for their end mark.
    return [*kept, ("Accept-Encoding", "identity"), *own]


def meaning(theirs: MultiMapping[str]) -> list[str]:
    """Return those of *theirs* that a backend gets and may answer otherwise for, each as a line."""
    names = sorted(_TO_BACKEND.difference(_OF_NO_MEANING))
    return [f"{name}: {value}" for name in names for value in theirs.getall(name, ())]


def to_client(theirs: MultiMapping[str]) -> CIMultiDict[str]:
    """
    Return those of *theirs*, the headers of an answer, that the client gets; repeated ones stay repeated.

    A header that `Connection` names is about one connection, so it stays behind, too.
    """
    headers = CIMultiDict([line for line in theirs.items() if _is_for_client(line[0])])
    for names in theirs.getall("Connection", ()):
        for name in names.split(","):
            headers.popall(name.strip(), None)
    return headers


@lru_cache(maxsize=_REMEMBERED)
def _is_for_client(name: str) -> bool:
    name = name.lower()
    return name not in _NOT_TO_CLIENT and not name.startswith(("access-control-", "proxy-"))


def request_id(theirs: Mapping[str, str]) -> str:
    """Return the `x-request-id` in *theirs*, the client's headers, if it is sane, and a new one otherwise."""
    given = theirs.get("x-request-id")
    return given if given is not None and _SANE_ID.fullmatch(given) else f"req_{new_word()}{new_word()}"
