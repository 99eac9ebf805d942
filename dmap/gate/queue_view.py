"""Who waits at a gate, at what place, for about how long, and behind what.  It only looks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dmap.arbiter import Arbiter, Place
from dmap.gate.lease import Lease

FRESH_S = 1.0
"""Leases share one list of the places for this long, because making it takes a walk over all that wait."""
FEW = 64
"""If more requests than this wait, a newcomer learns its place roughly: the exact one takes that walk."""


@dataclass(slots=True)
class QueueView:
    """The places of the leases that wait for what *arbiter* gives out; *now* is the gate's time."""

    _arbiter: Arbiter
    _now: Callable[[], float]
    _seen_at: float = 0.0
    _seen: Mapping[Lease, Place] = field(default_factory=dict)

    def all(self) -> Mapping[Lease, Place]:
        """Return the place of each lease that waits, the next one first."""
        return self._arbiter.places(self._now())

    def of(self, lease: Lease) -> Place:
        """Return the place of *lease*, as it was at most `FRESH_S` ago."""
        now = self._now()
        if now - self._seen_at > FRESH_S or lease not in self._seen:
            self._seen_at, self._seen = now, self._arbiter.places(now)
        return self._seen[lease]

    def of_newcomer(self, lease: Lease) -> Place:
        """Return the same for a *lease* that has just begun to wait, roughly where many wait."""
        if len(self._arbiter.waiting) <= FEW:
            return self.of(lease)
        return Place(len(self._arbiter.waiting), self._arbiter.estimate(self._now(), lease.seat))

    def obstacle(self, lease: Lease) -> str:
        """Tell in a word or two what *lease* waits behind: a drain, a switch, other models, or its own."""
        if self._arbiter.drained:
            return "drain"
        if (switch := self._arbiter.switch) is not None:
            return "unload" if switch.load is None else f"switch to {switch.load}"
        residents = self._arbiter.residents
        return "parallel" if lease.seat in residents else ", ".join(sorted(map(str, residents)))
