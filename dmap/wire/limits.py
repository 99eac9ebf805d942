"""
Bound what a JSON body may hold, before it is decoded.

A decoder takes one call for a body, and nothing else runs meanwhile.  What it costs are less the bytes than
the values, members and escapes: 64 MiB of `[]` take 80 times as long as one string of 64 MiB.  So these are
counted first, in slices.
"""

import codecs
from collections.abc import Iterator

from dmap.errors import BadRequest

SLICE_BYTES = 256 * 1024
MAX_VALUES = 500_000
"""Values in a body: as many tokens, given as numbers, as no context holds."""
MAX_MEMBERS = 50_000
"""Members of all objects in a body: 25,000 messages, or 400 tools with 30 parameters each."""
MAX_ESCAPES = 8_000_000
"""Backslashes in a body: 8 MB of Chinese text that is escaped have 1.4 million."""
MAX_BARE_BYTES = 16 * 2**20
"""Bytes outside of strings: numbers, marks and white space."""


def check_limits(body: bytes) -> None:
    """
    Refuse a *body* that is not UTF-8, or holds so much that it would take long to decode.

    Marks that stand in strings do not count, but it takes 10 times as long to find out which do.  So first
    all are counted, and only where these are too many those outside of strings.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    values = members = blanks = escapes = 0
    for piece in _slices(body):
        decoder.decode(piece)
        values += _values(piece)
        members += piece.count(b":")
        blanks += piece.count(b" ") + piece.count(b"\n") + piece.count(b"\t") + piece.count(b"\r")
        escapes += piece.count(b"\\")
        _bound(escapes, MAX_ESCAPES, "backslashes")
    decoder.decode(b"", True)
    if values > MAX_VALUES or members > MAX_MEMBERS or blanks > MAX_BARE_BYTES:
        _check_exactly(body)


def _check_exactly(body: bytes) -> None:
    values = members = size = 0
    for piece in _outside(body):
        values += _values(piece)
        members += piece.count(b":")
        size += len(piece)
        _bound(values, MAX_VALUES, "values")
        _bound(members, MAX_MEMBERS, "members of objects")
        _bound(size, MAX_BARE_BYTES, "bytes outside of strings")


def _slices(body: bytes) -> Iterator[bytes]:
    return (body[at : at + SLICE_BYTES] for at in range(0, len(body), SLICE_BYTES))


def _values(piece: bytes) -> int:
    """Count what comes before values: they have one comma or opening bracket each, give or take one."""
    return piece.count(b",") + piece.count(b"[") + piece.count(b"{")


def _outside(body: bytes) -> Iterator[bytes]:
    """Yield slices of *body* without its strings: a quote opens or closes one unless it is escaped."""
    is_inside = is_escaped = False
    for piece in _slices(body):
        whole = b"\\" + piece if is_escaped else piece
        flat = whole.replace(rb"\\", b"").replace(rb"\"", b"")
        is_escaped = flat.endswith(b"\\")
        pieces = flat.split(b'"')
        yield b"".join(pieces[is_inside::2])
        is_inside ^= len(pieces) % 2 == 0


def _bound(count: int, most: int, what: str) -> None:
    if count > most:
        raise BadRequest(f"the body has over {most:,} {what}")
