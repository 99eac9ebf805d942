"""GGUF headers, byte by byte (ggml/docs/gguf.md), for what no program would write."""

import struct


def gguf(*pairs: bytes, count: int | None = None, tensors: int = 0) -> bytes:
    counts = (tensors, len(pairs) if count is None else count)
    return struct.pack("<4sIQQ", b"GGUF", 3, *counts) + b"".join(pairs)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def text(key: str, value: str) -> bytes:
    return string(key) + struct.pack("<I", 8) + string(value)


def number(key: str, value: int) -> bytes:
    return string(key) + struct.pack("<II", 4, value)


def numbers(key: str, *values: int) -> bytes:
    return string(key) + struct.pack(f"<IIQ{len(values)}I", 9, 4, len(values), *values)


def truth(key: str) -> bytes:
    return string(key) + struct.pack("<IB", 7, 1)


LLAMA = (
    text("general.architecture", "llama"),
    number("llama.context_length", 8192),
    number("llama.block_count", 3),
    number("llama.embedding_length", 256),
    number("llama.attention.head_count", 8),
)
