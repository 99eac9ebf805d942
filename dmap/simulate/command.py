"""`dmap simulate`: which scenes are played under which policies, and what is said of them."""

import argparse
import asyncio
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dmap.config import ConfigProblem
from dmap.extras import how
from dmap.logfmt import barred
from dmap.simulate.figures import Figures, figures_of, together
from dmap.simulate.jobs import Job, on_fleets, on_one_device
from dmap.simulate.owner import Owner, owner_of
from dmap.simulate.placements import PLACEMENTS
from dmap.simulate.policies import POLICIES
from dmap.simulate.promise import promised_s
from dmap.simulate.replay import read_log
from dmap.simulate.result import Result
from dmap.simulate.scenes import FLEETS, SHORT, Scene, chosen, replay_of, scenes_of
from dmap.simulate.table import WIDTH, about_bounds, boxes, heads, legend, need, row, verdict

PLAIN = ("fifo", "drain", "dmap")
PLAIN_FLEET = ("hash", "bounded", "dmap")


def run(options: argparse.Namespace) -> None:
    """
    Do what the command line says.

    *options* are those of `dmap.cli`, with *refuse* to end with a complaint.  Raises `ConfigProblem` for a
    file that cannot be used, and `OSError`.
    """
    if options.list:
        print("\n".join(workload.name for workload in chosen(options.names or [""])))
        return
    policies = _policies(options)
    _check(options, policies)
    scenes = _scenes(options)
    draw = _drawer() if options.plot is not None else None
    seeds = range(options.seed, options.seed + (options.seeds if options.replay is None else 1))
    print(heads())
    for number, scene in enumerate(scenes):
        jobs = on_fleets(scene, options.fleet, policies) if options.fleet else on_one_device(scene, policies)
        rows = _show(scene, [*jobs], seeds, f"{number + 1} of {len(scenes)}: ")
        if draw is not None:
            path = options.plot if len(scenes) == 1 else _named(options.plot, scene.workload.name)
            draw(path, scene.title, {label: row.run for label, row in rows.items()})
            _print_notes([f"drawn: {path}"])
    words = legend(policies, len(seeds), is_replay=options.replay is not None, is_fleet=bool(options.fleet))
    print("", *words, sep="\n")


def _policies(options: argparse.Namespace) -> Sequence[str]:
    """Return the policies, or the placements, to be played: dmap's alone where other things are compared."""
    if options.policies:
        return tuple(options.policies)
    if options.fleet:
        return PLAIN_FLEET if len(options.fleet) == 1 else PLAIN_FLEET[-1:]
    return PLAIN if options.replay is None else PLAIN[-1:]


def _check(options: argparse.Namespace, policies: Sequence[str]) -> None:
    """Refuse what does not fit together."""
    known = PLACEMENTS if options.fleet else POLICIES
    if unknown := [name for name in policies if name not in known]:
        options.refuse(f"--policies: there is no {unknown[0]!r}; there are: {', '.join(known)}")
    if options.replay is not None and options.names:
        options.refuse("either --replay or names of workloads")
    if options.plot is not None and options.plot.suffix not in (".png", ".svg"):
        options.refuse("--plot: the file's name ends in .png or .svg")
    if options.plot is not None and options.fleet:
        options.refuse("--plot draws one device, not a --fleet")


def _named(path: Path, name: str) -> Path:
    """Return *path* with *name*, of several pictures, before its suffix."""
    return path.with_stem(f"{path.stem}-{re.sub(r'[^A-Za-z0-9.+]+', '-', name)}")


def _scenes(options: argparse.Namespace) -> list[Scene]:
    """Return what is to be played, and say what is missing for it."""
    owners = asyncio.run(_owners(options.config))
    for owner in owners:
        for reason in owner.silent:
            _warn(f"{owner.name}: {reason}; its models are those that the file names")
    if options.replay is None:
        workloads = chosen(options.names or (FLEETS if options.fleet else SHORT))
        return [scene for workload in workloads for scene in scenes_of(workload, owners, options.set)]
    logs, left_out = read_log(options.replay)
    for line in left_out:
        _warn(f"{options.replay}: {line}")
    return [replay_of(log, owners, options.set) for log in logs]


async def _owners(paths: Iterable[Path]) -> list[Owner]:
    return [await owner_of(path) for path in paths]


def _warn(text: str) -> None:
    print(barred(f"dmap: {text}"), file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one row of the table: the first run, the figures of all, the bounds on a wait."""

    run: Result
    figures: Figures
    bounds_s: Mapping[str, float]


def _show(scene: Scene, jobs: Sequence[Job], seeds: Sequence[int], progress: str) -> dict[str, Row]:
    """Play *jobs* of *scene* and print their rows, and in words what the changes would make of it."""
    print(barred(scene.title))
    _print_notes(scene.notes)
    if scene.recorded is not None:
        print(row("as recorded", scene.recorded))
    rows = {}
    for job in jobs:
        with _progress(f"{progress}{scene.workload.name}, {job.label}") as tell:
            rows[job.label] = _played(job, seeds, tell)
        print(row(job.label, rows[job.label].figures), flush=True)
    if "dmap" in rows:
        _print_notes([about_bounds(rows["dmap"].bounds_s)])
    for job in jobs:
        if job.beside is not None:
            change = job.label.removeprefix(job.beside).lstrip(", ")
            if job.boxes is not None and len({each.boxes for each in jobs}) > 1:
                change = f"{boxes(job.boxes)}, {change}"
            _print_notes([verdict(change, rows[job.beside].figures, rows[job.label].figures)])
    counted = {job.boxes: rows[job.label].figures for job in jobs if job.boxes and not job.beside}
    _print_notes(need(counted) if len(counted) > 1 else ())
    return rows


def _played(job: Job, seeds: Sequence[int], tell: Callable[[str], None]) -> Row:
    first, figures, bounds_s = None, list[Figures](), dict[str, float]()
    for number, seed in enumerate(seeds, 1):
        tell(f", seed {number} of {len(seeds)}" if len(seeds) > 1 else "")
        run = job.play(seed)
        first = first or run
        figures.append(figures_of(run))
        for model, bound_s in promised_s(job.workload, run).items():
            bounds_s[model] = max(bound_s, bounds_s.get(model, 0.0))
    assert first is not None, "there is a seed"
    return Row(first, together(figures), bounds_s)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(textwrap.fill(barred(note), WIDTH, initial_indent="  ", subsequent_indent="    "))


def _drawer() -> Callable[[Path, str, Mapping[str, Result]], None]:
    """Return what draws, imported now; raises `ConfigProblem` where matplotlib is not there."""
    try:
        from dmap.simulate.plot import draw
    except ImportError as exc:
        raise ConfigProblem([f"--plot takes matplotlib; {how('plot')}"]) from exc
    return draw


@contextmanager
def _progress(text: str) -> Iterator[Callable[[str], None]]:
    """Show *text* on a terminal while something is done, and behind it what is told of that."""
    is_shown = sys.stderr.isatty()

    def show(line: str) -> None:
        if is_shown:
            print(f"\r\x1b[K{barred(line)[: WIDTH - 2]}", end="", file=sys.stderr, flush=True)

    try:
        yield lambda more: show(text + more)
    finally:
        show("")
