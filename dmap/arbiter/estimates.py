"""What the arbiter learns: the lengths of answers, and who is to be held back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from dmap.arbiter.effects import ClientId, ModelId

WEIGHT = 0.3
"""Share of a new sample in a moving average: three samples outweigh all before them."""
ANSWER_GUESS_S = 5.0
CLIENTS = 4096
"""So many clients, models, or both together, are remembered; the longest silent are forgotten first."""
HOLD_CAP_S = 60.0
FIRST_BACK_OFF_S, BACK_OFF_CAP_S = 2.0, 60.0
"""The back-off of a model doubles with each failed load, from the first to the cap."""


@dataclass(slots=True)
class Averages:
    """A moving average per model; for those without a sample the median of the others, at first a guess."""

    _guess: float
    values: dict[ModelId, float] = field(default_factory=dict)

    def of(self, model: ModelId) -> float:
        """Return the average, or what is typical."""
        return self.values.get(model, self._guess)

    def learn(self, model: ModelId, sample: float) -> None:
        """Take a sample; the first one counts whole."""
        average = self.values.get(model, sample)
        self._keep(model, average + WEIGHT * (sample - average))

    def recall(self, values: Mapping[ModelId, float]) -> None:
        """Begin with *values* from before; what was learnt since then holds."""
        for model, value in values.items():
            self._keep(model, self.values.get(model, value))

    def _keep(self, model: ModelId, value: float) -> None:
        remember(self.values, model, value)
        self._guess = median(self.values.values())


def remember(memory: dict[Any, Any], key: Any, value: Any, most: int = CLIENTS) -> None:
    """Put *key* last, and forget the first of more than *most*."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > most:
        del memory[next(iter(memory))]


@dataclass(slots=True)
class Strikes:
    """
    Clients that caused switches and left before the answer: how long each must wait to evict again.

    Everybody may change their mind once.
    """

    _strikes: dict[ClientId, tuple[int, float]] = field(default_factory=dict)

    def add(self, now: float, client: ClientId, cost_s: float) -> None:
        """Note a switch that *client* left.  From the second on it holds: for one cost, then two, four."""
        count, _ = self._strikes.get(client, (0, 0.0))
        hold_s = min(cost_s * 2.0 ** (count - 1), HOLD_CAP_S) if count else 0.0
        remember(self._strikes, client, (min(count + 1, 16), now + hold_s))

    def clear(self, client: ClientId) -> None:
        """Forget the strikes of a client that was served."""
        self._strikes.pop(client, None)

    def held_until(self, client: ClientId) -> float:
        """Return when *client* may evict again, a time past if it may."""
        return self._strikes.get(client, (0, 0.0))[1]


@dataclass(slots=True)
class BackOff:
    """
    Models whose last load failed: the reason, and when it may be tried again.

    That is after *_first_s*, and after twice as long with each further failure, up to *_cap_s*.
    """

    _first_s: float = FIRST_BACK_OFF_S
    _cap_s: float = BACK_OFF_CAP_S
    _failures: dict[ModelId, tuple[int, float, str]] = field(default_factory=dict)

    def add(self, now: float, model: ModelId, reason: str) -> float:
        """Note a failure; return the back-off in seconds."""
        count = self._failures.get(model, (0, 0.0, ""))[0]
        wait_s = min(self._first_s * 2.0 ** min(count, 16), self._cap_s)
        remember(self._failures, model, (count + 1, now + wait_s, reason))
        return wait_s

    def clear(self, model: ModelId) -> None:
        """Forget the failures of a model that is resident, or may be again."""
        self._failures.pop(model, None)

    def refusal(self, now: float, model: ModelId) -> tuple[float, str] | None:
        """Return the seconds left and the reason, None when the model may be tried."""
        _, until, reason = self._failures.get(model, (0, 0.0, ""))
        return (until - now, reason) if now < until else None

    def refused(self, now: float) -> list[ModelId]:
        """List the models that may not be tried now."""
        return [model for model, (_, until, _) in self._failures.items() if now < until]

    def until(self, model: ModelId) -> float:
        """Return when *model* may be tried again, a time past if it may."""
        return self._failures.get(model, (0, 0.0, ""))[1]
