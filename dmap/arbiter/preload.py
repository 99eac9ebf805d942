"""
The models that are to be there before anybody asks: at the start, and again when the device has idled.

Here is what is known of them; when one is loaded is decided in `choice`.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dmap.arbiter.effects import ModelId
from dmap.arbiter.estimates import BackOff
from dmap.arbiter.state import Needs

FIRST_RETRY_S, RETRY_CAP_S = 10.0, 3600.0
"""
A load that fails for nobody is tried again after the first of these, then twice that, up to the second.

It may have cost residents their place, and nobody is the worse for its absence.
"""


@dataclass(slots=True)
class Preload:
    """
    *models* are what they take, those first that matter most.

    *fresh* are those that were named and not tried since.  *dismissed* are those that went by hand or for
    their `ttl_s`: they stay away until somebody asks the device for anything.  What failed or vanished backs
    off.  Somebody asked or was answered last at *busy_at*.
    """

    models: dict[ModelId, Needs] = field(default_factory=dict)
    fresh: set[ModelId] = field(default_factory=set)
    dismissed: set[ModelId] = field(default_factory=set)
    back_off: BackOff = field(default_factory=lambda: BackOff(FIRST_RETRY_S, RETRY_CAP_S))
    busy_at: float = -math.inf

    @property
    def untouched(self) -> bool:
        """Whether nobody has asked the device for anything since the start."""
        return self.busy_at == -math.inf

    def name(self, models: Mapping[ModelId, Needs]) -> None:
        """Have these be the models; those that were not among them before are fresh."""
        self.fresh = (self.fresh | (models.keys() - self.models.keys())) & models.keys()
        self.dismissed &= models.keys()
        self.models = dict(models)

    def asked(self, now: float) -> None:
        """Hear that somebody asks the device for something."""
        self.busy_at = now
        if self.dismissed:
            self.dismissed.clear()

    def resumed(self, now: float) -> None:
        """Hear of the end of a drain, which is as good as a request: all is to be as it was."""
        if not self.untouched:
            self.asked(now)

    def tried(self, model: ModelId) -> None:
        """Hear that a load of *model* has come to its end."""
        self.fresh.discard(model)

    def dismiss(self, model: ModelId) -> None:
        """Hear that *model* is not to be there for now, if it is one of them."""
        if model in self.models:
            self.fresh.discard(model)
            self.dismissed.add(model)

    def lost(self, now: float, model: ModelId, taken: Collection[ModelId]) -> None:
        """Hear that a resident has vanished; *taken* are those that others have unloaded."""
        if model in taken:
            self.dismiss(model)
        elif model in self.models:
            self.back_off.add(now, model, "it was gone")
