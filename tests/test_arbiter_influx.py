"""What comes whether it is answered or not: arrivals while a model is away, not the echo of its answers."""

import pytest

from dmap.arbiter.influx import WINDOW_S, Influx, Stream


def stream(influx: Influx, now: float) -> Stream:
    """Return what is known of model `a`."""
    return dict(influx.in_use(now))["a"]


def away(count: int, *, every_s: float, cost_s: float = 8) -> Influx:
    """Return what is known of a model that went at 0, and was asked for *count* times."""
    influx = Influx()
    influx.moved(-100, "a")
    influx.moved(0, "a", cost_s)
    for number in range(1, count + 1):
        influx.asked(number * every_s, "a", cost_s)
    return influx


def test_a_crowd_that_waits_brings_no_work() -> None:
    """Clients that ask once more when their model has gone, and wait then, are no influx."""
    assert stream(away(24, every_s=0.2), 60).rate == 0


def test_who_comes_while_it_is_away_brings_work() -> None:
    """Requests that come for a minute, one each half second, are nearly all of two per second."""
    assert stream(away(120, every_s=0.5), 60).rate == pytest.approx(2, rel=0.1)


def test_who_leaves_brings_no_work() -> None:
    """Someone who asks again and again, and leaves each time, is no load; who waits beside him is."""
    influx = away(120, every_s=0.5)
    rate = stream(influx, 60).rate

    for tenth in range(600):
        influx.asked(60 + tenth / 10, "a", 8)
        influx.given_up("a", 60 + tenth / 10)
    influx.given_up("a", 4)  # one that never counted

    assert stream(influx, 120).rate < rate


def test_what_comes_to_a_resident_does_not_count() -> None:
    """Nobody can tell whether a request that finds its model loaded would have come anyhow."""
    influx = Influx()
    influx.moved(0, "a")
    for second in range(60):
        influx.asked(second, "a", 8)

    assert stream(influx, 60).rate == 0


def test_the_first_crowd_of_all_does_not_count() -> None:
    """Who asks at once for a model that was never there is no stream yet."""
    influx = Influx()
    for _ in range(24):
        influx.asked(0, "a", 8)

    assert stream(influx, 30).rate == 0


def test_it_fades() -> None:
    """What was true once is soon true no more: silence counts."""
    influx = away(120, every_s=0.5)
    influx.asked(60 + 2 * WINDOW_S, "a", 8)

    assert stream(influx, 60 + 2 * WINDOW_S).rate < 0.2


def test_a_resident_leaves_it_as_it_was() -> None:
    """While a model is there nothing is learned, and what was known counts less against what comes next."""
    influx = away(120, every_s=0.5)
    before = stream(influx, 60).rate
    influx.moved(60, "a")

    after = stream(influx, 80).rate

    assert after == pytest.approx(before, rel=0.02)


def test_a_model_that_nobody_asks_for_is_not_in_use() -> None:
    """It takes no part in the cycle once its window is over, unless somebody still waits for it."""
    influx = away(1, every_s=1)

    assert [model for model, _ in influx.in_use(1 + WINDOW_S)] == ["a"]
    assert [model for model, _ in influx.in_use(2 + WINDOW_S)] == []
    assert [model for model, _ in influx.in_use(2 + WINDOW_S, {"a"})] == ["a"]


def test_answers_are_averaged_over_the_window() -> None:
    """A guess counts for two answers, so that a first one that is long does not count for all."""
    influx = away(1, every_s=1)
    influx.answered(1, "a", 10, 1)

    assert stream(influx, 1).answer_s(1) == pytest.approx((10 + 2) / 3)


def test_answers_at_once_are_averaged_too() -> None:
    """Two answers of one at a time are what is thought before."""
    influx = away(1, every_s=1)
    influx.answered(1, "a", 10, 4)

    assert stream(influx, 1).at_once == pytest.approx((4 + 2) / 3)
