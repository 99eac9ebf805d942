"""Three tiny models, and whether an answer is whole and of the right one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmap.demo.models import Spec, make
from dmap.demo.vocabulary import EVERYDAY, KITCHEN, SEA

GARDEN = """acorn apple bark beech bee berry birch bloom branch bud bulb bush cedar clover compost daisy elm
fern fig fir flower frost grass hedge hive hoe holly ivy lawn leaf lily maple meadow moss oak orchard path
pear petal pine plum pond poppy rake rose seed shed shrub spade stem thorn tulip twig weed willow"""

THEMES = {"a": SEA, "b": KITCHEN, "c": GARDEN}
WIDTH = {"width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "inner": 160}


def make_all(folder: Path) -> Path:
    """Make the models `a`, `b` and `c`, 0.3 MB each, in *folder*, which is made too; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, words) in enumerate(THEMES.items()):
        make(name, Spec(words, seed, **WIDTH), folder)
    return folder


def fault(model: str, tokens: int, payload: Mapping[str, Any]) -> str | None:
    """Tell what is wrong with the answer to a chat request for *tokens* tokens of *model*, if anything is."""
    choice, got = payload["choices"][0], payload["usage"]["completion_tokens"]
    if choice["finish_reason"] != "length" or got != tokens:
        return f"{got} of {tokens} tokens, {choice['finish_reason']}"
    foreign = set(choice["message"]["content"].split()) - set(f"{THEMES[model]} {EVERYDAY}".split())
    return f"no words of {model}: {' '.join(sorted(foreign))}" if foreign else None
