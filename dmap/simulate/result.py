"""What became of a run."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from dmap.simulate.groups import Request


@dataclass(slots=True)
class Stay:
    """A model's time on a device: its load began at *since*, it was *ready*, and it was there *until*."""

    model: str
    since: float
    ready: float | None = None
    until: float = 0.0


@dataclass(slots=True)
class Result:
    """
    What became of a workload: each request is in one of the lists, in the order of what happened to it.

    *waiting* are those that still waited at the end, *left* those that gave up, and *cut* those whose device
    died during their answer.  *extra_s* is the most that the load added to patience.
    """

    answers: list[Request] = field(default_factory=list)
    refused: list[Request] = field(default_factory=list)
    left: list[Request] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)
    cut: list[Request] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    ended_s: float = 0.0
    extra_s: float = 0.0

    @property
    def switches(self) -> int:
        """How many loads began."""
        return len(self.stays)

    def waits(self) -> Iterator[Request]:
        """Iterate over those whose wait tells something: the answered, and who still waited at the end."""
        return itertools.chain(self.answers, self.waiting)
