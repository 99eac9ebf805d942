"""The orders that wait until a model has gone, several of them for one perhaps."""

import asyncio
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from dmap.arbiter import Arbiter
from dmap.errors import DmapError
from dmap.models import ModelKey

_Outcome = asyncio.Future[DmapError | None]
NOBODY: Mapping[str, str] = MappingProxyType({})


class _Order(NamedTuple):
    """What is to go, and *who* wants it, as events tell it."""

    model: ModelKey
    who: Mapping[str, str]


class Unloads:
    """Those who have ordered an unloading: each waits on a future for None, or for why the model stays."""

    def __init__(self) -> None:
        self._ordered: dict[_Outcome, _Order] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._ordered)

    def __iter__(self) -> Iterator[ModelKey]:
        """Iterate over the models, each once; they may be answered meanwhile."""
        return iter(dict.fromkeys(order.model for order in self._ordered.values()))

    def order(self, key: ModelKey, who: Mapping[str, str]) -> _Outcome:
        """Return the future of one more order for *key*, and keep *who* gave it."""
        outcome: _Outcome = asyncio.get_running_loop().create_future()
        self._ordered[outcome] = _Order(key, who)
        return outcome

    def first_of(self, key: ModelKey) -> Mapping[str, str]:
        """Return who has ordered first that *key* go, nothing where nobody has."""
        return next((order.who for order in self._ordered.values() if order.model == key), NOBODY)

    def take_back(self, outcome: _Outcome) -> bool:
        """Forget one order; tell whether it was not answered, and was the last for its model."""
        order = self._ordered.pop(outcome, None)
        return order is not None and order.model not in self

    def note(self, arbiter: Arbiter, stuck: dict[ModelKey, DmapError]) -> None:
        """Answer the orders whose unloading is over, those for a model that is *stuck* with its reason."""
        for key in self:
            if not arbiter.is_leaving(key):
                self.answer(key, stuck.pop(key, None) if key in arbiter.residents else None)

    def answer(self, key: ModelKey, error: DmapError | None) -> None:
        """Answer all orders for *key*."""
        for outcome in [outcome for outcome, order in self._ordered.items() if order.model == key]:
            del self._ordered[outcome]
            if not outcome.done():  # else whoever waits for it is leaving right now
                outcome.set_result(error)
