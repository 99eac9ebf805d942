"""A request that no server would take is refused before a model is loaded for it."""

import json

import pytest

from dmap.errors import BadRequest
from dmap.kinds import ROUTES
from dmap.wire.body import peek
from dmap.wire.shape import check_shape

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, EMBEDDINGS, RERANK = "/v1/messages", "/v1/embeddings", "/v1/rerank"


def check(path, **fields):
    check_shape(ROUTES[path].contents, peek(json.dumps({"model": "m", **fields}).encode()).fields)


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        (CHAT, {}, "messages"),
        (CHAT, {"messages": None}, "messages"),
        (CHAT, {"messages": "hello"}, "messages"),
        (CHAT, {"messages": ["hello"]}, "messages"),
        (CHAT, {"messages": {"role": "user"}}, "messages"),
        (CHAT, {"prompt": "hello"}, "messages"),
        (CHAT, {"messages": [], "tools": {}}, "tools"),
        ("/api/v0/chat/completions", {}, "messages"),
        (MESSAGES, {"system": "a"}, "messages"),
        ("/v1/messages/count_tokens", {}, "messages"),
        ("/v1/responses/input_tokens", {}, "input"),
        (COMPLETIONS, {"messages": []}, "prompt"),
        (COMPLETIONS, {"prompt": 5}, "prompt"),
        (COMPLETIONS, {"prompt": True}, "prompt"),
        (RESPONSES, {}, "input"),
        (RESPONSES, {"input": 5}, "input"),
        (RESPONSES, {"input": {"role": "user"}}, "input"),
        (EMBEDDINGS, {}, "input"),
        (EMBEDDINGS, {"input": 1.5}, "input"),
        (EMBEDDINGS, {"input": {"text": "a"}}, "input"),
        (RERANK, {"documents": []}, "query"),
        (RERANK, {"query": "a"}, "documents"),
        (RERANK, {"query": ["a"], "documents": ["b"]}, "query"),
        (RERANK, {"query": "a", "documents": "b"}, "documents"),
        ("/v1/audio/speech", {"text": "a"}, "input"),
        ("/v1/images/generations", {}, "prompt"),
        ("/api/v1/chat", {"messages": []}, "input"),
    ],
)
def test_what_no_server_takes(path, fields, named):
    """A member that its route cannot do without, or that is of a type that nobody reads, is named."""
    with pytest.raises(BadRequest) as refused:
        check(path, **fields)

    assert refused.value.param == named


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": []}),
        (CHAT, {"messages": [{"role": "user", "content": "a"}], "tools": None}),
        (COMPLETIONS, {"prompt": "a"}),
        (COMPLETIONS, {"prompt": [1, 2]}),
        (COMPLETIONS, {"prompt": [[1, 2], "a"]}),
        (COMPLETIONS, {"prompt": {"prompt_string": "a", "multimodal_data": []}}),
        (COMPLETIONS, {"prompt_embeds": "AAAA"}),
        (RESPONSES, {"input": "a"}),
        (RESPONSES, {"input": [{"role": "user", "content": "a"}]}),
        (RESPONSES, {"previous_response_id": "resp_1"}),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}, "input": None}),
        (RESPONSES, {"conversation": "conv_1"}),
        (EMBEDDINGS, {"input": ["a", "b"]}),
        (EMBEDDINGS, {"input": [[1, 2], [3]]}),
        (EMBEDDINGS, {"messages": [{"role": "user", "content": "a"}]}),
        (EMBEDDINGS, {"content": "a"}),
        (RERANK, {"query": "a", "documents": ["b", {"text": "c"}]}),
        (RERANK, {"query": {"content": []}, "documents": {"content": []}}),
        (RERANK, {"query": "a", "texts": ["b"]}),
        ("/v1/audio/speech", {"input": "a"}),
        ("/v1/images/edits", {}),
        ("/api/v1/chat", {"input": [{"type": "text", "content": "a"}]}),
    ],
)
def test_what_some_server_takes(path, fields):
    """What one server or another is known to read passes."""
    check(path, **fields)


def test_all_routes_with_json_alone_need_something():
    """No route is forgotten; those that take forms say in them what they need."""
    bare = [path for path, route in ROUTES.items() if not route.form]

    assert [path for path in bare if not refuses_nothing(path)] == bare


def refuses_nothing(path):
    try:
        check(path)
    except BadRequest:
        return False
    return True
