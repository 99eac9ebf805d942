"""LM Studio's own client for Python, which speaks over WebSockets only."""

import sys
from typing import Any

import lmstudio
from said import run


def _client() -> Any:
    return lmstudio.Client(sys.argv[2].removeprefix("http://"))


def _chat() -> dict[str, Any]:
    return {"text": str(_client().llm.model("tiny-sea").respond("Hello"))}


def _embedding() -> dict[str, Any]:
    return {"size": len(_client().embedding.model("tiny-embed").embed("the sea"))}


run(
    {
        "models": lambda: {"models": [model.identifier for model in _client().list_loaded_models()]},
        "embeddings": _embedding,
        **dict.fromkeys(("chat", "stream", "tools", "vision", "count"), _chat),
        # It does not get so far that it could be refused, wait, leave or be cut off.
    }
)
