"""The tiny models: whole files, the same every time, made in no time.  What they say is in test_gguf."""

import time

from dmap.backends.gguf.header import read_header
from tests import models as tiny_models


def test_one_seed_makes_the_same_bytes(tmp_path):
    """A model's bytes depend on its spec alone."""
    one = tiny_models.make("tiny-sea", tmp_path / "one")
    two = tiny_models.make("tiny-sea", tmp_path / "two")

    assert one.read_bytes() == two.read_bytes()


def test_a_tiny_model_is_made_quickly(tmp_path):
    """Making a tiny model costs a demo nothing: its CPU time stays under half a second."""
    before = time.process_time()

    tiny_models.make("tiny-kitchen", tmp_path)

    assert time.process_time() - before < 0.5


def test_the_embedding_model_says_so(tmp_path):
    """Only the model made for embeddings names a pooling."""
    embed = read_header(tiny_models.make("tiny-embed", tmp_path))
    chat = read_header(tiny_models.make("tiny-sea", tmp_path))

    assert embed is not None and embed.embedding
    assert chat is not None and not chat.embedding
    assert chat.context_length == 2048
