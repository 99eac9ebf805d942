"""
How much and how often: what each key has under way, and how many wrong keys an address has tried.

No clock: *now* is an argument, in seconds of a clock that never goes back.  Limits come from the caller with
each call, so that a reload changes limits and forgets no count.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

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
        """Count one that begins."""
        self._even_at = max(self._even_at, now) + MINUTE_S / per_min


@dataclass(slots=True)
class Usage:
    """What one key uses: the requests that are *running*, and how long they take.  One `end` per `begin`."""

    running: int = 0
    _mean_s: float = 0.0
    _pace: Pace = field(default_factory=Pace)

    def begin(self, key: Key, now: float) -> None:
        """
        Count a request of *key* that begins.

        At most `parallel` are under way at once, and `rate_per_min` begin in a minute.  Raises `Overloaded`
        with the seconds until the next may begin.
        """
        name, parallel, per_min = key.name, key.parallel, key.rate_per_min
        if parallel is not None and self.running >= parallel:
            raise Overloaded(
                f"the key {name!r} has {self.running} under way, its most is {parallel} at once (parallel)",
                retry_after_s=self._mean_s / parallel,
            )
        if per_min is not None:
            wait_s = self._pace.wait_s(per_min, now)
            if wait_s:
                raise Overloaded(
                    f"the key {name!r} may begin {per_min} in a minute (rate_per_min)",
                    retry_after_s=wait_s,
                )
            self._pace.take(per_min, now)
        self.running += 1

    def end(self, lasted_s: float) -> None:
        """Count a request that has ended after *lasted_s*."""
        self.running -= 1
        self._mean_s += (lasted_s - self._mean_s) / 8


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
