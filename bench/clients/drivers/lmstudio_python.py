"""LM Studio's own client for Python, which speaks over WebSockets only."""

import sys
from typing import Any

import lmstudio
from said import run


def _client() -> Any:
    return lmstudio.Client(sys.argv[2].removeprefix("http://"))


run(
    {
        "models": lambda: {"models": [model.identifier for model in _client().list_loaded_models()]},
        "chat": lambda: {"text": str(_client().llm.model("tiny-sea").respond("Hello"))},
    }
)
