"""
An answer that is kept for the next request that asks the same, and the bytes it is kept as.  Pure.

Those bytes lie where others may write, so they are believed only with a mark that depends on the whole key
(a keyed BLAKE2, RFC 7693), of which the name that they lie under shows one half.  What was cut, belongs to
another request or was made by somebody who does not know the request has another mark.
"""

import hashlib
import hmac
import re
from typing import NamedTuple

from multidict import MultiMapping

_MARK_BYTES = 16
HEAD_BYTES = 256
"""What is kept beside the bytes of an answer, at the most."""

_KIND = re.compile(r"(?:application/json|text/event-stream)(?:; ?[a-z]+=[A-Za-z0-9_-]{1,32}){0,2}")
_FAILURE = re.compile(rb'"error"\s*:\s*(?!null)\S|"finish_reason"\s*:\s*"(?:error|abort)"')
"""Responses that failed have an `error` (OpenAI's reference); vLLM and OpenRouter tell it as the reason."""
_HEAD = re.compile(rb"([0-9]{1,12}) ([ -~]{1,128})\n")


class Kept(NamedTuple):
    """The *body* of an answer with status 200 of this *kind*, a content type; it is kept for *ttl_ms*."""

    kind: str
    body: bytes
    ttl_ms: int


def kind_of(status: int, headers: MultiMapping[str]) -> str | None:
    """
    Return the content type of an answer that may be kept, by its *headers*; None if it may not.

    One that is encoded was not searched for its end; one may also say `no-store` itself (RFC 9111, 5.2.2.5).
    One with an `Age` (5.1) comes from another cache, and would be kept here once more for all of its time.
    """
    if "Age" in headers or "no-store" in directives(headers):
        return None
    kind = headers.get("Content-Type", "")
    is_plain = headers.get("Content-Encoding", "identity") == "identity"
    return kind if status == 200 and is_plain and _KIND.fullmatch(kind) else None


def tells_failure(body: bytes) -> bool:
    """
    Tell whether an answer with this *body*, plain or a stream, says that its making failed.

    It may be whole and have status 200 all the same.  Within a text the quotes are escaped, so that what a
    model writes is not taken for that.
    """
    return _FAILURE.search(body) is not None


def directives(headers: MultiMapping[str]) -> set[str]:
    """Return what `Cache-Control` says in *headers*, without arguments (RFC 9111, 5.2)."""
    said = ",".join(headers.getall("Cache-Control", ())).lower().split(",")
    return {each.partition("=")[0].strip() for each in said}


def name_of(key: bytes) -> str:
    """Return what the answer to the request of *key* lies under."""
    return key[:16].hex()


def written(key: bytes, kept: Kept) -> bytes:
    """Return *kept*, the answer to the request of *key*, as bytes."""
    rest = b"%d %b\n%b" % (kept.ttl_ms, kept.kind.encode(), kept.body)
    return _mark(key, rest) + rest


def read(key: bytes, data: bytes) -> Kept | None:
    """Return what `written` made *data* of for the same *key*; None for anything else."""
    mark, rest = data[:_MARK_BYTES], data[_MARK_BYTES:]
    head = _HEAD.match(rest)
    if head is None or not hmac.compare_digest(mark, _mark(key, rest)):
        return None
    kind = head[2].decode()
    return Kept(kind, rest[head.end() :], int(head[1])) if _KIND.fullmatch(kind) else None


def _mark(key: bytes, rest: bytes) -> bytes:
    return hashlib.blake2b(rest, key=key, digest_size=_MARK_BYTES).digest()
