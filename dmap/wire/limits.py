"""
Bound what a JSON body may hold, before it is decoded.

A body is decoded in one call, and nothing else runs meanwhile.  How long that takes depends less on its bytes
than on its values, members and escapes: 64 MiB of `[]` take 80 times as long as one string of 64 MiB.  So
these are counted first, in slices.
"""

import codecs
from collections.abc import Iterable, Iterator

from dmap.errors import BadRequest

SLICE_BYTES = 256 * 1024
MAX_VALUES = 500_000
"""Values in a body: more tokens, given as numbers, than any context holds."""
MAX_MEMBERS = 50_000
"""Members of all objects in a body: 25,000 messages, or 400 tools with 30 parameters each."""
MAX_ESCAPES = 8_000_000
"""Backslashes in a body: 8 MB of escaped Chinese text have 1.4 million."""
MAX_BLANKS = 16 * 2**20
"""Bytes of white space outside of strings."""
_BOUNDS = (
    (b",[{", MAX_VALUES, "values"),
    (b":", MAX_MEMBERS, "members of objects"),
    (b" \n\t\r", MAX_BLANKS, "bytes of white space"),
)
"""The marks to count outside of strings.  Each value but the first has a comma or a bracket before it."""


def check_limits(body: bytes) -> None:
    """
    Refuse a *body* that is not UTF-8, or holds so much that it would take long to decode.

    Marks in strings do not count, but to find out which these are takes 10 times as long.  So all marks are
    counted first, and those outside of strings only where there are too many.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    escapes = 0
    for piece in _slices(body):
        decoder.decode(piece)
        escapes += piece.count(b"\\")
        if escapes > MAX_ESCAPES:
            raise BadRequest(f"the body has over {MAX_ESCAPES:,} backslashes")
    decoder.decode(b"", True)
    excess = _excess(_slices(body)) and _excess(_outside(body))
    if excess:
        raise BadRequest(f"the body has {excess}")


def _excess(pieces: Iterable[bytes]) -> str:
    """Return in words which bound the *pieces* of a body exceed; nothing if they exceed none."""
    counts = [0] * len(_BOUNDS)
    for piece in pieces:
        for place, (marks, most, what) in enumerate(_BOUNDS):
            counts[place] += sum(map(piece.count, marks))
            if counts[place] > most:
                return f"over {most:,} {what}"
    return ""


def _slices(body: bytes) -> Iterator[bytes]:
    return (body[at : at + SLICE_BYTES] for at in range(0, len(body), SLICE_BYTES))


def _outside(body: bytes) -> Iterator[bytes]:
    """Yield *body* in slices, without its strings.  A quote opens or closes a string unless it is escaped."""
    is_inside = is_escaped = False
    for piece in _slices(body):
        whole = b"\\" + piece if is_escaped else piece
        flat = whole.replace(rb"\\", b"").replace(rb"\"", b"")
        is_escaped = flat.endswith(b"\\")
        pieces = flat.split(b'"')
        yield b"".join(pieces[is_inside::2])
        is_inside ^= len(pieces) % 2 == 0
