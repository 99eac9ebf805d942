"""Times by chance, as a workload file writes them: `2`, `exponential 2` or `lognormal 2 1.3`."""

import math
import random
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainValidator

LONGEST_S = 300.0
"""No lognormal time is longer."""
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
    if not (0 <= found.mean < math.inf and 0 <= found.sigma < math.inf) or (
        kind != "fixed" and not found.mean
    ):
        raise ValueError(_NO_TIME)
    return found


def _answer(value: Any) -> Times:
    """Read how long an answer takes, which is not nothing: time would stand still."""
    found = times(value)
    if not found.mean:
        raise ValueError("an answer takes its time")
    return found


Answer = Annotated[Times, PlainValidator(_answer)]
Time = Annotated[Times, PlainValidator(times)]
