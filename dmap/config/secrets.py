"""Secrets that stand in a configuration in plain text."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = re.compile("(?i)(api_?key|token|secret|password|passwd)$")
_OPTIONS = re.compile(r"--(api-?key|token|hf-token|password)[ =][^\s$]")
_VARIABLES = re.compile(r"\b([A-Z0-9_]+_)?(API_?KEY|TOKEN|SECRET|PASSWORD)=[^\s$]")
"""As in `docker run -e HF_TOKEN=...`."""
_IN_URL = re.compile(r"//[^/@]*:[^/@]+@")
"""A password in a URL, as that of Redis has it."""
_READERS = 0o044
"""The group and all others."""


def exposed_secrets(path: Path, values: Any) -> Iterator[str]:
    """Yield the secrets among the *values* of the file at *path* if others than its owner may read that."""
    if mode := path.stat().st_mode & _READERS:
        who = "anybody" if mode & 0o004 else "its group"
        words = f"a secret in plain text, and {who} may read this file; chmod 600 it, or write ${{NAME}}"
        yield from (f"{at}: {words}" for at in _plain(values, ""))


def _plain(values: Any, path: str) -> Iterator[str]:
    items = values.items() if isinstance(values, dict) else ()
    for name, value in items:
        inner = f"{path}.{name}".lstrip(".")
        if isinstance(value, str) and "${" not in value and _tells(name, value):
            yield inner
        yield from _plain(value, inner)


def _tells(name: str, value: str) -> bool:
    """Tell whether *value* is or has a secret."""
    in_value = (_OPTIONS, _VARIABLES, _IN_URL)
    return _NAMES.search(name) is not None or any(each.search(value) for each in in_value)
