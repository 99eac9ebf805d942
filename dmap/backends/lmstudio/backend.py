"""
LM Studio, whose models dmap loads and unloads over its native REST API (0.4.0 and later).

Its loads are explicit, never on demand: a request that names a model on disk would load it without asking,
and evict another in mid-answer.  An explicit load has no time to live and is not evicted, but it is not
idempotent either: loading what is loaded stacks a second copy, `key:2`.  So one thing is done at a time, and
each begins with a look at what there is, whoever loaded it.

A load cannot be stopped: LM Studio goes on when the client leaves (bug-tracker #573).  So the
question stays open when a load is cancelled, the gate learns of its end, and whatever comes next waits for
it.  `server` asks what is loaded and remembers it, and `loads` loads and unloads.  `watch` notices what
others do.

What REST cannot do, the `lms` command does where there is one.  It is not believed: what a call has loaded
is what is there after it and was not before, and if that is another model, it goes.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dmap.backends.base import Loaded, Target, ignore
from dmap.backends.lmstudio.client import RestClient
from dmap.backends.lmstudio.lms import Lms
from dmap.backends.lmstudio.loads import Loads
from dmap.backends.lmstudio.section import LMStudioSection
from dmap.backends.lmstudio.server import Server
from dmap.backends.lmstudio.watch import ChangeWatch
from dmap.errors import BackendDown
from dmap.models import ModelInfo
from dmap.process import Log
from dmap.sections import ModelSection
from dmap.tasks import end, spawn

CONFIRM_S = 1.0


class LMStudioBackend:
    """
    The `Switcher` over the LM Studio that *section* describes; its *load_s* bounds one load.

    *watch_s* is the pause between two looks of the watch, *disagree_s* how long its two lists may contradict
    each other, *poll_s* the pause between two looks while somebody else's load is under way.  Call `start` to
    have outside changes noticed; nothing is asked before the first call.

    The gate may set *in_use*, which tells whether requests for a model are under way.  Such a model is not
    unloaded, even if the copy that its requests were sent to is gone: LM Studio may have loaded it again for
    them.  *report* may be set too: it is called with the outcome of each look, the models or the reason why
    there was no answer.
    """

    frees_at_once = False

    def __init__(
        self,
        name: str,
        section: LMStudioSection,
        connect_s: float = 5.0,
        *,
        watch_s: float = 2.0,
        disagree_s: float = 10.0,
        poll_s: float = 0.25,
    ) -> None:
        self.name = name
        self.url = section.url
        self.changed: Callable[[], None] = ignore
        self.in_use: Callable[[str], bool] = lambda model: False
        self.contexts: Mapping[str, int] = {}
        self.commands: Mapping[str, ModelSection] = {}
        self.report: Callable[[Sequence[ModelInfo] | BackendDown], None] = ignore
        client = RestClient(name, section, connect_s)
        lms = Lms(section.lms, client.server, section.api_key) if section.lms is not None else None
        self._server = Server(
            client,
            disagree_s,
            report=lambda found: self.report(found),
            changed=lambda: self.changed(),
            in_use=lambda model: self.in_use(model),
        )
        self._loads = Loads(self._server, lms, section.load_s, poll_s)
        self._watch = ChangeWatch(self._server, watch_s)
        self._watching: asyncio.Task[None] | None = None
        self._confirming = asyncio.Lock()
        self._confirmed_at = -1.0

    def start(self) -> None:
        """Begin to watch for what happens outside dmap.  Idempotent; `close` ends it."""
        if self._watching is None:
            self._watching = spawn(self._watch.run, f"watch {self.name}")

    async def models(self) -> Sequence[ModelInfo]:
        """
        Ask what is on disk, and what of it answers; one whose load is under way is not resident yet.

        `size_bytes` is the size on disk: the weights, and so the least it takes.  The cache on top depends
        on layers and heads, which the API does not tell.  Raises `BackendDown`.
        """
        return (await self._server.see()).described()

    def canonical(self, name: str) -> str | None:
        """Return the key of the model with this *name*: key, instance id or `@quant`; by the last look."""
        return self._server.last.canonical(name)

    def doubt(self, model: str) -> None:
        """There is nothing to do: `models` asks the server each time."""

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """
        Tell whether *model* is resident, answers to its key, and is as *options* ask, by the last look.

        A model that got less context for the same options before will do, too: asking again is no use.
        """
        listed = self._server.last.models.get(model)
        return listed is not None and self._server.adoptable(listed, options) is not None

    async def load(self, model: str, options: Mapping[str, Any]) -> Loaded:
        """
        Make *model* resident, once and under its key; return when it answers, with what it really got.

        A copy that is there is adopted if its context is at least `context_length` of *options*, its slots
        `parallel`, its name `identifier` if there is one (`gpu` and `ttl_s` show nowhere), else it is
        replaced.  Whatever others loaded while this load waited for its turn is taken out.  When cancelled,
        LM Studio goes on with the load; `changed` is called then and at its end.
        """
        return await self._loads.load(model, options)

    async def unload(self, model: str) -> None:
        """
        Take all instances of *model* out, waiting first for those whose load is under way.

        LM Studio answers when the memory is free.  Raises `BackendDown`, also if the model keeps coming back.
        """
        await self._loads.unload(model)

    def target(self, model: str, path: str) -> Target:
        """Tell where a request for *model* goes; `BackendDown` if the last look did not find it resident."""
        if model not in self._server.residents:
            words = f"model {model!r} is not loaded on backend {self.name!r} any more; try again"
            raise BackendDown(words, retry_after_s=1)
        return self._server.client.server.at(path)

    async def check(self, model: str) -> None:
        """LM Studio does not tell whether a model could be loaded."""

    async def confirm(self) -> None:
        """
        Look once more, so that `target` knows what others have unloaded since; for just before a request.

        Otherwise LM Studio would load the model for that request by itself, or have another one answer.  A
        caller that comes while a look is under way waits for the next one and shares it, because the look
        under way may already be out of date.  A list that does not come in `CONFIRM_S` proves nothing, and
        stops nobody.
        """
        clock = asyncio.get_running_loop().time
        came_at = clock()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_S), self._confirming:
                if self._confirmed_at < came_at:
                    began_at = clock()
                    with contextlib.suppress(BackendDown):
                        await self._server.see()
                    self._confirmed_at = began_at

    def means(self, model: str, named: str) -> bool:
        """Tell whether *named* is a name of *model* by the last look, or of no model that is known."""
        return named == model or self.canonical(named) in (None, model)

    def made_of(self, model: str) -> str | None:
        """Return what its list tells of the file, by the last look; not how others may have loaded it."""
        listed = self._server.last.models.get(model)
        told = {**listed.info.v1, "loaded_instances": None} if listed is not None else {}
        return repr(sorted(told.items()))

    def log(self, model: str) -> Log | None:
        """Return None: LM Studio keeps its own log."""
        return None

    async def close(self) -> None:
        """Stop watching and asking.  What LM Studio has loaded stays, a load under way goes on there."""
        await end(self._watching, self._loads.loading)
