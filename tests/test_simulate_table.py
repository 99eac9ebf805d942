"""What is said of figures in words."""

import pytest

from dmap.simulate.figures import Figures
from dmap.simulate.table import need


def waits(mean_s: float, p95_s: float, refused: float = 0) -> Figures:
    """Return the figures of a run with such waits."""
    return Figures(1000 - refused, refused, 0, 100, mean_s, p95_s, 2 * p95_s, {}, {})


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        (
            {1: waits(12, 40), 2: waits(2, 8), 3: waits(1.9, 7.5)},
            "2 boxes are enough for this load: "
            "with 3 one request in twenty waits longer than 7.5 s instead of 8.0 s",
        ),
        (
            {1: waits(0.2, 1), 2: waits(0.1, 0.5)},
            "1 box is enough for this load: "
            "with 2 one request in twenty waits longer than 0.5 s instead of 1.0 s",
        ),
        (
            {1: waits(30, 90), 2: waits(12, 40)},
            "2 boxes are not too many for this load: play more of them, too",
        ),
        (
            {1: waits(1, 2, 50), 2: waits(1, 2)},
            "2 boxes are not too many for this load: play more of them, too",
        ),
        (
            {4: waits(1, 2), 2: waits(9, 30), 8: waits(1, 2)},
            "4 boxes are enough for this load: "
            "with 8 one request in twenty waits longer than 2.0 s instead of 2.0 s",
        ),
    ],
)
def test_how_many_boxes_are_needed(found: dict[int, Figures], answer: str) -> None:
    """As many as shorten what the unlucky wait, or as refuse fewer; in any order of the counts."""
    *_, last = need(found)

    assert last == answer


def test_each_step_is_told() -> None:
    """Each number of boxes beside the one before."""
    first, second, _ = need({1: waits(12, 40, 5), 2: waits(2, 8), 4: waits(2, 8)})

    assert (
        first
        == "2 boxes instead of 1: mean wait 10 s less, p95 wait 32 s less, longest wait 64 s less, "
        + ("5 fewer refused, 5 more served")
    )
    assert second == "4 boxes instead of 2: no difference"
