"""
Which clients may ask: addresses, pages, keys, scopes.  Plain values in, a `Client` or a refusal out.

The order is: the address that speaks, whether it is on the list and has not guessed too many keys, whether
the key is known and not expired, whether it has the scope.  Nothing of a request's body has been read then.
How much a key may do at once and in a minute is `quota`'s business.
"""

import hashlib
import hmac
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from multidict import MultiMapping

from dmap import config
from dmap.access.address import Address, Networks
from dmap.access.pages import Pages
from dmap.access.quota import Failures, Usage, Verdict
from dmap.errors import AccessDenied, InvalidKey, Overloaded
from dmap.events import Tell
from dmap.wire.hop import Hop

_LISTS = frozenset(("/v1/models", "/api/v0/models", "/api/v1/models"))
_VIEW = "/node/view"
_READY = "/ready"
"""Its status is for all who may connect; what else it tells is for keys."""
_METRICS = "metrics"
"""The scope of keys that may know all models: those that may use them all, and those with `debug`."""
_SCOPES = {"v1": "inference", "api": "inference", "debug": "debug", "admin": "admin", "metrics": _METRICS}
"""What a key needs for the paths below each first step."""
_OPENS = {"inference": ("inference", "front"), "front": ("front", "debug")}
"""The scopes of a key that open what needs one, where that is not the same scope alone."""
_PRIVATE = ("admin", "debug", "front")
"""What can change things or tells of everything: without keys it is for this host alone."""


def scope_of(path: str) -> str | None:
    """Return the scope that a key needs for *path*; None where any will do (lists, `/ready`)."""
    if path in _LISTS or path.startswith(("/v1/models/", "/api/v0/models/")):
        return None
    return "front" if path == _VIEW else _SCOPES.get(path[1:].partition("/")[0])


class Client(NamedTuple):
    """
    A client: *name* is that of its *key*, if it has one, else its address (of IPv6 the /64).

    *models* are globs, *permit* the guarded fields that it may use with any model.  A client with
    a higher *priority* waits in front.  One that *may_watch* may read what models' servers have written.
    One that *is_front* may ask for others.
    """

    name: str
    models: tuple[str, ...] = ("*",)
    key: config.Key | None = None
    priority: int = 0
    permit: frozenset[str] = frozenset()
    may_watch: bool = False
    is_front: bool = False

    @classmethod
    def of(cls, key: config.Key) -> "Client":
        """Return the client that has *key*."""
        permit, may_watch = frozenset(key.permit), "debug" in key.scopes
        return cls(key.name, key.models, key, key.priority, permit, may_watch, "front" in key.scopes)

    def asking_for(self, hop: Hop) -> "Client":
        """
        Return the client of *hop* for whom this front asks; the front has counted what its key may do.

        It may not watch, though the front may: that is for the front's own key.
        """
        name, priority, permit, *_ = hop
        return self._replace(name=name, key=None, priority=priority, permit=permit, may_watch=False)

    def may_use(self, *names: str) -> bool:
        """Tell whether any of a model's *names* is on this client's list."""
        return any(fnmatchcase(name, glob) for glob in self.models for name in names)


