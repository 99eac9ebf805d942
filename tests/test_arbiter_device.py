"""What the arbiter remembers of models is bounded, and what is in use is not forgotten."""

from collections.abc import Callable

import pytest

from dmap.arbiter import Arbiter, Grant, Limits, Needs, Outcome
from dmap.arbiter.choice import demands_of
from dmap.arbiter.device import MODELS, Device
from dmap.arbiter.estimates import CLIENTS, Averages
from dmap.arbiter.settlement import reckon
from dmap.arbiter.state import Resident, Ticket

SINGLE = Needs(parallel=1)


def test_what_models_take_is_remembered_of_so_many() -> None:
    """However many models are asked for one after the other."""
    device = Device(Limits())

    for number in range(3 * MODELS):
        device.note(number, SINGLE)

    assert len(device.needs) <= MODELS
    assert 3 * MODELS - 1 in device.needs


def others_come_and_go(arbiter: Arbiter, now: float) -> None:
    """Have more models asked for than are remembered."""
    for number in range(2 * MODELS):
        arbiter.submit(now, number, number, "many", SINGLE)
        arbiter.withdraw(now, number)


def test_what_is_in_use_is_remembered() -> None:
    """A model that answers, vanished or not, or that is waited for is not forgotten."""
    arbiter = Arbiter(Limits())
    arbiter.observed(0, 0, {"vanished": SINGLE})
    arbiter.submit(0, "its lease", "vanished", "me", SINGLE)
    arbiter.observed(1, 0, {})
    arbiter.submit(2, "first", "loading", "me", SINGLE)
    arbiter.submit(3, "second", "waited for", "you", SINGLE)

    others_come_and_go(arbiter, 4)

    assert arbiter.switched(5, Outcome()) == [Grant("first")]
    arbiter.withdraw(6, "its lease")
    arbiter.withdraw(7, "first")
    arbiter.tick(100)
    assert arbiter.switched(101, Outcome()) == [Grant("second")]


def test_what_is_being_loaded_is_remembered() -> None:
    """A load goes on when nobody waits for it any more, and needs to know what it makes resident."""
    arbiter = Arbiter(Limits())
    arbiter.submit(0, "first", "loading", "me", SINGLE)
    arbiter.cleared(1)
    arbiter.withdraw(2, "first")

    others_come_and_go(arbiter, 3)

    assert arbiter.switched(4, Outcome()) == []
    assert list(arbiter.residents) == ["loading"]


def test_residents_that_nobody_asks_for_leave_nothing() -> None:
    """A backend may tell of other models with each look."""
    device = Device(Limits())

    for number in range(10):
        device.see(number, {number: SINGLE})

    assert list(device.influx.in_use(10, range(10))) == []


def test_averages_are_kept_of_so_many() -> None:
    """The ones without a sample for longest are forgotten: what is typical takes their place."""
    averages = Averages(10.0)
    averages.learn("first", 2.0)

    for number in range(CLIENTS):
        averages.learn(number, 8.0)

    assert averages.of("first") == 8.0


def loads_another(device: Device) -> None:
    """Have a load tell what the others may cost."""
    device.note("b", Needs(size_bytes=10**9))
    device.costs.learn("b", 99)
    device.settle_in(Resident("b", SINGLE, 2, 99))


@pytest.mark.parametrize(
    "change",
    [
        lambda device: device.configure(Limits(wait_s=10)),
        lambda device: device.note("a", Needs(size_bytes=1)),
        lambda device: reckon(1, device),
        lambda device: device.try_alone("a", alone=True),
        lambda device: device.waiters.add(2, Ticket(2, "a", "you", 2)),
        lambda device: device.waiters.take(1),
        lambda device: device.waiters.grant(2, device.waiters.tickets[1]),
        loads_another,
    ],
    ids=["limits", "needs", "patience", "alone", "one more", "one less", "granted", "costs"],
)
def test_what_waits_is_found_anew_when_it_changes(change: Callable[[Device], None]) -> None:
    """What is kept of it is what would be found."""
    device = Device(Limits())
    device.note("a", Needs(size_bytes=2 * 10**9))
    device.asked(0, "me", "a")
    device.waiters.add(0, Ticket(0, "a", "me", 0, priority=-9))
    device.waiters.add(1, Ticket(1, "a", "me", 1))
    before = demands_of(device)

    change(device)

    kept = demands_of(device)
    device.demands.clear()
    assert before != kept == demands_of(device)
