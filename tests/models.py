"""What a test says to a tiny model, and what it hears; `conftest.models` makes the files."""

from typing import Any

from dmap.demo import models as tiny_models
from dmap.demo.vocabulary import END, KITCHEN, SEA, Vocabulary


def end_token(model: str) -> int:
    """Return the id of the token that ends an answer of *model*."""
    return Vocabulary(tiny_models.SPECS[model].words).tokens.index(END)


def subjects(text: str | None) -> set[str]:
    """Return of which subjects a text has words; the words that every tiny model knows tell nothing."""
    words = set((text or "").split())
    return {name for name, theme in [("sea", SEA), ("kitchen", KITCHEN)] if words & set(theme.split())}


def tool_call(model: str) -> dict[str, Any]:
    """
    Return the fields of a chat request that make *model* call the tool `weather` once, and then stop.

    The cities are a choice: within free text the bias would write another start of a call.
    """
    city = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
    return {
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": city}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "logit_bias": [["<tool_call>", 50], [end_token(model), 80]],
    }
