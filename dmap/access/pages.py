"""
Which web pages may call where no key is asked.

What tells is the headers that a browser writes and no page can forge.

A browser sends what any page tells it to, from inside the owner's network.  There are two attacks:

1. A page of another site calls dmap.  Its origin shows in `Origin`, or at least in `Sec-Fetch-Site` (W3C,
   "Fetch Metadata").  A page from another port of the same host is another site, too.
2. A page has its own name resolve to dmap's address (DNS rebinding), so that dmap is its own site.  That
   name shows in `Host`.  So `Host` must be a name that nobody can register and point here: see `Pages.names`.

`Referer` is not looked at, because a page may leave it out.  A request without these headers is no browser's.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from multidict import MultiMapping

from dmap.errors import AccessDenied
from dmap.hosts import is_address

_REMEMBERED = 1024
"""Hosts that are not looked into anew for each request."""
_LONGEST = 300
"""Characters of a host: a name has 253 at most (RFC 1035, 2.3.4), and a port."""

_LOCAL = (".localhost", ".local", ".lan", ".home.arpa", ".internal")
"""
Ends of names that public DNS does not delegate.

RFC 6761 (localhost), 6762 (local), 8375 (home.arpa), ICANN's resolution 2024.07.29.06 (internal); `lan` is
what routers use (OpenWrt).
"""

_AUTHORITY = re.compile(r"(\[[0-9a-z:.%_-]+\]|[0-9a-z_-]+(?:\.[0-9a-z_-]+)*)\.?(?::([0-9]{0,5}))?", re.ASCII)
_PORTS = {"http": 80, "https": 443}
_OWN_SITE = ("same-origin", "none")
"""What browsers say in `Sec-Fetch-Site` of a page's own server, and of an address that a person has typed."""


class Pages:
    """
    What the configuration says of pages: *origins* may call ("*" is all), *names* are this host's own.

    *names* hold beside what public DNS cannot point here: addresses, names without a dot, and `_LOCAL`.
    """

    def __init__(self, origins: Iterable[str], names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self._origins = frozenset(origins)
        self._may_be_called = lru_cache(maxsize=_REMEMBERED)(self._is_own)

    def refuse_foreign(self, headers: MultiMapping[str], *, private: bool) -> None:
        """
        Raise `AccessDenied` for the request of a page that may not call.

        No listed page may call what is *private*.  A trusted proxy may tell in `X-Forwarded-Host` which name
        the browser used, so all names there count.
        """
        hosts = headers.getall("Host", ("",))
        lines = headers.getall("X-Forwarded-Host", ())
        for host in (*hosts, *(name.strip() for line in lines for name in line.split(","))):
            if len(host) > _LONGEST or not self._may_be_called(host):
                raise AccessDenied(
                    f"the Host header names {host[:256]!r}, and without keys dmap answers to no public name;"
                    " call it by address, or list the name in listen.names of the configuration"
                )
        if "Origin" in headers or "Sec-Fetch-Site" in headers:
            self._refuse_site(hosts[0], headers, frozenset() if private else self._origins)

    def _refuse_site(self, host: str, headers: MultiMapping[str], listed: frozenset[str]) -> None:
        origins = headers.getall("Origin", ())
        if "*" in listed or (origins and all(origin.lower() in listed for origin in origins)):
            return
        foreign = [origin for origin in origins if not _is_same(origin, host)]
        site = headers.get("Sec-Fetch-Site", "none")
        # A link that a person follows shows its answer to that person, and to no page.
        is_link = not origins and headers.get("Sec-Fetch-Dest") == "document"
        if site not in _OWN_SITE and not is_link:
            foreign.append(site)
        if foreign:
            raise AccessDenied(
                f"a page of {foreign[0][:256]!r} may not call dmap without a key; see access.cors"
            )

    def _is_own(self, text: str) -> bool:
        host, _ = _authority(text, 0)
        is_local = "." not in host or host.endswith(_LOCAL)
        return host != "" and (is_local or host in self.names or is_address(host))


def _is_same(origin: str, host: str) -> bool:
    """Tell whether *origin* is that of pages from the server called *host*.  TLS may end in front of dmap."""
    scheme, _, name = origin.lower().partition("://")
    theirs = _authority(name, _PORTS.get(scheme, 0))
    return scheme in _PORTS and theirs[0] != "" and theirs == _authority(host, _PORTS[scheme])


def _authority(text: str, usual: int) -> tuple[str, int]:
    """
    Read `host:port` (RFC 3986, 3.2), without user and escapes; the *usual* port may be missing.

    The host is in lower case, without brackets and final dot, and empty if *text* is anything else.
    """
    match = _AUTHORITY.fullmatch(text.lower())
    host = match[1].strip("[]") if match else ""
    if match is None or (match[1] != host and not is_address(host)):
        return "", 0
    return host, int(match[2] or usual)
