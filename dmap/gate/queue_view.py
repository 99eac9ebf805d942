"""Who waits at a gate, at what place, for about how long, and behind what.  It only looks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dmap.arbiter import Arbiter, Place
from dmap.gate.lease import Lease
from dmap.models import ModelKey

FRESH_S = 1.0
"""Leases share one list of the places for this long, because making it takes a walk over all that wait."""
FEW = 64
"""If more requests than this wait, a newcomer learns its place roughly: the exact one takes that walk."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    A request that waits: *name* and *client* as in its lease, *position* from 1 over the whole device.

    *estimate_s* is a guess at the wait from now on; on a drained device the time until it is refused.
    """

    name: str
    client: str
    model: ModelKey
    position: int
    estimate_s: float
    waited_s: float


@dataclass(slots=True)
class QueueView:
    """The places of the leases that are *waiting* for what *arbiter* gives out; *now* is the gate's time."""

    _arbiter: Arbiter
    _waiting: Mapping[int, Lease]
    _now: Callable[[], float]
    _seen_at: float = 0.0
    _seen: Mapping[int, Place] = field(default_factory=dict)

    def all(self) -> list[Waiting]:
        """List the requests that wait, the next one first."""
        now = self._now()
        lines = ((self._waiting[id], place) for id, place in self._arbiter.places(now).items())
        return [
            Waiting(one.name, one.client, one.route.key, place.position, place.estimate_s, now - one.since)
            for one, place in lines
        ]

    def of(self, lease: Lease) -> tuple[int, float]:
        """Return the position and the estimated wait of *lease*, as they were at most `FRESH_S` ago."""
        now = self._now()
        if now - self._seen_at > FRESH_S or lease.id not in self._seen:
            self._seen_at, self._seen = now, self._arbiter.places(now)
        place = self._seen[lease.id]
        return place.position, place.estimate_s

    def of_newcomer(self, lease: Lease) -> tuple[int, float]:
        """Return the same for a *lease* that has just begun to wait, roughly where many wait."""
        if len(self._waiting) <= FEW:
            self._seen = {}
            return self.of(lease)
        return len(self._waiting), self._arbiter.estimate(self._now(), lease.seat)

    def obstacle(self, lease: Lease) -> str:
        """Tell in a word or two what *lease* waits behind: a drain, a switch, other models, or its own."""
        if self._arbiter.drained:
            return "drain"
        if (switch := self._arbiter.switch) is not None:
            return "unload" if switch.load is None else f"switch to {switch.load}"
        residents = self._arbiter.residents
        return "parallel" if lease.seat in residents else ", ".join(sorted(map(str, residents)))
