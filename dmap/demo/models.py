"""
Tiny GGUF models with random weights, made on the spot: a real engine to try dmap with, nothing downloaded.

They talk nonsense, but each in the words of its own theme, so one sees which model answered.  Needs the
`engine` extra (gguf, numpy).  The counterpart is the embedded engine, which serves such files.

How they keep talking: channel 0 of the hidden state holds the same number for every token, for the
embedding puts it there and no layer writes to it.  Column 0 of the output matrix is therefore a bias per
token: whole words get none, everything else so much of it that it is never drawn unless a grammar or a
`logit_bias` asks: one for `<|im_end|>` makes a model stop by itself.

Seeded, so that two runs of one numpy version give the same bytes; other versions may differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, PoolingType
from numpy.typing import NDArray

from dmap.demo.vocabulary import KITCHEN, SEA, Vocabulary

Vector = NDArray[np.floating[Any]]

NEVER = -30.0
CONSTANT = 4.0
LOGIT_STD = 1.3
CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Spec:
    """
    One model's shape; *embedding* marks the file as a model for `/v1/embeddings`.
    """

    words: str
    seed: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    embedding: bool = False


SPECS: dict[str, Spec] = {
    "tiny-sea": Spec(SEA, 11, width=64, layers=2, heads=4, kv_heads=2, inner=160),
    "tiny-kitchen": Spec(KITCHEN, 12, width=96, layers=3, heads=4, kv_heads=4, inner=256),
}
"""By name; of 0.3 and 0.9 MB."""


def make(name: str, spec: Spec, directory: Path) -> Path:
    """Make a model of that *name* and *spec* in *directory*; return the file."""
    path = directory / f"{name}.gguf"
    vocabulary = Vocabulary(spec.words)
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_description("random weights, to try dmap with")
    _add_shape(writer, spec, len(vocabulary.tokens))
    vocabulary.add_to(writer)
    for tensor, values in _tensors(spec, vocabulary.biases(NEVER)):
        writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_shape(writer: GGUFWriter, spec: Spec, tokens: int) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(spec.width)
    writer.add_block_count(spec.layers)
    writer.add_feed_forward_length(spec.inner)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_rope_dimension_count(spec.width // spec.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tokens)
    writer.add_file_type(1)  # mostly 16 bits
    if spec.embedding:
        writer.add_pooling_type(PoolingType.MEAN)


def _tensors(spec: Spec, biases: list[float]) -> Iterator[tuple[str, Vector]]:
    """Yield the tensors of llama.cpp's `llama` architecture by name; shapes are (out, in)."""
    width, tokens = spec.width, len(biases)
    kv_width = width // spec.heads * spec.kv_heads
    random = np.random.default_rng(spec.seed)

    def noise(rows: int, columns: int, std: float) -> Vector:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(std)

    def matrix(rows: int, columns: int) -> Vector:
        return noise(rows, columns, columns**-0.5).astype(np.float16)

    embedding = noise(tokens, width, 1.0)
    embedding[:, 0] = CONSTANT
    output = noise(tokens, width, LOGIT_STD * width**-0.5)
    output[:, 0] = np.array(biases) * _rms(spec) / CONSTANT
    yield "token_embd.weight", embedding.astype(np.float16)
    yield "output.weight", output.astype(np.float16)
    yield "output_norm.weight", np.ones(width, np.float32)
    for layer in range(spec.layers):
        block = {
            "attn_norm": np.ones(width, np.float32),
            "attn_q": matrix(width, width),
            "attn_k": matrix(kv_width, width),
            "attn_v": matrix(kv_width, width),
            "attn_output": _spare_constant(matrix(width, width)),
            "ffn_norm": np.ones(width, np.float32),
            "ffn_gate": matrix(spec.inner, width),
            "ffn_up": matrix(spec.inner, width),
            "ffn_down": _spare_constant(matrix(width, spec.inner)),
        }
        yield from ((f"blk.{layer}.{name}.weight", values) for name, values in block.items())


def _rms(spec: Spec) -> float:
    """Return about what the last norm divides by: each layer adds some half of the first variance."""
    variance = (spec.width - 1) * (1 + spec.layers / 2) + CONSTANT**2
    return float((variance / spec.width) ** 0.5)


def _spare_constant(matrix: Vector) -> Vector:
    matrix[0] = 0
    return matrix
