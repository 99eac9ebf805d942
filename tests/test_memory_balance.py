"""Who has the memory of a device: what is known adds up, and what is not known is not there."""

from hypothesis import given
from hypothesis import strategies as st

from dmap.memory import Balance, Foreign, Reckoned, Usage
from dmap.memory.balance import MOST_FOREIGN, balance
from dmap.memory.usage import summed

BYTES = st.integers(0, 100)
PIDS = st.dictionaries(st.integers(1, 9), BYTES)
SIZES = st.none() | BYTES


@given(
    used=BYTES, processes=st.none() | PIDS, own=st.sets(st.integers(1, 9)), children=SIZES, elsewhere=SIZES
)
def test_what_is_known_adds_up(used, processes, own, children, elsewhere):
    """Models, others and unaccounted are what is used, whatever was told and reckoned; none is negative."""
    own &= (processes or {}).keys()

    found = balance(Usage(100, used, processes), own, {}, Reckoned(children, elsewhere))

    parts = [found.models, found.others, found.unaccounted]
    known = [part for part in parts if part is not None]
    assert all(part >= 0 for part in known)
    assert sum(known) <= used
    assert None in parts or sum(known) == used
    assert found.models is not None or found.others is None
    assert set(found.kinds.values()) <= {100, used, *known}


def seen(used: int, processes: dict[int, int] | None, own: set[int], reckoned: Reckoned) -> dict[str, int]:
    kinds = balance(Usage(100, used, processes), own, {}, reckoned).kinds
    return {name: value for name, value in kinds.items() if name not in ("total", "used")}


def test_children_are_measured():
    """What a child has is what it has, whatever was reckoned; what no process has is unaccounted."""
    assert seen(50, {1: 30, 2: 12}, {1}, Reckoned(children=99)) == {
        "models": 30,
        "others": 12,
        "unaccounted": 8,
    }


def test_a_server_elsewhere_is_reckoned():
    """Of what foreign processes have so much is models as was reckoned for residents of such servers."""
    assert seen(50, {1: 30, 2: 12}, set(), Reckoned(elsewhere=25)) == {
        "models": 25,
        "others": 17,
        "unaccounted": 8,
    }


def test_more_was_reckoned_than_is_there():
    """Models are cut to what foreign processes have, or to what is used where no process is told."""
    assert seen(50, {1: 30}, set(), Reckoned(elsewhere=90)) == {"models": 30, "others": 0, "unaccounted": 20}
    assert seen(50, None, set(), Reckoned(elsewhere=90)) == {"models": 50, "unaccounted": 0}


def test_a_container_of_dmaps():
    """A child that is seen nowhere is in a container: its memory is a foreign process's."""
    assert seen(50, {1: 40}, set(), Reckoned(children=30)) == {"models": 30, "others": 10, "unaccounted": 10}


def test_a_size_that_nobody_knows():
    """Where it matters there are neither models nor others; where no foreign process is, it does not."""
    unknown = Reckoned(elsewhere=None)

    assert seen(50, {1: 40}, set(), unknown) == {"unaccounted": 10}
    assert seen(50, {1: 40}, {1}, unknown) == {"models": 40, "others": 0, "unaccounted": 10}
    assert seen(50, None, set(), unknown) == {}


def test_memory_that_two_share():
    """Processes that share memory have more together than is used; nothing is unaccounted then."""
    assert seen(50, {1: 40, 2: 40}, {1}, Reckoned()) == {"models": 40, "others": 10, "unaccounted": 0}


def test_foreign_processes_are_named():
    """The largest first, a few of them, by name where the kernel tells it; one without memory is not."""
    processes = {pid: pid for pid in range(20)}

    found = balance(Usage(500, 300, processes), {19}, {18: "train.py"}, Reckoned())

    assert found.foreign[:2] == (Foreign(18, "train.py", 18), Foreign(17, "", 17))
    assert [str(each) for each in found.foreign[:2]] == ["pid 18 (train.py)", "pid 17"]
    assert len(found.foreign) == MOST_FOREIGN
    assert Foreign(0, "", 0) not in balance(Usage(5, 3, {0: 0}), (), {}, Reckoned()).foreign


def test_several_gpus_are_one():
    """Their memory is added up, by process too; where one tells no processes, none are told."""
    one, other = Usage(24, 5, {7: 3, 8: 1}), Usage(24, 6, {7: 4})

    assert summed([one, other]) == Usage(48, 11, {7: 7, 8: 1})
    assert summed([one, Usage(24, 6)]) == Usage(48, 11)
    assert Balance(48, 11).kinds == {"total": 48, "used": 11}
