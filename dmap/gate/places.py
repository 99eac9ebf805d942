"""Who waits at a gate, at what place, how long about, and behind what.  It only looks."""

from collections.abc import Callable, Mapping

from dmap.arbiter import Arbiter, Snapshot, Switch
from dmap.gate.lease import Lease, Waiting
from dmap.models import ModelKey

FRESH_S = 1.0
"""Beats share a snapshot for this long: with a thousand waiters, each one's own would walk them all."""
FEW = 64
"""With more who wait, a newcomer is told its place roughly: to know it exactly takes a walk over all."""


class Places:
    """The places of the leases that are *waiting* for what *arbiter* gives out; *now* is the gate's time."""

    def __init__(self, arbiter: Arbiter, waiting: Mapping[int, Lease], now: Callable[[], float]) -> None:
        self._arbiter = arbiter
        self._waiting = waiting
        self._now = now
        self._seen: tuple[float, Snapshot] | None = None

    def all(self) -> list[Waiting]:
        """List who waits, the next one first."""
        now = self._now()
        places = self._arbiter.snapshot(now).waiting
        lines = [
            Waiting(lease.name, lease.client, lease.route.key, place.position, place.estimate_s, waited_s)
            for lease in self._waiting.values()
            for place, waited_s in [(places[lease.id], now - lease.since)]
        ]
        return sorted(lines, key=lambda line: line.position)

    def of(self, lease: Lease) -> tuple[int, float]:
        """Return the position and the estimated wait of *lease*, as they were `FRESH_S` ago at the most."""
        now = self._now()
        if self._seen is None or now - self._seen[0] > FRESH_S or lease.id not in self._seen[1].waiting:
            self._seen = now, self._arbiter.snapshot(now)
        place = self._seen[1].waiting[lease.id]
        return place.position, place.estimate_s

    def of_newcomer(self, lease: Lease, key: ModelKey) -> tuple[int, float]:
        """Return the same for a *lease* of *key* that has just begun to wait, roughly where many wait."""
        if len(self._waiting) <= FEW:
            self._seen = None
            return self.of(lease)
        return len(self._waiting), self._arbiter.estimate(self._now(), key)

    def obstacle(self, model: str) -> str:
        """Tell in a word or two what requests for *model* wait behind: a drain, a switch, models, others."""
        if self._arbiter.drained:
            return "drain"
        if (switch := self._arbiter.switch) is not None:
            return f"switch to {switch.load}" if isinstance(switch, Switch) else "unload"
        residents = sorted(map(str, self._arbiter.residents))
        is_there = any(key.model in (model, "*") for key in self._arbiter.residents)
        return "parallel" if is_there else ", ".join(residents)
