"""The figures of runs as text for a terminal of 80 columns, and what their words mean."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping

from dmap.simulate.figures import Figures
from dmap.simulate.policies import MEANINGS
from dmap.simulate.workload import Workload

WIDTH = 80
_FIRST = 26
"""The columns of the policy's name, and of what was changed for it."""
COLUMNS: Mapping[str, str] = {
    "served": "requests answered",
    "refused": "requests refused: the queue was full, or they had waited for wait_s",
    "loads/100": "loads of models for 100 answers; each is one switch",
    "mean": "seconds from a request to the begin of its answer, the mean",
    "p95": "the wait that 95 % of the answered requests did not exceed",
    "longest": "the longest wait, also of those that still waited at the end; of all seeds",
}


def heads() -> str:
    """Return the first line of a table."""
    served, refused, loads, mean, p95, longest = COLUMNS
    return f"{'policy':<{_FIRST}}{served:>9}{refused:>9}{loads:>10}{mean:>8}{p95:>8}{longest:>10}"


def title(workload: Workload) -> str:
    """Name a workload and its device."""
    loads = workload.load_s
    took = f"{loads:g} s" if isinstance(loads, float) else "by model"
    lasts = f"{workload.duration_s:g} s in all"
    return f"{workload.name}  (a load {took}, parallel {workload.parallel}, {lasts})"


def row(label: str, found: Figures) -> str:
    """Return a line of the table; a label that is too long has a line of its own."""
    first = f"  {label}".ljust(_FIRST)
    if len(first) > _FIRST:
        first += "\n" + " " * _FIRST
    loads = f"{100 * found.switches / found.served:.2f}" if found.served else "-"
    figures = f"{found.served:>9,.0f}{found.refused:>9,.0f}{loads:>10}{found.mean_s:>8.1f}{found.p95_s:>8.1f}"
    return f"{first}{figures}{found.longest_s:>10.1f}"


def legend(policies: Iterable[str], seeds: int) -> Iterator[str]:
    """Say what the columns and the *policies* mean."""
    for word, meaning in (*COLUMNS.items(), *((name, MEANINGS[name]) for name in policies)):
        yield from textwrap.wrap(f"{word:<15}{meaning}", WIDTH, subsequent_indent=" " * 15)
    if seeds > 1:
        yield f"All figures but the longest wait are means over {seeds} seeds."
