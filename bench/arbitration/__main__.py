"""
Play workloads under policies, and print what became of them as a table.

    python -m bench.arbitration                             # all workloads, fifo and dmap; long
    python -m bench.arbitration open diurnal --seeds 3 --seconds 1200
    python -m bench.arbitration closed --policies dmap --save now.json --beside before.json

Without --seconds it then says which of the bars in `bars` are missed.
"""

import argparse
import json
import multiprocessing
from pathlib import Path
from statistics import fmean

from bench.arbitration.bars import count, missed
from dmap.simulate import Workload, every, figures_of, run

HEADS = ("mean", "p95", "longest", "served", "refused", "switches")
MOST_GROUPS = 8
Figures = dict[str, float]


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("words", nargs="*", help="words in the names of the workloads to play")
    parser.add_argument("--policies", default="fifo,dmap")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--save", type=Path, help="keep the figures here")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="show figures that were kept")
    options = parser.parse_args()
    workloads = [_cut(each, options.seconds) for each in every(options.words)]
    names = options.policies.split(",")
    jobs = [
        (each, name, seed) for each in workloads for name in names for seed in range(1, options.seeds + 1)
    ]
    with multiprocessing.Pool(2) as pool:
        figures = pool.starmap(_play, jobs, chunksize=1)
    rows: dict[str, dict[str, list[Figures]]] = {}
    for (workload, name, _), found in zip(jobs, figures, strict=True):
        rows.setdefault(workload.name, {}).setdefault(name, []).append(found)
    if options.save:
        options.save.write_text(json.dumps(rows))
    for path in options.beside:
        for workload, others in json.loads(path.read_text()).items():
            if workload in rows:
                rows[workload] |= {f"{path.stem}:{name}"[:12]: found for name, found in others.items()}
    _print(rows)
    if options.seconds is None:
        _judge(rows)


def _judge(rows: dict[str, dict[str, list[Figures]]]) -> None:
    """Say which bars are missed, of those that there are for what was played."""
    failed = list(missed(rows))
    print("", *failed, f"{count(rows)} bars, {len(failed)} missed", sep="\n")


def _cut(workload: Workload, seconds: float | None) -> Workload:
    least = min(seconds or workload.duration_s, workload.duration_s)
    return workload.model_copy(update={"duration_s": least})


def _play(workload: Workload, policy: str, seed: int) -> Figures:
    """Return what a row shows of a run, under the names that files of `--save` have."""
    found = figures_of(run(workload, policy, seed))
    groups = found.served_by_group if 1 < len(found.served_by_group) <= MOST_GROUPS else ()
    return {
        **{head: getattr(found, f"{head}_s") for head in HEADS[:3]},
        **{head: getattr(found, head) for head in HEADS[3:]},
        **{f"{name}: served": found.served_by_group[name] for name in groups},
        **{f"{name}: longest": found.longest_by_group[name] for name in groups},
    }


def _print(rows: dict[str, dict[str, list[Figures]]]) -> None:
    print(f"{'workload':<34}{'policy':<13}" + "".join(f"{head:>17}" for head in HEADS[:3]), end="")
    print("".join(f"{head:>14}" for head in HEADS[3:]))
    for workload, policies in rows.items():
        base = policies.get("fifo")
        for name, found in policies.items():
            print(f"{workload:<34}{name:<13}" + _row(found, base if name != "fifo" else None))
            workload = ""


def _row(found: list[Figures], base: list[Figures] | None) -> str:
    cells = []
    for head in HEADS:
        ours = fmean(each[head] for each in found)
        theirs = fmean(each[head] for each in base) if base else 0.0
        times = f"x{ours / theirs:.2f}" if theirs and head in HEADS[:4] else ""
        cells.append(f"{ours:>10.1f} {times:<6}" if head in HEADS[:3] else f"{ours:>8.0f} {times:<5}")
    worst = max(each["longest"] for each in found)
    groups = {head: fmean(each[head] for each in found) for head in found[0] if ":" in head}
    return "".join(cells) + f" worst {worst:.0f} " + " ".join(f"{head} {s:.0f}" for head, s in groups.items())


if __name__ == "__main__":
    main()
