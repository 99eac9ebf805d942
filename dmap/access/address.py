"""
Where a request comes from: the connection's address, or the address that a trusted proxy there speaks for.

What the lists of the configuration say of an address is worked out once.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from dmap import config
from dmap.errors import AccessDenied
from dmap.wire.headers import FORWARDED

_REMEMBERED = 4096
"""Addresses that are not worked out anew for each request."""

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address, the *name* of the client that has it, and what the lists say of it."""

    ip: _IP
    name: str
    is_proxy: bool
    may_connect: bool


class Networks:
    """The networks of `access.allow` and `access.trusted_proxies`.  Loopback is always allowed."""

    def __init__(self, access: config.AccessSection) -> None:
        self._allowed = access.allow
        self._proxies = access.trusted_proxies
        self._open = not access.allow and (access.open or bool(access.keys))
        self._of = lru_cache(maxsize=_REMEMBERED)(self._look)

    def speaker(self, peer: str, headers: Mapping[str, str]) -> Address:
        """
        Find the address that *peer* speaks for.

        It is the last hop of `X-Forwarded-For` that is no trusted proxy, or the first hop if all are.  Some
        proxies append to the client's own line (nginx), others add a line of theirs (HAProxy), so all lines
        count.  Raises `AccessDenied` if a proxy names no address, or one of its own host; if somebody else
        sends forwarding headers; and for what is no address.
        """
        place = self._of(peer)
        for name in FORWARDED:
            if name in headers:
                return self._behind(place, headers)
        return place

    def _behind(self, proxy: Address, headers: Mapping[str, str]) -> Address:
        if not proxy.is_proxy:
            raise AccessDenied(f"{proxy.ip} sends forwarding headers but is not in access.trusted_proxies")
        lines = [value for name, value in headers.items() if name.lower() == "x-forwarded-for"]
        speaker = None
        for hop in reversed(",".join(lines).split(",")):
            if hop.strip() and (speaker is None or speaker.is_proxy):
                speaker = self._of(hop.strip())
        if speaker is None or (speaker.ip.is_loopback and not proxy.ip.is_loopback):
            raise AccessDenied(f"{proxy.ip} does not tell in X-Forwarded-For which address it speaks for")
        return speaker

    def _look(self, text: str) -> Address:
        address = _address(text)
        return Address(
            ip=address,
            name=_name_of(address),
            is_proxy=_within(address, self._proxies),
            may_connect=self._open or address.is_loopback or _within(address, self._allowed),
        )


def _within(address: _IP, networks: tuple[_Network, ...]) -> bool:
    return any(address in network for network in networks)


def _address(text: str) -> _IP:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError as exc:
        raise AccessDenied(f"{text[:64]!r} is not an address") from exc
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _name_of(address: _IP) -> str:
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
