"""Who asks behind a name, as far as a request tells."""

import msgspec
import pytest
from multidict import CIMultiDict

from dmap.wire.users import LONGEST, conversation_of, user_of

ANN = user_of({}, {"user": "ann"})
BOB = user_of({}, {"user": "bob"})


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"x-openwebui-user-id": "ann"}, {}),
        ({}, {"safety_identifier": "ann"}),
        ({}, {"metadata": {"user_id": "ann"}}),
        ({"X-OpenWebUI-User-Id": "ann"}, {"user": "bob", "safety_identifier": "bob"}),
        ({}, {"safety_identifier": "ann", "user": "bob", "metadata": {"user_id": "bob"}}),
        ({}, {"user": "ann", "metadata": {"user_id": "bob"}}),
        ({"X-OpenWebUI-User-Id": ""}, {"safety_identifier": None, "user": "ann"}),
        ({}, {"user": "ann", "prompt_cache_key": "bob"}),
    ],
)
def test_where_a_request_tells_its_user(headers: dict, fields: dict) -> None:
    """The first place that has one counts."""
    assert user_of(CIMultiDict(headers), fields) == ANN != BOB


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({}, {}),
        ({"X-Session-Id": "s", "X-OpenWebUI-Chat-Id": "c"}, {"prompt_cache_key": "p"}),
        ({}, {"user": 5}),
        ({}, {"user": {"name": "ann"}}),
        ({}, {"user": msgspec.Raw(b'"ann"')}),
        ({}, {"user": "x" * (LONGEST + 1)}),
        ({}, {"metadata": "ann"}),
        ({}, {"metadata": {"user_id": None}}),
    ],
)
def test_what_tells_of_no_user(headers: dict, fields: dict) -> None:
    """A conversation is no user, and neither is what cannot be an id."""
    assert user_of(CIMultiDict(headers), fields) is None


def test_nothing_of_an_id_is_kept() -> None:
    """What stands for a user is a number."""
    assert isinstance(user_of({}, {"user": "x" * LONGEST}), int)


def talk(*texts):
    """A conversation as its client sends it: who speaks first is the system."""
    return {"messages": [{"role": "system", "content": "Be kind."}, *({"content": text} for text in texts)]}


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        (CIMultiDict({"x-session-id": "one"}), talk("hi")),
        (CIMultiDict({"x-openwebui-chat-id": "one"}), {}),
        ({}, {"prompt_cache_key": "one"}),
    ],
)
def test_a_conversation_has_an_id(headers, fields):
    """Where a client gives its conversation an id, that is what its requests have in common."""
    assert conversation_of(headers, fields) == "one"


def test_a_conversation_is_known_by_its_beginning():
    """It grows, and stays the same one; another one begins in another way."""
    assert conversation_of({}, talk("hi")) == conversation_of({}, talk("hi", "hello", "how are you?")) != ""
    assert conversation_of({}, talk("hi")) != conversation_of({}, talk("hey"))


@pytest.mark.parametrize("messages", [None, [], "hi", [7], [{"content": 7}], msgspec.Raw(b"[]")])
def test_what_is_no_conversation_has_nothing_in_common(messages):
    """Whatever stands there, nothing breaks."""
    assert conversation_of({}, {"messages": messages}).strip() == ""
