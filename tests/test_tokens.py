"""Prompts are read out of bodies and bounded from below: what fits is never said not to."""

import builtins
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dmap.config import ConfigProblem
from dmap.demo.vocabulary import KITCHEN, SEA, Vocabulary
from dmap.tokens import ENOUGH, LEAST, LONGEST, LOOKED_BYTES, SAMPLES, Learned, counters, units
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


def user(content):
    return {"role": "user", "content": content}


def taught(*samples):
    """Have a model's answers seen, each as (units, tokens), of prompts that were not truncated."""
    learned = Learned()
    for units_seen, tokens in samples:
        learned.add(units_seen, units_seen, tokens, is_whole=True)
    return learned


# The bound

_bounded = settings(max_examples=50, derandomize=True, deadline=None, database=None)

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


@pytest.mark.parametrize("name", TOKENIZERS)
@_bounded
@given(texts=st.lists(st.lists(PIECES, max_size=9).map("".join), min_size=SAMPLES, max_size=20), last=PIECES)
def test_what_fits_is_never_too_much(name, texts, last):
    """Whatever was learned from answers, the bound for the next prompt is at most what it really has."""
    tokenizer = TOKENIZERS[name]
    learned = taught(*((units([text * 60]), count(tokenizer, text * 60)) for text in texts))

    assert learned.at_least(units([last * 50])) <= count(tokenizer, last * 50)


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


def test_nothing_is_known_at_first():
    """Before enough answers there is no bound, whatever the prompt."""
    learned = taught(*[(100, 130)] * (SAMPLES - 1))

    assert learned.at_least(10**9) == 0

    learned.add(100, 100, 130, is_whole=False)

    assert learned.at_least(10**9) == 10**9


def test_short_prompts_teach_nothing():
    """A prompt of few words says more about the chat template than about the tokenizer."""
    learned = taught(*[(LEAST - 1, 10_000)] * 100)

    assert (learned.complete, learned.at_least(10**6)) == (False, 0)


def test_looking_ends():
    """A model whose prompts teach nothing is given up."""
    assert Learned(looked_bytes=LOOKED_BYTES).complete


@pytest.mark.parametrize(
    ("answers", "least", "complete"),
    [
        ([(100, 99)], 0, False),
        ([(100, 200)] * SAMPLES + [(100, 99)], 0, False),
        ([(100, 99)] + [(100, 200)] * (ENOUGH - 1), 0, False),
        ([(100, 99)] + [(100, 200)] * ENOUGH, 10_000, True),
        ([(100, 200)] * ENOUGH, 10_000, True),
    ],
)
def test_fewer_tokens_than_words_are_believed(answers, least, complete):
    """Once an answer had fewer tokens than words there is no bound, until very many in a row had not."""
    learned = taught(*answers)

    assert (learned.at_least(10_000), learned.complete) == (least, complete)


@pytest.mark.parametrize(
    ("least", "most", "tokens", "is_whole", "bound"),
    [
        (400, 400, 399, True, 0),
        (400, 400, 399, False, 1000),
        (100, 400, 399, True, 1000),
        (100, 400, 99, True, 0),
    ],
)
def test_what_says_nothing(least, most, tokens, is_whole, bound):
    """What a truncation may explain, or tools that the template leaves out, is not held against a model."""
    learned = taught(*[(100, 130)] * SAMPLES)

    learned.add(least, most, tokens, is_whole=is_whole)

    assert learned.at_least(1000) == bound


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
    assert prompt_of(path, json.dumps(body).encode()).texts == texts


@pytest.mark.parametrize(
    ("prompt", "size"), [([1] * 9, 9), ([[1], [1, 2, 3]], 3), ("aé", 3), ([7, "ab"], 3), ([], 0), (None, 0)]
)
def test_size(prompt, size):
    """A prompt's size, bytes of text and tokens given as numbers, is the longest prompt's of several."""
    assert prompt_of("/v1/completions", json.dumps({"prompt": prompt}).encode()).size == size


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages/count_tokens", chat(user("a"))),
        ("/v1/audio/speech", b'{"input": "a"}'),
        ("/v1/rerank", b'{"query": "a"}'),
        (CHAT, b"no JSON"),
        (CHAT, b"[]"),
        (CHAT, b'{"messages": "\xff"}'),
        (CHAT, b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("/v1/responses", b'{"input": "a", "truncation": "auto"}'),
        ("/v1/completions", b'{"prompt": "a", "truncate_prompt_tokens": 100}'),
    ],
)
def test_what_need_not_fit(path, body):
    """Other routes, bodies that are no requests, and prompts to be truncated on purpose are not judged."""
    assert prompt_of(path, body) is None


@pytest.mark.parametrize(
    ("body", "plain", "others"),
    [
        (chat(user("a")), True, ()),
        (chat(user([{"type": "text", "text": "a"}])), True, ()),
        (chat(user("a"), tools=[{"name": "f"}]), True, ("[{'name': 'f'}]",)),
        (chat(user([{"type": "image_url", "image_url": {}}, {"type": "text", "text": "a"}])), False, ()),
        (chat(user([{"type": "input_audio", "input_audio": {}}])), False, ()),
        (chat(user("a"), previous_response_id="resp_1"), False, ()),
        (chat(user("a"), conversation={"id": "conv_1"}), False, ()),
        (chat(user("a"), previous_response_id=None), True, ()),
    ],
)
def test_what_is_learned_from(body, plain, others):
    """A prompt with images or an earlier part teaches nothing; tools may be among its tokens, or not."""
    prompt = prompt_of(CHAT, body)

    assert (prompt.plain, prompt.others) == (plain, others)


def test_a_bound_to_looking():
    """Of a prompt however long only the first characters are looked at."""
    prompt = prompt_of(CHAT, chat(user("a" * LOOK), user("bb"), user("c")))

    assert (prompt.size, [len(text) for text in prompt.seen()]) == (LOOK + 3, [LOOK])


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
        prompt_of(path, raw).size for path in (CHAT, "/v1/completions", "/v1/embeddings", "/v1/messages")
    ]

    assert max(sizes) <= len(raw)


# Questions to servers


def test_a_question_for_both():
    """llama.cpp's server finds the texts in `content`, vLLM in `messages`, or else in `prompt`."""
    turns = [user("a"), user([{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {}}])]
    chatted = json.loads(question("m", CHAT, prompt_of(CHAT, chat(*turns))))
    plain = json.loads(question("m", "/v1/completions", prompt_of("/v1/completions", b'{"prompt": "a"}')))

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
    """A model with a tokenizer file is counted by it, whole, in whatever letters its name is written."""
    found = counters(config(file))

    assert found.keys() == {"big"}
    assert found["big"].count([" tide" * 10, " ebb"]) == 11


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
    with pytest.raises(ConfigProblem, match="No such file"):
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

    assert (same["big"] is first["big"], other["big"] is first["big"]) == (True, False)
