"""Prompts are read out of bodies and bounded from below: what fits is never said not to."""

import builtins
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dmap.config import ConfigProblem
from dmap.demo.vocabulary import KITCHEN, SEA, Vocabulary
from dmap.kinds import ROUTES
from dmap.tokens import ENOUGH, LEAST, LONGEST, WordBound, counters, units
from dmap.wire.body import peek
from dmap.wire.prompt import LOOK, count_of, prompt_of, question
from tests.conftest import config_of

CHAT = "/v1/chat/completions"


class _Collected:
    """Takes what `Vocabulary.add_to` writes into a GGUF header."""

    def __init__(self):
        self.merges = []

    def add_token_merges(self, merges):
        self.merges = [tuple(merge.split(" ")) for merge in merges]

    def __getattr__(self, name):
        return lambda *values: None


def tiny():
    """Make the tokenizer of the tiny model `tiny-sea`."""
    vocabulary, collected = Vocabulary(SEA), _Collected()
    vocabulary.add_to(collected)
    tokens = {token: number for number, token in enumerate(vocabulary.tokens)}
    return byte_level(models.BPE(vocab=tokens, merges=collected.merges))


def byte_level(model):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def greedy():
    """Train a tokenizer on runs of the same and on whole sentences, so that its tokens get long."""
    text = [" " * 4**n + "=" * 4**n + "\n" * 4**n + "a" * 4**n for n in range(4)] + [SEA, KITCHEN] * 9
    tokenizer = byte_level(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


TOKENIZERS = {"tiny-sea": tiny(), "greedy": greedy()}


def count(tokenizer, text):
    return len(tokenizer.encode(text, add_special_tokens=False))


def chat(*messages, **fields):
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()


def prompt_in(path, body):
    """Return the prompt in a *body*, or None."""
    return prompt_of(ROUTES[path].contents, peek(body).fields)


def said_before(text):
    """Write an answer as a client of Responses sends it back."""
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def user(content):
    return {"role": "user", "content": content}


def seen(*samples):
    """Have a model's answers seen, each as (units, tokens), of prompts that were not truncated."""
    bound = WordBound()
    for units_seen, tokens in samples:
        bound.see(units_seen, tokens)
    return bound


# The bound

_bounded = settings(max_examples=50)

PIECES = st.one_of(
    st.text(),
    st.sampled_from([" " * 64, "=" * 64, "\n\n\n", "a" * 300, " tide", "lighthouse ", "\xa0 \xa0", ";\n\n/"]),
    st.sampled_from(
        ["\u3000" * 16, "Ünï cödé ", "日本語の文章", "🙂 🙂", "\x1c", "don't", "a.b,c", "\r\n\t"]
    ),
)


@pytest.mark.parametrize("name", TOKENIZERS)
@_bounded
@given(pieces=st.lists(PIECES, max_size=30))
def test_the_bound_is_one(name, pieces):
    """No text has fewer tokens by a real tokenizer than `units` says."""
    text = "".join(pieces)

    assert units([text]) <= count(TOKENIZERS[name], text)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("", 0),
        (" \n\t ", 0),
        (" " * 10_000, 0),
        ("= - / ;\n\n/", 0),
        ("the tide, and the ebb", 5),
        ("  the\n\n\ttide  ", 2),
        ("don't a.b.c", 2),
        ("é \xa0 à\u3000ü", 3),
        ("\xa0 \xa0 \u3000 \u2003", 0),
        ("à\u3000ü\xa0ö", 3),
        ("x" * LONGEST * 10, 10),
        ("日" * 1280, 1280 * 3 // LONGEST),
        ("a " * 5000, 5000),
    ],
)
def test_units(text, least):
    """Words count, and length in words without a space; white space and punctuation do not."""
    assert units([text]) == least


def test_the_bound_counts_at_once():
    """Before any answer the bound is the number of units."""
    assert WordBound().at_least(100) == 100


@pytest.mark.parametrize(
    ("answers", "least", "settled"),
    [
        ([(100, 99)], 0, True),
        ([(100, 200)] * (ENOUGH - 1), 1000, False),
        ([(100, 200)] * ENOUGH, 1000, True),
        ([(100, 200)] * 9 + [(100, 99)], 0, True),
        ([(1, 0)], 0, True),
        ([(LEAST - 1, 10_000)] * 100, 1000, False),
        ([(LEAST, LEAST)] * ENOUGH, 1000, True),
    ],
)
def test_one_answer_ends_the_bound(answers, least, settled):
    """One answer of fewer tokens than units ends the bound; many long ones that bear it out settle it."""
    bound = seen(*answers)

    assert (bound.at_least(1000), bound.settled) == (least, settled)


# The text of a prompt


