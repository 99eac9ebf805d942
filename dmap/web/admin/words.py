"""What an order for a model did, in plain words: a `message`, and three steps where a person has to act."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from dmap.models import Route
from dmap.sections.types import size_text
from dmap.wire.parameters import camel


class Loader(Enum):
    """Who loads and unloads the models of a place; what an event calls it where that is not this dmap."""

    DMAP = ""
    NODE = "by its node"
    PERSON = "by hand"


class Done(NamedTuple):
    """
    What came of an order for the model, or the variant, called *name*.

    *status* is the answer's, *changed* whether dmap loaded or unloaded anything.  *active* tells whether it
    is the active model now, None where no model is.  *loader* is who loads at its place.  *refused* are the
    options of the load that are not taken there.
    """

    name: str
    route: Route
    status: str
    changed: bool
    active: bool | None
    loader: Loader
    refused: Sequence[str] = ()

    @property
    def elsewhere(self) -> str:
        """Who loads it, where that is not this dmap."""
        if self.loader is Loader.NODE:
            return f"its node {self.route.key.backend!r} loads it by itself, for the first request there."
        return "dmap cannot load it: workflow says what a person has to do."


def of_load(done: Done) -> str:
    """Tell what a load has come to."""
    told = {
        "loaded": f"{done.name!r} {'is loaded' if done.changed else 'was loaded already'}.",
        "activated": f"{done.name!r} is set; {done.elsewhere}",
        "noted": f"What was set for {done.name!r} is noted and holds for its requests; {done.elsewhere}",
    }
    return f"{told[done.status]} {_of_active(done.active)}{_of_options(done)}"


def of_activation(done: Done, *, resident: bool) -> str:
    """Tell who gets the model that is active now, and who loads it."""
    if done.loader is not Loader.DMAP:
        then = f"; {done.elsewhere}"
    else:
        then = ", and it is loaded." if resident else "; the first of them has it loaded."
    return f"Requests that name no model get {done.name!r} from now on{then}{_of_options(done)}"


def of_unload(done: Done, *, ended: bool) -> str:
    """Tell what an unload has come to; with *ended* it was the active model."""
    told = {
        "unloaded": f"{done.name!r} was unloaded.",
        "not_loaded": f"{done.name!r} was not loaded.",
        "cleared": f"{done.name!r} stays until its node {done.route.key.backend!r} unloads it."
        if done.loader is Loader.NODE
        else f"dmap cannot unload {done.name!r}: workflow says what a person has to do.",
    }
    active = " It was the active model; now none is." if ended else ""
    return f"{told[done.status]} What was set for it here is forgotten.{active}"


def steps_to_load(model: str, url: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Return what a person does to have *model* loaded with *options* in the server at *url*."""
    wanted = ", ".join(f"{camel(option)} = {value}" for option, value in options.items())
    return _steps(
        f"Load {model!r} in the server at {url} by hand: dmap cannot switch models there.",
        f"Load it with {wanted}." if wanted else "Load it with any options: none are set for it here.",
        "Check with GET /v1/models that the server lists it.",
    )


def steps_to_unload(
    model: str, url: str, backend: str, held: tuple[str, int] | None, *, ended: bool
) -> dict[str, str]:
    """
    Return what a person does to have *model* unloaded from the server at *url*.

    That server may have *held* memory of a device, in bytes, which is counted for it whatever it unloads.
    """
    return _steps(
        f"Unload {model!r} in the server at {url} by hand: dmap cannot switch models there.",
        f"{size_text(held[1])} of device {held[0]!r} stay counted for that server; to give them to other "
        f"models, lower backends.{backend}.memory in the configuration and have it read again."
        if held is not None
        else "Leave the configuration as it is: dmap counts no memory for that server.",
        "Until another model is activated, requests have to name their model."
        if ended
        else "Requests that name it go to that server as before; it answers or refuses them.",
    )


def _steps(*steps: str) -> dict[str, str]:
    return {f"step{number}": step for number, step in enumerate(steps, 1)}


def _of_options(done: Done) -> str:
    """Name the options that are not applied; where a person loads, that is what the workflow is for."""
    if done.loader is Loader.PERSON or not done.refused:
        return ""
    return f" Not applied: {', '.join(done.refused)}; load_config says why."


def _of_active(active: bool | None) -> str:
    if active is None:
        return "No model is active: requests have to name theirs."
    return "Requests that name no model get it." if active else "The active model is another one."
