"""
What a newcomer would wait on this device, for each model at once: told to whoever chooses between devices.

It is one walk over the models, `outlook.ready_times`, at the price of one estimate, however many models it
tells of; so it is made now and then, and kept.  A newcomer is somebody of whom nothing is known: all that
wait for a model already are ahead of it.  The turns by client may bring it forward; but a client that waits
with a thousand requests is to see a thousand here, and go elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dmap.arbiter import outlook
from dmap.arbiter.device import Device
from dmap.arbiter.effects import ModelId
from dmap.arbiter.estimates import ANSWER_GUESS_S
from dmap.arbiter.state import Reckoned

PARALLEL_GUESS = 4
"""So many answers a model gives at once where nobody has said; LM Studio does by default."""
OTHER: Final = object()
"""Stands for any model that is neither resident nor waited for."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """
    A model that is *resident*, or that somebody waits for, or whose last load failed a moment ago.

    An answer to one more request begins in *wait_s*, a load included, and takes *answer_s*; *parallel* are
    given at once, None for any number.  *leases* are under way, *waiting* requests wait.
    """

    wait_s: float
    answer_s: float
    parallel: int | None
    resident: bool
    leases: int
    waiting: int


@dataclass(frozen=True, slots=True)
class View:
    """
    A device at one moment.  A load of any model that is not among *models* would begin in *cold_s*.

    Its answers would take *answer_s*, *parallel* of them at once, as is usual here: who sends many requests
    for it at one time is to know that they would not all begin with the first.  On a drained device nobody is
    served: each wait is `wait_s`.
    """

    models: Mapping[ModelId, ModelView]
    cold_s: float
    drained: bool = False
    answer_s: float = ANSWER_GUESS_S
    parallel: int = PARALLEL_GUESS

    def wait_s(self, model: ModelId, load_s: float) -> float:
        """Return in how many seconds an answer of *model* would begin, where a load of it takes *load_s*."""
        known = self.models.get(model)
        return self.cold_s + load_s if known is None else known.wait_s


def view(now: float, device: Device) -> View:
    """Look at *device*."""
    ready = dict(outlook.ready_times(now, device, OTHER))
    cold_s = _wait_s(device, OTHER, ready.pop(OTHER)) - device.costs.of(OTHER)
    models = {model: _model(device, model, _wait_s(device, model, at)) for model, at in ready.items()}
    for model in device.back_off.refused(now):
        models[model] = _model(device, model, device.limits.wait_s)
    parallel = device.needs_of(OTHER).parallel or PARALLEL_GUESS
    return View(models, max(cold_s, 0.0), device.drained, device.answers.of(OTHER), parallel)


def _wait_s(device: Device, model: ModelId, ready_s: float) -> float:
    """Return what one more is told that comes for *model*, which will be ready in *ready_s*."""
    if device.drained:
        return device.limits.wait_s
    parallel, answer_s = _parallel(device, model), device.influx.answer_s(model, device.answers.of(model))
    line_s = device.waiters.count(model) // parallel * answer_s if parallel is not None else 0.0
    return device.calibration.tell(Reckoned(outlook.situation(device, model), ready_s, line_s)).estimate_s


def _parallel(device: Device, model: ModelId) -> int | None:
    """
    Return how many answers *model* gives at once; None for any number, which only a model that is there has.

    Servers as LM Studio say it when they have loaded the model, and a burst before that is not to be all
    theirs.
    """
    if (resident := device.residents.get(model)) is not None:
        return resident.needs.parallel
    return device.needs_of(model).parallel or PARALLEL_GUESS


def _model(device: Device, model: ModelId, wait_s: float) -> ModelView:
    resident = device.residents.get(model)
    return ModelView(
        wait_s,
        device.influx.answer_s(model, device.answers.of(model)),
        _parallel(device, model),
        device.serves(model),
        resident.leases if resident is not None else 0,
        device.waiters.count(model),
    )
