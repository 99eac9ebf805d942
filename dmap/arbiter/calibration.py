"""
How far what was reckoned is to be trusted: by what came of it lately.

A wait is reckoned by plain arithmetic (`outlook`), which knows nothing of chance.  So what came is kept as a
multiple of what was reckoned, and the next wait is told as reckoned times the quantiles of these multiples
(split conformal prediction: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005).
What is told as the 80th percentile then covers four of five waits, whatever the arithmetic leaves out,
as long as the next ones are like the last ones.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from dmap.arbiter.state import Reckoned, Situation, Wait

RECENT = 256
"""So many waits of a situation count: enough for a tenth of them, few enough to follow a day."""
PRIOR = (0.5, 0.75, 1, 1, 1, 1, 1.25, 1.5, 2)
"""Each situation begins with these multiples."""
SLACK_S = 1.0
"""A second more or less is no error: it is added to both sides, so that a wait of no time has a multiple."""
FEW = 1 / 10
"""Hardly anybody: this share."""


@dataclass(slots=True)
class Multiples:
    """The last `RECENT` multiples, in order of time and in order of size."""

    _recent: deque[float]
    _ranked: list[float]

    @classmethod
    def of(cls, multiples: Iterable[float]) -> "Multiples":
        """Begin with *multiples*."""
        return cls(deque(multiples), sorted(multiples))

    def add(self, multiple: float) -> None:
        """Note one more, and forget the oldest of too many."""
        self._recent.append(multiple)
        insort(self._ranked, multiple)
        if len(self._recent) > RECENT:
            del self._ranked[bisect_left(self._ranked, self._recent.popleft())]

    def quantile(self, share: float) -> float:
        """Return the least multiple that so large a share of them does not exceed."""
        return self._ranked[max(math.ceil(share * len(self._ranked)), 1) - 1]


@dataclass(slots=True)
class Calibration:
    """What came of the waits of one device, by situation."""

    _multiples: dict[Situation, Multiples] = field(
        default_factory=lambda: {situation: Multiples.of(PRIOR) for situation in Situation}
    )

    def tell(self, reckoned: Reckoned) -> Wait:
        """Return what to tell of a wait."""
        return Wait(self._at(reckoned, 0.5), self._at(reckoned, 0.8))

    def least_s(self, reckoned: Reckoned) -> float:
        """Return what hardly any such wait undercuts."""
        return self._at(reckoned, FEW)

    def learn(self, reckoned: Reckoned, came_s: float) -> None:
        """Note what came of a wait."""
        self._multiples[reckoned.situation].add((came_s + SLACK_S) / (reckoned.wait_s + SLACK_S))

    def _at(self, reckoned: Reckoned, share: float) -> float:
        multiple = self._multiples[reckoned.situation].quantile(share)
        return max((reckoned.wait_s + SLACK_S) * multiple - SLACK_S, 0.0)
