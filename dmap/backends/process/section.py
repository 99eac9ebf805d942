"""The section of a backend whose models are commands."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from dmap.backends.sections import RunningSection
from dmap.sections.types import Integer, Seconds

_OPTIONS = frozenset(("context_length", "parallel"))


def _ports(value: Any) -> Any:
    """Read `9500-9600`, or a single port."""
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", str(value).replace(" ", ""))
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1024 <= first <= last <= 65535:
        raise ValueError("not a range of ports from 1024 on; write it like 9500-9600")
    return (first, last)


Ports = Annotated[tuple[int, int], BeforeValidator(_ports)]


class ProcessSection(RunningSection):
    """
    A backend whose models are commands, each named under `models` with its `cmd`.

    *ports* are the first and the last of those that commands get as `{port}`; *context_length* is what
    `{context_length}` means where a model has none of its own.
    """

    runs_commands: ClassVar[bool] = True

    kind: Literal["process"]
    ports: Ports = (9500, 9600)
    stop_s: Seconds = 10
    context_length: Integer = Field(default=4096, ge=128)

    def refuses(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Refuse what no place in a command is for."""
        return {name: "the model's cmd says how it is loaded" for name in options if name not in _OPTIONS}
