"""What a window tells: pure functions over the questions that were asked in it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from statistics import median
from typing import Any

from bench.switches.clients import Ask
from bench.switches.pace import Load
from bench.switches.workloads import Workload

UNSERVED_S = 60.0


@dataclass(frozen=True)
class Window:
    """When the clients of a workload began to ask, and when they were stopped."""

    start: float
    end: float


@dataclass(frozen=True)
class Figures:
    """
    What one contender did with one workload in one window.

    *answers* counts them by model; *loads* those that ended in the window, and *load_s* is what the median
    took, from the start of the engine on.  *longest_s* is the longest time from a question to the first
    word of its answer, or to the window's end.  *unserved* are the clients that had no answer for
    `UNSERVED_S` at a stretch.  *refused* counts what was told instead of an answer, of which *reason* is the
    first.  *token_s* is the answer that took least, by its tokens.  *share* is of the two clients of a pause.
    """

    answers: Mapping[str, int]
    loads: int
    load_s: float
    longest_s: float
    unserved: int
    refused: int
    reason: str
    token_s: float
    share: float

    @property
    def total(self) -> int:
        """All answers."""
        return sum(self.answers.values())

    def as_json(self) -> dict[str, Any]:
        """Return the figures for a file."""
        return asdict(self)


def figures(workload: Workload, window: Window, asks: Sequence[Ask], loads: Sequence[Load]) -> Figures:
    """Reckon what the window tells; *asks* are in the order of their answers."""
    took = [load.ended - load.began for load in loads if window.start <= load.ended <= window.end]
    answered = [ask for ask in asks if ask.answered is not None]
    refused = [reason for ask in asks for reason in ask.refused]
    return Figures(
        answers={model: _count(model, answered) for model in workload.crowds},
        loads=len(took),
        load_s=median(took) if took else 0.0,
        longest_s=max((_until(ask.begun, window) - ask.asked for ask in asks), default=0.0),
        unserved=sum(
            _gap_s(name, asks, window) > UNSERVED_S for name in (each.name for each in workload.clients)
        ),
        refused=len(refused),
        reason=next(iter(refused), ""),
        token_s=min(
            ((_until(ask.answered, window) - ask.asked) / ask.tokens for ask in answered), default=0.0
        ),
        share=share_of_turns([ask.client.model for ask in answered], "a"),
    )


def _count(model: str, asks: Sequence[Ask]) -> int:
    return sum(ask.client.model == model for ask in asks)


def _until(when: float | None, window: Window) -> float:
    return window.end if when is None else when


def _gap_s(name: str, asks: Sequence[Ask], window: Window) -> float:
    """Return for how long at most the client *name* had no answer."""
    own = [ask.answered for ask in asks if ask.client.name == name and ask.answered is not None]
    return max(after - before for before, after in pairwise([window.start, *own, window.end]))


def share_of_turns(models: Sequence[str], model: str) -> float:
    """
    Return the part of its fair share that *model* got of answers that came from *models*, in this order.

    Fair is a half.  Counted are its turns from the second on, each with the turn of the other that follows;
    the last turn, which the end of the window may have cut, does not count.  Without any, it is 0.
    """
    turns = [(name, len(list(answers))) for name, answers in groupby(models)][:-1]
    own = [index for index, (name, _) in enumerate(turns[:-1]) if name == model][1:]
    got = sum(turns[index][1] for index in own)
    others = sum(turns[index + 1][1] for index in own)
    return 2 * got / (got + others) if own else 0.0
