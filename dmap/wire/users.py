"""
Who of the users behind a client's name asks, where a request tells that.

An app that asks for many people has one key, or one address, and then one place in the queue.  But people
think and come back each in their own way, so what is known of that goes by user.  A request for an id of its
own is no user: a conversation (`prompt_cache_key`, `x-session-id`, `X-OpenWebUI-Chat-Id`) may be over after
one answer, and nobody would be known long enough to be expected back.
"""

from collections.abc import Mapping
from typing import Any

HEADER = "X-OpenWebUI-User-Id"
"""Open WebUI sends it where `ENABLE_FORWARD_USER_INFO_HEADERS` is set; as its server does, it goes first."""
MEMBERS = ("safety_identifier", "user")
"""OpenAI's word, and the one before that."""
LONGEST = 512
"""Characters in an id; what is longer is none.  OpenAI's have 64, Anthropic's 256."""


def user_of(headers: Mapping[str, str], fields: Mapping[str, Any]) -> int | None:
    """
    Return a number that stands for the user, until dmap ends; None if the request tells of none.

    *fields* are its outermost members.  The number is a keyed hash (SipHash), so that nobody finds out what
    was told.
    """
    told = [headers.get(HEADER), *(fields.get(name) for name in MEMBERS)]
    metadata = fields.get("metadata")
    if isinstance(metadata, dict):
        told.append(metadata.get("user_id"))  # Anthropic's
    ids = (id for id in told if isinstance(id, str) and 0 < len(id) <= LONGEST)
    return next(map(hash, ids), None)
