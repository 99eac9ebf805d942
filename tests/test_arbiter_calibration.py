"""What a reckoned wait is worth: by what came of it lately."""

import random

import pytest

from dmap.arbiter.calibration import RECENT, Calibration
from dmap.arbiter.state import Reckoned, Situation

TEN = Reckoned(Situation.LINE, 4, 6)


def learnt(*came_s: float) -> Calibration:
    """Return what was learnt of waits that were reckoned as ten seconds."""
    calibration = Calibration()
    for each in came_s:
        calibration.learn(TEN, each)
    return calibration


def test_at_first_a_wait_is_told_as_reckoned() -> None:
    """Half as much again is the p80 of what nobody knows anything of."""
    assert Calibration().tell(TEN) == (10, 15.5)


def test_what_came_is_told_next() -> None:
    """Half of the waits were no longer than what is told, and four of five no longer than the p80."""
    came = [float(each) for each in range(RECENT)]
    random.Random(1).shuffle(came)

    told = learnt(*came).tell(TEN)

    assert told == pytest.approx((RECENT / 2 - 1, RECENT * 0.8), abs=1)


def test_what_is_long_past_is_forgotten() -> None:
    """Only the last ones count."""
    told = learnt(*[100] * RECENT, *[5] * RECENT).tell(TEN)

    assert told == pytest.approx((5, 5))


def test_a_situation_teaches_nothing_of_others() -> None:
    """Those in line and those behind a switch are told by their own."""
    told = learnt(*[100] * RECENT).tell(TEN._replace(situation=Situation.TURN))

    assert told == (10, 15.5)


def test_a_wait_of_no_time_has_a_multiple() -> None:
    """What was reckoned as nothing and took a second is told as a second."""
    calibration = Calibration()
    nothing = Reckoned(Situation.LINE, 0, 0)
    for _ in range(RECENT):
        calibration.learn(nothing, 1)

    assert calibration.tell(nothing) == (1, 1)


def test_hardly_any_wait_is_shorter() -> None:
    """A tenth is."""
    assert learnt(*range(1, RECENT + 1)).least_s(TEN) == pytest.approx(RECENT / 10, abs=1)
