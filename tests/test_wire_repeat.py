"""Which requests may have the answer of an earlier one, and what makes two requests the same."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmap.errors import BadRequest
from dmap.kinds import ROUTES
from dmap.wire.body import peek
from dmap.wire.fitting import fit
from dmap.wire.repeat import key_of, may_repeat
from dmap.wire.routes import KindWords, wording

CHAT = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "seed": 1}
RESPONSE = {"input": "hi", "temperature": 0, "seed": 1, "store": False}
EMBEDDING = {"input": ["a", "b"]}


def may(path: str, fields: dict[str, Any], **settings: Any) -> bool:
    """Tell whether a request of *fields* for *path* may repeat, under the *settings* of its model."""
    route = ROUTES[path]
    call = fit(peek(json.dumps(fields).encode()), wording(route, KindWords()), model="m", **settings)
    return may_repeat(route, call)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "temperature": 0.0, "n": 1, "stream": True}),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("/v1/chat/completions", {**CHAT, "store": False}),
        ("/v1/completions", {"prompt": "hi", "temperature": 0, "seed": 0}),
        ("/v1/responses", RESPONSE),
        ("/v1/messages", {**CHAT, "max_tokens": 5}),
        ("/v1/embeddings", EMBEDDING),
        ("/v1/embeddings", {**EMBEDDING, "temperature": 1, "dimensions": 8}),
        ("/api/v0/chat/completions", CHAT),
        ("/api/v0/embeddings", EMBEDDING),
    ],
)
def test_what_may(path, fields):
    """An embedding may repeat, and a text whose request leaves nothing to chance."""
    assert may(path, fields)


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {**CHAT, "temperature": None}),
        ("/v1/chat/completions", {**CHAT, "temperature": 0.1}),
        ("/v1/chat/completions", {**CHAT, "temperature": False}),
        ("/v1/chat/completions", {**CHAT, "temperature": "0"}),
        ("/v1/chat/completions", {**CHAT, "seed": None}),
        ("/v1/chat/completions", {**CHAT, "seed": -1}),
        ("/v1/chat/completions", {**CHAT, "seed": 1.5}),
        ("/v1/chat/completions", {**CHAT, "seed": True}),
        ("/v1/chat/completions", {**CHAT, "n": 2}),
        ("/v1/chat/completions", {**CHAT, "store": True}),
        ("/v1/chat/completions", {**CHAT, "web_search_options": {"a": 1}}),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "web_search"}]}),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "mcp", "server_url": "http://a"}]}),
        ("/v1/chat/completions", {**CHAT, "integrations": ["a"]}),
        ("/v1/chat/completions", {**CHAT, "keep_alive": 5}),
        ("/v1/chat/completions", {**CHAT, "models": ["other"]}),
        ("/v1/chat/completions", {**CHAT, "messages": IMAGE}),
        ("/v1/responses", {**RESPONSE, "store": None}),
        ("/v1/responses", {**RESPONSE, "store": True}),
        ("/v1/responses", {**RESPONSE, "previous_response_id": "resp_1"}),
        ("/v1/responses", {**RESPONSE, "conversation": "conv_1"}),
        ("/v1/responses", {**RESPONSE, "prompt": {"id": "pmpt_1"}}),
        ("/v1/responses", {**RESPONSE, "background": True}),
        ("/v1/embeddings", {**EMBEDDING, "keep_alive": 5}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/v1/audio/speech", {"input": "a", **CHAT}),
        ("/v1/images/generations", {"prompt": "a", "temperature": 0, "seed": 1}),
        ("/v1/messages/count_tokens", CHAT),
        ("/v1/responses/input_tokens", RESPONSE),
        ("/api/v1/chat", {"input": "hi", "temperature": 0, "seed": 1, "store": False}),
    ],
)
def test_what_may_not(path, fields):
    """Whatever leaves something to chance, acts on its server's side, or goes on from it, may not repeat."""
    assert not may(path, fields)


@pytest.mark.parametrize(
    "settings",
    [
        {"force": {"temperature": 0.5}},
        {"force": {"seed": -1}},
        {"strip": frozenset(("seed",))},
        {"strip": frozenset(("temperature",))},
    ],
)
def test_what_its_owner_leaves_to_chance(settings):
    """What the server is sent counts, too: a model's owner may have settled it otherwise."""
    assert not may("/v1/chat/completions", CHAT, **settings)


@pytest.mark.parametrize("fields", [{"seed": 1}, {"temperature": 0}])
def test_defaults_do_not_count(fields):
    """It is the client that has to say it; what dmap fills in does not do."""
    asked = {"messages": CHAT["messages"], **fields}

    assert not may("/v1/chat/completions", asked, defaults={"temperature": 0, "seed": 1})


# What makes two the same

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(["messages", "input", "seed", "x", "y", "z"]), VALUES, max_size=5)


def key(fields: Any, path: str = "/p", made_with: str = "", who: Any = ("a",), told: Any = ()) -> Any:
    """Return the key of a request; None for a body that dmap refuses."""
    try:
        call = peek(json.dumps(fields).encode())
    except BadRequest:
        return None
    return key_of(path, made_with, who, told, call)


@settings(max_examples=50)
@given(BODIES, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_count(fields, random):
    """Two bodies with the same outermost members in any order have one key, whatever the model's name."""
    names = list(fields)
    random.shuffle(names)
    other = {"model": "m", **{name: fields[name] for name in names}}

    assert key(fields) == key(other)


@given(BODIES, st.sampled_from(["messages", "seed", "x"]), VALUES)
def test_each_value_counts(fields, name, value):
    """Bodies with another value anywhere have another key."""
    other = {**fields, name: value}
    same = json.dumps(sorted(fields.items())) == json.dumps(sorted(other.items()))
    keys = key(fields), key(other)

    assert (keys[0] == keys[1]) is same or None in keys


@pytest.mark.parametrize(
    "other",
    [
        {"path": "/q"},
        {"made_with": "other"},
        {"who": ("b",)},
        {"who": ("a", "")},
        {"told": ("accept: text/plain",)},
    ],
)
def test_what_stands_beside_counts(other):
    """The route, the making of the answer, the client and what headers tell make other keys."""
    assert key(CHAT) != key(CHAT, **other)


def test_an_order_that_is_answered_counts():
    """A schema is answered in its own order, so that makes another key."""
    one, other = {"a": {"type": "string"}, "b": {}}, {"b": {}, "a": {"type": "string"}}
    ways = [{**CHAT, "response_format": {"json_schema": {"properties": each}}} for each in (one, other)]

    assert key(ways[0]) != key(ways[1])


def test_a_stream_is_another_one():
    """A stream and a plain answer never stand for each other."""
    assert len({key(CHAT), key({**CHAT, "stream": True}), key({**CHAT, "stream": False})}) == 3


@pytest.mark.parametrize("size", [10, 300_000])
def test_the_last_letter_counts(size):
    """The whole of a long text counts, although nobody decodes it."""
    ends = [{**CHAT, "messages": [{"role": "user", "content": "x" * size + end}]} for end in "ab"]

    assert key(ends[0]) != key(ends[1])
