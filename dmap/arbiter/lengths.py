"""How long loads and answers of a device take, as it has taught: what is worth keeping over a restart."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dmap.arbiter.device import Device
from dmap.arbiter.effects import ModelId


@dataclass(frozen=True, slots=True)
class Learnt:
    """Mean seconds of *loads_s* and *answers_s* by model, and the bytes that loads read in a second."""

    loads_s: Mapping[ModelId, float] = field(default_factory=dict)
    answers_s: Mapping[ModelId, float] = field(default_factory=dict)
    bytes_per_s: float | None = None


@dataclass(slots=True)
class Lengths:
    """What *device* has learnt of lengths of time."""

    _device: Device

    def learnt(self) -> Learnt:
        """Return it; of each kind the model that was learnt of last comes last."""
        costs, answers = self._device.costs, self._device.answers
        return Learnt(dict(costs.values), dict(answers.values), costs.bytes_per_s)

    def recall(self, learnt: Learnt) -> None:
        """Begin with what was learnt before a restart.  What was learnt since then holds."""
        self._device.costs.recall(learnt.loads_s, learnt.bytes_per_s)
        self._device.answers.recall(learnt.answers_s)
