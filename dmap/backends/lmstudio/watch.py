"""
The slow watch over an LM Studio: what its owner, another app or a crash did to it without dmap.

It polls.  Watching files would be quicker but does not tell this: what is loaded is nowhere on disk, the
server may run on another host, and the files that do change (downloads, settings, logs) change for many
other reasons and with every version.  LM Studio pushes its events only over its SDK's WebSocket.  Two short
questions every few seconds cost it nothing.
"""

import asyncio
import contextlib
from dataclasses import dataclass

from dmap.backends.lmstudio.client import Fault
from dmap.backends.lmstudio.models import Look
from dmap.backends.lmstudio.server import Server
from dmap.errors import BackendDown

DOWN_S = 0.25
"""How often a server that is down is asked, unless `watch_s` is shorter."""

_JIT = (
    "LM Studio loads models on demand (JIT is on), so any app that asks it directly, past dmap, can load a "
    "second model or evict one; switch off Just in Time Model Loading in its server settings"
)

_COPY = "takes it out when it next loads or unloads this model"


@dataclass(slots=True)
class ChangeWatch:
    """
    Looks at *server* every *watch_s*.

    The server's `changed` is called after every change that was not dmap's, and when the server goes or
    comes; one line is logged for each, but for going and coming, which `inventory` tells.
    """

    server: Server
    watch_s: float
    _copies: frozenset[tuple[str, str]] = frozenset()
    _down: bool = False
    _warned: bool = False

    async def run(self) -> None:
        """Look again and again, at once when somebody else has found the server down; never return."""
        while True:
            await self._turn()
            self.server.down.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(DOWN_S, self.watch_s) if self._down else self.watch_s):
                    await self.server.down.wait()

    async def _turn(self) -> None:
        was_down, self._down, look = self._down, False, None
        try:
            look = await self.server.see_others()
            if look is not None and not self._warned:
                await self._warn(look)
        except BackendDown:
            self._down = True
        if self._down != was_down:
            self.server.changed()
        if look is not None and not self._down:
            self._note_copies(look)
            self._compare(look.residents())

    def _note_copies(self, look: Look) -> None:
        """Tell once of each instance beside the one that dmap uses: it takes memory and serves nobody."""
        copies = frozenset(
            (instance.key, instance.id)
            for model in look.models.values()
            for instance in model.instances
            if len(model.instances) > 1 and not self.server.is_ours(instance)
        )
        for key, id in sorted(copies - self._copies):
            self.server.warn("model_doubled", key, instance=id, by="not dmap", dmap=_COPY)
        self._copies = copies

    def _compare(self, residents: frozenset[str]) -> None:
        expected, self.server.expected = self.server.expected, residents
        if expected is None or expected == residents:
            return
        for key in sorted(residents - expected):
            self.server.warn("model_appeared", key, by="not dmap")
        for key in sorted(expected - residents):
            self.server.warn("model_vanished", key, by="not dmap")
        self.server.changed()

    async def _warn(self, look: Look) -> None:
        """
        Warn, once, if LM Studio loads on demand.

        With JIT on its OpenAI list names every model on disk, with JIT off only those that are loaded
        (LM Studio's docs, headless.md).
        """
        try:
            items = (await self.server.client.get("/v1/models")).get("data")
        except Fault:
            return
        self._warned = True
        names = (item.get("id") for item in items or () if isinstance(item, dict))
        keys = {look.canonical(name) for name in names if isinstance(name, str)}
        loaded = {instance.key for instance in look.instances()}
        if keys - loaded - {None}:
            self.server.warn("jit_is_on", warning=_JIT)
