"""
What a name may be that nobody knows: a typo, or a model of a backend that does not answer.  Pure.

A client may be told to come back only as long as that may help.  So a backend that has not answered since the
start may have a name that was heard of before, for ever, and any other name until it counts as gone; but no
name that is a typo of a known one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from dmap.config import Config
from dmap.sections.near import nearest
from dmap.state import Saved

_COMPARED = 512
"""A name is compared with so many others at the most: that takes some milliseconds."""
_ALIKE = 0.85
"""From here on two names are alike (difflib's ratio): `llama` and `llava` are not."""
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Silence:
    """Why a backend does not answer; *is_gone* when it has not for so long that nobody waits for it."""

    reason: str
    is_gone: bool = False


def meant_by(name: str, known: Iterable[str]) -> str | None:
    """
    Return that of the *known* names of which *name* is a typo, if any.

    The numbers in both are the same: `qwen3-4b` is another model than `qwen3-8b`, and no typo.
    """
    numbers = _NUMBER.findall(name)
    alike = (each for each in islice(known, _COMPARED) if _NUMBER.findall(each) == numbers)
    return nearest(name, alike, cutoff=_ALIKE)


def is_heard_of(config: Config, saved: Saved, backend: str, name: str) -> bool:
    """Tell whether the file, the client's own words or an earlier start say that *backend* has *name*."""
    durations = saved.durations.values()
    return (
        name.startswith(f"{backend}/")
        or (config.settings.of(name).backend is not None and config.settings.of(name).lives_on(backend))
        or name in _of_the_file(config)
        or name == saved.active
        or name in saved.models
        or any(f"{backend}/{name}" in each for one in durations for each in (one.loads_s, one.answers_s))
    )


def _of_the_file(config: Config) -> set[str]:
    """Return the names that the file has and gives to no backend."""
    named = {name: model for name, model in config.models.items() if model.backend is None}
    aliases = {alias for model in named.values() for alias in model.aliases}
    return {*named, *aliases, *(name for device in config.devices.values() for name in device.preload)}
