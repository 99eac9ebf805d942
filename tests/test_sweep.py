"""One timer for many things under way."""

import asyncio

import pytest

from dmap.relay.sweep import CATCH_UP_S, Sweep


class Patient:
    """Notes when it is looked at; *looked* is set at the first time."""

    def __init__(self, look_s):
        self.look_s = look_s
        self.seen = []
        self.looked = asyncio.Event()

    def look(self, now):
        self.seen.append(now)
        self.looked.set()


class Leaving(Patient):
    """Leaves its sweep when it is looked at."""

    def __init__(self, look_s, sweep):
        super().__init__(look_s)
        self._sweep = sweep

    def look(self, now):
        super().look(now)
        self._sweep.discard(self)


class CountingLoop:
    """A loop that only counts the timers it was asked for, and fires them by hand."""

    def __init__(self):
        self.asked = []
        self.now = 7.0
        self._due = []

    def time(self):
        return self.now

    def call_later(self, delay_s, callback):
        self.asked.append(delay_s)
        timer = Timer(callback)
        self._due.append(timer)
        return timer

    def fire(self):
        """Let the timer that was set last come up."""
        self._due.pop().callback()


class Timer:
    """A timer that may have been cancelled."""

    def __init__(self, callback):
        self.callback = callback
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def loop():
    return CountingLoop()


@pytest.fixture
def sweep(loop):
    return Sweep(loop)


async def test_it_looks_at_what_is_under_way():
    """What is added is looked at after its time, with the loop's time."""
    loop = asyncio.get_running_loop()
    sweep, one, added_at = Sweep(loop), Patient(0.01), loop.time()

    sweep.add(one)
    await one.looked.wait()

    assert added_at < one.seen[0] <= loop.time()


async def test_a_busy_sweep_sets_one_timer(sweep, loop):
    """A second thing under way takes no second timer."""
    sweep.add(Patient(10))

    sweep.add(Patient(10))

    assert loop.asked == [10]


async def test_a_more_impatient_one_is_not_kept_waiting(sweep, loop):
    """What has to be looked at earlier brings the next look forward."""
    sweep.add(Patient(10))

    sweep.add(Patient(1))

    assert loop.asked == [10, 1]


async def test_the_pace_is_that_of_the_most_impatient(sweep, loop):
    """After a look the next one comes as soon as anyone under way needs it."""
    sweep.add(Patient(1))
    sweep.add(Patient(10))

    loop.fire()

    assert loop.asked == [1, 1]


async def test_it_slows_down_again(sweep, loop):
    """One that has gone no longer sets the pace."""
    quick = Patient(1)
    sweep.add(quick)
    sweep.add(Patient(10))

    sweep.discard(quick)
    loop.fire()

    assert loop.asked == [1, 10]


async def test_it_rests_when_nothing_is_under_way(sweep, loop):
    """A look that finds nothing is the last, until something comes again."""
    one = Patient(5)
    sweep.add(one)
    sweep.discard(one)

    loop.fire()
    sweep.add(one)

    assert loop.asked == [5, 5]
    assert one.seen == []


async def test_what_came_while_the_loop_stood_still_is_read_first(sweep, loop):
    """A timer that comes far too late judges nobody; the next one does, however late that is."""
    one = Patient(5)
    sweep.add(one)

    loop.now += 35
    loop.fire()
    before = list(one.seen)
    loop.now += 35
    loop.fire()

    assert (before, one.seen) == ([], [77.0])
    assert loop.asked[0] == loop.asked[2] == 5
    assert loop.asked[1] == CATCH_UP_S


async def test_one_may_leave_while_it_is_looked_at(sweep, loop):
    """What ends by a look is not looked at again, and the others are."""
    one, other = Leaving(5, sweep), Patient(5)
    sweep.add(one)
    sweep.add(other)

    loop.fire()
    loop.fire()

    assert (one.seen, other.seen) == ([7.0], [7.0, 7.0])


async def test_it_tells_what_is_under_way(sweep):
    """Whoever walks over it may end what it meets."""
    one, other = Patient(5), Patient(5)
    sweep.add(one)
    sweep.add(other)

    met = [each for each in sweep if sweep.discard(each) is None]

    assert set(met) == {one, other}
    assert list(sweep) == []
