"""
What a GGUF file's header tells of a model, read without loading it.

What cannot be read is None, never an exception.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dmap.backends.gguf.pairs import Value, read_pairs

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
            pairs = read_pairs(file, _is_enough).found
    except (OSError, ValueError, KeyError, OverflowError, struct.error):
        return None
    return _digest(pairs)


def _digest(pairs: Mapping[str, Value]) -> Header:
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


def _digest_projector(pairs: Mapping[str, Value]) -> Header:
    """Files that say no `general.type` are from older programs, which wrote another width."""
    widths = (_whole(pairs.get(f"clip.{sense}.projection_dim")) for sense in ("vision", "audio"))
    return Header(
        type=PROJECTOR,
        architecture="clip",
        width=next(filter(None, widths), 0) if pairs.get("general.type") == PROJECTOR else 0,
        sees=pairs.get("clip.has_vision_encoder") is True,
        half=pairs.get("general.file_type") == F16,
    )


def _cache_bytes(pairs: Mapping[str, Value], architecture: str) -> int:
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


def _is_enough(found: Mapping[str, Value], key: str) -> bool:
    """Tell whether the rest can be left unread: vocabularies are long, and writers put them last."""
    architecture = found.get("general.architecture")
    wanted = (f"{architecture}.context_length", f"{architecture}.block_count")
    return key.startswith("tokenizer.") and all(name in found for name in wanted)
