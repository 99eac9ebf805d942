"""
Whether a device serves anybody: not while its owner has it drained, and not before the first look at it.

Before that look nobody knows what is in the device's memory, and a load might exceed it.
"""

import asyncio
from collections.abc import Awaitable, Callable

from dmap import tasks
from dmap.gate.live import LiveArbiter

START_S = 1.0
"""How long a start waits for the first look; a backend may take far longer to answer, or to be given up."""


class Drain:
    """
    Tells the arbiter of *live* to serve nobody, and to go on.

    *is_ordered* tells whether the owner wants it so.
    """

    def __init__(self, live: LiveArbiter) -> None:
        self.is_ordered = False
        self._live = live
        self._looking: asyncio.Task[None] | None = None

    async def start(self, look: Callable[[], Awaitable[None]]) -> None:
        """Serve nobody until *look* is done; return then, and after `START_S` in any case."""
        self._live.say(self._live.arbiter.drain)
        self._looking = tasks.errand(self._wait_for(look), f"first look {self._live.name}")
        await asyncio.wait((self._looking,), timeout=START_S)

    def order(self, *, unload: bool) -> None:
        """Serve nobody until `lift`; with *unload* let all residents go when idle."""
        self.is_ordered = True
        self._live.say(self._live.arbiter.drain, unload=unload)

    def lift(self) -> None:
        """Serve again, as soon as the first look is done."""
        self.is_ordered = False
        if self._looking is None:
            self._live.say(self._live.arbiter.resume)

    async def close(self) -> None:
        """Wait for nothing any more."""
        await tasks.end(self._looking)

    async def _wait_for(self, look: Callable[[], Awaitable[None]]) -> None:
        await look()
        self._looking = None
        if not self.is_ordered:
            self.lift()
