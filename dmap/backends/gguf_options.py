"""The options of a load that an engine can be told: a part of `gguf.py`."""

from collections.abc import Mapping
from typing import Any

from dmap.errors import LoadFailed

__all__ = ["checked"]

_OPTIONS: Mapping[str, type] = {"context_length": int, "flash_attention": bool}


def checked(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the *options* that are set; raises `LoadFailed` for what an engine cannot be told."""
    for option, value in options.items():
        if option not in _OPTIONS:
            known = ", ".join(_OPTIONS)
            raise LoadFailed(f"cannot load model {model!r}: unknown option {option!r}; known are {known}")
        if type(value) is not _OPTIONS[option] or (type(value) is int and value < 1):
            raise LoadFailed(f"cannot load model {model!r}: {option} may not be {value!r}")
    return dict(options)
