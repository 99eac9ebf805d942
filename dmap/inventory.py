"""
What the backends have and whether they answer: the tasks that ask them, and the circuit that knows.

One task per backend asks on a slow beat, and on a quick one while the backend is down; that probe is what
closes the circuit again.  Some backends watch their server themselves, and report what they found: so the
truth is here as soon as it is known.  Requests for a backend that is down are refused at once instead of each
finding out for itself.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence

from dmap.backends import Backend, ModelInfo
from dmap.catalog import Catalog
from dmap.errors import BackendDown
from dmap.logfmt import Line
from dmap.standstill import patient
from dmap.tasks import end, errand, spawn

_log = logging.getLogger(__name__)

START_S = 1.0
LOOK_S = 30.0
PROBE_S = 2.0
GONE_S = 300.0
"""
A backend that is silent for longer is not waited for: names that it may have do not exist until it answers.

That is how long a box may take to boot with its servers, and `wait_s` unless the file says otherwise.
"""
FRESH_S = 1.0
"""How old an answer may be when a client asks for a model that is not in it."""


class Inventory:
    """
    Reports to *catalog* what *backends* have; `start` and `close` own its tasks.

    *learnt* is called with a backend that has answered and with what it has, after the catalog knows that,
    and *lost* with one that has not, and why.  One that has been silent for *gone_s* counts as gone.  *down*
    has those that did not answer last time, with the reasons, which are for clients too.
    """

    def __init__(self, backends: Mapping[str, Backend], catalog: Catalog, *, gone_s: float = GONE_S) -> None:
        self._backends, self._gone_s = backends, gone_s
        self._catalog = catalog
        self.down = dict[str, str]()
        self._answered_at: dict[str, float] = {}
        self._silent_since: dict[str, float] = {}
        self._told: dict[str, set[str]] = {}
        self._asking = {name: asyncio.Lock() for name in backends}
        self._tasks: list[asyncio.Task[None]] = []
        self.learnt: Callable[[str, Sequence[ModelInfo]], None] = lambda backend, found: None
        self.lost: Callable[[str, BackendDown], None] = lambda backend, error: None

    async def start(self) -> None:
        """Ask every backend, and go on asking; one that takes longer than `START_S` is not waited for."""
        for name, backend in self._backends.items():
            backend.report = functools.partial(self._take, name)
        asked = [errand(self._ask(name), f"ask {name}") for name in self._backends]
        watches = [spawn(functools.partial(self._watch, name), f"watch {name}") for name in self._backends]
        self._tasks = [*asked, *watches]
        with contextlib.suppress(TimeoutError):
            async with patient(START_S):
                await asyncio.wait(asked)

    async def close(self) -> None:
        """Stop asking."""
        await end(*self._tasks)

    async def refresh(self) -> None:
        """Ask every backend whose last answer is not fresh; one that is down is left to its probe."""
        now = asyncio.get_running_loop().time()
        up = (name for name in self._backends if name not in self.down)
        stale = [name for name in up if now - self._answered_at.get(name, -FRESH_S) >= FRESH_S]
        with contextlib.suppress(TimeoutError):
            async with patient(START_S):
                await asyncio.gather(*(self._ask(name) for name in stale))

    def check(self, backend: str) -> None:
        """Raise `BackendDown` if *backend* did not answer last time."""
        if self.is_down(backend):
            reason = self.down[backend]
            message = reason if repr(backend) in reason else f"the backend {backend!r} is down: {reason}"
            raise BackendDown(message, retry_after_s=PROBE_S)

    def report(self, backend: str, error: BackendDown) -> None:
        """Take note that a request found *backend* down, and have it probed."""
        if backend not in self.down:
            url = self._backends[backend].url  # which the reason, for clients, leaves out
            _log.warning(Line("backend_down", {"backend": backend, "url": url, "reason": error.message}))
        self.down[backend] = error.message
        self.lost(backend, error)

    def is_down(self, backend: str) -> bool:
        """Tell whether *backend* did not answer last time."""
        return backend in self.down

    @property
    def answering(self) -> list[str]:
        """The backends that answered last time."""
        return [name for name in self._answered_at if name not in self.down]

    async def _watch(self, name: str) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(PROBE_S)
            if name in self.down or clock() - self._answered_at.get(name, 0.0) >= LOOK_S:
                await self._ask(name)

    async def _ask(self, name: str) -> None:
        """Ask one backend; a caller that came before the question was answered takes that answer."""
        came_at = asyncio.get_running_loop().time()
        async with self._asking[name]:
            if came_at <= self._answered_at.get(name, came_at - 1):
                return
            try:
                self._take(name, await self._backends[name].models())
            except BackendDown as error:
                self._take(name, error)

    def _take(self, name: str, found: Sequence[ModelInfo] | BackendDown) -> None:
        """Take what *name* has, or why it does not answer."""
        now = asyncio.get_running_loop().time()
        if isinstance(found, BackendDown):
            is_gone = now - self._silent_since.setdefault(name, now) >= self._gone_s
            self._catalog.silent(name, found.message, is_gone=is_gone)
            self.report(name, found)
        else:
            self._catalog.update(name, found)
            self._silent_since.pop(name, None)
            self._note_differing(name)
            self.learnt(name, found)
            if self.down.pop(name, None) is not None:
                _log.warning(Line("backend_up", {"backend": name}))
        self._answered_at[name] = now

    def _note_differing(self, backend: str) -> None:
        """Warn, once, of models that have the name of one on another backend and are no copies of it."""
        found = {
            entry.name: why for entry, why in self._catalog.differing.items() if entry.key.backend == backend
        }
        new = found.keys() - self._told.get(backend, set())
        if new:
            self._told[backend] = self._told.get(backend, set()) | new
            first = min(new)
            more = f" and {len(new) - 1} more" if len(new) > 1 else ""
            told = {"backend": backend, "model": f"{first}{more}", "reason": found[first]}
            _log.warning(Line("no_copy", {**told, "ask": f"{backend}/{first}"}))
