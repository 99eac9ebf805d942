"""The orders that wait until a model has gone, several of them for one perhaps."""

import asyncio
from collections.abc import Iterator

from dmap.arbiter import Arbiter
from dmap.errors import DmapError
from dmap.models import ModelKey


class Unloads:
    """Those who have ordered an unloading: each waits on a future for None, or for why the model stays."""

    def __init__(self) -> None:
        self._ordered: dict[asyncio.Future[DmapError | None], ModelKey] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._ordered)

    def __iter__(self) -> Iterator[ModelKey]:
        """Iterate over the models, each once; they may be answered meanwhile."""
        return iter(dict.fromkeys(self._ordered.values()))

    def order(self, key: ModelKey) -> "asyncio.Future[DmapError | None]":
        """Return the future of one more order for *key*."""
        outcome: asyncio.Future[DmapError | None] = asyncio.get_running_loop().create_future()
        self._ordered[outcome] = key
        return outcome

    def take_back(self, outcome: "asyncio.Future[DmapError | None]") -> bool:
        """Forget one order; tell whether it was not answered, and was the last for its model."""
        key = self._ordered.pop(outcome, None)
        return key is not None and key not in self._ordered.values()

    def note(self, arbiter: Arbiter, stuck: dict[ModelKey, DmapError]) -> None:
        """Answer the orders whose unloading is over, those for a model that is *stuck* with its reason."""
        for key in self:
            if not arbiter.is_leaving(key):
                self.answer(key, stuck.pop(key, None) if key in arbiter.residents else None)

    def answer(self, key: ModelKey, error: DmapError | None) -> None:
        """Answer all orders for *key*."""
        for outcome in [outcome for outcome, model in self._ordered.items() if model == key]:
            del self._ordered[outcome]
            if not outcome.done():  # else whoever waits for it is leaving right now
                outcome.set_result(error)
