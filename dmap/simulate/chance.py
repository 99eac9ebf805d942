"""Times by chance, as a workload file writes them: `2`, `exponential 2` or `lognormal 2 1.3`."""

import math
import random
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainValidator

SHORTEST_S, LONGEST_S = 0.001, 300.0
"""No answer takes less on average, for time would stand still; no lognormal time is longer."""
MOST_SIGMA = 3.0
"""With more, nearly all times would be none at all."""
_NUMBERS = {"fixed": 1, "exponential": 1, "lognormal": 2}
_NO_TIME = "not a time; write it like 2, exponential 2 or lognormal 2 1.3 (mean and sigma)"


@dataclass(frozen=True, slots=True)
class Times:
    """A distribution of times: its *kind*, its *mean*, and for `lognormal` the *sigma* of the logarithm."""

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


def times(value: Any) -> Times:
    """Read a distribution; a number alone is the same time each time.  Raises `ValueError`."""
    if isinstance(value, Times):
        return value
    kind, *numbers = value.split() if isinstance(value, str) and " " in value.strip() else ("fixed", value)
    if isinstance(value, bool) or len(numbers) != _NUMBERS.get(kind):
        raise ValueError(_NO_TIME)
    try:
        found = Times(kind, *map(float, numbers))
    except (TypeError, ValueError):
        raise ValueError(_NO_TIME) from None
    is_one = 0 <= found.mean < math.inf and 0 <= found.sigma <= MOST_SIGMA
    if not is_one or (kind != "fixed" and not found.mean):
        raise ValueError(_NO_TIME)
    return found


def _answer(value: Any) -> Times:
    """Read how long an answer takes."""
    found = times(value)
    if found.mean < SHORTEST_S:
        raise ValueError("an answer takes its time")
    return found


Answer = Annotated[Times, PlainValidator(_answer)]
Time = Annotated[Times, PlainValidator(times)]