class Access:
    """
    The lists of the configuration's `access`, parsed once.

    *names* are the names of this host that a request without a key may use, see `Pages`.  *tell* is called
    with every refusal, without its key.  *guessed* may be set: it is called with an address that has tried a
    wrong key, how many it may try in a minute, and what is to hear when all of them, here and elsewhere, are
    made up for.  *clock* counts seconds, *now* gives the wall time.
    """

    def __init__(
        self,
        access: config.AccessSection,
        names: Iterable[str] = (),
        *,
        tell: Tell = lambda type, fields: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,  # noqa: TID251 - keys expire by the calendar
    ) -> None:
        self.usages = defaultdict[str, Usage](Usage)
        self.failures = Failures()
        self.guessed: Callable[[str, int, Callable[[str, float], None]], None] = lambda *_: None
        self._tell, self._clock, self._now = tell, clock, now
        self.configure(access, names)

    def configure(self, access: config.AccessSection, names: Iterable[str] = ()) -> None:
        """Go by *access* and *names* from now on.  What has been counted stays."""
        self._failures_per_min = access.failures_per_min
        self._pages = Pages(access.cors, names)
        self._keys = [(key, Client.of(key)) for key in access.keys]
        self._networks = Networks(access)

    def admit(self, peer: str, headers: MultiMapping[str], *, scope: str | None, path: str = "") -> Client:
        """
        Return the client, from the connection's *peer* address and the request's *headers*.

        With *scope* None any valid key will do.  Raises `AccessDenied`, `InvalidKey` or, for an address that
        has tried too many wrong keys, `Overloaded`; the event of a refusal has *path*.
        """
        try:
            place = self._networks.speaker(peer, headers)
            if not place.may_connect:
                raise AccessDenied(
                    f"the address {place.ip} is not allowed; see access.allow in the configuration"
                )
            if self._keys and path == _READY and not _credentials(headers):
                return Client(place.name, models=())  # a load balancer, which has no key
            admitted = self._with_key if self._keys else self._keyless
            return admitted(place, headers, scope)
        except (AccessDenied, InvalidKey, Overloaded) as error:
            self._deny(self.name_of(peer, headers), path, error)
            raise

    def name_of(self, peer: str, headers: MultiMapping[str]) -> str:
        """Return what a client without a key is called; one that may not say whom it speaks for is *peer*."""
        try:
            return self._networks.speaker(peer, headers).name
        except AccessDenied:
            return peer

    def begin(self, client: Client, path: str, said: Verdict | None = None, among: int = 1) -> None:
        """
        Count a request of *client* as under way; one `end` follows.

        *said* is what all dmaps together let it do; None leaves that to this one, and its share *among* all.

        Raises `Overloaded` where its key has too many at once or in a minute.  Addresses have no bound of
        their own; they share the queues.
        """
        if client.key is None:
            return
        try:
            self.usages[client.name].begin(client.key, self._clock(), said, among)
        except Overloaded as error:
            self._deny(client.name, path, error)
            raise

    def end(self, client: Client, lasted_s: float) -> None:
        """Count a request of *client* no more, *lasted_s* after it came."""
        if client.key is not None:
            self.usages[client.name].end(lasted_s)

    def _learn(self, address: str, ahead_s: float) -> None:
        self.failures.learn(address, ahead_s, self._clock())

    def _deny(self, client: str, path: str, error: AccessDenied | InvalidKey | Overloaded) -> None:
        fields = {"client": client, "path": path, "status": error.status, "code": error.code}
        self._tell("access.denied", {**fields, "reason": error.message})

    def _keyless(self, place: Address, headers: MultiMapping[str], scope: str | None) -> Client:
        """Admit an address without a key.  Only this host may use what can change things."""
        is_private = scope in _PRIVATE
        if is_private and not place.ip.is_loopback:
            raise AccessDenied(f"without keys, {scope} is for this host alone; see access.keys")
        self._pages.refuse_foreign(headers, private=is_private)
        # A page that may ask is not this host's owner, though its browser is on this host.
        is_owner = place.ip.is_loopback and headers.get("Origin") is None
        return Client(place.name, may_watch=is_owner, is_front=is_owner)

    def _with_key(self, place: Address, headers: MultiMapping[str], scope: str | None) -> Client:
        """
        Admit a key.

        The key of an address that has tried too many wrong ones is not compared, so that it does not
        learn when it has found a right one.  Loopback is no exception, because pages that rebind their names
        and other users of this host guess from there.
        """
        wait_s = self.failures.wait_s(place.name, self._failures_per_min, self._clock())
        if wait_s:
            message = f"too many wrong keys from {place.name}; see access.failures_per_min"
            raise Overloaded(message, retry_after_s=wait_s)
        key, client = self._find(place, headers)
        if key.expires is not None and self._now() >= key.expires.timestamp():
            raise InvalidKey(f"the key {key.name!r} expired on {key.expires:%Y-%m-%d}; see access.keys")
        lack = _lack(key, scope)
        if lack:
            raise AccessDenied(f"the key {key.name!r} lacks {lack}; see access.keys")
        return client

    def _find(self, place: Address, headers: MultiMapping[str]) -> tuple[config.Key, Client]:
        """Look the credentials up.  Every key is compared, in constant time, also after one that matches."""
        credentials = _credentials(headers)
        # aiohttp decodes a header's bytes this way.
        digest = hashlib.sha256(credentials.encode(errors="surrogateescape")).hexdigest()
        known = [(key, client) for key, client in self._keys if hmac.compare_digest(key.sha256, digest)]
        if credentials and known:
            return known[0]
        if credentials:  # none at all is no guess
            self.failures.count(place.name, self._failures_per_min, self._clock())
            self.guessed(place.name, self._failures_per_min, self._learn)
        raise InvalidKey(
            "no valid API key was given; send it as 'Authorization: Bearer KEY' or as 'x-api-key'"
        )


def _lack(key: config.Key, scope: str | None) -> str:
    """Return what *key* lacks for *scope*, in words; nothing if it has what it takes."""
    if scope == _METRICS:
        may = "*" in key.models or "debug" in key.scopes
        return "" if may else "the scope 'debug' or the use of all models"
    opens = () if scope is None else _OPENS.get(scope, (scope,))
    return "" if scope is None or not set(opens).isdisjoint(key.scopes) else f"the scope {scope!r}"


def _credentials(headers: MultiMapping[str]) -> str:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
