"""
The memory of one device, read beside the loop every few seconds, and when the gate asks.

A driver that hangs holds one thread and nobody else: until it answers, the memory is not known.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from dmap import tasks
from dmap.logfmt import Line
from dmap.memory.balance import Balance, Reckoned, balance
from dmap.memory.usage import GPUs, Unreadable, Usage
from dmap.memory.whose import name_of, own_of, sees_all
from dmap.reads import Reads

EVERY_S = 5.0
"""How often it is read; a scrape comes every 15 s or so."""
LOOK_S = 2.0
"""How long a reading may take.  The first may take longer: the next finds the driver awake."""

_SILENT = "its driver does not answer"

_log = logging.getLogger(__name__)


class _Seen(NamedTuple):
    usage: Usage
    own: Collection[int]
    names: Mapping[int, str]


class Meter:
    """
    Measures the *gpus* of the device *name*; `watch` keeps `balance` fresh.

    The gate sets *reckon*, which tells what the residents should take.  *ids_are_ours* tells whether the ids
    of processes that a driver tells are those that this process knows them by.  One reading takes *within_s*
    at most.
    """

    def __init__(
        self,
        name: str,
        gpus: GPUs,
        *,
        ids_are_ours: Callable[[], bool] = sees_all,
        within_s: float = LOOK_S,
    ) -> None:
        self.balance: Balance | None = None
        self.reckon: Callable[[], Reckoned] = Reckoned
        self._name, self._gpus, self._ids_are_ours, self._within_s = name, gpus, ids_are_ours, within_s
        self._reads = Reads()
        self._trouble: str | None = None

    async def watch(self) -> None:
        """Read for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> Balance | None:
        """
        Return who has the memory now; None if that cannot be read, or not in time.

        While a reading hangs it is not waited for again.
        """
        hangs = self._trouble == _SILENT and self._reads.is_held
        try:
            async with asyncio.timeout(0 if hangs else self._within_s):
                seen = await self._reads.read(self._see)
        except TimeoutError:
            self._note(_SILENT)
        except Unreadable as exc:
            self._note(str(exc))
        except Exception as exc:
            if self._note(repr(exc)):
                tasks.report(f"the memory of {self._name!r}", exc)
        else:
            self._note(None)
            self.balance = balance(*seen, self.reckon())
        return self.balance

    def _see(self) -> _Seen:
        usage = self._gpus.read()
        if usage.processes is None or not self._ids_are_ours():
            return _Seen(Usage(usage.total, usage.used), (), {})
        own = own_of(usage.processes)
        return _Seen(usage, own, {pid: name_of(pid) for pid in usage.processes if pid not in own})

    def _note(self, trouble: str | None) -> bool:
        """Take note of why the memory is not known, if it is not; log it, and return true, if that is new."""
        before, self._trouble = self._trouble, trouble
        if trouble is not None:
            self.balance = None
        if trouble == before:
            return False
        event = "memory_unknown" if trouble is not None else "memory_known"
        _log.warning(Line(event, {"device": self._name, "reason": trouble}))
        return True
