"""What a driver tells of the memory of GPUs: plain values, and what asks for them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


class Unreadable(Exception):
    """The memory cannot be read now; the text says why, in a line for the owner."""


@dataclass(frozen=True, slots=True)
class Usage:
    """
    The memory of one GPU, or of several together, in bytes.

    *total* is what processes can have in all, so without what the driver keeps for itself.  *processes* has
    what each process has of it, by its id; None where the driver does not tell that.
    """

    total: int
    used: int
    processes: Mapping[int, int] | None = None


class GPUs(Protocol):
    """Some GPUs, as their driver tells of them.  Both calls block, and may hang."""

    def names(self) -> list[str]:
        """Return what each is called.  Raises `Unreadable`."""

    def read(self) -> Usage:
        """Return what is used now of all together.  Raises `Unreadable`."""


def summed(usages: Iterable[Usage]) -> Usage:
    """Return *usages* as one; processes are told if they are for each."""
    each, processes = list(usages), Counter[int]()
    told = [one.processes for one in each if one.processes is not None]
    for one in told:
        processes.update(one)
    total, used = sum(one.total for one in each), sum(one.used for one in each)
    return Usage(total, used, processes if len(told) == len(each) else None)
