"""
One request's hold on a model, as the one who asks sees it: wait on entering, give back on leaving.

It decides nothing and knows nothing of the device.  The counterpart is `gate`, which answers it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from dmap.errors import DmapError
from dmap.models import ModelKey, Route

Beat = Callable[[int, float], Awaitable[None]]
"""Told the position, from 1, and the estimated wait in seconds while a request waits."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    One who waits: *name* and *client* as the lease was asked for, *position* from 1 over the whole device.

    *estimate_s* is a guess at the wait from now on; on a drained device the time until it is refused.
    """

    name: str
    client: str
    model: ModelKey
    position: int
    estimate_s: float
    waited_s: float


class Counter(Protocol):
    """Where a lease is asked for and given back."""

    def enter(self, lease: "Lease") -> None:
        """Let *lease* wait; it is answered by `Lease.answer`, at once or later."""

    def leave(self, lease: "Lease") -> None:
        """Take back what *lease* holds: a place or a model."""

    def place(self, lease: "Lease") -> tuple[int, float]:
        """Return the position, from 1, and the estimated wait of *lease*, which waits."""

    def prospect(self, lease: "Lease") -> tuple[int, float]:
        """Return the same, roughly, for a *lease* that has just begun to wait; cheap, however many wait."""


class Lease:
    """
    A request's hold on a resident model, from entering the context to `release` or leaving it.

    *queue_s* is how long it waited in all, *switch_s* the part of it in which its own model's switch was
    under way; both are right too if it was refused or gave up.  Entering raises `Overloaded`, `WaitExpired`,
    `LoadFailed`, `BackendDown` or `ShuttingDown`.
    """

    __slots__ = (
        "_answered",
        "_beat",
        "_beat_after_s",
        "_counter",
        "_future",
        "_on_wait",
        "_open",
        "client",
        "error",
        "id",
        "name",
        "priority",
        "queue_s",
        "route",
        "since",
        "switch_s",
    )

    def __init__(
        self,
        counter: Counter,
        route: Route,
        client: str,
        beat: Beat | None = None,
        beat_after_s: float = 15.0,
        priority: int = 0,
        name: str = "",
        on_wait: Callable[[int, float], None] | None = None,
    ) -> None:
        self.id = 0
        self.name = name
        self.route = route
        self.client = client
        self.priority = priority
        self.since = 0.0
        self.queue_s = 0.0
        self.switch_s = 0.0
        self.error: DmapError | None = None
        self._counter = counter
        self._beat = beat
        self._beat_after_s = beat_after_s
        self._on_wait = on_wait
        self._answered = False
        self._open = False
        self._future: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self._open = True
        self._counter.enter(self)
        if not self._answered:
            await self._wait()
        if self.error is not None:
            raise self.error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the model back, or the place in the queue.  Idempotent."""
        if self._open:
            self._open = False
            self._counter.leave(self)

    def answer(self, error: DmapError | None) -> None:
        """Hear, once, that the model is this lease's, or why it will not be; for the counter to call."""
        self._answered = True
        if error is not None:
            self.error, self._open = error, False
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def _wait(self) -> None:
        self._future = asyncio.get_running_loop().create_future()
        after_s = self._beat_after_s if self._beat is not None else None
        try:
            if self._on_wait is not None:
                self._on_wait(*self._counter.prospect(self))
            while not self._answered:
                await asyncio.wait((self._future,), timeout=after_s)
                if self._beat is not None and not self._answered:
                    await self._beat(*self._counter.place(self))
        except BaseException:
            self.release()
            raise
