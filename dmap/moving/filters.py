"""What llama-swap's filters set in requests, as parameters of dmap."""

from collections.abc import Mapping
from typing import Any

from dmap.sections.models import Defaults
from dmap.wire.parameters import PARAMETERS

NO_PARAMETER = "dmap has no such parameter to set"


def mapping(value: Any) -> dict[str, Any]:
    """Return *value* if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def forced(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return those *params* that dmap can set, by its names, and the others."""
    force: dict[str, Any] = {}
    lost: dict[str, Any] = {}
    for word, value in params.items():
        name = PARAMETERS.get(word, word)
        try:
            Defaults.model_validate({name: value})
        except ValueError:
            lost[word] = value
        else:
            force[name] = value
    return force, {word: value for word, value in lost.items() if word != "model"}
