"""
Decode JSON objects in which every name occurs once.

What the names mean is the business of `body.py`.  Values stay undecoded (`msgspec.Raw`), or nearly so.
"""

from collections import Counter
from contextlib import suppress
from operator import itemgetter
from typing import Any

import msgspec

from dmap.errors import BadRequest

SHORT_BYTES = 64 * 1024
"""Bytes of a list whose texts are decoded on the way."""
_BRACE, _BRACKET = b"{["


class _Name(str):
    """
    A member's name that is equal to no other, so that a decoded object keeps its doubles.

    This takes time.  So what is short is first decoded plainly and written again: if that gives the same
    bytes, nothing was lost, and there are no doubles.  It does so for most, once they have no white space.
    """

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


Pairs = dict[_Name, msgspec.Raw]
Object = dict[str, Any]
pairs_in = msgspec.json.Decoder(Pairs, dec_hook=str.__new__).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_Scalar = str | int | bool | None
_Deepest = _Scalar | list[msgspec.Raw] | dict[str, msgspec.Raw]
_Inner = _Scalar | list[_Scalar | dict[str, _Deepest]] | dict[str, _Deepest]
_deep = msgspec.json.Decoder(
    list[dict[str, _Scalar | list[_Scalar | dict[str, _Inner]] | dict[str, _Inner]]]
).decode
_once = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
SHALLOW = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_encode = msgspec.json.Encoder().encode


def object_in(raw: msgspec.Raw) -> Object:
    """Decode the members of an object; refuse a name that occurs twice."""
    if len(memoryview(raw)) < SHORT_BYTES:
        plainly: Object = _once(raw)
        if msgspec.Raw(_encode(plainly)) == raw:
            return plainly
    return _unique(pairs_in(raw))


def _unique(pairs: Pairs) -> Object:
    fields: Object = dict(zip(map(str, pairs), pairs.values(), strict=True))
    if len(fields) < len(pairs):
        double = max(Counter(map(str, pairs)).items(), key=itemgetter(1))[0][:64]
        raise BadRequest(f"the field {double!r} occurs more than once", param=double)
    return fields


def objects_in(raw: msgspec.Raw, decoders: Any = (_deep, SHALLOW)) -> list[Object]:
    """
    Return the objects in a list, or the one object, that *raw* is; other values are left out.

    A long list is decoded object by object, so that other threads run meanwhile.
    """
    view = memoryview(raw)
    if view[0] == _BRACE:
        return [object_in(raw)]
    if view[0] != _BRACKET or b"{" not in bytes(raw):
        return []
    for decode in decoders if len(view) < SHORT_BYTES else ():
        with suppress(msgspec.ValidationError):
            found: list[Object] = decode(raw)
            if msgspec.Raw(_encode(found)) == raw:
                return found
    return [_unique(pairs_in(item)) for item in _items(raw) if memoryview(item)[0] == _BRACE]
