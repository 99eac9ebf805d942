"""What a person has to do where dmap cannot: the steps, in words, for servers that switch by hand.  Pure."""

from collections.abc import Mapping
from typing import Any

__all__ = ["steps"]

_LIST = "Check with GET /v1/models that the server lists it."


def steps(action: str, model: str, url: str, options: Mapping[str, Any]) -> list[str]:
    """Return the steps of *action* (load, activate or unload) for *model* on the server at *url*."""
    if action == "unload":
        return [
            f"Unload {model!r} in the server at {url} by hand: dmap cannot switch models there.",
            "Until another model is activated, requests have to name their model.",
        ]
    wanted = ", ".join(f"{name} = {value}" for name, value in options.items())
    told = f"Load {model!r} in the server at {url} by hand: dmap cannot switch models there."
    return [told, *([f"Load it with {wanted}."] if wanted else []), _LIST]
