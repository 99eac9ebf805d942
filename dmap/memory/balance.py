"""
Who has the memory of a device that is used: models, others, or nobody that is known.  Pure.

The children of dmap are known by their ids, so what they take is measured.  What other servers take for
their residents is only reckoned, and which processes are theirs nobody tells: of what foreign processes
have, so much as was reckoned counts as models, and the rest as others'.  Without ids all is reckoned, and
others cannot be told from what nobody accounts for.

What is known adds up: models, others and unaccounted are what is used.  So none is ever negative; where more
was reckoned than can be, models are cut to what is there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from dmap.memory.usage import Usage

MOST_FOREIGN = 8
"""So many foreign processes are named, those with most memory first."""


class Reckoned(NamedTuple):
    """
    What residents should take, in bytes: those that are children of dmap, and those *elsewhere*.

    None where of one of them nobody knows.
    """

    children: int | None = 0
    elsewhere: int | None = 0

    @property
    def both(self) -> int | None:
        """All of them together."""
        known = self.children is not None and self.elsewhere is not None
        return (self.children or 0) + (self.elsewhere or 0) if known else None


class Foreign(NamedTuple):
    """A process on the device that dmap has not started; *name* is empty if the kernel does not tell it."""

    pid: int
    name: str
    bytes: int

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.name})" if self.name else f"pid {self.pid}"


@dataclass(frozen=True, slots=True)
class Balance:
    """The memory of a device by who has it, in bytes; what is not known is None."""

    total: int
    used: int
    models: int | None = None
    others: int | None = None
    unaccounted: int | None = None
    foreign: tuple[Foreign, ...] = ()

    @property
    def kinds(self) -> dict[str, int]:
        """What is known, by its name."""
        names = ("total", "used", "models", "others", "unaccounted")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def balance(usage: Usage, own: Collection[int], names: Mapping[int, str], reckoned: Reckoned) -> Balance:
    """Return who has what of *usage*; *own* are the children of dmap, and *names* those of processes."""
    total, used, processes = usage.total, usage.used, usage.processes
    if processes is None:
        if reckoned.both is None:
            return Balance(total, used)
        models = min(reckoned.both, used)
        return Balance(total, used, models, unaccounted=used - models)
    foreign = tuple(Foreign(pid, names.get(pid, ""), has) for pid, has in processes.items() if pid not in own)
    first = sorted((each for each in foreign if each.bytes), key=lambda each: (-each.bytes, each.pid))
    # Memory that two processes share is counted for both.
    measured = min(sum(processes[pid] for pid in own), used)
    strange = min(sum(each.bytes for each in foreign), used - measured)
    known = Balance(total, used, unaccounted=used - measured - strange, foreign=tuple(first[:MOST_FOREIGN]))
    # Children of which none is seen here are in containers: their processes are foreign as well.
    claimed = reckoned.elsewhere if measured else reckoned.both
    if claimed is None and strange:
        return known
    served = min(claimed or 0, strange)
    return replace(known, models=measured + served, others=strange - served)
