"""The rows that are played of a scene."""

from dmap.simulate import Arrivals, Workload
from dmap.simulate.jobs import on_fleets, on_one_device
from dmap.simulate.scenes import Scene

ASKED = Workload(name="quick", groups=[Arrivals(rate=1, shares={"A": 1})], duration_s=100)
PATIENT = ASKED.model_copy(update={"name": "patient"})
SCENE = Scene("quick", ASKED, others={"patience_s=90": PATIENT})


def test_one_device() -> None:
    """A row for each policy, and one for each change under dmap's own, which is judged beside it."""
    rows = [(job.label, job.workload, job.beside) for job in on_one_device(SCENE, ["fifo", "dmap"])]

    assert rows == [
        ("fifo", ASKED, None),
        ("dmap", ASKED, None),
        ("dmap patience_s=90", PATIENT, "dmap"),
    ]


def test_fleets() -> None:
    """For each count the placements, the changes, and a box that dies, unless it is the only one."""
    assert [(job.label, job.beside) for job in on_fleets(SCENE, [1, 2], ["hash", "dmap"])] == [
        ("1 box, hash", None),
        ("1 box, dmap", None),
        ("1 box, dmap, patience_s=90", "1 box, dmap"),
        ("2 boxes, hash", None),
        ("2 boxes, dmap", None),
        ("2 boxes, dmap, patience_s=90", "2 boxes, dmap"),
        ("2 boxes, dmap, one dies", "2 boxes, dmap"),
    ]


def test_plain_placements_alone() -> None:
    """Without dmap's own nothing is judged beside it."""
    assert [job.label for job in on_fleets(SCENE, [3], ["least"])] == ["3 boxes, least"]


def test_a_box_is_dead_while_somebody_asks() -> None:
    """The time of the death is a part of the time in which requests come, however long the run may last."""
    *_, dies = on_fleets(Scene("quick", ASKED, spans_s=10), [2], ["dmap"])

    assert dies.play(1).stays != [*on_fleets(SCENE, [2], ["dmap"])][0].play(1).stays


def test_rows_that_tell_how_many_boxes_are_needed() -> None:
    """Those under dmap's own placement that stand beside no other."""
    jobs = [job for job in on_fleets(SCENE, [1, 2], ["hash", "dmap"]) if job.boxes and not job.beside]

    assert {job.label: job.boxes for job in jobs} == {"1 box, dmap": 1, "2 boxes, dmap": 2}
