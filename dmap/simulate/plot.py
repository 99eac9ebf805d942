"""
What happened in a run, drawn: residency and queue over time, and the waits by client.  PNG or SVG.

It takes matplotlib, the extra `plot`; nothing else imports this file before it is needed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from dmap.simulate.figures import p95
from dmap.simulate.result import Result

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito's, which people with any colour vision tell apart."""
RUNS = ("#332288", "#AA4499", "#999933", "#882255", "#44AA99", "#777777")
"""Colours for policies, which are none of those of models."""
POINTS = 1500
"""So many spans of time are drawn, each with its mean: a week has more switches than a picture has dots."""
PALE = 0.3
WIDE_S = 600
"""Longer waits than that are drawn on a logarithmic scale."""
MOST_NAMES = 12
"""Of so many clients at the most, each has waits of its own in the picture."""


def draw(path: Path, title: str, runs: Mapping[str, Result]) -> None:
    """Draw *runs* of one workload, by policy, into the file at *path*; its suffix tells the format."""
    models = sorted({stay.model for run in runs.values() for stay in run.stays})
    colours = {model: COLOURS[place % len(COLOURS)] for place, model in enumerate(models)}
    heights = [height for _ in runs for height in (0.35 + 0.22 * len(models), 1.5)]
    names = _names(runs)
    heights.append(0.6 + 0.16 * len(names) * (len(runs) + 0.6))
    figure = Figure(
        figsize=(11, 0.9 + 1.25 * sum(heights)), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06)
    )
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(len(heights), 1, height_ratios=heights)
    unit_s, unit = _unit(max(run.ended_s for run in runs.values()))
    for place, (label, run) in enumerate(runs.items()):
        residency, queue = axes[2 * place], axes[2 * place + 1]
        _draw_residency(residency, run, colours, unit_s)
        residency.set_title(label, loc="left", fontsize=10, fontweight="bold")
        _draw_queue(queue, run, colours, unit_s)
        queue.set_xlabel(f"{unit} since the start")
        residency.sharex(queue)
    _legend(axes[0], colours)
    _draw_waits(axes[-1], runs, names)
    _scale(axes[1:-1:2])
    with rc_context({"svg.fonttype": "none"}):  # text stays text, to be searched and read out
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def _unit(ended_s: float) -> tuple[float, str]:
    if ended_s > 3 * 3600:
        return 3600, "hours"
    return (60, "minutes") if ended_s > 600 else (1, "seconds")


def _draw_residency(axes: Axes, run: Result, colours: Mapping[str, str], unit_s: float) -> None:
    """Draw a line per model, the fuller the more of the time it is resident, and pale while it loads."""
    edges = np.linspace(0, run.ended_s, POINTS + 1)
    for row, (model, colour) in enumerate(colours.items()):
        stays = [stay for stay in run.stays if stay.model == model]
        there = _mean(edges, [stay.since for stay in stays], [stay.until for stay in stays])
        ready = _mean(edges, [stay.ready or stay.until for stay in stays], [stay.until for stay in stays])
        image = np.zeros((1, POINTS, 4))
        image[0, :, :3] = to_rgb(colour)
        image[0, :, 3] = np.clip(ready + PALE * (there - ready), 0, 1)
        extent = (0, run.ended_s / unit_s, row + 0.4, row - 0.4)
        axes.imshow(image, extent=extent, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(colours)), list(colours), fontsize=8)
    axes.set_ylim(len(colours) - 0.4, -0.6)
    axes.set_ylabel("resident")
    axes.tick_params(labelbottom=False)
    axes.grid(axis="x", alpha=0.3)


def _draw_queue(axes: Axes, run: Result, colours: Mapping[str, str], unit_s: float) -> None:
    """Draw how many wait for each model, one upon the other."""
    edges = np.linspace(0, run.ended_s, POINTS + 1)
    asked = (*run.answers, *run.refused, *run.left, *run.waiting)
    counts = []
    for model in colours:
        waits = [each for each in asked if each.model == model]
        counts.append(
            _mean(edges, [each.since for each in waits], [each.since + each.wait_s for each in waits])
        )
    axes.stackplot(edges[:-1] / unit_s, counts, colors=list(colours.values()), step="post", linewidth=0)
    axes.set_xlim(0, run.ended_s / unit_s)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("requests waiting")
    axes.grid(alpha=0.3)


