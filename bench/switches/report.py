"""The tables: what each contender did with each workload, and which bars dmap has met."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.switches.figures import UNSERVED_S, Figures
from bench.switches.workloads import MANY, PAUSE, SIX, THREE, TWO, Workload

Rounds = Sequence[Figures]
Results = Mapping[Workload, Mapping[str, Rounds]]
"""By workload and contender, what each round brought."""

TIMES, LONGEST_S, KEPT, EVEN, SHARE = 2.4, 20.0, 0.8, 1.15, 0.9
HEADS = (
    "workload",
    "contender",
    "answers",
    "by model",
    "loads",
    "load s",
    "longest s",
    "unserved",
    "refused",
    "s/token",
)


@dataclass(frozen=True)
class Bar:
    """A promise: *figure* is what was measured, *needed* what it has to be."""

    what: str
    figure: str
    needed: str
    met: bool


def table(results: Results) -> Iterator[str]:
    """Yield the lines of the table of all results: medians over the rounds, of the unserved the most."""
    yield "| " + " | ".join(HEADS) + " |"
    yield "|---|---|" + "---:|" * (len(HEADS) - 2)
    for workload, contenders in results.items():
        for name, rounds in contenders.items():
            yield "| " + " | ".join(_row(workload, name, rounds)) + " |"


def _row(workload: Workload, name: str, rounds: Rounds) -> Iterator[str]:
    totals = sorted(each.total for each in rounds)
    yield from (workload.name, name)
    yield f"{median(totals):.0f} ({totals[0]}-{totals[-1]})"
    yield " ".join(f"{model} {_answers(rounds, model):.0f}" for model in workload.crowds)
    yield f"{_of(rounds, lambda each: each.loads):.0f}"
    yield f"{_of(rounds, lambda each: each.load_s):.2f}"
    yield f"{_of(rounds, lambda each: each.longest_s):.1f}"
    yield f"{max(each.unserved for each in rounds)} of {len(workload.clients)}"
    yield f"{sum(each.refused for each in rounds)}"
    yield f"{_of(rounds, lambda each: each.token_s):.4f}"


def _answers(rounds: Rounds, model: str) -> float:
    return _of(rounds, lambda each: each.answers[model])


def _of(rounds: Rounds, figure: Callable[[Figures], float]) -> float:
    return median(map(figure, rounds))


def bars(results: Results, seconds: float) -> Iterator[Bar]:
    """Yield the bars, as far as those whom they take are there; windows were of *seconds*."""
    for workload, contenders in results.items():
        if "dmap" not in contenders:
            continue
        own = contenders["dmap"]
        peers = {name: rounds for name, rounds in contenders.items() if name != "dmap"}
        if workload == TWO:
            yield from _beside_llama_swap(own, peers.get("llama-swap"))
        elif workload in (SIX, THREE, MANY):
            yield from _without_starving(workload, own, peers, seconds)
        elif workload == PAUSE:
            share = _of(own, lambda each: each.share)
            yield Bar("pause: of the share of who paused", f"{share:.2f}", f">= {SHARE}", share >= SHARE)


def _beside_llama_swap(own: Rounds, peer: Rounds | None) -> Iterator[Bar]:
    longest_s = _of(own, lambda each: each.longest_s)
    yield Bar(f"{TWO.name}: longest wait", f"{longest_s:.1f} s", f"<= {LONGEST_S} s", longest_s <= LONGEST_S)
    if peer:
        times = median(mine.total / its.total for mine, its in zip(own, peer, strict=True))
        yield Bar(f"{TWO.name}: answers / llama-swap's", f"{times:.2f}", f">= {TIMES}", times >= TIMES)


def _without_starving(
    workload: Workload, own: Rounds, peers: Mapping[str, Rounds], seconds: float
) -> Iterator[Bar]:
    unserved = max(each.unserved for each in own)
    what = f"{workload.name}: clients without an answer for {UNSERVED_S:g} s"
    if seconds > UNSERVED_S:
        yield Bar(what, f"{unserved}", "0", unserved == 0)
    if peers:
        most, name = max((_of(rounds, lambda each: each.total), name) for name, rounds in peers.items())
        kept = _of(own, lambda each: each.total) / most
        yield Bar(f"{workload.name}: answers / {name}'s", f"{kept:.2f}", f">= {KEPT}", kept >= KEPT)
    if equal := _equal_crowds(workload):
        apart = _of(own, lambda each: _apart([each.answers[model] for model in equal]))
        yield Bar(f"{workload.name}: {' '.join(equal)} apart", f"{apart:.2f}", f"<= {EVEN}", apart <= EVEN)


def _equal_crowds(workload: Workload) -> list[str]:
    """Return the models of the largest crowds, if there are several of one size."""
    most = max(workload.crowds.values())
    equal = [model for model, count in workload.crowds.items() if count == most]
    return equal if len(equal) > 1 else []


def _apart(counts: Sequence[int]) -> float:
    return max(counts) / min(counts) if min(counts) else float("inf")
