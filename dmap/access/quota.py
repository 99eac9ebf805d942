"""
How much and how often: what each key has under way, and how many wrong keys an address has tried.

No clock: *now* is an argument, in seconds of a clock that never goes back.  Names and limits come from the
caller with each call, so that a reload changes limits and forgets no count.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

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
class _Usage:
    running: int = 0
    mean_s: float = 0.0
    pace: Pace = field(default_factory=Pace)


class Quotas:
    """
    What is under way, by the name of the key.

    Each `begin` that does not raise is followed by one `end`.  Names are those of the configuration, so
    there are few.
    """

    def __init__(self) -> None:
        self._usages: dict[str, _Usage] = {}

    def begin(self, name: str, parallel: int | None, per_min: int | None, now: float) -> None:
        """
        Count a request of *name* that begins.

        At most *parallel* are under way at once, and *per_min* begin in a minute.  None is no bound.  Raises
        `Overloaded` with the seconds until the next may begin.
        """
        usage = self._usages.setdefault(name, _Usage())
        if parallel is not None and usage.running >= parallel:
            raise Overloaded(
                f"the key {name!r} has {usage.running} under way, its most is {parallel} at once (parallel)",
                retry_after_s=usage.mean_s / parallel,
            )
        if per_min is not None:
            wait_s = usage.pace.wait_s(per_min, now)
            if wait_s:
                raise Overloaded(
                    f"the key {name!r} may begin {per_min} in a minute (rate_per_min)",
                    retry_after_s=wait_s,
                )
            usage.pace.take(per_min, now)
        usage.running += 1

    def end(self, name: str, lasted_s: float) -> None:
        """Count a request of *name* that has ended after *lasted_s*."""
        usage = self._usages[name]
        usage.running -= 1
        usage.mean_s += (lasted_s - usage.mean_s) / 8


class Failures:
    """The wrong keys that each of the last *most* addresses has tried."""

    def __init__(self, most: int = ADDRESSES) -> None:
        self._most = most
        self._paces: OrderedDict[str, Pace] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paces)

    def wait_s(self, address: str, per_min: int, now: float) -> float:
        """Return the seconds for which *address* may try no key at all, 0 if it may."""
        pace = self._paces.get(address)
        return pace.wait_s(per_min, now) if pace is not None else 0.0

    def count(self, address: str, per_min: int, now: float) -> None:
        """Count a wrong key from *address*."""
        pace = self._paces.setdefault(address, Pace())
        pace.take(per_min, now)
        self._paces.move_to_end(address)
        if len(self._paces) > self._most:
            self._paces.popitem(last=False)
