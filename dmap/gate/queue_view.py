"""Who waits at a gate, at what place, for about how long, and behind what.  It only looks."""

from collections.abc import Callable, Mapping

from dmap.arbiter import Arbiter, Place, Switch
from dmap.gate.lease import Lease, Waiting

FRESH_S = 1.0
"""Leases share one list of the places for this long: to make it is a walk over all who wait."""
FEW = 64
"""Where more than this wait, a newcomer is told its place roughly: to know it exactly takes that walk."""


class QueueView:
    """
    The places of the leases that are *waiting* for what *arbiter* gives out; *now* is the gate's time.

    *seat_of* tells by which name the arbiter knows what a lease waits for.
    """

    def __init__(
        self,
        arbiter: Arbiter,
        waiting: Mapping[int, Lease],
        seat_of: Callable[[Lease], object],
        now: Callable[[], float],
    ) -> None:
        self._arbiter = arbiter
        self._waiting = waiting
        self._seat_of = seat_of
        self._now = now
        self._seen_at = 0.0
        self._seen: Mapping[int, Place] = {}

    def all(self) -> list[Waiting]:
        """List who waits, the next one first."""
        now = self._now()
        places = self._arbiter.places(now)
        lines = [
            Waiting(lease.name, lease.client, lease.route.key, place.position, place.estimate_s, waited_s)
            for lease in self._waiting.values()
            for place, waited_s in [(places[lease.id], now - lease.since)]
        ]
        return sorted(lines, key=lambda line: line.position)

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
        return len(self._waiting), self._arbiter.estimate(self._now(), self._seat_of(lease))

    def obstacle(self, lease: Lease) -> str:
        """Tell in a word or two what *lease* waits behind: a drain, a switch, other models, or its own."""
        if self._arbiter.drained:
            return "drain"
        if (switch := self._arbiter.switch) is not None:
            return f"switch to {switch.load}" if isinstance(switch, Switch) else "unload"
        residents = self._arbiter.residents
        return "parallel" if self._seat_of(lease) in residents else ", ".join(sorted(map(str, residents)))
