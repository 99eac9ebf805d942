"""`dmap simulate`: which scenes are played under which policies, and what is said of them."""

import argparse
import asyncio
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dmap.config import ConfigProblem
from dmap.simulate.figures import figures_of, together
from dmap.simulate.owner import Owner, owner_of
from dmap.simulate.policies import POLICIES
from dmap.simulate.replay import read_log
from dmap.simulate.scenes import SHORT, Scene, chosen, replay_of, scenes_of
from dmap.simulate.table import WIDTH, heads, legend, row, verdict
from dmap.simulate.world import Result
from dmap.simulate.world import run as play

PLAIN = ("fifo", "drain", "dmap")


def run(options: argparse.Namespace) -> None:
    """
    Do what the command line says.

    *options* are those of `dmap.cli`, with *refuse* to end with a complaint.  Raises `ConfigProblem` for a
    file that cannot be used, and `OSError`.
    """
    if options.list:
        print("\n".join(workload.name for workload in chosen(options.names or [""])))
        return
    policies = options.policies or (PLAIN if options.replay is None else ("dmap",))
    if unknown := [name for name in policies if name not in POLICIES]:
        options.refuse(f"--policies: there is no {unknown[0]!r}; there are: {', '.join(POLICIES)}")
    if options.replay is not None and options.names:
        options.refuse("either --replay or names of workloads")
    if options.plot is not None and options.plot.suffix not in (".png", ".svg"):
        options.refuse("--plot: the file's name ends in .png or .svg")
    scenes = _scenes(options)
    if options.plot is not None and len(scenes) > 1:
        options.refuse(f"--plot draws one workload on one device, and these are {len(scenes)}: name one")
    draw = _drawer() if options.plot is not None else None
    seeds = range(options.seed, options.seed + (options.seeds if options.replay is None else 1))
    print(heads())
    for number, scene in enumerate(scenes):
        runs = _show(scene, policies, seeds, f"{number + 1} of {len(scenes)}: ")
        if draw is not None:
            draw(options.plot, scene.title, runs)
    print("", *legend(policies, len(seeds), is_replay=options.replay is not None), sep="\n")


def _scenes(options: argparse.Namespace) -> list[Scene]:
    """Return what is to be played, and say what is missing for it."""
    owners = asyncio.run(_owners(options.config))
    for owner in owners:
        for reason in owner.silent:
            _warn(f"{owner.name}: {reason}; its models are those that the file names")
    if options.replay is None:
        workloads = chosen(options.names or SHORT)
        return [scene for workload in workloads for scene in scenes_of(workload, owners, options.set)]
    logs, left_out = read_log(options.replay)
    for line in left_out:
        _warn(f"{options.replay}: {line}")
    return [replay_of(log, owners, options.set) for log in logs]


async def _owners(paths: Iterable[Path]) -> list[Owner]:
    return [await owner_of(path) for path in paths]


def _warn(text: str) -> None:
    print(f"dmap: {text}", file=sys.stderr)


def _show(scene: Scene, policies: Sequence[str], seeds: Sequence[int], progress: str) -> dict[str, Result]:
    """
    Play *scene* and print its rows, and in words what the changes would make of it.

    Return the run of each row with the first seed.
    """
    print(scene.title)
    for note in scene.notes:
        print(textwrap.fill(note, WIDTH, initial_indent="  ", subsequent_indent="    "))
    if scene.recorded is not None:
        print(row("as recorded", scene.recorded))
    jobs = [(policy, policy, scene.workload) for policy in policies]
    jobs += [(f"dmap {label}", "dmap", workload) for label, workload in scene.others.items()]
    found, first = {}, {}
    for label, policy, workload in jobs:
        with _progress(f"{progress}{scene.workload.name}, {label}"):
            runs = (play(workload, policy, seed) for seed in seeds)
            first[label] = next(runs)
            found[label] = together([figures_of(run) for run in (first[label], *runs)])
        print(row(label, found[label]), flush=True)
    for label in scene.others if "dmap" in found else ():
        told = verdict(label, found["dmap"], found[f"dmap {label}"])
        print(textwrap.fill(told, WIDTH, initial_indent="  ", subsequent_indent="    "))
    return first


def _drawer() -> Callable[[Path, str, Mapping[str, Result]], None]:
    """Return what draws, imported now; raises `Unplottable` where matplotlib is not there."""
    try:
        from dmap.simulate.plot import draw
    except ImportError as exc:
        raise ConfigProblem(["--plot takes matplotlib, the extra `plot`: pip install 'dmap[plot]'"]) from exc
    return draw


@contextmanager
def _progress(text: str) -> Iterator[None]:
    """Show *text* on a terminal while something is done."""
    is_shown = sys.stderr.isatty()
    if is_shown:
        print(f"\r\x1b[K{text[: WIDTH - 2]}", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
