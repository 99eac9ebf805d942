"""
The memory of one device, as its gate goes by it: what each load took, and whether it is back.

Drivers give memory back late, and a load that begins before that may fail.  Where the memory is measured the
next load waits until as much is free again as the model took.  If nobody knows that, or it was less, it is
back once it has fallen and stays so.  Where the memory is not known only the time counts.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from dmap.backends import Loaded
from dmap.errors import OTHERS
from dmap.memory import Balance, Meter
from dmap.models import ModelKey
from dmap.sections.types import size_text

LOOK_S = 0.1
"""Between two looks whether it is back."""
STEADY_S = 0.5
"""What has fallen, and has not fallen further for so long, is all that comes back."""
FALLEN_BYTES = 64 * 2**20
"""Less comes and goes by itself."""
SHARE = 0.9
"""So much of what a model took has to be back: with it goes what others take meanwhile."""
TELLING = 0.05
"""Others are named where a load failed if they have this share of the memory or more."""


@dataclass(slots=True)
class _Falling:
    """Memory on its way back: *high* was used before, and *due* should come back."""

    high: int
    due: int = 0
    low: float = math.inf
    low_since: float = 0

    def is_over(self, now: float, used: int) -> bool:
        """Hear that so much is *used*; tell whether it is back."""
        if used < self.low:
            self.low, self.low_since = used, now
        fallen = self.high - used
        if self.due and fallen >= SHARE * self.due:
            return True
        return fallen >= FALLEN_BYTES and now - self.low_since >= STEADY_S


@dataclass(slots=True)
class DeviceMemory:
    """
    What *meter* says of the memory of a device; with None nobody measures it.

    *took* has what the loads of models have taken of it, in bytes: measured from outside, so others' changes
    at the same time are in it, else as their servers say.
    """

    meter: Meter | None = None
    took: dict[ModelKey, int] = field(default_factory=dict)
    _freed_at: float = -math.inf
    _falling: _Falling | None = None

    @property
    def balance(self) -> Balance | None:
        """Who has it, by the last look; None if that is not known."""
        return self.meter.balance if self.meter is not None else None

    async def measured(self, key: ModelKey, load: Callable[[], Awaitable[Loaded]]) -> Loaded:
        """Load *key* by *load*, return what that returns, and note what it took."""
        before = await self._used()
        loaded = await load()
        after = await self._used()
        if before is not None and after is not None and after > before:
            self.took[key] = after - before
        elif loaded.buffers_bytes is not None:
            self.took[key] = loaded.buffers_bytes
        return loaded

    async def unloading(self, within_s: float) -> None:
        """
        Hear, before an unload, that memory will come back late, *within_s* at most.

        If that of an earlier unload may be on its way still, both are waited for together.
        """
        if self._freed_at + within_s <= asyncio.get_running_loop().time():
            self._falling = None
        if self._falling is None and (used := await self._used()) is not None:
            self._falling = _Falling(used)

    def unloaded(self, key: ModelKey, size: int | None, *, is_late: bool) -> None:
        """Hear that *key* is unloaded, which should take *size*; its memory comes back now, or *is_late*."""
        took = self.took.pop(key, size)
        if self._falling is not None:
            self._falling.due += took or 0
        if is_late:
            self._freed_at = asyncio.get_running_loop().time()

    async def back(self, within_s: float) -> None:
        """Wait until the memory is back of what was unloaded, until *within_s* after that at most."""
        until, falling = self._freed_at + within_s, self._falling
        if until > asyncio.get_running_loop().time():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._fallen(falling)
        self._freed_at, self._falling = -math.inf, None

    async def others(self, name: str) -> str:
        """Say in a clause what others use now of the memory of *name*; nothing if that is little."""
        found = await self.meter.look() if self.meter is not None else None
        if found is None or (found.others or 0) < TELLING * found.total:
            return ""
        who = ", ".join(f"{each} {size_text(each.bytes)}" for each in found.foreign)
        return f"{size_text(found.others or 0)} of {name!r}{OTHERS}{who}"

    async def _used(self) -> int | None:
        found = await self.meter.look() if self.meter is not None else None
        return found.used if found is not None else None

    async def _fallen(self, falling: _Falling | None) -> None:
        """Return when *falling* is over; never, where nobody knows."""
        clock = asyncio.get_running_loop().time
        while falling is not None and (used := await self._used()) is not None:
            if falling.is_over(clock(), used):
                return
            await asyncio.sleep(LOOK_S)
        await asyncio.get_running_loop().create_future()
