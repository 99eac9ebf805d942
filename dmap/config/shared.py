"""What several dmaps share, and what is kept there: the sections `redis` and `cache`."""

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from dmap.sections.section import Section
from dmap.sections.types import File, Integer, Number, Size, is_loopback, like

_NO_URL = "not the URL of a Redis; write it like redis://10.0.0.5:6379/0, rediss:// for TLS, or unix:///PATH"
_NO_PREFIX = "not a prefix of keys: up to 64 letters, digits and : . _ -"


def _redis_url(value: str) -> str:
    """Take what redis-py takes, without options: those are keys here."""
    try:
        parts = urlsplit(value)
        is_whole = bool(parts.path if parts.scheme == "unix" else parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    is_number = parts.path.strip("/").isdecimal() or parts.path in ("", "/") if is_whole else False
    if not is_whole or parts.scheme not in ("redis", "rediss", "unix") or parts.query or parts.fragment:
        raise ValueError(_NO_URL)
    if parts.scheme != "unix" and not is_number:
        raise ValueError(_NO_URL)
    return value


class RedisSection(Section):
    """
    The Redis (or Valkey) that several dmaps share; requests never depend on it.

    *url* may hold a user and a password.  Keys begin with *prefix*.  An answer that takes longer than
    *timeout_ms* counts as none.  Without TLS it has to be on this host, unless *insecure* is set.
    """

    url: Annotated[str, AfterValidator(_redis_url)] = Field(repr=False)
    ca: File | None = None
    prefix: Annotated[str, like(r"[A-Za-z0-9:._-]{1,64}", _NO_PREFIX)] = "dmap:"
    timeout_ms: Annotated[Integer, Field(ge=5, le=1000)] = 50
    insecure: bool = False

    @property
    def place(self) -> str:
        """Where it is, without the password."""
        parts = urlsplit(self.url)
        return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"

    def conflicts(self) -> Iterator[str]:
        """Refuse passwords and answers that anybody in between could read."""
        parts = urlsplit(self.url)
        if parts.scheme == "redis" and not is_loopback(parts.hostname or "") and not self.insecure:
            yield "url: plain text beyond this host; write rediss://, or insecure: true in a closed network"
        if self.ca is not None and parts.scheme != "rediss":
            yield "ca: has no effect without rediss://"


class CacheSection(Section):
    """The answers that are kept for whoever asks the same again: for *ttl_s*, of *max_entry* at the most."""

    ttl_s: Annotated[Number, Field(ge=1, le=30 * 86_400)] = 600
    max_entry: Annotated[Size, Field(ge=2**10, le=2**20)] = 256 * 2**10
