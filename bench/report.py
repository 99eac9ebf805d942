"""From the raw figures of the rounds to tables for people. Pure: no processes, no clock."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

_RIVALS = ("nginx", "go")
_REACHED = 0.97  # of the offered rate; below it the round measured something else


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement of one proxy in one round. *figures* are as the Go program gave them."""

    round: int
    workload: str
    proxy: str
    figures: Mapping[str, Any]

    @property
    def unit(self) -> str:
        """What the CPU time is divided by: `chunks` or `requests`."""
        return "requests" if "requests" in self.figures else "chunks"

    @property
    def cost_us(self) -> float:
        """CPU microseconds of the proxy per unit."""
        return float(self.figures["proxy_ns"]) / 1000 / max(1, int(self.figures[self.unit]))

    @property
    def objection(self) -> str:
        """Why this measurement does not count, or nothing."""
        figures = self.figures
        if figures["faults"]:
            return f"{figures['faults']} faults, first: {figures['reasons'][0]}"
        if self.unit == "requests":
            missing = figures["sent_requests"] - figures["requests"]
            return f"{missing} requests without an answer" if missing else ""
        if (figures["all_chunks"], figures["all_bytes"]) != (figures["sent_chunks"], figures["sent_bytes"]):
            return f"{figures['all_chunks']} of {figures['sent_chunks']} chunks arrived"
        if figures["chunks"] < _REACHED * figures["offered"]:
            return f"{figures['chunks']} of {figures['offered']:.0f} offered chunks came within the window"
        return ""


def cost_table(
    results: Sequence[Result],
    proxies: Sequence[str],
    absent: Mapping[str, str],
    rivals: Sequence[str] = _RIVALS,
) -> Iterator[str]:
    """Yield the lines of one workload's table, of which *results* are, with ratios to the *rivals*."""
    unit = results[0].unit.removesuffix("s")
    yield (
        f"| proxy | CPU us/{unit} | min | max | "
        + " | ".join(f"/ {rival} (min-max)" for rival in rivals)
        + " | delay p50 us | delay p99 us | core used | by others | rounds |"
    )
    yield "|---|" + "---:|" * (8 + len(rivals))
    for proxy in proxies:
        yield _row(proxy, results, absent, rivals)


def _row(proxy: str, results: Sequence[Result], absent: Mapping[str, str], rivals: Sequence[str]) -> str:
    own = _valid(results, proxy)
    if not own:
        why = "absent" if proxy in absent else "no valid round"
        return f"| {proxy} | {why} |" + " - |" * (7 + len(rivals))
    costs = [result.cost_us for result in own]
    cells = [f"**{median(costs):.1f}**", f"{min(costs):.1f}", f"{max(costs):.1f}"]
    cells += [_ratio_cell(ratios(results, proxy, rival)) for rival in rivals]
    cells += [f"{_middle(own, delay):.0f}" for delay in (_delay_p50, _delay_p99)]
    cells += [f"{_middle(own, share):.0%}" for share in (_busy, _others)]
    cells += [f"{len(own)}/{sum(r.proxy == proxy for r in results)}"]
    return f"| {proxy} | " + " | ".join(cells) + " |"


def ratios(results: Sequence[Result], proxy: str, rival: str) -> list[float]:
    """Return cost of *proxy* over cost of *rival* for each round in which both count."""
    theirs = {result.round: result.cost_us for result in _valid(results, rival)}
    ours = {result.round: result.cost_us for result in _valid(results, proxy)}
    return [ours[number] / theirs[number] for number in ours if number in theirs]


def _valid(results: Sequence[Result], proxy: str) -> list[Result]:
    return [result for result in results if result.proxy == proxy and not result.objection]


def _ratio_cell(found: Sequence[float]) -> str:
    return f"{median(found):.2f} ({min(found):.2f}-{max(found):.2f})" if found else "-"


def _middle(results: Sequence[Result], pick: Callable[[Result], float]) -> float:
    return median(pick(result) for result in results)


def _delay_p50(result: Result) -> float:
    return float(result.figures["delay_us"]["p50"])


def _delay_p99(result: Result) -> float:
    return float(result.figures["delay_us"]["p99"])


def _busy(result: Result) -> float:
    return float(result.figures["proxy_ns"]) / float(result.figures["window_ns"])


def _others(result: Result) -> float:
    foreign = float(result.figures["core_ns"]) - float(result.figures["proxy_ns"])
    return max(0.0, foreign) / float(result.figures["window_ns"])


def generator_line(results: Sequence[Result]) -> str:
    """Say how busy the generator's core was, and how late the fake server."""
    busy = [result.figures["generator_ns"] / result.figures["window_ns"] for result in results]
    line = f"Generator and fake server used {median(busy):.0%} of their core (highest {max(busy):.0%})"
    if results[0].unit == "requests":
        return line + "."
    late = [result.figures["late_us"]["p99"] for result in results]
    merged = _middle(results, lambda r: r.figures["chunks"] / max(1, r.figures["reads"]))
    return f"{line}; it sent late by p99 {median(late):.0f} us; clients got {merged:.2f} chunks per read."


def memory_table(memory: Mapping[str, Mapping[str, Any]], streams: int) -> Iterator[str]:
    """Yield the lines of the memory table; *memory* maps a proxy to its samples in KiB."""
    yield (
        f"| proxy | idle RSS MiB | idle PSS MiB | {streams} streams RSS MiB | {streams} streams PSS MiB |"
        " KiB/stream (RSS) | KiB/stream (PSS) |"
    )
    yield "|---|" + "---:|" * 6
    for proxy, samples in memory.items():
        idle, held = samples["idle"], samples["held"]
        cells = [f"{sample[key] / 1024:.1f}" for sample in (idle, held) for key in ("rss", "pss")]
        cells += [f"{(held[key] - idle[key]) / streams:.1f}" for key in ("rss", "pss")]
        yield f"| {proxy} | " + " | ".join(cells) + " |"


def objections(results: Sequence[Result]) -> list[str]:
    """Return one line per measurement that does not count."""
    return [
        f"round {result.round}, {result.workload}, {result.proxy}: {result.objection}"
        for result in results
        if result.objection
    ]
