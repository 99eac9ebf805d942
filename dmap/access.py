"""
Who may ask: addresses, keys, scopes.  Plain values in, a `Client` or a refusal out; no web framework.

The order is: whom the connection speaks for, whether that address is on the list, whether the key is
known, whether it has the scope.  Nothing of a request's body has been read by then.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from urllib.parse import urlsplit

from dmap import config
from dmap.errors import AccessDenied, InvalidKey
from dmap.wire.headers import FORWARDED

__all__ = ["Access", "Client"]

_REMEMBERED = 4096
"""Addresses and hosts that are not worked out anew for each request."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: *name* is its key's, else its address (of IPv6 the /64); *models* are globs."""

    name: str
    models: tuple[str, ...] = ("*",)

    def may_use(self, *names: str) -> bool:
        """Tell whether any of a model's *names* is on this client's list."""
        return any(fnmatchcase(name, glob) for glob in self.models for name in names)


class Access:
    """The lists of the configuration's `access`, parsed once."""

    def __init__(self, access: config.Access) -> None:
        self._open = access.open
        self._allowed = _networks(access.allow)
        self._proxies = _networks(access.trusted_proxies)
        self._keys = access.keys

    def admit(self, peer: str, headers: Mapping[str, str], *, scope: str | None) -> Client:
        """
        Return who asks, from the connection's *peer* address and the request's *headers*.

        With *scope* None any valid key will do.  Raises `AccessDenied` or `InvalidKey`.
        """
        address = self._speaker(_address(peer), headers)
        if not self._may_connect(address):
            raise AccessDenied(f"the address {address} is not allowed; see access.allow in the configuration")
        if not self._keys:
            _refuse_foreign_page(address, headers)
            return Client(_name_of(address))
        key = self._key(headers)
        if scope is not None and scope not in key.scopes:
            raise AccessDenied(f"the key {key.name!r} lacks the scope {scope!r}; see access.keys")
        return Client(key.name, key.models)

    def _speaker(self, peer: _Address, headers: Mapping[str, str]) -> _Address:
        """
        Find whom *peer* speaks for: the last hop of `X-Forwarded-For` that is no trusted proxy, or the first.

        Some proxies append to the client's own line (nginx), others add a line of theirs (HAProxy), so all
        lines count.  A proxy that names nobody, or somebody on its own host, has told us nothing.
        """
        if not any(name in headers for name in FORWARDED):
            return peer
        if not _within(peer, self._proxies):
            raise AccessDenied(f"{peer} sends forwarding headers but is not in access.trusted_proxies")
        lines = [value for name, value in headers.items() if name.lower() == "x-forwarded-for"]
        speaker = None
        for hop in reversed(",".join(lines).split(",")):
            if hop.strip() and (speaker is None or _within(speaker, self._proxies)):
                speaker = _address(hop.strip())
        if speaker is None or (speaker.is_loopback and not peer.is_loopback):
            raise AccessDenied(f"{peer} does not tell in X-Forwarded-For whom it speaks for")
        return speaker

    def _may_connect(self, address: _Address) -> bool:
        if _is_loopback(str(address)) or _within(address, self._allowed):
            return True
        return not self._allowed and (self._open or bool(self._keys))

    def _key(self, headers: Mapping[str, str]) -> config.Key:
        """Look the credentials up; every key is compared, in constant time, whichever matches."""
        credentials = _credentials(headers)
        # aiohttp decodes a header's bytes this way.
        digest = hashlib.sha256(credentials.encode(errors="surrogateescape")).hexdigest()
        known = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not credentials or not known:
            raise InvalidKey(
                "no valid API key was given; send it as 'Authorization: Bearer KEY' or as 'x-api-key'"
            )
        return known[0]


def _credentials(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()


def _refuse_foreign_page(address: _Address, headers: Mapping[str, str]) -> None:
    """
    Refuse requests that a web page makes in its visitor's browser, for no key tells them from the owner's.

    A page of another site shows in `Origin`; one that has its own name resolve to this host (DNS
    rebinding) shows in `Host`, which must be loopback's where the address is.
    """
    host = _host(f"//{headers.get('Host', '')}")
    origin = headers.get("Origin")
    if not _is_loopback(host) and _is_loopback(str(address)):
        raise AccessDenied(
            f"the Host header names {host!r}; without keys, loopback is served as localhost only"
        )
    if origin is not None and _host(origin) != host:
        raise AccessDenied(f"a page of {origin!r} may not call dmap without a key")


@lru_cache(maxsize=_REMEMBERED)
def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


@lru_cache(maxsize=_REMEMBERED)
def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _networks(texts: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def _within(address: _Address, networks: tuple[_Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


@lru_cache(maxsize=_REMEMBERED)
def _address(text: str) -> _Address:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError as exc:
        raise AccessDenied(f"{text[:64]!r} is not an address") from exc
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=_REMEMBERED)
def _name_of(address: _Address) -> str:
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
