"""What is told of a run, in figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from dmap.simulate.groups import Request
from dmap.simulate.result import Result


@dataclass(frozen=True, slots=True)
class Figures:
    """
    The figures of a run.  Waits are of requests that were served, in seconds until the answer began.

    But *longest_s* counts those that still waited at the end, too, and in *longest_by_group*, which has the
    same of each group of clients beside how many answers it got, *served_by_group*.  So many answers were
    *cut*, for their device died.
    """

    served: float
    refused: float
    left: float
    switches: float
    mean_s: float
    p95_s: float
    longest_s: float
    served_by_group: dict[str, float]
    longest_by_group: dict[str, float]
    cut: float = 0


def figures_of(result: Result) -> Figures:
    """Return the figures of one run."""
    waits = sorted(request.wait_s for request in result.answers)
    groups = _by_group(result.waits())
    answered = _by_group(result.answers)
    return Figures(
        served=len(waits),
        refused=len(result.refused),
        left=len(result.left),
        switches=result.switches,
        mean_s=fmean(waits) if waits else 0.0,
        p95_s=p95(waits),
        longest_s=max([*waits[-1:], *(request.wait_s for request in result.waiting)], default=0.0),
        served_by_group={name: len(answered.get(name, ())) for name in groups},
        longest_by_group={name: max(waits) for name, waits in groups.items()},
        cut=len(result.cut),
    )


def p95(waits: Sequence[float]) -> float:
    """Return what 95 % of *waits*, in order, do not exceed."""
    return waits[int(0.95 * (len(waits) - 1))] if waits else 0.0


def _by_group(requests: Iterable[Request]) -> dict[str, list[float]]:
    """Return the waits by group of clients."""
    groups: dict[str, list[float]] = {}
    for request in requests:
        groups.setdefault(request.group, []).append(request.wait_s)
    return groups


def together(found: Sequence[Figures]) -> Figures:
    """Return the means over runs with different seeds; the longest wait is that of the worst of them."""
    groups = sorted({name for each in found for name in each.served_by_group})
    return Figures(
        served=fmean(each.served for each in found),
        refused=fmean(each.refused for each in found),
        left=fmean(each.left for each in found),
        switches=fmean(each.switches for each in found),
        mean_s=fmean(each.mean_s for each in found),
        p95_s=fmean(each.p95_s for each in found),
        longest_s=max(each.longest_s for each in found),
        served_by_group={name: fmean(each.served_by_group.get(name, 0) for each in found) for name in groups},
        longest_by_group={name: max(each.longest_by_group.get(name, 0) for each in found) for name in groups},
        cut=fmean(each.cut for each in found),
    )
