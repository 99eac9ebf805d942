"""How long loads and answers of a device take, as it has taught: what is worth keeping over a restart."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dmap.arbiter.device import Device
from dmap.arbiter.effects import ModelId


@dataclass(frozen=True, slots=True)
class Learnt:
    """
    Mean seconds of *loads_s* and *answers_s* by model, and the bytes that loads read in a second.

    What is *cached* is of loads that found their model in the system's memory.
    """

    loads_s: Mapping[ModelId, float] = field(default_factory=dict)
    answers_s: Mapping[ModelId, float] = field(default_factory=dict)
    bytes_per_s: float | None = None
    cached_loads_s: Mapping[ModelId, float] = field(default_factory=dict)
    cached_bytes_per_s: float | None = None


@dataclass(slots=True)
class Lengths:
    """What *device* has learnt of lengths of time."""

    _device: Device

    def learnt(self) -> Learnt:
        """Return it; of each kind the model that was learnt of last comes last."""
        out, cached = self._device.costs.out, self._device.costs.cached
        answers_s = dict(self._device.answers.values)
        return Learnt(dict(out.values), answers_s, out.bytes_per_s, dict(cached.values), cached.bytes_per_s)

    def recall(self, learnt: Learnt) -> None:
        """Begin with what was learnt before a restart.  What was learnt since then holds."""
        self._device.costs.out.recall(learnt.loads_s, learnt.bytes_per_s)
        self._device.costs.cached.recall(learnt.cached_loads_s, learnt.cached_bytes_per_s)
        self._device.answers.recall(learnt.answers_s)

    def seen(self, in_cache: Collection[ModelId]) -> None:
        """Hear which models are in the system's memory; a load from there takes less."""
        self._device.costs.in_cache = in_cache
