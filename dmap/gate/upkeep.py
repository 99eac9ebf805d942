"""
The two tasks that a device keeps its models with: one carries switches out, one looks at what is resident.

Neither runs twice at once, and no look begins during a switch.  The counterpart is `gate`, which tells when
there is a switch to carry out or a reason to look.
"""

import asyncio

from dmap import tasks
from dmap.gate.device_backends import DeviceBackends
from dmap.gate.knowledge import Knowledge
from dmap.gate.live import LiveArbiter
from dmap.gate.look import Look
from dmap.gate.switching import Switching
from dmap.gate.switchlog import SwitchLog, Tell


class Upkeep:
    """
    Owns the tasks; `close` ends them.

    *live* has the switches and is told of what is done and found, *known* is what is known of the models,
    and *log* and *tell* hear of it.
    """

    def __init__(
        self, live: LiveArbiter, backends: DeviceBackends, known: Knowledge, log: SwitchLog, tell: Tell
    ) -> None:
        self._live = live
        self._backends = backends
        self._known = known
        self._log = log
        self._look = Look(live, backends, known, tell)
        self._switching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._closed = False

    def switch(self) -> None:
        """Carry out the arbiter's switch, now or after the one under way."""
        if self._switching is None and not self._closed:
            self._switching = tasks.spawn(self._switch, f"switch {self._live.name}", vital=True)

    def look(self) -> None:
        """Look at what is resident: now, or again after the look or the switch under way."""
        self._look_again = not self._closed
        self._start_look()

    async def looked(self) -> None:
        """Wait for the look under way, or for the one after the switch under way."""
        while (task := self._looking or (self._switching if self._look_again else None)) is not None:
            await asyncio.wait((task,))

    async def close(self) -> None:
        """Cancel both tasks and wait for their end, within bounds.  Idempotent."""
        self._closed, self._look_again = True, False
        await tasks.end(self._switching, self._looking)

    async def _switch(self) -> None:
        try:
            while (plan := self._live.arbiter.plan) is not None and plan.switch is not None:
                switching = Switching(plan, self._live, self._backends, self._known, self._log)
                is_broken = await switching.run()
                self._look_again |= is_broken
        finally:
            self._switching = None
        self._start_look()

    def _start_look(self) -> None:
        if self._look_again and self._looking is None and self._switching is None:
            self._looking = tasks.spawn(self._take_looks, f"look {self._live.name}", vital=True)

    async def _take_looks(self) -> None:
        try:
            while self._look_again and self._switching is None:
                self._look_again = False
                is_vain = await self._look.take()
                self._look_again |= is_vain
        finally:
            self._looking = None
