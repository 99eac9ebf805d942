"""
Tell whether a request does more on its server than have a model answer.

Such a request must not be sent twice.  To compute an answer twice harms nobody, even if the server had the
request whole and was about to answer.
"""

from collections.abc import Mapping
from typing import Any

from dmap.wire.guards import asks
from dmap.wire.values import opened

_ACTING = frozenset(
    ("integrations", "mcp_servers", "background", "conversation", "container", "web_search_options")
)
"""Outermost members that let the server call others or run code, go on by itself, or add to what it keeps."""
_CLIENTS = ("function", "custom", None)
"""Types of tools that the server only names, and the client runs; Anthropic's need no type."""


def acts(fields: Mapping[str, Any]) -> bool:
    """
    Tell this of the outermost members *fields*, as the server gets them.

    An answer that a server keeps because nobody said no (`store` of `/v1/responses`) does not count: its id
    was never told.  Nor does `previous_response_id`, which only reads.
    """
    if fields.get("store") is True:
        return True
    if any(asks(name, fields[name]) for name in _ACTING & fields.keys()):
        return True
    tools = opened(fields.get("tools"))
    return isinstance(tools, list) and not all(map(_is_the_clients, tools))


def _is_the_clients(tool: Any) -> bool:
    tool = opened(tool)
    return isinstance(tool, dict) and tool.get("type") in _CLIENTS
