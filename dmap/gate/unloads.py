"""The orders that wait until a model has gone, several of them for one perhaps."""

import asyncio
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from dmap.arbiter import Arbiter, Cause, Effect
from dmap.errors import DmapError
from dmap.gate.switchlog import SwitchLog
from dmap.models import ModelKey

_Outcome = asyncio.Future[DmapError | bool]
NOBODY: Mapping[str, str] = MappingProxyType({})


class _Order(NamedTuple):
    """What is to go, and *who* wants it, as events tell it."""

    model: ModelKey
    who: Mapping[str, str]


class Unloads:
    """
    Those who have ordered of *arbiter* that a model go.

    Each waits on a future for whether it was there to go, or for why it stays.
    """

    def __init__(self, arbiter: Arbiter) -> None:
        self._arbiter = arbiter
        self._ordered: dict[_Outcome, _Order] = {}
        self._there: set[ModelKey] = set()

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
        if order is None or order.model in self:
            return False
        self._there.discard(order.model)
        return True

    def wish(self, now: float, key: ModelKey, who: Mapping[str, str], log: SwitchLog) -> list[Effect]:
        """Have the arbiter hear of an order; *log* tells that the model takes nobody before what follows."""
        effects = self._arbiter.unload(now, key)
        if self._arbiter.is_leaving(key):
            log.ordered("model.leaving", key, Cause.ASKED, who)
        return effects

    def unwish(self, now: float, key: ModelKey, who: Mapping[str, str], log: SwitchLog) -> list[Effect]:
        """Have the arbiter hear that nobody orders it any more; *log* tells if the model stays for that."""
        effects = self._arbiter.keep(now, key)
        if key in self._arbiter.residents and not self._arbiter.is_leaving(key):
            log.ordered("model.kept", key, Cause.ASKED, who)
        return effects

    def note(self, stuck: dict[ModelKey, DmapError]) -> None:
        """Answer the orders whose unloading is over, those for a model that is *stuck* with its reason."""
        for key in self:
            is_there = key in self._arbiter.residents
            if not self._arbiter.is_leaving(key):
                self.answer(key, stuck.pop(key, None) if is_there else None)
            elif is_there:
                self._there.add(key)

    def answer(self, key: ModelKey, error: DmapError | None) -> None:
        """Answer all orders for *key*: with *error*, else with whether it was there meanwhile."""
        told: DmapError | bool = key in self._there if error is None else error
        self._there.discard(key)
        for outcome in [outcome for outcome, order in self._ordered.items() if order.model == key]:
            del self._ordered[outcome]
            if not outcome.done():  # else whoever waits for it is leaving right now
                outcome.set_result(told)
