"""What a person has to do where dmap cannot: the steps, in words, for servers that switch by hand.  Pure."""

from collections.abc import Mapping
from typing import Any

_LISTED = "Check with GET /v1/models that the server lists it."
_RESIDENT = "Check that GET /v1/models of dmap calls it resident: a request for it is refused before."


def steps(
    action: str, model: str, url: str, options: Mapping[str, Any], *, is_studio: bool = False
) -> list[str]:
    """
    Return the steps of *action* (load, activate or unload) for *model* on the server at *url*.

    *is_studio* tells that it is an LM Studio too old to be switched, which lists what it has not loaded, too.
    """
    server = f"the {'LM Studio' if is_studio else 'server'} at {url}"
    why = "it is too old for dmap to switch models there" if is_studio else "dmap cannot switch models there"
    if action == "unload":
        return [
            f"Unload {model!r} in {server} by hand: {why}.",
            "Until another model is activated, requests have to name their model.",
        ]
    wanted = ", ".join(f"{name} = {value}" for name, value in options.items())
    told = f"Load {model!r} in {server} by hand: {why}."
    return [told, *([f"Load it with {wanted}."] if wanted else []), _RESIDENT if is_studio else _LISTED]
