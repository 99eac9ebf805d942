"""
Who of the users behind a client's name asks, where a request tells that.

An app that asks for many people has one key, or one address, and then one place in the queue.  But people
think and come back each in their own way, so what is known of that goes by user.  A request for an id of its
own is no user: a conversation (`prompt_cache_key`, `x-session-id`, `X-OpenWebUI-Chat-Id`) may be over after
one answer, and nobody would be known long enough to be expected back.
"""

from collections.abc import Mapping
from typing import Any

from dmap.wire.values import beginning, opened

HEADER = "X-OpenWebUI-User-Id"
"""Open WebUI sends it where `ENABLE_FORWARD_USER_INFO_HEADERS` is set; as its server does, it goes first."""
LONGEST = 512
"""Characters in an id; what is longer is none.  OpenAI's have 64, Anthropic's 256."""

_TOLD = 256
"""So many characters of a message tell conversations apart."""


def user_of(headers: Mapping[str, str], fields: Mapping[str, Any]) -> int | None:
    """
    Return a number that stands for the user, until dmap ends; None if the request tells of none.

    *fields* are its outermost members: OpenAI's `safety_identifier`, or `user`, which came before that, and
    Anthropic's `metadata.user_id`.  The number is a keyed hash (SipHash), so that nobody finds out what
    was told.
    """
    metadata = fields.get("metadata")
    anthropics = metadata.get("user_id") if isinstance(metadata, dict) else None
    for id in (headers.get(HEADER), fields.get("safety_identifier"), fields.get("user"), anthropics):
        if isinstance(id, str) and 0 < len(id) <= LONGEST:
            return hash(id)
    return None


def conversation_of(headers: Mapping[str, str], fields: Mapping[str, Any]) -> str:
    """
    Return what requests of one conversation have in common, for the server that has its beginning in memory.

    That is the id that a client gives it, else the beginnings of its first two messages, if it has any.
    """
    ids = (headers.get("X-Session-Id"), headers.get("X-OpenWebUI-Chat-Id"), fields.get("prompt_cache_key"))
    for id in ids:
        if isinstance(id, str) and 0 < len(id) <= LONGEST:
            return id
    messages = opened(fields.get("messages"))
    first = map(opened, messages[:2]) if isinstance(messages, list) else ()
    return " ".join(beginning(each.get("content"), _TOLD) for each in first if isinstance(each, dict))
