"""`dmap simulate`: which workloads are played under which policies, and what is said of it."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dmap.config import ConfigProblem
from dmap.simulate.figures import Figures, figures_of, together
from dmap.simulate.policies import POLICIES
from dmap.simulate.table import heads, legend, row, title
from dmap.simulate.workload import Workload, every, read_file
from dmap.simulate.world import run as play

SHORT = ("closed", "open 80/15/5 at 0.5", "open 80/15/5 at 0.85")
"""The workloads that are played if none is named: those of the design, and a light and a heavy open load."""


def run(options: argparse.Namespace) -> None:
    """
    Do what the command line says.  Raises `ConfigProblem` for a file that cannot be used.

    *options* has *names*, *list*, *policies*, *seed*, *seeds*, and *refuse* to end with a complaint.
    """
    if options.list:
        print("\n".join(workload.name for workload in _chosen(options.names or [""])))
        return
    if unknown := [name for name in options.policies if name not in POLICIES]:
        options.refuse(f"--policies: there is no {unknown[0]!r}; there are: {', '.join(POLICIES)}")
    workloads = _chosen(options.names or SHORT)
    print(heads())
    seeds = range(options.seed, options.seed + options.seeds)
    for number, workload in enumerate(workloads):
        print(title(workload))
        for policy in options.policies:
            with _progress(f"{number + 1} of {len(workloads)}: {workload.name}, {policy}"):
                found = _figures(workload, policy, seeds)
            print(row(policy, found), flush=True)
    print("", *legend(options.policies, options.seeds), sep="\n")


def _chosen(names: Sequence[str]) -> list[Workload]:
    """Return the workloads of the files that *names* has, and those with one of its other words in theirs."""
    found: list[Workload] = []
    for name in names:
        path = Path(name)
        known = read_file(path) if path.suffix in (".yaml", ".yml") else every([name])
        if not known:
            raise ConfigProblem([f"no workload has {name!r} in its name; `dmap simulate --list` shows them"])
        found += [each for each in known if each not in found]
    return found


def _figures(workload: Workload, policy: str, seeds: Sequence[int]) -> Figures:
    return together([figures_of(play(workload, policy, seed)) for seed in seeds])


@contextmanager
def _progress(text: str) -> Iterator[None]:
    """Show *text* on a terminal while something is done."""
    is_shown = sys.stderr.isatty()
    if is_shown:
        print(f"\r\x1b[K{text}"[:78], end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
