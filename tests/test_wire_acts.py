"""What must not be sent twice."""

import msgspec
import pytest

from dmap.wire.acts import acts

FUNCTION = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True},
        {"background": True},
        {"integrations": ["mcp/x"]},
        {"mcp_servers": [{"url": "http://x"}]},
        {"conversation": "conv_1"},
        {"container": {"id": "c"}},
        {"web_search_options": {"search_context_size": "low"}},
        {"tools": [FUNCTION, {"type": "mcp", "server_label": "x"}]},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "code_interpreter"}]},
        {"tools": [{"type": "file_search"}]},
        {"tools": [{"type": "computer_use_preview"}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": msgspec.Raw(b'[{"type": "web_search"}]')},
        {"tools": [msgspec.Raw(b'{"type": "mcp"}')]},
        {"tools": ["web_search"]},
        {"tools": [{"type": ["function"]}]},
    ],
)
def test_what_acts_on_its_server(fields: dict) -> None:
    """It makes its server keep, run or call something, or nobody can tell."""
    assert acts(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"store": False, "background": False, "integrations": [], "conversation": None},
        {"background": "transparent"},
        {"previous_response_id": "resp_1"},
        {"tools": [FUNCTION, {"type": "custom", "name": "c"}]},
        {"tools": [{"name": "anthropics", "input_schema": {}}]},
        {"tools": None},
        {"tools": []},
        {"tools": msgspec.Raw(b'[{"type": "function"}]')},
        {"functions": [{"name": "f"}], "user": "ann", "prompt_cache_key": "k"},
    ],
)
def test_what_only_asks_for_an_answer(fields: dict) -> None:
    """Whoever runs the tools, it is the client."""
    assert not acts(fields)
