"""
Decode JSON in which every name occurs once, and long values only as far as somebody looks into them.

What the names mean is the business of `body.py` and `guards.py`.
"""

from collections import Counter
from contextlib import suppress
from typing import Any

import msgspec

from dmap.errors import BadRequest

SHORT_BYTES = 256 * 1024
"""Values below this size are decoded in one piece: a millisecond or two, for which nothing else runs."""
LONGEST_NAME = 1024
"""Characters in the name of a member, or of a model."""
_BRACE, _BRACKET, _QUOTE = b'{["'
_TYPES: dict[int, type] = {_BRACE: dict, _BRACKET: list, _QUOTE: str, b"n"[0]: type(None)}

Object = dict[str, Any]
"""The members of an object.  Long values and numbers that msgspec does not decode are `msgspec.Raw`."""


class _Name(str):
    """A member's name that is equal to no other, so that a decoded object keeps names that occur twice."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


_pairs = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=str.__new__).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode
_whole = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def opened(value: Any) -> Any:
    """
    Decode *value* if it is a `msgspec.Raw`: its outermost level, and what is short in that.

    A long text stays as it is.  Raises `BadRequest` for an object in which a name occurs twice, and what
    msgspec does for what is not JSON.  An object further inside stays as it is if a name occurs twice in it.
    """
    if isinstance(value, msgspec.Raw):
        value = _decoded(value)
    if not isinstance(value, msgspec.Raw):
        return value
    first = memoryview(value)[0]
    if first == _BRACE:
        return {name: _decoded(inner) for name, inner in _unique(_pairs(value)).items()}
    return [_decoded(item) for item in _items(value)] if first == _BRACKET else value


def _decoded(value: msgspec.Raw) -> Any:
    """
    Return *value* decoded in one piece; or as it is, if it is long or if a name in it occurs twice.

    It is written again, without what was lost to a second member of the same name.  If that gives the same
    bytes, nothing was.  Other bytes may mean white space; but a colon stands behind the name of each member,
    or in a text, so each member that is lost is a lost colon, unless escapes make colons of what was none.
    """
    if len(memoryview(value)) >= SHORT_BYTES:
        return value
    body = bytes(value)
    try:
        whole = _whole(body)
        again = _encode(whole)
        # A single byte is found 20 times as fast as the escape.
        escapes_colons = b"\\" in body and b"\\u003" in body
        if again == body or (again.count(b":") == body.count(b":") and not escapes_colons):
            return whole
    except msgspec.ValidationError:
        pass  # a number too large for Python's float, which nobody needs to decode
    body.decode()
    return value


def _unique(pairs: dict[_Name, msgspec.Raw]) -> Object:
    if max(map(len, pairs), default=0) > LONGEST_NAME:
        name = next(str(name[:64]) for name in pairs if len(name) > LONGEST_NAME)
        raise BadRequest(f"a field has a name of over {LONGEST_NAME} characters", param=name)
    fields: Object = dict(zip(map(str, pairs), pairs.values(), strict=True))
    if len(fields) < len(pairs):
        double = Counter(map(str, pairs)).most_common(1)[0][0][:64]
        raise BadRequest(f"the field {double!r} occurs more than once", param=double)
    return fields


def json_of(body: bytes) -> Any:
    """Decode what a server said; None when it is not JSON."""
    try:
        return _whole(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def type_of(value: Any) -> type:
    """Return the type of *value*, opened or not; of a number that is not opened, float."""
    return _TYPES.get(memoryview(value)[0], float) if isinstance(value, msgspec.Raw) else type(value)


def beginning(value: Any, most: int) -> str:
    """Return the first *most* characters, or a few more, of a text; nothing of any other value."""
    if not isinstance(value, msgspec.Raw):
        return value[:most] if isinstance(value, str) else ""
    view = memoryview(value)
    if view[0] != _QUOTE:
        return ""
    last = min(len(view) - 1, most + 16)
    for end in range(last, max(last - 16, 0), -1):  # not within a character or an escape
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            return _text(bytes(view[:end]) + b'"')
    return ""
