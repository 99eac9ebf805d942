"""`bench/switches`: what it reckons, and its clients at a real dmap with an engine that is slowed down."""

import asyncio
import shutil
from pathlib import Path

import pytest

from bench.switches import contenders, models, pace, place
from bench.switches.clients import Ask, asking
from bench.switches.figures import Figures, Window, figures, share_of_turns
from bench.switches.models import Stream
from bench.switches.pace import Load
from bench.switches.report import bars, table
from bench.switches.workloads import MANY, PAUSE, THREE, TWO
from tests.fakes import HERE_S, soon
from tests.ports import free_port

A, B = TWO.clients


def test_a_window_is_reckoned() -> None:
    """Answers count by model; who waits at the end has waited until then; loads count that end within."""
    window = Window(100, 200)
    asks = [
        Ask(A, 10, 100, 100.2, 101, ["429"]),
        Ask(A, 10, 101, 101.2, 102),
        Ask(B, 10, 100, 102, 103),
        Ask(B, 10, 103),
    ]
    loads = [Load(90, 92), Load(150, 152.5)]

    found = figures(TWO, window, asks, loads)

    assert found == Figures(
        {"a": 2, "b": 1}, 1, 2.5, longest_s=97, unserved=2, refused=1, reason="429", token_s=0.1, share=0
    )


def test_who_is_answered_each_minute_is_served() -> None:
    """A client is unserved only where more than a minute passes without an answer, whenever that begins."""
    asks = [Ask(A, 9, 0, 58, 59), Ask(A, 9, 59, 117, 118), Ask(B, 9, 0, 60, 61), Ask(B, 9, 61, 117, 118)]

    assert figures(TWO, Window(0, 120), asks, []).unserved == 1


@pytest.mark.parametrize(
    "models, share",
    [
        ("aabbaabbaabba", 1.0),
        ("abbbaabbaabba", 1.0),
        ("abaaabbbbbba", 2 / 3),
        ("bbaabbaaaba", 1.5),
        ("aabb", 0.0),
    ],
)
def test_a_share_counts_from_the_second_turn_on(models: str, share: float) -> None:
    """The first turn, and one that the end may have cut, tell nothing."""
    assert share_of_turns(models, "a") == pytest.approx(share)


def test_the_bars_say_what_is_missed() -> None:
    """Each figure of dmap is held against its bar, and against what peers get."""
    results = {
        TWO: {"dmap": [_got(longest_s=20.5, a=12, b=12)], "llama-swap": [_got(a=5, b=5)]},
        THREE: {"dmap": [_got(a=70, b=9)], "llama-swap": [_got(a=99, b=0)], "ollama": [_got(a=100, b=0)]},
        MANY: {"dmap": [_got(a=100, b=116, c=9, unserved=1)]},
        PAUSE: {"dmap": [_got(a=9, b=9, share=0.9)]},
    }

    found = {bar.what: (bar.figure, bar.met) for bar in bars(results, 360)}

    assert found == {
        "1A 1B: longest wait": ("20.5 s", False),
        "1A 1B: answers / llama-swap's": ("2.40", True),
        "2A 1B: clients without an answer for 60 s": ("0", True),
        "2A 1B: answers / ollama's": ("0.79", False),
        "24A 24B 1C: clients without an answer for 60 s": ("1", False),
        "24A 24B 1C: a b apart": ("1.16", False),
        "pause: of the share of who paused": ("0.90", True),
    }


def test_the_table_has_the_medians_of_the_rounds() -> None:
    """Of the unserved it has the most, for one round in which somebody starves is enough."""
    rounds = [_got(a=3, b=4), _got(a=5, b=5, unserved=1), _got(a=1, b=4)]

    row = list(table({TWO: {"dmap": rounds}}))[-1]

    assert row == "| 1A 1B | dmap | 7 (5-10) | a 3 b 4 | 0 | 0.00 | 0.0 | 1 of 2 | 0 | 0.0000 |"


def _got(*, longest_s: float = 0, unserved: int = 0, share: float = 0, **answers: int) -> Figures:
    return Figures(answers, 0, 0, longest_s, unserved, 0, "", 0, share)


def test_an_answer_of_another_model_is_none() -> None:
    """Words of another theme, too few tokens, an error in its midst, or no end mark are faults."""
    words = b'data: {"choices": [{"delta": {"content": " the salt tide"}, "finish_reason": null}]}'
    last = b'data: {"choices": [{"delta": {}, "finish_reason": "length"}], "usage": {"completion_tokens": 3}}'
    whole = _heard(words, b": comment", last, b"data: [DONE]")

    assert whole.fault("a", 3) is None
    assert whole.fault("a", 4) == "3 of 4 tokens, length, whole"
    assert whole.fault("c", 3) == "no words of c: salt tide"
    assert _heard(words, last).fault("a", 3) == "3 of 3 tokens, length, cut"
    assert _heard(words, b'data: {"error": "died"}').fault("a", 3) == "{'error': 'died'}"


def _heard(*lines: bytes) -> Stream:
    stream = Stream()
    for line in lines:
        stream.read(line)
    return stream


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
async def test_dmap_is_played_on_an_engine_that_is_slowed_down(tmp_path: Path) -> None:
    """Two clients of two models get whole answers, no token sooner than told, and no load either."""
    slow = pace.Pace(pace.build(tmp_path), load_s=0.5, step_s=0.01)
    where = place.place(tmp_path / "dmap", models.make_all(tmp_path / "models"), iter(free_port, None))

    async with place.running(contenders.dmap(), where, slow):
        clock = asyncio.get_running_loop().time
        start = clock()
        async with asking(where.url, TWO, start) as asks:
            await soon(lambda: {ask.client.model for ask in asks if ask.answered} == {"a", "b"}, HERE_S)
    found = figures(TWO, Window(start, clock()), asks, pace.loads(place.load_log(where)))

    assert found.refused == 0, found.reason
    assert min(found.answers.values()) >= 1
    assert found.loads >= 2 and found.load_s >= 0.5
    assert found.token_s >= 0.01
