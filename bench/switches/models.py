"""Three tiny models, and whether an answer is whole and of the right one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass
class Stream:
    """What was heard of a streamed answer so far: its words, why it ended, and how many tokens that were."""

    text: str = ""
    finish: str | None = None
    tokens: int = 0
    done: bool = False
    strange: str = ""

    def read(self, line: bytes) -> None:
        """Take a line of the stream in; a comment tells nothing."""
        if line.strip() == b"data: [DONE]":
            self.done = True
        elif line.startswith(b"data: "):
            self._take(json.loads(line.removeprefix(b"data: ")))
        elif line.strip() and not line.startswith(b":"):
            self.strange = line.decode(errors="replace")

    def _take(self, record: Mapping[str, Any]) -> None:
        if "choices" not in record:
            self.strange = f"{record}"
            return
        for choice in record["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.finish = choice["finish_reason"] or self.finish
        self.tokens = (record.get("usage") or {}).get("completion_tokens", self.tokens)

    def fault(self, model: str, tokens: int) -> str | None:
        """Tell what is wrong with it, if anything, as *model*'s answer to a request for *tokens* tokens."""
        if self.strange:
            return self.strange
        if not self.done or self.finish != "length" or self.tokens != tokens:
            return f"{self.tokens} of {tokens} tokens, {self.finish}, {'whole' if self.done else 'cut'}"
        foreign = set(self.text.split()) - set(f"{THEMES[model]} {EVERYDAY}".split())
        return f"no words of {model}: {' '.join(sorted(foreign))}" if foreign or not self.text else None
