"""What the arbiter remembers of models is bounded, and what is in use is not forgotten."""

from dmap.arbiter import Arbiter, Grant, Limits, Needs, Outcome
from dmap.arbiter.device import MODELS, Device
from dmap.arbiter.estimates import CLIENTS, Averages

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
