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


def asked(arbiter: Arbiter, now: float, model: str, client: str = "me") -> Lease:
    """Return a lease that asks *arbiter* for *model* at the time *now*."""
    lease = Lease(None, A, client, seat=model)
    arbiter.submit(now, lease, model, client, Needs())
    return lease


class Crowd:
    """As many leases that wait for one model as share a look at their places, and one more."""

    def __init__(self) -> None:
        self.clock, self.arbiter = Clock(), Arbiter(Limits())
        self.view = QueueView(self.arbiter, self.clock)
        self.leases = [asked(self.arbiter, 0, "a") for _ in range(FEW + 1)]


def test_places_are_shared_for_a_moment() -> None:
    """Where many wait a place may be as old as `FRESH_S`, and no older."""
    crowd = Crowd()
    assert crowd.view.of(crowd.leases[1])[0] == 2
    crowd.leases += [asked(crowd.arbiter, 0, "a") for _ in range(2)]

    crowd.arbiter.withdraw(0, crowd.leases[0])
    crowd.clock.now = FRESH_S
    assert crowd.view.of(crowd.leases[1])[0] == 2

    crowd.clock.now = FRESH_S + 0.1
    assert crowd.view.of(crowd.leases[1])[0] == 1


def test_where_few_wait_each_look_is_new() -> None:
    """A place is exact there, and who is gone is not listed."""
    crowd = Crowd()
    assert crowd.view.of(crowd.leases[1])[0] == 2

    crowd.arbiter.withdraw(0, crowd.leases[0])

    assert crowd.view.of(crowd.leases[1])[0] == 1


def test_a_newcomer_among_many_is_at_the_end() -> None:
    """It stands behind all that wait for its model, until the next look; one of a new model is looked for."""
    crowd = Crowd()
    count = len(crowd.leases)
    assert crowd.view.of(crowd.leases[0])[0] == 1

    polite = asked(crowd.arbiter, 0, "a", "polite")
    other = asked(crowd.arbiter, 0, "b")

    assert crowd.view.of(polite)[0] == count + 1
    assert crowd.view.of(other)[0] == count + 2
    assert crowd.view.of(polite)[0] == 2


def test_only_so_many_are_listed() -> None:
    """The next ones are, in their order; who has left since the last look is not."""
    crowd = Crowd()
    assert list(crowd.view.first(2)) == crowd.leases[:2]
    crowd.leases += [asked(crowd.arbiter, 0, "a") for _ in range(2)]

    crowd.arbiter.withdraw(0, crowd.leases[0])

    assert list(crowd.view.first(2)) == crowd.leases[1:3]


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
