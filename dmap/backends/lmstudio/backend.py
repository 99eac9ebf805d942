"""
LM Studio, whose models dmap loads and unloads over its native REST API (0.4.0 and later).

Its loads are explicit, never on demand: a request that names a model on disk would load it without asking,
and evict another in mid-answer.  An explicit load has no time to live and is not evicted, but it is not
idempotent either: loading what is loaded stacks a second copy, `key:2`.  So one thing is done at a time, and
each begins with a look at what there is, by whomever.

A load cannot be stopped: LM Studio goes on when the one who asked leaves (bug-tracker #573).  So the
question stays open when a load is cancelled, the gate learns of its end, and whatever comes next waits for
it.  `look` asks what is loaded, `view` remembers it, `commands` sends loads and unloads, and `loads` makes
one whole load or unload of these three.  `watch` notices what others do.

What REST cannot do, the `lms` command does where there is one.  It is not believed: what a call has loaded
is what is there after it and was not before, and if that is another model, it goes.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmap.backends.base import Loaded, Target
from dmap.backends.lmstudio.client import RestClient
from dmap.backends.lmstudio.commands import Commands
from dmap.backends.lmstudio.lms import Lms
from dmap.backends.lmstudio.loads import TRIES, Loads
from dmap.backends.lmstudio.look import Look, Observer
from dmap.backends.lmstudio.view import View, described
from dmap.backends.lmstudio.watch import ChangeWatch
from dmap.errors import BackendDown, LoadFailed
from dmap.models import ModelInfo

CONFIRM_S = 1.0


class LMStudioBackend:
    """
    The `Switcher` over the LM Studio at *url* (with or without a closing `/v1`), asked with *api_key*.

    *load_s* bounds one load, *watch_s* is the pause between two looks of the watch, *disagree_s* how long
    its two lists may contradict each other, *poll_s* the pause between two looks while somebody else's load
    is under way.  *lms* is the path of LM Studio's command, for the options of a load that REST does not
    take.  Call `start` to have outside changes noticed; nothing is asked before the first call.

    The gate may set *in_use*, which tells whether requests for a model are under way.  They may have been
    sent to a copy that is gone by now, but LM Studio may have loaded the model again for them, so a model in
    use is not unloaded.  *report* may be set too: it is called with what each look has found, or with the
    reason why there was no answer.
    """

    frees_at_once = False

    def __init__(
        self,
        name: str,
        url: str,
        *,
        api_key: str | None = None,
        connect_s: float = 5.0,
        load_s: float = 600.0,
        watch_s: float = 2.0,
        disagree_s: float = 10.0,
        poll_s: float = 0.25,
        lms: Path | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self.changed: Callable[[], None] = _nothing
        self.in_use: Callable[[str], bool] = _nobody
        self.contexts: Mapping[str, int] = {}
        self.report: Callable[[Sequence[ModelInfo] | BackendDown], None] = _ignored
        self._client = RestClient(name, url, api_key=api_key, connect_s=connect_s)
        self._view = View(
            Observer(self._client, disagree_s=disagree_s),
            answers=lambda: self._commands.answers,
            found=self._found,
            expected=lambda key, resident: self._watch.expect(key, resident=resident),
        )
        server = self._client.target("")
        self._lms = Lms(lms, server.host, server.port, api_key=api_key) if lms is not None else None
        self._commands = Commands(
            self._client, self._view.note_loaded, lambda: self.changed(), load_s=load_s, lms=self._lms
        )
        self._loads = Loads(
            self._client,
            self._view,
            self._commands,
            in_use=lambda key: self.in_use(key),
            load_s=load_s,
            poll_s=poll_s,
        )
        self._watch = ChangeWatch(
            self._client, self._watched, lambda: self.changed(), is_ours=self._view.is_ours, watch_s=watch_s
        )
        self._lock = asyncio.Lock()
        self._confirming = asyncio.Lock()
        self._confirmed_at = -1.0

    def start(self) -> None:
        """Begin to watch for what happens outside dmap.  Idempotent; `close` ends it."""
        self._watch.start()

    async def models(self) -> Sequence[ModelInfo]:
        """
        Ask what is on disk, and what of it answers; one whose load is under way is not resident yet.

        `size_bytes` is the size on disk: the weights, and so the least it takes.  The cache on top depends
        on layers and heads, which the API does not tell.  Raises `BackendDown`.
        """
        return described(await self._view.see())

    def canonical(self, name: str) -> str | None:
        """Return the key of the model with this *name*: key, instance id or `@quant`; by the last look."""
        return self._view.last.disk.canonical(name)

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """
        Tell whether *model* is resident, answers to its key, and is as *options* ask, by the last look.

        A model that got less context for the same options before will do, too: asking again is no use.
        """
        last = self._view.last
        listed = last.disk.models.get(model)
        return listed is not None and self._view.adoptable(last, listed, options) is not None

    async def load(self, model: str, options: Mapping[str, Any]) -> Loaded:
        """
        Make *model* resident, once and under its key; return when it answers, with what it really got.

        A copy that is there is adopted if its context is at least `context_length` of *options*, its slots
        `parallel`, its name `identifier` if there is one (`gpu` and `ttl_s` show nowhere), else it is
        replaced.  Whatever others loaded while this load waited for its turn is taken out.  When cancelled,
        LM Studio goes on with the load; `changed` is called then and at its end.
        """
        async with self._turn():
            for left in reversed(range(TRIES)):
                if (loaded := await self._loads.bring(model, options, left)) is not None:
                    return loaded
        raise LoadFailed(f"cannot load model {model!r}: other apps load and unload models at the same time")

    async def unload(self, model: str) -> None:
        """
        Take all instances of *model* out, waiting first for those whose load is under way.

        LM Studio answers when the memory is free.  Raises `BackendDown`, also if the model keeps coming back.
        """
        async with self._turn():
            for _ in range(TRIES):
                look, _late = await self._loads.settled(model)
                listed = look.find(model)
                if listed is None or not listed.instances:
                    return
                await self._loads.unused(listed.key)
                for instance in listed.instances:
                    reason = "" if self._view.is_ours(listed, instance) else "surplus"
                    await self._loads.take_out(listed, instance, reason)
        raise self._client.down(f"still has model {model!r}, which it was asked {TRIES} times to unload")

    def target(self, model: str, path: str) -> Target:
        """Tell where a request for *model* goes; `BackendDown` if the last look did not find it resident."""
        if model not in self._view.residents:
            words = f"model {model!r} is not loaded on backend {self.name!r} any more; try again"
            raise BackendDown(words, retry_after_s=1)
        return self._client.target(path)

    async def confirm(self) -> None:
        """
        Look once more, so that `target` knows what others have unloaded since; for just before a request.

        Else that request would have LM Studio load the model on its own, or have another one answer.  Who
        comes while a look is under way waits for the next, and shares that: the one under way may have seen
        what is so no longer.  A list that does not come in `CONFIRM_S` proves nothing, and stops nobody.
        """
        clock = asyncio.get_running_loop().time
        came_at = clock()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_S), self._confirming:
                if self._confirmed_at < came_at:
                    began_at = clock()
                    with contextlib.suppress(BackendDown):
                        await self._view.see()
                    self._confirmed_at = began_at

    def means(self, model: str, named: str) -> bool:
        """Tell whether *named* is a name of *model* by the last look, or of no model that is known."""
        return named == model or self.canonical(named) in (None, model)

    async def close(self) -> None:
        """Stop watching and asking.  What LM Studio has loaded stays, a load under way goes on there."""
        await self._watch.close()
        await self._commands.close()

    # Looking

    def _found(self, found: Look | BackendDown) -> None:
        """Pass on what a look has found; a server that is down is for the watch to wait for."""
        if isinstance(found, BackendDown):
            self._watch.alarm()
            self.report(found)
        else:
            self.report(described(found))

    async def _watched(self) -> Look | None:
        """Look for the watch; None if something of ours was under way."""
        answers, busy = self._commands.answers, self._lock.locked()
        look = await self._view.see()
        return None if busy or self._lock.locked() or answers != self._commands.answers else look

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        """Wait for one's turn, and for a load whose caller has left."""
        async with self._lock:
            await self._commands.free()
            yield


def _nothing() -> None:
    """Stand in for the gate until there is one."""


def _ignored(found: Sequence[ModelInfo] | BackendDown) -> None:
    """Stand in for who wants to know what was found."""


def _nobody(model: str) -> bool:
    """Stand in for the gate: no requests are out."""
    return False
