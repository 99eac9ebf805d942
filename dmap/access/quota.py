"""
How much and how often: what each key has under way, and how many wrong keys an address has tried.

No clock: *now* is an argument, in seconds of a clock that never goes back.  Limits come from the caller with
each call, so that a reload changes limits and forgets no count.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from dmap.config import Key
from dmap.errors import Overloaded

ADDRESSES = 4096
"""Addresses whose wrong keys are remembered; the one that failed longest ago is forgotten first."""

MINUTE_S = 60.0
_SLACK_S = 1e-6
"""What sums of fractions of a minute may be off by."""


@dataclass(slots=True)
class Pace:
    """
    How many things may begin in a minute: as many at once, then one as each fraction of the minute passes.

    The generic cell rate algorithm (ITU-T I.371): one point in time says it all.
    """

    _even_at: float = 0.0
    """When all that has begun is made up for."""

    def wait_s(self, per_min: int, now: float) -> float:
        """Return the seconds until one more may begin, 0 if it may now."""
        ahead_s = self._even_at - now - MINUTE_S + MINUTE_S / per_min
        return ahead_s if ahead_s > _SLACK_S else 0.0

    def take(self, per_min: int, now: float) -> None:
        """Count one that begins, whoever has let it: a minute's worth at the most, for no pause is longer."""
        self._even_at = min(max(self._even_at, now) + MINUTE_S / per_min, now + MINUTE_S)

    def learn(self, ahead_s: float, now: float) -> None:
        """Take note that others have counted, too: all is made up for in *ahead_s*."""
        self._even_at = max(self._even_at, now + ahead_s)


class Verdict(NamedTuple):
    """Why a request may not begin yet: so many of its key are *running*, or it has to wait; else 0, 0."""

    running: int = 0
    wait_s: float = 0.0


@dataclass(slots=True)
class Usage:
    """What one key uses: the requests that are *running*, and how long they take.  One `end` per `begin`."""

    running: int = 0
    _mean_s: float = 0.0
    _pace: Pace = field(default_factory=Pace)

    def begin(self, key: Key, now: float, said: Verdict | None = None, among: int = 1) -> None:
        """
        Count a request of *key* that begins.

        At most `parallel` are under way at once, and `rate_per_min` begin in a minute.  That is what all
        dmaps together have *said*; without that it is judged here, by a share of the bounds where they are
        shared *among* several.  Raises `Overloaded` with the seconds until the next may begin.
        """
        parallel, per_min = _share(key.parallel, among), _share(key.rate_per_min, among)
        if said is None:
            said = self._judge(parallel, per_min, now)
            shared = f", of which this dmap has its share of {among} while Redis is away" if among > 1 else ""
        else:
            shared = ""
        if said.running:
            raise Overloaded(
                f"the key {key.name!r} has {said.running} under way, its most is {key.parallel} at once"
                f" (parallel){shared}",
                retry_after_s=self._mean_s / (key.parallel or 1),
            )
        if said.wait_s:
            raise Overloaded(
                f"the key {key.name!r} may begin {key.rate_per_min} in a minute (rate_per_min){shared}",
                retry_after_s=said.wait_s,
            )
        if per_min is not None:
            self._pace.take(per_min, now)
        self.running += 1

    def _judge(self, parallel: int | None, per_min: int | None, now: float) -> Verdict:
        if parallel is not None and self.running >= parallel:
            return Verdict(running=self.running)
        return Verdict(wait_s=self._pace.wait_s(per_min, now) if per_min is not None else 0.0)

    def end(self, lasted_s: float) -> None:
        """Count a request that has ended after *lasted_s*."""
        self.running -= 1
        self._mean_s += (lasted_s - self._mean_s) / 8


def _share(bound: int | None, among: int) -> int | None:
    """Return what each *among* several may do by itself of a *bound*; at least one, or nobody could."""
    return None if bound is None else max(1, bound // among)


@dataclass(slots=True)
class Failures:
    """The wrong keys that each of the last *most* addresses has tried, as a pace for each."""

    most: int = ADDRESSES
    paces: OrderedDict[str, Pace] = field(default_factory=OrderedDict)

    def wait_s(self, address: str, per_min: int, now: float) -> float:
        """Return the seconds for which *address* may try no key at all, 0 if it may."""
        return self.paces.get(address, Pace()).wait_s(per_min, now)

    def count(self, address: str, per_min: int, now: float) -> None:
        """Count a wrong key from *address*."""
        pace = self.paces.setdefault(address, Pace())
        pace.take(per_min, now)
        self.paces.move_to_end(address)
        if len(self.paces) > self.most:
            self.paces.popitem(last=False)

    def learn(self, address: str, ahead_s: float, now: float) -> None:
        """Take note that *address* has tried wrong keys elsewhere, too; one that is forgotten stays so."""
        if address in self.paces:
            self.paces[address].learn(ahead_s, now)
