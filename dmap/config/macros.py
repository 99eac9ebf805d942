"""The file's own macros, put into the commands of its models before these are checked."""

from collections.abc import Iterator, Mapping
from typing import Any

from dmap.sections.command import PLACES, fill, places

MOST_CHARACTERS = 2**18
"""Of all that macros put into a file."""

_TEXTS = ("cmd", "stop", "url", "ready", "env")


def expanded(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Return the file's *values* with its macros filled in; what has another form than it should stays.

    A macro may use those above it.  Raises ValueError when they unfold to too much.
    """
    macros, models = values.get("macros"), values.get("models")
    if not isinstance(macros, dict) or not isinstance(models, dict):
        return values
    fillings = _Fillings()
    for name, text in macros.items():
        fillings.values[name] = fillings.fill(text) if isinstance(text, str) else text
    return {**values, "models": {name: _filled(model, fillings) for name, model in models.items()}}


def misnamed(macros: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the names of *macros*."""
    for name in macros:
        if name in PLACES:
            yield f"macros.{name}: this is filled in when a command is run; choose another name"
        elif places(f"{{{name}}}") != [name]:
            yield f"macros.{name}: a name has small letters, digits and _, first a letter"


class _Fillings:
    """The texts of the macros so far, and how much may still be put in."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._left = MOST_CHARACTERS

    def fill(self, value: Any) -> Any:
        """Return *value* filled, or each of its members."""
        if isinstance(value, dict):
            return {name: self.fill(each) for name, each in value.items()}
        if not isinstance(value, str):
            return value
        known = {name: text for name in places(value) if isinstance(text := self.values.get(name), str)}
        self._left -= sum(len(known[name]) for name in places(value) if name in known)
        if self._left < 0:
            raise ValueError("macros: they unfold to too much")
        return fill(value, known)


def _filled(model: Any, fillings: _Fillings) -> Any:
    if not isinstance(model, dict):
        return model
    return {name: fillings.fill(value) if name in _TEXTS else value for name, value in model.items()}
