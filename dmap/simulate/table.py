"""The figures of runs as text for a terminal of 80 columns, and what their words mean."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from dmap.config import Device
from dmap.sections.types import size_text
from dmap.simulate.figures import Figures
from dmap.simulate.placements import PLACEMENTS
from dmap.simulate.policies import MEANINGS
from dmap.simulate.workload import UNBOUNDED, Workload

WIDTH = 80
_FIRST = 26
"""The columns of the policy's name, and of what was changed for it."""
WORTH_S = 2.0
"""One more device is worth so much less of a wait: people notice that."""
COLUMNS: Mapping[str, str] = {
    "served": "requests answered",
    "refused": "requests refused: a full queue, or a wait of wait_s, past or foreseen",
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
    lasts = lasting(workload.duration_s)
    return f"{workload.name}  (a load {took}, parallel {workload.parallel}, {lasts} in all)"


def counted(count: int, what: str) -> str:
    """Write so many of something that has an s behind it where there are several."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def lasting(seconds: float) -> str:
    """Write a length of time."""
    if seconds < 600:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3 * 3600 else f"{seconds / 3600:.3g} h"


def about_limits(whose: str, section: Device) -> str:
    """Say under which limits of a device a workload is played."""
    memory = f"memory {size_text(section.memory)}, " if section.memory is not None else ""
    lists = "".join(f"together {' + '.join(names)}, " for names in section.together)
    return (
        f"{whose}: {memory}max_models {section.max_models}, embeddings {section.embeddings}, {lists}"
        f"patience_s {section.patience_s:g}, residency {section.residency:g}, wait_s {section.wait_s:g}, "
        f"queue {section.queue}"
    )


def about_models(workload: Workload, names: Mapping[str, str]) -> str:
    """Say what the models are, and what each stands for by *names*; those that are alike together."""
    alike: dict[str, list[str]] = {}
    for model in workload.asks:
        name = names.get(model, model)
        alike.setdefault(_about(workload, model), []).append(model if name == model else f"{model} is {name}")
    return "; ".join(f"{', '.join(models)}: {facts}" for facts, models in alike.items())


def _about(workload: Workload, model: str) -> str:
    needs, given = workload.needs_of(model), workload.models.get(model)
    facts = [f"a load {workload.load_of(model):.3g} s", f"parallel {needs.parallel}"]
    if given is not None and given.memory is not None:
        facts.append(size_text(given.memory))
    elif workload.limits.memory is not None:
        facts.append("of unknown size, so alone")
    facts += [word for word, is_so in (("embedding", needs.embedding), ("pinned", needs.pinned)) if is_so]
    if needs.ttl_s is not None:
        facts.append(f"ttl_s {needs.ttl_s:g}")
    return ", ".join(facts)


def row(label: str, found: Figures) -> str:
    """Return a line of the table; a label that is too long has a line of its own."""
    first = f"  {label}".ljust(_FIRST)
    if len(first) > _FIRST:
        first += "\n" + " " * _FIRST
    loads = f"{100 * found.switches / found.served:.2f}" if found.served else "-"
    figures = f"{found.served:>9,.0f}{found.refused:>9,.0f}{loads:>10}{found.mean_s:>8.1f}{found.p95_s:>8.1f}"
    return f"{first}{figures}{found.longest_s:>10.1f}"


def about_bounds(bounds_s: Mapping[str, float]) -> str:
    """Say how long a wait for each model may be."""
    alike: dict[str, list[str]] = {}
    for model, bound in bounds_s.items():
        words = f"{bound:,.0f} s" if bound < UNBOUNDED else "none, for wait_s is not set"
        alike.setdefault(words, []).append(model)
    return "bound: " + "; ".join(f"{', '.join(models)} {words}" for words, models in alike.items())


def legend(
    policies: Sequence[str], seeds: int, *, is_replay: bool = False, is_fleet: bool = False
) -> Iterator[str]:
    """Say what the columns and the *policies* mean, which are placements for a fleet."""
    meanings = {name: each.meaning for name, each in PLACEMENTS.items()} if is_fleet else MEANINGS
    words = [*COLUMNS.items(), *((name, meanings[name]) for name in policies)]
    if is_fleet and "dmap" in policies:
        words.append(("one dies", "one box is dead for a fifth of the time"))
    elif "dmap" in policies:
        words.append(("bound", "what no wait exceeds under dmap, with such clients and answers"))
    if is_replay:
        words.append(("as recorded", "what the log says; below it the same requests in virtual time"))
    for word, meaning in words:
        yield from textwrap.wrap(f"{word:<15}{meaning}", WIDTH, subsequent_indent=" " * 15)
    if seeds > 1:
        yield f"All figures but the longest wait are means over {seeds} seeds."


def need(found: Mapping[int, Figures]) -> Iterator[str]:
    """
    Say how many boxes are needed, by the figures *found* for each number of them.

    One more is, where it takes `WORTH_S` off the wait that one in twenty exceeds, or where fewer are refused.
    """
    steps = list(pairwise(sorted(found)))
    for fewer, more in steps:
        yield verdict(f"{boxes(more)} instead of {fewer}", found[fewer], found[more])
    for fewer, more in steps:
        if not _is_worth(found[fewer], found[more]):
            waits = f"{_seconds(found[more].p95_s)} instead of {_seconds(found[fewer].p95_s)}"
            is_enough = f"{boxes(fewer)} {'is' if fewer == 1 else 'are'} enough for this load"
            yield f"{is_enough}: with {more} one request in twenty waits longer than {waits}"
            return
    yield f"{boxes(steps[-1][1])} are not too many for this load: play more of them, too"


def boxes(count: int) -> str:
    """Write so many boxes."""
    return "1 box" if count == 1 else f"{count} boxes"


def _is_worth(before: Figures, after: Figures) -> bool:
    """Tell whether more devices are worth it."""
    fewer = round(before.refused) - round(after.refused)
    return before.p95_s - after.p95_s >= WORTH_S or fewer > 0.001 * before.served


def verdict(label: str, before: Figures, after: Figures) -> str:
    """Say in words what would be other under the changed setting *label*."""
    parts = []
    if before.switches and (percent := round(100 * (after.switches / before.switches - 1))):
        parts.append(f"{abs(percent)} % {'more' if percent > 0 else 'fewer'} switches")
    for name, attribute in (("mean wait", "mean_s"), ("p95 wait", "p95_s"), ("longest wait", "longest_s")):
        seconds = getattr(after, attribute) - getattr(before, attribute)
        if abs(seconds) >= max(0.05, 0.02 * getattr(before, attribute)):
            parts.append(f"{name} {_seconds(abs(seconds))} {'more' if seconds > 0 else 'less'}")
    for what in ("refused", "left", "cut", "served"):
        count = round(getattr(after, what) - getattr(before, what))
        if count:
            parts.append(f"{abs(count):,} {'more' if count > 0 else 'fewer'} {what}")
    return f"{label}: {', '.join(parts) or 'no difference'}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
