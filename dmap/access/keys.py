"""
New API keys.  The key itself is shown once and kept nowhere: the configuration knows its SHA-256 alone.
"""

import hashlib
import json
import secrets
from typing import Any

from dmap.config import check_key

_BYTES = 32
"""Of chance, so that nobody can guess one: 256 bits."""


def notice(name: str, **bounds: Any) -> str:
    """
    Make a key and say all that its owner has to know: the key on the first line, then where to note it.

    *bounds* are as `entry` has them.
    """
    key = make()
    return (
        f"{key}\n\nThe first line is the key; it is shown only this once.  dmap needs to know of it, under\n"
        f"access.keys in its configuration:\n\n    - {entry(name, key, **bounds)}"
    )


def make() -> str:
    """Return a new key; it goes into a header, so it is one word of ASCII."""
    return f"dmap-{secrets.token_urlsafe(_BYTES)}"


def entry(name: str, key: str, **bounds: Any) -> str:
    """
    Return what `access.keys` needs to know *key* as *name*: a mapping on one line of YAML.

    *bounds* are further values of such an entry; those that are None are left out.  It has been read as the
    configuration will read it.  Raises `ConfigProblem` if it could not be.
    """
    values = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **bounds}
    # JSON's strings and lists are YAML's too.
    written = [
        f"{field}: {json.dumps(value, ensure_ascii=False)}"
        for field, value in values.items()
        if value is not None
    ]
    line = f"{{{', '.join(written)}}}"
    check_key(line)
    return line
