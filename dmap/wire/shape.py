"""
Refuse requests that no server would take, before a model is loaded for them.

Only what all servers agree on: which members a route cannot do without, and what these may be.  The
references of OpenAI's and Anthropic's APIs say more; llama.cpp, vLLM and LM Studio take less, and more, than
those.  So what is unusual goes on, and its server tells.
"""

from collections.abc import Mapping
from typing import Any

from dmap.errors import BadRequest
from dmap.wire.values import type_of

_KINDS: Mapping[type, str] = {str: "a string", list: "a list", dict: "an object"}
_NULL = type(None)

_CHAT = (("messages",),)
_RESPONSES = (("input", "prompt", "previous_response_id", "conversation", "messages"),)
_EMBEDDINGS = (("input", "messages", "content"),)
_COMPLETIONS = (("prompt", "prompt_embeds"),)
_NEEDED: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "/v1/chat/completions": _CHAT,
    "/api/v0/chat/completions": _CHAT,
    "/v1/messages": _CHAT,
    "/v1/messages/count_tokens": _CHAT,
    "/v1/completions": _COMPLETIONS,
    "/api/v0/completions": _COMPLETIONS,
    "/v1/responses": _RESPONSES,
    "/v1/embeddings": _EMBEDDINGS,
    "/api/v0/embeddings": _EMBEDDINGS,
    "/v1/rerank": (("query",), ("documents", "texts")),
    "/v1/audio/speech": (("input",),),
    "/v1/images/generations": (("prompt",),),
    "/api/v1/chat": (("input",),),
}
"""
Of each group of members one has to be there.

vLLM embeds `messages`, too, and llama.cpp `content`; it ranks `texts`.  OpenAI's responses may go on from
what the server keeps, or fill in a prompt that it keeps.
"""

_MAY_BE: Mapping[str, tuple[type, ...]] = {
    "messages": (list,),
    "tools": (list,),
    "prompt": (str, list, dict),
    "input": (str, list),
    "query": (str, dict),
    "documents": (list, dict),
}
"""An object for `prompt` is one that a server keeps, or llama.cpp's text with media; vLLM ranks objects."""


def check_shape(path: str, fields: Mapping[str, Any]) -> None:
    """
    Refuse *fields*, the outermost members of a request for *path*, if no server could make anything of them.

    Raises `BadRequest` naming the field.
    """
    for group in _NEEDED.get(path, ()):
        if not any(type_of(fields.get(name)) is not _NULL for name in group):
            raise BadRequest(f"{group[0]!r} is missing", param=group[0])
    for name in _MAY_BE.keys() & fields.keys():
        found = type_of(fields[name])
        if found not in (*_MAY_BE[name], _NULL):
            kinds = " or ".join(_KINDS[kind] for kind in _MAY_BE[name])
            raise BadRequest(f"{name!r} must be {kinds}", param=name)
        if name == "messages" and found is list and not _has_objects_only(fields[name]):
            raise BadRequest("'messages' must be a list of objects", param=name)


def _has_objects_only(messages: Any) -> bool:
    """Tell whether each of *messages* is an object; where they are not even opened, none is."""
    return isinstance(messages, list) and {dict}.issuperset(map(type, messages))
