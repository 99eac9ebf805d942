"""Whether a request shows its model images.  Pure."""

from collections.abc import Mapping
from typing import Any

from dmap.wire.values import opened

_HOLD = ("messages", "input", "system")
"""Outermost members with turns in them, in any of the dialects."""
_IMAGES = frozenset(("image_url", "input_image", "image"))
"""Types of parts: OpenAI's for chats, its for responses, and Anthropic's."""


def shows_images(fields: Mapping[str, Any]) -> bool:
    """
    Tell whether a turn in *fields*, a request's outermost members, has a part that is an image.

    Results of tools may have some, too.  Nested objects are opened as `guards` has left them, so this ends.
    """
    items = [fields.get(name) for name in _HOLD]
    while items:
        item = opened(items.pop())
        if isinstance(item, list):
            items += item
        elif isinstance(item, dict):
            if item.get("type") in _IMAGES:
                return True
            items += (item.get("content"), item.get("output"))
    return False
