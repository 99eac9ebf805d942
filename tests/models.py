"""The tiny models of the tests, what one is told, and what it says; `conftest.models` makes the files."""

from pathlib import Path
from typing import Any

from dmap.demo import models as tiny_models
from dmap.demo.models import Spec
from dmap.demo.vocabulary import END, KITCHEN, SEA, Vocabulary

SPECS = tiny_models.SPECS | {
    "tiny-brief": Spec(SEA, 13, width=64, layers=2, heads=4, kv_heads=2, inner=160),
    "tiny-embed": Spec(SEA, 14, width=64, layers=2, heads=4, kv_heads=2, inner=160, embedding=True),
    "slow": Spec(KITCHEN, 15, width=768, layers=6, heads=12, kv_heads=6, inner=2048),
}
"""By name; `slow` has 40 million parameters in 80 MB, so that a stream lasts seconds."""


def make(name: str, directory: Path) -> Path:
    """Make the model *name* of `SPECS` in *directory*, which is made too; return the file."""
    directory.mkdir(parents=True, exist_ok=True)
    return tiny_models.make(name, SPECS[name], directory)


def end_token(model: str) -> int:
    """Return the id of the token that ends an answer of *model*."""
    return Vocabulary(SPECS[model].words).tokens.index(END)


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
