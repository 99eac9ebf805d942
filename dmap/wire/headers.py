"""
Which header lines cross dmap, in either direction.

A request keeps only the headers of a list, so that no backend sees a client's credentials or its forwarding
tricks.  An answer keeps all but those of a list, because what a server says of its answer is for the client.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache

from multidict import CIMultiDict, MultiMapping

_TO_BACKEND = ("accept", "anthropic-beta", "anthropic-version", "traceparent", "tracestate", "user-agent")
_HOP_BY_HOP = ("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
"""About one connection (RFC 9110, section 7.6.1); so are those that begin with `proxy-`."""
_OWN = ("content-length", "date", "server", "x-request-id")
"""What dmap says itself."""
_OF_BACKEND = ("set-cookie", "www-authenticate", "x-powered-by")
"""About the backend or its token, not about the answer."""
_NOT_TO_CLIENT = frozenset((*_HOP_BY_HOP, *_OWN, *_OF_BACKEND))
_NO_BEGINNINGS = ("access-control-", "proxy-")

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
"""Headers by which a proxy tells who it speaks for; only `access.trusted_proxies` are believed."""

_REMEMBERED = 256
"""Names of headers for which it is remembered whether a client gets them."""
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def to_backend(theirs: Iterable[tuple[str, str]], own: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of a request for a backend: those of *theirs* that may go, then our *own*."""
    kept = [line for line in theirs if line[0].lower() in _TO_BACKEND]
    # Encoded answers could not be searched for their end mark.
    return [*kept, ("Accept-Encoding", "identity"), *own]


def to_client(theirs: MultiMapping[str]) -> CIMultiDict[str]:
    """
    Return the headers of an answer that the client gets, also those that occur twice.

    A `Connection` header names more that are about one connection only.
    """
    headers = CIMultiDict([line for line in theirs.items() if _is_for_client(line[0])])
    for names in theirs.getall("Connection", ()):
        for name in names.split(","):
            headers.popall(name.strip(), None)
    return headers


@lru_cache(maxsize=_REMEMBERED)
def _is_for_client(name: str) -> bool:
    name = name.lower()
    return name not in _NOT_TO_CLIENT and not name.startswith(_NO_BEGINNINGS)


def request_id(theirs: Mapping[str, str]) -> str:
    """Return the `x-request-id` among *theirs*, the client's headers, if it is sane; else a new one."""
    given = theirs.get("x-request-id")
    return given if given is not None and _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"
