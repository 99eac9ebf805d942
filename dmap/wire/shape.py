"""
Refuse requests that no server would take, before a model is loaded for them.

Only what all servers agree on: which members a route cannot do without, and what these may be.  The
references of OpenAI's and Anthropic's APIs say more; llama.cpp, vLLM and LM Studio take less, and more, than
those.  So what is unusual goes on, and its server tells.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from dmap.errors import BadRequest
from dmap.wire.routes import Contents
from dmap.wire.values import type_of

_KINDS: Mapping[type, str] = {str: "a string", list: "a list", dict: "an object"}
_NULL = type(None)

_MAY_BE: Mapping[str, tuple[type, ...]] = {
    "messages": (list,),
    "tools": (list,),
    "prompt": (str, list, dict),
    "input": (str, list),
    "query": (str, dict),
    "documents": (list, dict),
}
"""An object for `prompt` is one that a server keeps, or llama.cpp's text with media; vLLM ranks objects."""


def check_shape(contents: Contents, fields: Mapping[str, Any]) -> None:
    """
    Refuse *fields*, a request's outermost members, if no server of a route with such *contents* takes them.

    Raises `BadRequest` naming the field.
    """
    for group in contents.needed:
        if not any(type_of(fields.get(name)) is not _NULL for name in group):
            raise BadRequest(f"{group[0]!r} is missing", param=group[0])
    for name, kinds in _MAY_BE.items():
        if name in fields and type_of(fields[name]) not in (*kinds, _NULL):
            raise BadRequest(f"{name!r} must be {' or '.join(map(_KINDS.__getitem__, kinds))}", param=name)
    messages = fields.get("messages") or ()
    # A long list that holds no object is not even opened.
    if isinstance(messages, msgspec.Raw) or not {dict}.issuperset(map(type, messages)):
        raise BadRequest("'messages' must be a list of objects", param="messages")
