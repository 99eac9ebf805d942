"""Places in the queue, as they are told to those who wait."""

from dmap.arbiter import Arbiter, Limits, Needs
from dmap.gate.lease import Lease
from dmap.gate.queue_view import FRESH_S, QueueView
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