def _mean(edges: Any, begins: Sequence[float], ends: Sequence[float]) -> Any:
    """Return how many of the spans from *begins* to *ends* there are on average between each two *edges*."""
    return np.diff(_past(edges, begins) - _past(edges, ends)) / np.diff(edges)


def _past(times: Any, moments: Sequence[float]) -> Any:
    """Return for each of *times* the sum of the seconds since those *moments* that are past by then."""
    past = np.sort(np.asarray(moments, dtype=float))
    count = np.searchsorted(past, times, "right")
    return count * times - np.concatenate(([0.0], np.cumsum(past)))[count]


def _draw_waits(axes: Axes, runs: Mapping[str, Result], names: Mapping[str, str]) -> None:
    """Draw, for each client and run, the median wait, a bar up to the 95th percentile, and the longest."""
    rows = list(dict.fromkeys(names.values()))
    step = 0.8 / len(runs)
    for place, (label, run) in enumerate(runs.items()):
        by_name: dict[str, list[float]] = {row: [] for row in rows}
        for request in run.waits():
            by_name[names.get(request.client) or names[request.model]].append(request.wait_s)
        found = [(row, sorted(waits)) for row, waits in enumerate(by_name.values()) if waits]
        at = [row - 0.4 + step * (place + 0.5) for row, _ in found]
        colour = RUNS[place % len(RUNS)]
        axes.barh(at, [p95(waits) for _, waits in found], 0.8 * step, color=colour, alpha=0.45, label=label)
        axes.plot([waits[len(waits) // 2] for _, waits in found], at, "|", color=colour, ms=7, mew=2)
        axes.plot([waits[-1] for _, waits in found], at, ">", color=colour, ms=4)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    longest = max((request.wait_s for run in runs.values() for request in run.waits()), default=0)
    if longest > WIDE_S:
        axes.set_xscale("symlog", linthresh=10)
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of wait until the answer begins")
    axes.set_ylabel("client (model)")
    axes.set_title(
        "Waits by client: | median, bar 95 %, > longest", loc="left", fontsize=10, fontweight="bold"
    )
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, ncols=min(len(runs), 5), loc="lower right", bbox_to_anchor=(1, 1), frameon=False)


def _names(runs: Mapping[str, Result]) -> dict[str, str]:
    """
    Return what each client is called: by itself if there are few, with what it asks for.

    Of many those are who ask most, if that is most of all there is; else clients are told apart by model.
    """
    requests = [each for run in runs.values() for each in run.waits()]
    asked = Counter(request.client for request in requests)
    most = asked.most_common(MOST_NAMES if len(asked) <= MOST_NAMES else MOST_NAMES - 1)
    models: dict[str, set[str]] = {}
    for request in requests:
        models.setdefault(request.client, set()).add(request.model)
    if 2 * sum(count for _, count in most) < len(requests):
        return {model: f"all ({model})" for model in sorted(set().union(*models.values()))}
    named = {client: f"{client} ({', '.join(sorted(models[client]))})" for client, _ in sorted(most)}
    return named | {client: f"{len(asked) - len(most)} others" for client in asked if client not in named}


def _legend(axes: Axes, colours: Mapping[str, str]) -> None:
    shown = [Patch(facecolor=colour, label=model) for model, colour in colours.items()]
    pale = Patch(facecolor="grey", alpha=PALE, label="pale: it loads, or is there for a part of the time")
    axes.legend(
        handles=[*shown, pale],
        fontsize=8,
        ncols=min(len(shown) + 1, 7),
        loc="lower right",
        bbox_to_anchor=(1, 1),
        frameon=False,
    )


def _scale(queues: Iterable[Axes]) -> None:
    """Give all queues one scale, so that heights can be compared."""
    drawn = list(queues)
    most = max(axes.get_ylim()[1] for axes in drawn)
    for axes in drawn:
        axes.set_ylim(0, most)
