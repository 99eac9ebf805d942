"""Where dmap listens, and who may ask: the sections `listen` and `access`."""

from typing import Literal

from pydantic import Field

from dmap.sections.section import Section
from dmap.sections.types import (
    Count,
    Expiry,
    File,
    Guarded,
    HostName,
    Integer,
    ListenHost,
    Name,
    Network,
    Origin,
    Sha256,
    is_loopback,
)


class Tls(Section):
    """The files of a certificate, with its chain, and of its key, both PEM; read again with every reload."""

    cert: File
    key: File


class Listen(Section):
    """
    Where dmap listens; beyond loopback only with keys, an allowlist or `access.open`.

    *names* are public names of this host, which requests without a key may use.
    """

    host: ListenHost = "127.0.0.1"
    port: Integer = Field(default=8000, ge=0, le=65535)
    tls: Tls | None = None
    names: tuple[HostName, ...] = ()


class Key(Section):
    """
    One API key, known by its SHA-256, with what it may use.

    *parallel* bounds its requests that wait or run at once, *rate_per_min* those that begin; requests with
    a higher *priority* wait in front.  It is refused from *expires* on.  *permit* are guarded fields that it
    may use with any model.
    """

    name: Name
    sha256: Sha256 = Field(repr=False)
    scopes: tuple[Literal["inference", "front", "debug", "admin"], ...] = ("inference",)
    models: tuple[str, ...] = ("*",)
    priority: Integer = Field(default=0, ge=-10, le=10)
    parallel: Count | None = None
    rate_per_min: Count | None = None
    expires: Expiry | None = None
    permit: tuple[Guarded, ...] = ()


class AccessSection(Section):
    """Who may ask."""

    open: bool = False
    allow: tuple[Network, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    keys: tuple[Key, ...] = ()
    failures_per_min: Count = 20
    cors: tuple[Origin, ...] = ()


def exposure(host: str, access: AccessSection) -> str | None:
    """Say that others can reach *host* and *access* lets all of them in, if that is so."""
    if is_loopback(host) or access.keys or access.allow or access.open:
        return None
    return f"{host} is open to others; set access.keys or access.allow (or access.open: true)"
