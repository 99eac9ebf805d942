"""Places in the queue, as they are told to those who wait."""

from dmap.arbiter import Arbiter, Limits, Needs
from dmap.gate.lease import Lease
from dmap.gate.queue_view import FEW, FRESH_S, QueueView
from tests.fake_switcher import A

NEEDS = Needs(size_bytes=4)
TWO = Limits(max_models=2, memory_bytes=9)
"""What two models of that size fit in."""


class Clock:
    """A clock that stands where the test has put it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(arbiter: Arbiter, now: float, model: str, client: str = "me", needs: Needs = NEEDS) -> Lease:
    """Return a lease that asks *arbiter* for *model* at the time *now*."""
    lease = Lease(None, A, client, seat=model)
    arbiter.submit(now, lease, model, client, needs)
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
    arbiter = Arbiter(TWO)
    view = QueueView(arbiter, lambda: 4.0)
    arbiter.observed(0, 0, {"b": NEEDS, "a": NEEDS._replace(parallel=1)})
    asked(arbiter, 1, "a"), asked(arbiter, 1, "b")
    same, other = asked(arbiter, 2, "a"), asked(arbiter, 2, "c")

    assert view.obstacle(same) == "parallel"
    assert view.obstacle(other) == "b"  # which nobody waits for

    arbiter.unload(3, "a")
    assert (view.obstacle(same), view.obstacle(other)) == ("switch to c", "a")

    arbiter.drain(4)
    assert view.obstacle(other) == "drain"
    assert view.obstacle(other, drained=False) == "first look"


def test_a_switch_is_in_the_way_of_others_only() -> None:
    """Who waits for a model that is full does not wait behind a switch beside it."""
    arbiter = Arbiter(TWO)
    view = QueueView(arbiter, lambda: 4.0)
    arbiter.observed(0, 0, {"a": NEEDS._replace(parallel=1)})
    asked(arbiter, 1, "a")
    full, coming, next_one = asked(arbiter, 2, "a"), asked(arbiter, 2, "b"), asked(arbiter, 3, "c")

    assert [view.obstacle(lease) for lease in (full, coming, next_one)] == [
        "parallel",
        "switch to b",
        "switch to b",
    ]


def test_what_need_not_go_is_in_nobodys_way() -> None:
    """Of the residents those are named that have to go: not one that is pinned, nor the embeddings'."""
    arbiter = Arbiter(TWO)
    view = QueueView(arbiter, lambda: 4.0)
    embed, pin = Needs(size_bytes=1, embedding=True), Needs(size_bytes=4, pinned=True)
    arbiter.observed(0, 0, {"pin": pin, "busy": NEEDS, "embed": embed})
    asked(arbiter, 1, "busy")
    other = asked(arbiter, 2, "c")

    assert view.obstacle(other) == "busy"


def test_a_model_that_drains_is_in_the_way() -> None:
    """Once it is decided what goes, that is what is waited for until it is idle."""
    arbiter = Arbiter(Limits(patience_s=1, residency=0))
    view = QueueView(arbiter, lambda: 60.0)
    arbiter.observed(0, 0, {"a": NEEDS})
    asked(arbiter, 1, "a")
    other = asked(arbiter, 2, "b")

    arbiter.tick(60)

    assert arbiter.plan is not None and arbiter.switch is None
    assert view.obstacle(other) == "a"
    assert view.obstacle(asked(arbiter, 60, "c")) == "switch to b"


def test_an_unloading_is_named() -> None:
    """It is in the way of whoever waits for that model, and of others while it is carried out."""
    arbiter = Arbiter(TWO)
    view = QueueView(arbiter, lambda: 4.0)
    arbiter.observed(0, 0, {"a": NEEDS, "b": NEEDS})
    first = asked(arbiter, 1, "a")
    arbiter.unload(1, "a")
    again = asked(arbiter, 2, "a")

    assert view.obstacle(again) == "unload of a"

    arbiter.withdraw(3, first)
    assert view.obstacle(again) == view.obstacle(asked(arbiter, 4, "c")) == "unload of a"
