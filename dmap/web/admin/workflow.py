"""What a person has to do where dmap cannot: the steps, in words, for servers that switch by hand.  Pure."""

from collections.abc import Mapping
from typing import Any

_LISTED = "Check with GET /v1/models that the server lists it."


def steps(action: str, model: str, url: str, options: Mapping[str, Any]) -> list[str]:
    """Return the steps of *action* (load, activate or unload) for *model* on the server at *url*."""
    server, why = f"the server at {url}", "dmap cannot switch models there"
    if action == "unload":
        return [
            f"Unload {model!r} in {server} by hand: {why}.",
            "Until another model is activated, requests have to name their model.",
        ]
    wanted = ", ".join(f"{name} = {value}" for name, value in options.items())
    first = f"Load {model!r} in {server} by hand: {why}."
    return [first, *([f"Load it with {wanted}."] if wanted else []), _LISTED]
