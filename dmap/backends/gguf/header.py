"""
What a GGUF file's header tells of a model, read without loading it.

Plain Python and defensive, for the directory is the user's: every length is checked against a bound before
it is believed, and what cannot be read is None, never an exception.  The format is llama.cpp's
(ggml/docs/gguf.md): magic, version, two counts, then key-value pairs; tensors follow and are not looked at.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MOST_PAIRS = 10_000
MOST_ITEMS = 4_000_000
MOST_BYTES = 64 * 2**20
LONGEST_STRING_BYTES = 64 * 2**10
LONGEST_LIST = 4096

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

ENCODERS = frozenset(
    [
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    ]
)
"""Architectures that only embed; llama.cpp's names (src/llama-arch.cpp)."""

F16_BYTES = 2
F16 = 1
"""Of `general.file_type`: mostly 16 bits."""

Value = str | int | float | list[int | float]


MODEL, PROJECTOR = "model", "mmproj"
"""Values of `general.type`; others are `adapter` and `imatrix` (gguf-py, `GGUFType`)."""


@dataclass(frozen=True, slots=True)
class Header:
    """
    A file's own facts.

    *type* is `MODEL`, or `PROJECTOR` for the eyes or ears of another model, or what else the file says.
    *cache_bytes* is what the attention cache takes per token of context at 16 bits, 0 where the header does
    not say enough.  *width* is the length of a token's embedding, of a projector that of its model's, 0 if
    that is not known.  *sees* marks a projector for images, and *half* numbers of 16 bits.
    """

    context_length: int | None = None
    cache_bytes: int = 0
    embedding: bool = False
    type: str = MODEL
    architecture: str = ""
    width: int = 0
    sees: bool = False
    half: bool = False


UNREADABLE = Header()
"""What is known of a file whose header cannot be read."""


def read_header(path: Path) -> Header | None:
    """Read the header of the file *path*; None when it is no GGUF file or a broken one.  Blocks."""
    try:
        with path.open("rb") as file:
            pairs = _pairs(file)
    except (OSError, ValueError, KeyError, OverflowError, struct.error):
        return None
    return _digest(pairs)


def _digest(pairs: dict[str, Value]) -> Header:
    architecture = str(pairs.get("general.architecture", ""))
    encoder = architecture in ENCODERS
    if architecture == "clip":
        return _digest_projector(pairs)
    return Header(
        context_length=_whole(pairs.get(f"{architecture}.context_length")) or None,
        cache_bytes=0 if encoder else _cache_bytes(pairs, architecture),
        embedding=encoder or _whole(pairs.get(f"{architecture}.pooling_type")) > 0,
        type=str(pairs.get("general.type", MODEL)),
        architecture=architecture,
        width=_whole(pairs.get(f"{architecture}.embedding_length")),
    )


def _digest_projector(pairs: dict[str, Value]) -> Header:
    """Files that say no `general.type` are from older programs, which wrote another width."""
    widths = (_whole(pairs.get(f"clip.{sense}.projection_dim")) for sense in ("vision", "audio"))
    return Header(
        type=PROJECTOR,
        architecture="clip",
        width=next(filter(None, widths), 0) if pairs.get("general.type") == PROJECTOR else 0,
        sees=pairs.get("clip.has_vision_encoder") is True,
        half=pairs.get("general.file_type") == F16,
    )


def _cache_bytes(pairs: dict[str, Value], architecture: str) -> int:
    """Sum keys and values over the layers; `head_count_kv` may be one number or one per layer."""

    def number(name: str) -> int:
        return _whole(pairs.get(f"{architecture}.{name}"))

    heads = pairs.get(f"{architecture}.attention.head_count_kv", number("attention.head_count"))
    all_heads = sum(map(_whole, heads)) if isinstance(heads, list) else _whole(heads) * number("block_count")
    width = number("embedding_length") // max(1, number("attention.head_count"))
    lengths = (number("attention.key_length") or width) + (number("attention.value_length") or width)
    return all_heads * lengths * F16_BYTES


def _whole(value: Value | None) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _pairs(file: BinaryIO) -> dict[str, Value]:
    """Walk the pairs of *file* and return the few that are wanted.  Nonsense raises."""
    magic, version, _, count = _unpack(file, "4sIQQ")
    if magic != b"GGUF" or version not in (2, 3) or count > MOST_PAIRS:
        raise ValueError("no GGUF file that this reader knows")
    found: dict[str, Value] = {}
    for _ in range(count):
        if file.tell() > MOST_BYTES:
            raise ValueError("a header beyond all bounds")
        key = _string(file)
        if key.startswith("tokenizer.") and _suffices(found):
            break
        value = _value(file, _number(file, "I"))
        if value is not None:
            found[key] = value
    return found


def _value(file: BinaryIO, kind: int) -> Any:
    """Return a text, a number or a short list of numbers; skip any other array."""
    if kind == STRING:
        return _string(file)
    if kind != ARRAY:
        return _number(file, SCALARS[kind])
    kind, count = _unpack(file, "IQ")
    if count > MOST_ITEMS:
        raise ValueError(f"an array of {count} items")
    if kind == STRING:
        for _ in range(count):
            file.seek(_number(file, "Q"), os.SEEK_CUR)
        return None
    item = SCALARS[kind]
    if count > LONGEST_LIST:
        file.seek(count * struct.calcsize(item), os.SEEK_CUR)
        return None
    return list(_unpack(file, f"{count}{item}"))


def _string(file: BinaryIO) -> str:
    """Return a text; one that is too long to be a name of anything counts as empty."""
    length = _number(file, "Q")
    if length > LONGEST_STRING_BYTES:
        file.seek(length, os.SEEK_CUR)
        return ""
    return file.read(length).decode(errors="replace")


def _number(file: BinaryIO, form: str) -> Any:
    return _unpack(file, form)[0]


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))


def _suffices(found: dict[str, Value]) -> bool:
    """Tell whether the rest can be left unread: vocabularies are long, and writers put them last."""
    architecture = found.get("general.architecture")
    return f"{architecture}.context_length" in found and f"{architecture}.block_count" in found
