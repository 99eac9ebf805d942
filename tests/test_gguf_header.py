"""Reading headers and folders: nothing that lies in the user's folder may hurt."""

import random
import struct

import pytest

from dmap.backends.gguf.folder import Folder
from dmap.backends.gguf.header import Header, read_header
from tests import models as tiny_models


def gguf(*pairs: bytes, count: int | None = None) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, len(pairs) if count is None else count) + b"".join(pairs)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def text(key: str, value: str) -> bytes:
    return string(key) + struct.pack("<I", 8) + string(value)


def number(key: str, value: int) -> bytes:
    return string(key) + struct.pack("<II", 4, value)


def numbers(key: str, *values: int) -> bytes:
    return string(key) + struct.pack(f"<IIQ{len(values)}I", 9, 4, len(values), *values)


LLAMA = (
    text("general.architecture", "llama"),
    number("llama.context_length", 8192),
    number("llama.block_count", 3),
    number("llama.embedding_length", 256),
    number("llama.attention.head_count", 8),
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.gguf"


def test_the_cache_is_summed_over_heads_and_layers(file):
    """Keys and values of each head and layer take two bytes per number and token."""
    file.write_bytes(gguf(*LLAMA, number("llama.attention.head_count_kv", 2)))

    assert read_header(file) == Header(8192, 3 * 2 * (32 + 32) * 2, embedding=False, projector=False)


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

    assert read_header(file) == Header(512, 0, embedding=True, projector=False)


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


def test_a_folder_is_listed_by_stem_and_subfolder(tmp_path):
    """Ids are file names without suffix, with one level of subfolder; links count, other files do not."""
    (tmp_path / "sub" / "deeper").mkdir(parents=True)
    for name in ("a.gguf", "sub/b.GGUF", "sub/deeper/c.gguf", "mmproj-a.gguf", "d.bin", ".e.gguf"):
        (tmp_path / name).write_bytes(gguf(*LLAMA))
    (tmp_path / "link.gguf").symlink_to(tmp_path / "sub" / "deeper" / "c.gguf")
    (tmp_path / "dangling.gguf").symlink_to(tmp_path / "nowhere")

    assert sorted(Folder(tmp_path).scan()) == ["a", "link", "sub/b"]


def test_parts_are_one_model(tmp_path):
    """A model in several files has the id without part numbers and the size of all of them."""
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(gguf(*LLAMA))
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(bytes(1000))
    (tmp_path / "orphan-00002-of-00002.gguf").write_bytes(bytes(1000))

    found = Folder(tmp_path).scan()

    assert list(found) == ["m"]
    assert found["m"].path.name == "m-00001-of-00002.gguf"
    assert found["m"].file_bytes == len(gguf(*LLAMA)) + 1000


def test_a_projector_is_no_model(tmp_path):
    """The vision part of another model is left out also where its name does not tell."""
    (tmp_path / "eyes.gguf").write_bytes(gguf(text("general.architecture", "clip")))

    assert Folder(tmp_path).scan() == {}


def test_a_changed_file_is_read_again(tmp_path):
    """A header is remembered for one version of its file only."""
    folder, file = Folder(tmp_path), tmp_path / "m.gguf"
    file.write_bytes(gguf(*LLAMA))
    assert folder.scan()["m"].context_length(10_000) == 8192

    file.write_bytes(gguf(text("general.architecture", "llama"), number("llama.context_length", 100)))

    assert folder.scan()["m"].context_length(10_000) == 100
