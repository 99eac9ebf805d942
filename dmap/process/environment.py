"""What a child gets of our own environment."""

import os
import re

_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)

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
