"""
llama-swap's macros: what stands for `${NAME}` in a text, in its order and with its types.

The last macro of a list is put in first, so one may use those above it.  A text that is a macro and nothing
else becomes the macro's value, a number for instance; inside a text it is written out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dmap.config import ConfigProblem
from dmap.moving.source import go_text

PORT, PID, MODEL = "\uf8f2", "\uf8f3", "\uf8f4"
"""Stand in texts for what is only known when a command is run."""

MOST = 500
MOST_CHARACTERS = 2**20
"""Of all that macros put into a file."""

_USE = re.compile(r"\$\{([a-zA-Z0-9_-]+)\}")
_PLAIN = re.compile(r"[\w.:/@+-]+", re.ASCII)


class Macro(NamedTuple):
    """A macro's *name* and *value*."""

    name: str
    value: Any


def listed(values: Any) -> list[Macro]:
    """Return the macros that *values*, a mapping, has; raises `ConfigProblem` for more than `MOST`."""
    if isinstance(values, dict) and len(values) > MOST:
        raise ConfigProblem([f"macros: more than {MOST}"])
    return [Macro(name, value) for name, value in values.items()] if isinstance(values, dict) else []


def of_model(name: str, shared: Sequence[Macro], own: Sequence[Macro]) -> list[Macro]:
    """
    Return the macros that hold for the model *name*: those that all share, and its *own*, which go first.

    A name in which nothing has a meaning for a shell stays a mark, for dmap has a place for it.
    """
    identity = MODEL if _PLAIN.fullmatch(name) else name
    merged = {macro.name: macro for macro in (Macro("MODEL_ID", identity), *shared, *own)}
    return list(merged.values())


class Expansion:
    """Puts macros into values, and bounds how much that may be in all."""

    def __init__(self) -> None:
        self._left = MOST_CHARACTERS

    def of(self, value: Any, macros: Sequence[Macro]) -> Any:
        """Return *value* with *macros* in all its texts."""
        if isinstance(value, dict):
            return {key: self.of(each, macros) for key, each in value.items()}
        if isinstance(value, list):
            return [self.of(each, macros) for each in value]
        for name, put in reversed(macros) if isinstance(value, str) and "${" in value else ():
            value = self._with(value, f"${{{name}}}", put)
        return value

    def _with(self, value: Any, use: str, put: Any) -> Any:
        if not isinstance(value, str) or use not in value:
            return value
        if value == use:
            return put
        text = go_text(put)
        self._left -= value.count(use) * len(text)
        if self._left < 0:
            raise ConfigProblem(["macros: they unfold to too much"])
        return value.replace(use, text)


def unknown(value: Any) -> str | None:
    """Return the name of a macro in *value* that nobody has defined, if there is one."""
    if isinstance(value, Mapping):
        return next(filter(None, map(unknown, value.values())), None)
    if isinstance(value, list):
        return next(filter(None, map(unknown, value)), None)
    found = _USE.search(value) if isinstance(value, str) else None
    return found[1] if found else None
