"""Reading headers: nothing that lies in the user's folder may hurt."""

import random
import struct

import pytest

from dmap.backends.gguf.header import PROJECTOR, Header, read_header
from tests import models as tiny_models
from tests.gguf_headers import LLAMA, gguf, number, numbers, string, text, truth


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.gguf"


def test_the_cache_is_summed_over_heads_and_layers(file):
    """Keys and values of each head and layer take two bytes per number and token."""
    file.write_bytes(gguf(*LLAMA, number("llama.attention.head_count_kv", 2)))

    cache_bytes = 3 * 2 * (32 + 32) * 2
    assert read_header(file) == Header(8192, cache_bytes, architecture="llama", width=256)


def test_head_counts_may_differ_by_layer(file):
    """A list of head counts is one per layer; a layer without attention counts nothing."""
    file.write_bytes(gguf(*LLAMA, numbers("llama.attention.head_count_kv", 4, 0, 2)))

    header = read_header(file)

    assert header is not None and header.cache_bytes == 6 * (32 + 32) * 2


def test_keys_and_values_may_have_lengths_of_their_own(file):
    """The header's own key and value lengths win over the embedding's share per head."""
    lengths = number("llama.attention.key_length", 100), number("llama.attention.value_length", 50)
    file.write_bytes(gguf(*LLAMA, *lengths))

    header = read_header(file)

    assert header is not None and header.cache_bytes == 3 * 8 * 150 * 2


def test_an_encoder_embeds_and_has_no_cache(file):
    """An encoder is an embedding model whatever else its header says."""
    file.write_bytes(gguf(text("general.architecture", "bert"), number("bert.context_length", 512)))

    assert read_header(file) == Header(512, embedding=True, architecture="bert")


def test_facts_after_the_vocabulary_are_found(file):
    """A header that starts with its vocabulary is read past it."""
    words = string("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("b")
    scores = string("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 5000) + bytes(4 * 5000)
    file.write_bytes(gguf(words, scores, *LLAMA))

    header = read_header(file)

    assert header is not None and header.context_length == 8192


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"GGML" + bytes(100),
        gguf(count=2**60),
        gguf(struct.pack("<Q", 2**63) + b"key"),
        gguf(string("key") + struct.pack("<I", 77)),
        gguf(string("key") + struct.pack("<IIQ", 9, 8, 2**62)),
        gguf(string("key") + struct.pack("<IIQ", 9, 0, 2**62)),
        gguf(string("key") + struct.pack("<IIQ", 9, 9, 1) + bytes(20)),
        gguf(string("key") + struct.pack("<IQ", 8, 2**64 - 1)),
        gguf(*LLAMA, count=6),
    ],
)
def test_a_broken_header_is_none(file, content):
    """Lengths and kinds that cannot be true make a header unreadable, and no error."""
    file.write_bytes(content)

    assert read_header(file) is None


def test_no_damage_raises(file, tmp_path):
    """Whatever bytes of a real header are wrong, reading it ends, and ends quietly."""
    whole = tiny_models.make("tiny-sea", tmp_path / "made").read_bytes()[:40_000]
    dice = random.Random(1)

    for _ in range(150):
        damaged = bytearray(whole[: dice.randrange(24, len(whole))])
        for _ in range(8):
            damaged[dice.randrange(min(len(damaged), 2000))] = dice.randrange(256)
        file.write_bytes(damaged)
        read_header(file)


def test_a_projector_tells_what_it_is_for(file):
    """A projector's header has the width of its model's embeddings, and whether it is for images."""
    says = text("general.type", "mmproj"), number("clip.vision.projection_dim", 64)
    file.write_bytes(gguf(text("general.architecture", "clip"), *says, truth("clip.has_vision_encoder")))

    assert read_header(file) == Header(type=PROJECTOR, architecture="clip", width=64, sees=True)


def test_an_old_projector_is_known_by_its_architecture(file):
    """Files of older programs have no type, and another number in place of the width."""
    old = text("general.architecture", "clip"), number("clip.vision.projection_dim", 768)
    file.write_bytes(gguf(*old, truth("clip.has_vision_encoder"), number("general.file_type", 1)))

    assert read_header(file) == Header(type=PROJECTOR, architecture="clip", sees=True, half=True)


def test_other_types_are_told(file):
    """An adapter says that it is one."""
    file.write_bytes(gguf(*LLAMA, text("general.type", "adapter")))

    header = read_header(file)

    assert header is not None and header.type == "adapter"