@pytest.mark.parametrize(
    ("path", "body", "texts"),
    [
        (CHAT, {"messages": [user("a b"), {"role": "assistant", "content": None}]}, ("a b",)),
        (
            CHAT,
            {"messages": [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])]},
            ("a", "b"),
        ),
        (CHAT, {"messages": [user(" a\n"), user(""), user("b")]}, ("a", "b")),
        (
            CHAT,
            {"messages": [{"role": "assistant", "content": "<think>much</think>\n\nlittle"}]},
            ("little",),
        ),
        (CHAT, {"messages": [user("<think>a</think>b")]}, ("<think>a</think>b",)),
        (CHAT, {"messages": [user("a")], "tools": [{"function": {"name": "no"}}], "prompt": "no"}, ("a",)),
        (
            CHAT,
            {"messages": [{"role": "tool", "content": "22 degrees", "tool_call_id": "1"}]},
            ("22 degrees",),
        ),
        (CHAT, {"messages": [user([{"type": "image_url", "image_url": {"url": "data:x"}}])]}, ()),
        (CHAT, {"messages": "a"}, ("a",)),
        (CHAT, {}, ()),
        ("/api/v0/chat/completions", {"messages": [user("a")]}, ("a",)),
        ("/v1/completions", {"prompt": " a "}, (" a ",)),
        ("/v1/completions", {"prompt": ["a", "ccc", "bb"]}, ("ccc",)),
        ("/api/v0/completions", {"prompt": [1, "a", 2, "b"]}, ("a", "b")),
        ("/v1/responses", {"instructions": "be", "input": "a"}, ("be", "a")),
        ("/v1/responses", {"input": [user([{"type": "input_text", "text": "a"}])]}, ("a",)),
        ("/v1/responses", {"input": [said_before("a")]}, ("a",)),
        ("/v1/responses", {"input": [{"type": "function_call_output", "output": "o"}]}, ("o",)),
        ("/v1/responses", {"input": [{"type": "function_call", "arguments": "{}"}]}, ()),
        ("/v1/responses", {"input": [{"type": "reasoning", "content": [{"text": "no"}]}]}, ()),
        ("/v1/messages", {"system": [{"type": "text", "text": "be"}], "messages": [user("a")]}, ("be", "a")),
        ("/v1/messages", {"messages": [user([{"type": "tool_result", "content": "r"}])]}, ("r",)),
        ("/v1/messages", {"messages": [user([{"type": "image", "source": {"data": "no"}}])]}, ()),
        (
            "/api/v1/chat",
            {"system_prompt": "be", "input": [{"type": "message", "content": "a"}]},
            ("be", "a"),
        ),
        ("/v1/embeddings", {"input": ["a", "bb"]}, ("bb",)),
        ("/v1/embeddings", {"input": "a"}, ("a",)),
    ],
)
def test_where_the_text_is(path, body, texts):
    """The texts of a prompt are found in every dialect, without images, tools and former thoughts."""
    assert prompt_in(path, json.dumps(body).encode()).texts == texts


@pytest.mark.parametrize(
    ("prompt", "size"), [([1] * 9, 9), ([[1], [1, 2, 3]], 3), ("aé", 3), ([7, "ab"], 3), ([], 0), (None, 0)]
)
def test_size(prompt, size):
    """A prompt's size, bytes of text and tokens given as numbers, is the longest prompt's of several."""
    assert prompt_in("/v1/completions", json.dumps({"prompt": prompt}).encode()).size == size


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages/count_tokens", chat(user("a"))),
        ("/v1/audio/speech", b'{"input": "a"}'),
        ("/v1/rerank", b'{"query": "a"}'),
        ("/v1/responses", b'{"input": "a", "truncation": "auto"}'),
        ("/v1/completions", b'{"prompt": "a", "truncate_prompt_tokens": 100}'),
    ],
)
def test_what_need_not_fit(path, body):
    """Other routes, and prompts to be truncated on purpose, are not judged."""
    assert prompt_in(path, body) is None


def test_a_bound_to_looking():
    """Of a prompt however long only the first characters are looked at."""
    prompt = prompt_in(CHAT, chat(user("a" * LOOK), user("bb"), user("c")))

    assert prompt.size > LOOK
    assert [len(text) for text in prompt.seen()] == [LOOK]


