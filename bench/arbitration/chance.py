"""Times by chance, as a workload file writes them: `2`, `exponential 2` or `lognormal 2 1.3`."""

import math
import random
from dataclasses import dataclass

LONGEST_S = 300.0
"""No lognormal answer takes longer."""


@dataclass(frozen=True, slots=True)
class Times:
    """A distribution of seconds: its *kind*, its *mean*, and for `lognormal` its *sigma*."""

    kind: str
    mean: float
    sigma: float = 0.0

    def draw(self, chance: random.Random) -> float:
        """Return the next time."""
        if self.kind == "exponential":
            return chance.expovariate(1 / self.mean)
        if self.kind == "lognormal":
            centre = math.log(self.mean) - self.sigma**2 / 2
            return min(chance.lognormvariate(centre, self.sigma), LONGEST_S)
        return self.mean


def times(text: str | float) -> Times:
    """Read a distribution; a number alone is the same time each time."""
    if not isinstance(text, str):
        return Times("fixed", float(text))
    kind, *numbers = text.split()
    return Times(kind, *map(float, numbers))
