"""
No client is refused for what it sends.

`client_bodies.jsonl` holds what clients sent to a local server, as bytes, with tools that have properties
called `image_url`, `options`, `model`, `tools` and `stream`: openai 3.54 and anthropic 2.12 for Python and
their packages for Node, LangChain in both, LiteLLM 1.106, LlamaIndex 0.14, Pydantic AI 2.68, OpenAI's Agents,
Vercel's AI SDK with four providers.  `REBUILT` were not recorded: they have the fields that the named clients
are known to send, with the place in their source to compare them with.
"""

import json
from pathlib import Path

import pytest

from dmap.kinds import ROUTES
from dmap.wire.body import peek
from dmap.wire.shape import check_shape

_lines = Path(__file__).with_name("client_bodies.jsonl").read_text("utf-8").splitlines()
RECORDED = [json.loads(line) for line in _lines]
CHAT = "/v1/chat/completions"
ASKED = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "a"}]}
REBUILT = {
    # open-webui: backend/open_webui/utils/payload.py and routers/openai.py
    "Open WebUI": ASKED | {"stream_options": {"include_usage": True}, "temperature": 0.8, "max_tokens": 9},
    # continuedev/continue: packages/openai-adapters/src/apis/OpenAI.ts
    "Continue": ASKED | {"max_tokens": 9, "stop": ["\n"], "prediction": {"type": "content", "content": "a"}},
    # cline/cline: src/api/providers/openai.ts
    "Cline": ASKED | {"temperature": 0, "stream_options": {"include_usage": True}, "reasoning_effort": "low"},
    # paul-gauthier/aider: aider/models.py, which asks through LiteLLM
    "aider": ASKED | {"temperature": 0, "tools": None},
    # danny-avila/LibreChat: api/app/clients/OpenAIClient.js
    "LibreChat": ASKED | {"user": "u", "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0},
    # n8n-io/n8n: nodes-langchain, LmChatOpenAi
    "n8n": ASKED | {"n": 1, "response_format": {"type": "json_object"}, "timeout": 60000},
    # zed-industries/zed: crates/open_ai/src/open_ai.rs
    "Zed": ASKED | {"parallel_tool_calls": False, "tool_choice": "auto", "stop": []},
}
NAMES = (
    "image_url",
    "options",
    "model",
    "tools",
    "stream",
    "Model",
    "url",
    "keep_alive",
    "draft_model",
    "input",
)
SCHEMAS = [
    {
        "type": "object",
        "properties": {name: {"type": kind, "default": f"http://h/{number}"} for name in NAMES[number % 7 :]},
        "required": list(NAMES[: number % 5]),
        "options": {"num_ctx": number},
        "image_url": {"url": "http://h"},
    }
    for number in range(25)
    for kind in ("string", "object", "array", "boolean")
]


def accepted(path, body):
    """Read *body* as a request for *path*; return what it would need a permit for."""
    call = peek(body)
    check_shape(ROUTES[path].contents, call.fields)
    return call.needs


@pytest.mark.parametrize("sent", RECORDED, ids=lambda sent: f"{sent['client']} {sent['path']}")
def test_what_a_client_sent(sent):
    """What a client was seen to send is not refused and needs no permit."""
    assert accepted(sent["path"], sent["body"].encode()) == []


@pytest.mark.parametrize("client", REBUILT)
@pytest.mark.parametrize("escaped", [True, False])
def test_what_a_client_is_known_to_send(client, escaped):
    """Nor is what a client is known to send, however it writes JSON."""
    assert accepted(CHAT, json.dumps(REBUILT[client], ensure_ascii=escaped).encode()) == []


@pytest.mark.parametrize("number", range(100))
def test_any_schema_of_a_tool(number):
    """A tool's schema may have properties of any name, in every dialect."""
    schema = SCHEMAS[number]
    function = {"name": "f", "description": "d", "parameters": schema}
    user = [{"role": "user", "content": "a"}]
    chat = {"model": "m", "messages": user, "tools": [{"type": "function", "function": function}]}
    responses = {"model": "m", "input": "a", "tools": [{"type": "function", **function}]}
    messages = {"model": "m", "messages": user, "tools": [{"name": "f", "input_schema": schema}]}

    assert accepted(CHAT, json.dumps(chat).encode()) == []
    assert accepted("/v1/responses", json.dumps(responses).encode()) == []
    assert accepted("/v1/messages", json.dumps(messages, indent=1).encode()) == []
