"""What a switch to each model costs, in seconds: as it did lately, else by the model's size."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from statistics import median

from dmap.arbiter.effects import ModelId
from dmap.arbiter.estimates import WEIGHT, remember
from dmap.arbiter.state import Needs

BYTES_PER_S = 1e9
"""What a load reads before any was measured on the device: an NVMe disk gives more, a SATA one half of it."""
LEAST_GUESS_S = 1.0
"""Nothing is guessed to cost less: however small a model is, its server has to start."""
UNKNOWN_GUESS_S = 10.0
"""A switch to a model of unknown size before any was measured."""


@dataclass(slots=True)
class Costs:
    """
    A moving average for each model that was loaded; for the others what their size takes on this device.

    What it takes is the bytes of all loads through their seconds, both fading, so that a small model, whose
    load is mostly the start of its server, says little.
    """

    _needs: Mapping[ModelId, Needs]
    values: dict[ModelId, float] = field(default_factory=dict)
    _typical_s: float = UNKNOWN_GUESS_S
    _read_bytes: float = 0.0
    _read_s: float = 0.0

    @property
    def bytes_per_s(self) -> float | None:
        """What loads gave lately; None before the first one of a known size."""
        return self._read_bytes / self._read_s if self._read_s else None

    def of(self, model: ModelId) -> float:
        """Return what a switch to *model* costs."""
        known = self.values.get(model)
        return self._guess(model) if known is None else known

    def knows(self, model: ModelId) -> bool:
        """Tell whether what it says of *model* is by loads that were seen."""
        return model in self.values or bool(self._read_s and self._size(model))

    def learn(self, model: ModelId, cost_s: float) -> None:
        """Take a sample; the first one of a model counts whole."""
        average = self.values.get(model, cost_s)
        self._keep(model, average + WEIGHT * (cost_s - average))
        if (size := self._size(model)) and cost_s > 0:
            self._read_bytes = (1 - WEIGHT) * self._read_bytes + size
            self._read_s = (1 - WEIGHT) * self._read_s + cost_s

    def recall(self, costs_s: Mapping[ModelId, float], bytes_per_s: float | None) -> None:
        """Begin with what was learnt before a restart; what was learnt since then holds."""
        if bytes_per_s is not None and not self._read_s:
            self._read_bytes, self._read_s = bytes_per_s, 1.0
        for model, cost_s in costs_s.items():
            self._keep(model, self.values.get(model, cost_s))

    def _keep(self, model: ModelId, cost_s: float) -> None:
        remember(self.values, model, cost_s)
        self._typical_s = median(self.values.values())

    def _guess(self, model: ModelId) -> float:
        size = self._size(model)
        return max(size / (self.bytes_per_s or BYTES_PER_S), LEAST_GUESS_S) if size else self._typical_s

    def _size(self, model: ModelId) -> int | None:
        needs = self._needs.get(model)
        return needs.size_bytes if needs is not None else None


@dataclass(slots=True)
class Loads:
    """
    The costs of switches by the state from which they load: *out*, or *cached*, in the system's memory.

    *in_cache* are the models that are there, as far as their kind can tell.  From there a load waits for
    no disk.
    """

    _needs: Mapping[ModelId, Needs]
    in_cache: Collection[ModelId] = ()
    out: Costs = field(init=False)
    cached: Costs = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing for either."""
        self.out, self.cached = Costs(self._needs), Costs(self._needs)

    def of(self, model: ModelId) -> float:
        """Return what a switch to *model* costs from where it is now; from out, if that is all there is."""
        is_cached = model in self.in_cache and self.cached.knows(model)
        return (self.cached if is_cached else self.out).of(model)

    def learn(self, model: ModelId, cost_s: float) -> None:
        """Take a sample of a load that began where *model* was last seen."""
        (self.cached if model in self.in_cache else self.out).learn(model, cost_s)
