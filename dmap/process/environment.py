"""What a child gets of our own environment, and what of all that it gets nobody else may read."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
_SECRET_OPTION = re.compile(r"--?(?:[a-z0-9]+[-_])*(?:key|token|secret|password)(?:=(.*))?", re.IGNORECASE)
_SHORTEST = 4
"""Of a value under a name that says it is a secret, in characters."""
_SHORTEST_OTHER = 8
_COMMON = re.compile("true|false|none|null|auto|default|[0-9]{,6}|--.*", re.IGNORECASE)
"""Values that are no secret, whatever they stand under: `TOKENIZERS_PARALLELISM=false`, `MAX_TOKENS=4096`."""

SHORT = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR"),
        *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ"),
        *("LD_LIBRARY_PATH", "CUDA_CACHE_PATH"),  # where a driver lies, and what it compiled before
        *("XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),  # podman without root needs the second
    )
)
"""The variables that nearly every program needs and that hold no secret."""


def clean_environment() -> dict[str, str]:
    """Return our environment without the variables whose names say that they hold a secret."""
    return {name: value for name, value in os.environ.items() if not _SECRET.search(name)}


def short_environment() -> dict[str, str]:
    """Return only those variables of our environment that `SHORT` names."""
    return {name: value for name, value in os.environ.items() if name in SHORT}


def secrets_in(variables: Mapping[str, str], command: Sequence[str]) -> list[str]:
    """
    Return what must not be read in the lines of a child with *variables* of its own, run by *command*.

    These are the secrets of our own environment, the values of *variables*, and what follows an option such
    as `--api-key`.  Values of a few characters would be found everywhere, and paths say where an error is:
    both count only under a name that says what they are.  Common words and small numbers never count.
    """
    named = [(name, value) for name, value in os.environ.items() if _SECRET.search(name)]
    values = (value for name, value in (*named, *variables.items()) if _is_secret(name, value))
    found = (line.strip() for value in (*values, *_of_options(command)) for line in value.splitlines())
    return [line for line in found if len(line) >= _SHORTEST and not _COMMON.fullmatch(line)]


def _is_secret(name: str, value: str) -> bool:
    if _SECRET.search(name):
        return True
    return len(value) >= _SHORTEST_OTHER and not value.startswith("/")


def _of_options(command: Sequence[str]) -> Iterator[str]:
    """Yield the values of those options in *command* whose names say that they are secrets."""
    for word, following in pairwise((*command, "")):
        if option := _SECRET_OPTION.fullmatch(word):
            yield following if option[1] is None else option[1]
