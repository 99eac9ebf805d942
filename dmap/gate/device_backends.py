"""
The backends that share one device, taken together: what is really resident on them, and how to change it.

It believes nothing and decides nothing; it asks.  The counterpart is `upkeep`, which tells the arbiter what
was found and carries out what the arbiter decides.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dmap import tasks
from dmap.backends import Loaded, ModelInfo, Switcher
from dmap.config import Device
from dmap.errors import BackendDown, DmapError, LoadFailed
from dmap.models import ModelKey, Route


@dataclass(frozen=True, slots=True)
class Reading:
    """
    What the backends said: *residents* by key, and in *silent* why a backend said nothing.

    *gone* are the backends that have been silent for longer than `backend_gone_s`.
    """

    residents: Mapping[ModelKey, ModelInfo]
    silent: Mapping[str, Exception] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()

    def check(self, keys: Iterable[ModelKey]) -> None:
        """Raise the reason if the backend of one of *keys* did not answer."""
        for key in keys:
            if key.backend in self.silent:
                raise self.silent[key.backend]


@dataclass(slots=True)
class DeviceBackends:
    """The backends of one device that can load and unload models, by name, and the device's *section*."""

    _switchers: Mapping[str, Switcher]
    section: Device
    _freed_at: float | None = None
    _silent_since: dict[str, float] = field(default_factory=dict)

    async def read(self) -> Reading:
        """Ask all backends at once what is resident.  A backend that fails to answer counts as silent."""
        asked = (switcher.models() for switcher in self._switchers.values())
        answers = await asyncio.gather(*asked, return_exceptions=True)
        residents: dict[ModelKey, ModelInfo] = {}
        silent: dict[str, Exception] = {}
        for name, answer in zip(self._switchers, answers, strict=True):
            if isinstance(answer, Exception):
                silent[name] = answer
                if not isinstance(answer, DmapError | OSError):
                    tasks.report(f"models of backend {name!r}", answer)
            elif isinstance(answer, BaseException):  # its own cancellation; ours would have left gather
                silent[name] = BackendDown(f"backend {name!r} broke off while it was asked for its models")
            else:
                residents.update((ModelKey(name, model.id), model) for model in answer if model.resident)
        return Reading(residents, silent, self._note_silence(silent))

    def satisfies(self, key: ModelKey, route: Route | None) -> bool:
        """Tell whether the resident *key* is as its *route* asks; None if nobody has asked for it yet."""
        return self._switcher(key).satisfies(key.model, route.load if route is not None else {})

    async def unload(self, key: ModelKey) -> None:
        """Take a model out; unless its backend knows better, the memory is free a cool-down from now."""
        switcher = self._switcher(key)
        await switcher.unload(key.model)
        if not switcher.frees_at_once:
            self._freed_at = asyncio.get_running_loop().time()

    async def cool_down(self) -> None:
        """Wait for what is left of the cool-down after the last unload: drivers free memory late."""
        if self._freed_at is None:
            return
        left_s = self._freed_at + self.section.cooldown_s - asyncio.get_running_loop().time()
        if left_s > 0:
            await asyncio.sleep(left_s)
        self._freed_at = None

    async def load(self, key: ModelKey, options: Mapping[str, Any]) -> Loaded:
        """Make a model resident; return when it answers."""
        return await self._switcher(key).load(key.model, options)

    def _switcher(self, key: ModelKey) -> Switcher:
        if key.backend not in self._switchers:
            raise LoadFailed(
                f"backend {key.backend!r} is not one of this device's, so {key} cannot be loaded"
            )
        return self._switchers[key.backend]

    def _note_silence(self, silent: Mapping[str, Exception]) -> frozenset[str]:
        now = asyncio.get_running_loop().time()
        self._silent_since = {name: self._silent_since.get(name, now) for name in silent}
        gone_s = self.section.backend_gone_s
        return frozenset(name for name, since in self._silent_since.items() if now - since >= gone_s)
