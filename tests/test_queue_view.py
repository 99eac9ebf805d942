"""Places in the queue, as they are told to those who wait."""

from dmap.arbiter import Arbiter, Limits, Needs
from dmap.gate.lease import Lease
from dmap.gate.queue_view import FEW, FRESH_S, QueueView
from tests.fake_switcher import A


class Clock:
    """A clock that stands where the test has put it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_places_are_shared_for_a_moment() -> None:
    """A place may be as old as `FRESH_S`, for each look is a walk over all who wait, and no older."""
    clock, arbiter, waiting = Clock(), Arbiter(Limits()), dict[int, Lease]()
    view = QueueView(arbiter, clock)
    for number in (1, 2):
        waiting[number] = Lease(None, A, "me")
        arbiter.submit(number, waiting[number], "a", "me", Needs())
    assert view.of(waiting[2])[0] == 2

    arbiter.withdraw(3, waiting[1])
    clock.now = FRESH_S
    assert view.of(waiting[2])[0] == 2

    clock.now = FRESH_S + 0.1
    assert view.of(waiting[2])[0] == 1


def asked(arbiter: Arbiter, now: float, model: str, priority: int = 0) -> Lease:
    """Return a lease that asks *arbiter* for *model* at the time *now*."""
    lease = Lease(None, A, "me", seat=model)
    arbiter.submit(now, lease, model, "me", Needs(), priority)
    return lease


def test_a_newcomer_learns_its_place() -> None:
    """Among few who wait a newcomer learns its own place; among many only how many they are."""
    arbiter = Arbiter(Limits())
    view = QueueView(arbiter, lambda: 2.0)
    few = [asked(arbiter, 1, "a") for _ in range(FEW - 1)]

    first = asked(arbiter, 2, "a", priority=1)
    assert view.of_newcomer(first)[0] == 1

    second = asked(arbiter, 2, "a", priority=2)
    position, estimate_s = view.of_newcomer(second)
    assert (position, estimate_s) == (len(few) + 2, arbiter.estimate(2, "a"))


def test_what_a_lease_waits_behind() -> None:
    """In a word or two: a full model, other models, a switch that only unloads, a drain."""
    arbiter = Arbiter(Limits(max_models=2))
    view = QueueView(arbiter, lambda: 4.0)
    arbiter.observed(0, 0, {"b": Needs(), "a": Needs(parallel=1)})
    asked(arbiter, 1, "a")
    same, other = asked(arbiter, 2, "a"), asked(arbiter, 2, "c")

    assert view.obstacle(same) == "parallel"
    assert view.obstacle(other) == "a, b"

    arbiter.unload(3, "b")
    assert view.obstacle(other) == "unload"

    arbiter.drain(4)
    assert view.obstacle(other) == "drain"
