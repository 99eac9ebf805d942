"""Images in requests, in every dialect."""

import msgspec
import pytest

from dmap.wire.body import peek
from dmap.wire.images import shows_images

DATA = "data:image/png;base64,AAAA"
TEXT = {"type": "text", "text": "what is this"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def user(*parts: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def shows(body: dict[str, object]) -> bool:
    """Read *body* as it comes from a client."""
    return shows_images(peek(msgspec.json.encode(body)).fields)


@pytest.mark.parametrize(
    "body",
    [
        user(TEXT, {"type": "image_url", "image_url": {"url": DATA}}),
        user(IMAGE, TEXT),
        user({"type": "tool_result", "tool_use_id": "1", "content": [TEXT, IMAGE]}),
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": DATA}]}]},
        {"input": [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": DATA}]}]},
        user({**TEXT, "text": "long " * 200_000}, IMAGE),
    ],
)
def test_images_are_found(body):
    """In turns, and in what tools have returned, also behind long texts."""
    assert shows(body)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "an image_url"}]},
        user(TEXT),
        user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        {"input": "an image"},
        {"prompt": "an image"},
        {"messages": None, "input": [1, 2, 3]},
    ],
)
def test_nothing_else_is_an_image(body):
    """Texts about images are texts."""
    assert not shows(body)