@pytest.mark.parametrize("piece", ["a", "é", "語", "\\n", "\\u8a9e", "\\ud83d\\ude00", '\\"', "\\\\"])
@pytest.mark.parametrize("shift", range(3))
def test_a_long_text_is_cut_between_characters(piece, shift):
    """Of a text that is too long the beginning is read, whatever stands where it is cut."""
    text = '"' + "x" * shift + piece * (LOOK // len(piece.encode()) + 9) + '"'

    seen = prompt_in("/v1/completions", f'{{"prompt":{text}}}'.encode()).texts[0]

    assert json.loads(text).startswith(seen)
    assert len(seen) > LOOK // len(piece.encode())


def test_images_do_not_hide_a_text():
    """A text is read that stands behind more of images than is decoded of a text."""
    image = {"type": "image_url", "image_url": {"url": "data:," + "A" * (LOOK + 9)}}
    turns = [user([image, {"type": "text", "text": "b"}]), *[user("a" * 2**20)] * 2]

    assert [len(text) for text in prompt_in(CHAT, chat(*turns)).texts] == [1, 2**20, 2**20]


MEMBERS = st.sampled_from(["type", "text", "content", "role", "output", "x"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(MEMBERS, inner),
)


@_bounded
@given(ANYTHING)
def test_any_json_is_read(value):
    """Whatever stands where the prompt should be, reading it ends, and its texts are bounded by the body."""
    body = {"messages": value, "prompt": value, "input": value, "system": value}
    raw = json.dumps(body).encode()
    sizes = [
        prompt_in(path, raw).size for path in (CHAT, "/v1/completions", "/v1/embeddings", "/v1/messages")
    ]

    assert max(sizes) <= len(raw)


# Questions to servers


def test_a_question_for_both():
    """llama.cpp's server finds the texts in `content`, vLLM in `messages`, or else in `prompt`."""
    turns = [user("a"), user([{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {}}])]
    chatted = json.loads(question("m", prompt_in(CHAT, chat(*turns))))
    plain = json.loads(question("m", prompt_in("/v1/completions", b'{"prompt": "a"}')))

    assert (chatted["content"], chatted["messages"]) == (["a", "b"], [user("a"), user("b")])
    assert (plain["model"], plain["content"], plain["prompt"]) == ("m", ["a"], "a")


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (b'{"tokens": [1, 2, 3]}', 3),
        (b'{"tokens": []}', 0),
        (b'{"input_tokens": 23, "object": "response.input_tokens"}', 23),
        (b'{"count": 3, "max_model_len": 4096, "tokens": [1, 2, 3], "token_strs": null}', 3),
        (b'{"error": "Unexpected endpoint or method. (POST /tokenize)"}', None),
        (b'{"tokens": [{"id": 1, "piece": "a"}]}', None),
        (b'{"count": true}', None),
        pytest.param(b'{"count": 3, "rest": "' + b"," * LOOK + b'"}', None, id="too much"),
        (b"[1]", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_counts_of_servers(answer, count):
    """A count is found in the answers of llama.cpp's server and vLLM, and in nothing else."""
    assert count_of(answer) == count


# Tokenizer files


def config(path):
    return config_of(f"""
        backends: {{b: {{kind: openai, url: 'http://127.0.0.1:9'}}}}
        models: {{Big: {{backend: b, tokenizer: '{path}'}}, other: {{backend: b}}}}
        """)


@pytest.fixture
def file(tmp_path):
    """Save a tokenizer that truncates and pads, as some files do."""
    tokenizer = tiny()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_tokenizer_file_counts(file):
    """A model with a tokenizer file is counted by it, whole."""
    found = counters(config(file))

    assert found.keys() == {file}
    assert found[file].count([" tide" * 10, " ebb"]) == 11


@pytest.mark.parametrize("content", [b"{}", b"no JSON", b"\xff", b""])
def test_a_tokenizer_file_that_is_none(tmp_path, content):
    """A tokenizer file that cannot be read is a problem of the configuration, told with its place."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)

    with pytest.raises(ConfigProblem) as caught:
        counters(config(path))
    assert caught.value.problems[0].startswith(f"models.Big.tokenizer: {path} cannot be read: ")


def test_a_tokenizer_file_that_is_missing(tmp_path):
    """A tokenizer file that is not there is told, too."""
    with pytest.raises(ConfigProblem, match="nothing.json cannot be read: no such file or directory$"):
        counters(config(tmp_path / "nothing.json"))


def test_without_the_package(file, monkeypatch):
    """A tokenizer file without the package to read it is a problem that names the command to run."""
    real = builtins.__import__

    def lacking(name, *rest):
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)

    with pytest.raises(ConfigProblem) as caught:
        counters(config(file))
    assert caught.value.problems == [
        "models.Big.tokenizer: takes the package tokenizers; run: .venv/bin/pip install -e '.[tokenizer]' "
        "(a service: see docs/service.md)"
    ]


def test_only_a_changed_file_is_read_again(file):
    """A file that is as it was keeps its counter; another in its place is read."""
    first = counters(config(file))
    same = counters(config(file), first)
    greedy().save(str(file.with_suffix(".new")))
    file.with_suffix(".new").replace(file)

    other = counters(config(file), same)

    assert (same[file] is first[file], other[file] is first[file]) == (True, False)
