"""
The residents of one backend whose models are child processes: started, watched and ended here.

A resident is a process: to unload is to end it, which frees its memory for certain, and a model that crashes
takes nobody with it.  What to start is for the backend to say, by a `Recipe`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from dmap.backends.base import Loaded, Target
from dmap.backends.resident import Recipe, Resident
from dmap.errors import BackendDown
from dmap.logfmt import Line
from dmap.models import ModelKey
from dmap.process import Log
from dmap.tasks import end, spawn

CLEAR_S = 10.0
"""How long a look waits for what is left of a server that has died; after that it counts as resident."""

LOGS = 64
"""The logs of so many models are kept, those that were started last: 200 KB each at most."""

_log = logging.getLogger(__name__)


class Residents:
    """
    The residents of the backend *name*; a load takes *load_s* at most.

    Every *health_s* each resident has to show that it does not hang.  *changed* is called when one has died,
    and *in_use* tells whether a model serves requests.  Of what servers say, what is *telling* goes into our
    own log.
    """

    def __init__(
        self,
        name: str,
        load_s: float,
        health_s: float,
        changed: Callable[[], None],
        in_use: Callable[[str], bool],
        telling: Callable[[str], bool] = lambda line: True,
    ) -> None:
        self._name = name
        self._telling = telling
        self._load_s = load_s
        self._health_s = health_s
        self._changed = changed
        self._in_use = in_use
        self._residents: dict[str, Resident] = {}
        self._logs: dict[str, Log] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Resident]:
        """Iterate over those that answer."""
        return (resident for resident in self._residents.values() if resident.loaded)

    def start(self) -> None:
        """Watch for children that hang.  The end of a child needs no watch: its own task reports it."""
        if self._watch is None and not self._closed:
            self._watch = spawn(self._look_after, f"watch {self._name}")

    def doubt(self, model: str) -> None:
        """Have `cleared` ask a resident whether it lives: its connections break before its end is told."""
        resident = self._residents.get(model)
        if resident is not None and resident.is_up:
            resident.doubted = True

    async def cleared(self) -> None:
        """Wait until nothing is left of servers that have died, for that may still have its memory."""
        doubted = [each.make_sure() for each in self._residents.values() if each.doubted]
        ends = [each.child.ended() for each in self._residents.values() if each.child.status is not None]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLEAR_S):
                await asyncio.gather(*doubted, *ends)

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """Tell whether *model* was loaded with *options*: nobody else loads here."""
        resident = self._residents.get(model)
        return resident is not None and resident.options == dict(options)

    def loaded(self, model: str) -> Loaded | None:
        """Return what the resident *model* gives; None if it does not answer."""
        resident = self._residents.get(model)
        return resident.loaded if resident is not None else None

    def log(self, model: str) -> Log | None:
        """Return what the server of *model* has said, if it was started lately."""
        return self._logs.get(model)

    async def load(
        self, model: str, options: Mapping[str, Any], recipe: Callable[[], Awaitable[Recipe]]
    ) -> Loaded:
        """
        Start a child for *model* by *recipe*; return when it answers, with what it really gives.

        A resident is left as it is, whatever the *options*: unload it first to change them.  A second call
        waits for the first.  Raises `LoadFailed`, and `BackendDown` after `close`.
        """
        async with self._locks.setdefault(model, asyncio.Lock()):
            resident = self._residents.get(model)
            if resident and resident.is_up and resident.loaded:
                return resident.loaded
            await self.unload(model)
            await self.cleared()
            self.start()
            how, log = await recipe(), self._log_of(model)
            if self._closed:
                how.freed()
                raise BackendDown(f"cannot load model {model!r}: backend {self._name!r} is closed")
            log.hide(how.secrets)
            self._residents[model] = made = Resident(how, options, log, self._forget)
            return await made.come_up(self._load_s)

    async def unload(self, model: str) -> None:
        """
        End the child of *model*, also one that is loading; return when the kernel has its memory back.

        Raises `BackendDown` if the process cannot be killed.
        """
        resident = self._residents.get(model)
        if resident and not await resident.child.end():
            pid = resident.child.pid
            raise BackendDown(f"model {model!r} is not out of memory: process {pid} survives a SIGKILL")

    def target(self, model: str, path: str) -> Target:
        """Tell where the child of *model* has *path*; `BackendDown` if it is not up."""
        resident = self._residents.get(model)
        if resident is None or not resident.is_up:
            raise BackendDown(f"model {model!r} is not resident on backend {self._name!r}; load it first")
        return resident.target(path)

    async def close(self) -> None:
        """End the watch and all children at once; loads under way fail, later ones too."""
        self._closed = True
        ends = [resident.child.end() for resident in self._residents.values()]
        await asyncio.gather(end(self._watch), *ends)

    def _log_of(self, model: str) -> Log:
        log = self._logs.pop(model, None) or Log(ModelKey(self._name, model).told, telling=self._telling)
        self._logs[model] = log
        while len(self._logs) > LOGS:
            del self._logs[next(iter(self._logs))]
        return log

    async def _look_after(self) -> None:
        """Ask each resident every *health_s* how it is, and wait half as long; never return."""
        while True:
            up = [resident for resident in self._residents.values() if resident.is_up]
            checks = (
                each.check(self._name, self._health_s / 2, in_use=self._in_use(each.recipe.model))
                for each in up
            )
            await asyncio.gather(asyncio.sleep(self._health_s), *checks)

    def _forget(self, resident: Resident) -> None:
        """Take note that a child has ended; the log and the gate hear of a resident that nobody ended."""
        model = resident.recipe.model
        if self._residents.get(model) is resident:
            del self._residents[model]
        child = resident.child
        child.log.hide(())
        if resident.loaded and not child.ending:
            reason = resident.reason("")
            fields = {"model": model, "pid": child.pid, "status": child.status, "reason": reason}
            _log.error(Line("engine_died", fields))
            self._changed()
