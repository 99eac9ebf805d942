"""
The slow watch over an LM Studio: what its owner, another app or a crash did to it without dmap.

It polls.  Watching files would be quicker but does not tell this: what is loaded is nowhere on disk, the
server may run on another host, and the files that do change (downloads, settings, logs) change for many
other reasons and with every version.  LM Studio pushes its events only over its SDK's WebSocket.  Two short
questions every few seconds cost it nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from dmap.backends.lmstudio.client import Fault, RestClient
from dmap.backends.lmstudio.look import Look
from dmap.backends.lmstudio.models import Instance, Listed
from dmap.errors import BackendDown
from dmap.logfmt import logfmt
from dmap.tasks import end, spawn

_log = logging.getLogger(__name__)

DOWN_S = 0.25
"""How often a server that is down is asked, unless `watch_s` is shorter."""

_JIT = (
    "LM Studio loads models on demand (JIT is on), so any app that asks it directly, past dmap, can load a "
    "second model or evict one; switch off Just in Time Model Loading in its server settings"
)

_COPY = "takes it out when it next loads or unloads this model"


class ChangeWatch:
    """
    Owns the task that looks every *watch_s*; *see* looks, and returns None if dmap was at work meanwhile.

    *changed* is called after every change that was not dmap's, and when the server goes or comes; one line is
    logged for each, but for going and coming, which `inventory` tells.  *is_ours* tells whether an instance
    is one that dmap uses.
    """

    def __init__(
        self,
        client: RestClient,
        see: Callable[[], Awaitable[Look | None]],
        changed: Callable[[], None],
        *,
        is_ours: Callable[[Listed, Instance], bool],
        watch_s: float,
    ) -> None:
        self._client = client
        self._see = see
        self._changed = changed
        self._is_ours = is_ours
        self._watch_s = watch_s
        self._known: frozenset[str] | None = None
        self._copies: frozenset[tuple[str, str]] = frozenset()
        self._down = False
        self._warned = False
        self._alarm = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch.  Idempotent; `close` ends it."""
        if self._task is None:
            self._task = spawn(self._run, f"watch {self._client.name}")

    async def close(self) -> None:
        """Stop watching.  Idempotent."""
        await end(self._task)

    def alarm(self) -> None:
        """Look now: somebody else has found the server down, and the watch is who waits for its return."""
        self._alarm.set()

    def expect(self, key: str, *, resident: bool) -> None:
        """Take note of a change that is dmap's own."""
        if self._known is not None:
            self._known = self._known | {key} if resident else self._known - {key}

    async def _run(self) -> None:
        while True:
            await self._turn()
            self._alarm.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(DOWN_S, self._watch_s) if self._down else self._watch_s):
                    await self._alarm.wait()

    async def _turn(self) -> None:
        try:
            look = await self._see()
            if look is not None and not self._warned:
                await self._warn(look)
        except BackendDown:
            self._note(down=True)
            return
        self._note(down=False)
        if look is not None:
            self._note_copies(look)
            self._compare(look.residents())

    def _note(self, *, down: bool) -> None:
        if self._down != down:
            self._down = down
            self._changed()

    def _note_copies(self, look: Look) -> None:
        """Tell once of each instance beside the one that dmap uses: it takes memory and serves nobody."""
        copies = frozenset(
            (model.key, instance.id)
            for model, instance in look.disk.instances()
            if len(model.instances) > 1 and not self._is_ours(model, instance)
        )
        for key, id in sorted(copies - self._copies):
            self._tell(logging.WARNING, "model_doubled", model=key, instance=id, by="not dmap", dmap=_COPY)
        self._copies = copies

    def _compare(self, residents: frozenset[str]) -> None:
        known, self._known = self._known, residents
        if known is None or known == residents:
            return
        for key in sorted(residents - known):
            self._tell(logging.WARNING, "model_appeared", model=key, by="not dmap")
        for key in sorted(known - residents):
            self._tell(logging.WARNING, "model_vanished", model=key, by="not dmap")
        self._changed()

    async def _warn(self, look: Look) -> None:
        """
        Warn, once, if LM Studio loads on demand.

        With JIT on its OpenAI list names every model on disk, with JIT off only those that are loaded
        (LM Studio's docs, headless.md).
        """
        try:
            items = (await self._client.get("/v1/models")).get("data")
        except Fault:
            return
        self._warned = True
        names = (item.get("id") for item in items or () if isinstance(item, dict))
        keys = {look.disk.canonical(name) for name in names if isinstance(name, str)}
        loaded = {model.key for model, _ in look.disk.instances()}
        if keys - loaded - {None}:
            self._tell(logging.WARNING, "jit_is_on", warning=_JIT)

    def _tell(self, level: int, event: str, **fields: str) -> None:
        _log.log(level, logfmt(event, {"backend": self._client.name, **fields}))
