"""
The head of a GGUF file: its key-value pairs.

Plain Python and defensive, for the directory is the user's: every length is checked against a bound before
it is believed.  The format is llama.cpp's (ggml/docs/gguf.md): magic, version, two counts, then the pairs.
What cannot be true raises ValueError, KeyError, OverflowError or struct.error; `Broken` where it is certain
that no engine can read the file.
"""

import os
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

VERSIONS = (2, 3)
MOST_PAIRS = 10_000
MOST_ITEMS = 4_000_000
MOST_BYTES = 64 * 2**20
LONGEST_STRING_BYTES = 64 * 2**10
LONGEST_LIST = 4096

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

Value = str | int | float | list[int | float]


class Broken(ValueError):
    """The file is none that can be served; the message says why."""


class Pairs(NamedTuple):
    """The pairs that were *found*, and how many *tensors* there are to be."""

    found: Mapping[str, Value]
    tensors: int


def never(found: Mapping[str, Value], key: str) -> bool:
    """Read all pairs."""
    return False


def read_pairs(file: BinaryIO, is_enough: Callable[[Mapping[str, Value], str], bool]) -> Pairs:
    """
    Walk the pairs of *file*, until *is_enough* says so of those before a key; keep texts and numbers.

    The file is then behind the last pair.
    """
    (magic,) = unpack(file, "4s")
    if magic != b"GGUF":
        raise Broken(f"it begins with {magic!r}, a GGUF file with b'GGUF'")
    version = number(file, "I")
    if version not in VERSIONS:
        raise Broken(f"it is of GGUF version {version}; the engine reads {VERSIONS[0]} and {VERSIONS[-1]}")
    tensors, count = unpack(file, "QQ")
    if count > MOST_PAIRS:
        raise ValueError(f"{count} pairs")
    found: dict[str, Value] = {}
    for _ in range(count):
        if file.tell() > MOST_BYTES:
            raise ValueError("a header beyond all bounds")
        key = text(file)
        if is_enough(found, key):
            break
        value = _value(file, number(file, "I"))
        if value is not None:
            found[key] = value
    return Pairs(found, tensors)


def _value(file: BinaryIO, kind: int) -> Any:
    """Return a text, a number or a short list of numbers; skip any other array."""
    if kind == STRING:
        return text(file)
    if kind != ARRAY:
        return number(file, SCALARS[kind])
    kind, count = unpack(file, "IQ")
    if count > MOST_ITEMS:
        raise ValueError(f"an array of {count} items")
    if kind == STRING:
        read, seek, length = file.read, file.seek, struct.Struct("<Q").unpack
        for _ in range(count):  # of a vocabulary, hundreds of thousands
            seek(length(read(8))[0], os.SEEK_CUR)
        return None
    item = SCALARS[kind]
    if count > LONGEST_LIST:
        file.seek(count * struct.calcsize(item), os.SEEK_CUR)
        return None
    return list(unpack(file, f"{count}{item}"))


def text(file: BinaryIO) -> str:
    """Return a text; one that is too long to be a name of anything counts as empty."""
    length = number(file, "Q")
    if length > LONGEST_STRING_BYTES:
        file.seek(length, os.SEEK_CUR)
        return ""
    return file.read(length).decode(errors="replace")


def number(file: BinaryIO, form: str) -> Any:
    """Read the one value of *form*."""
    return unpack(file, form)[0]


def unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    """Read little-endian values of *form*, as `struct` writes it; `struct.error` if the file ends before."""
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))
