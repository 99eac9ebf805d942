"""Who waits at a gate, at what place, for about how long, behind what, and who would.  It only looks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dmap import placement
from dmap.arbiter import Arbiter, Outlook, Place, View
from dmap.gate.lease import Lease
from dmap.models import ModelKey, Route
from dmap.placement import Standing

FRESH_S = 1.0
"""Leases share one look at the queue for this long, because it takes walks over those that wait."""
FEW = 64
"""Where no more requests than this wait, each look is a new one."""


@dataclass(slots=True)
class QueueView:
    """
    The places of the leases that wait for what *arbiter* gives out; *now* is the gate's time.

    *coming* has the model of each request that has chosen this gate, and has not asked it yet: whoever
    chooses adds them, or a burst would all choose one gate.
    """

    _arbiter: Arbiter
    _now: Callable[[], float]
    coming: list[ModelKey] = field(default_factory=list)
    _seen: Outlook | None = None

    def first(self, count: int) -> Mapping[Lease, Place]:
        """Return the places of the *count* leases that are next, or of all if fewer wait, in their order."""
        return self._look().first(count)

    def of(self, lease: Lease) -> Place:
        """
        Return the place of *lease*.

        Where many wait it is as it was at most `FRESH_S` ago; a newcomer's is the end of its line.
        """
        if lease.seat not in self._look().starts:
            self._seen = None  # nobody had asked for its model by then
        return self._look().place(lease)

    def of_newcomer(self, lease: Lease) -> Place:
        """Return the same for a *lease* that has just begun to wait, with the wait as it was foretold."""
        return Place(self.of(lease).position, *self._arbiter.foretold(self._now(), lease))

    def first_of(self, key: ModelKey) -> Mapping[str, str]:
        """Return `for` which request and `by` which client *key* has been waited for the longest."""
        first = next((lease for lease in self._arbiter.waiting if lease.seat == key), None)
        return {"for": first.name, "by": first.client} if first is not None else {}

    def of_newcomers(self) -> View:
        """Return what those would wait who come now, for each model."""
        return self._arbiter.view(self._now())

    @property
    def in_flight(self) -> int:
        """How many requests wait here, are answered, or have chosen this gate."""
        return len(self._arbiter.leases) + len(self._arbiter.waiting) + len(self.coming)

    def load_s(self, key: ModelKey) -> float:
        """Return what a load of *key* takes, as far as is known."""
        return self._arbiter.load_s(key)

    def _look(self) -> Outlook:
        now, seen = self._now(), self._seen
        if seen is None or now - seen.at > FRESH_S or len(self._arbiter.waiting) <= FEW:
            seen = self._seen = self._arbiter.look(now)
        return seen

    def obstacle(self, lease: Lease, *, drained: bool = True) -> str:
        """
        Tell in a word or two what *lease* waits behind, and nothing that is not in its way.

        That is a drain, or the first look if nobody has *drained* the device; the switch under way; the end
        of its own model, or the other requests for it; else the residents that have to go for it.
        """
        arbiter, key, plan = self._arbiter, lease.seat, self._arbiter.plan
        if arbiter.drained:
            return "drain" if drained else "first look"
        if key in arbiter.residents and not arbiter.is_leaving(key):
            return "parallel"
        if plan is not None and (plan.switch is not None or plan.load != key):
            return f"unload of {plan.victims[0]}" if plan.load is None else f"switch to {plan.load}"
        if key in arbiter.residents:
            return f"unload of {key}"
        return ", ".join(sorted(map(str, arbiter.in_the_way(self._now(), key))))

    def can_hold(self, route: Route) -> bool:
        """Tell whether the model of *route* can be had here; one that never fits by what is pinned cannot."""
        return self._arbiter.can_hold(route.key, route.needs)

    def stand(self, route: Route, seat: ModelKey | str, queue: int, *, is_silent: bool) -> placement.Place:
        """
        Return how a newcomer for *route* would stand here, whom the arbiter knows by its *seat*.

        It comes last where nobody is served, *queue* wait already, the model never fits, or its backend
        *is_silent*.
        """
        arbiter, view = self._arbiter, self.of_newcomers()
        is_full = len(arbiter.waiting) >= queue
        is_last = view.drained or is_silent or is_full or not self.can_hold(route)
        known = view.models.get(seat)
        return placement.Place(
            str(route.key),
            view.wait_s(seat, arbiter.load_s(seat)),
            resident=known is not None and known.resident,
            sent=self.coming.count(route.key),
            answer_s=(known or view).answer_s,
            parallel=(known or view).parallel,
            in_flight=self.in_flight,
            standing=Standing.LAST if is_last else Standing.SOUND,
        )
