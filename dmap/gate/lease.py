"""
One request's hold on a model, as the request sees it: ask, wait, give back.

It decides nothing and knows nothing of the device.  The counterpart is `gate`, which answers it.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

from dmap.errors import DmapError
from dmap.models import Route


class Issuer(Protocol):
    """Where a lease is asked for and given back: a gate."""

    def enter(self, lease: "Lease") -> None:
        """Let *lease* wait; it is answered by `Lease.answer`, at once or later."""

    def come_back(self, lease: "Lease") -> None:
        """Let *lease*, which was granted, wait again in its old place; it is answered as before."""

    def leave(self, lease: "Lease") -> None:
        """Take back what *lease* holds: a place or a model."""


@dataclass(slots=True, eq=False)
class Lease:
    """
    A request's hold on a resident model: `ask`, wait for `granted`, and `release` it in the end.

    `async with` does all of that.  What it *waited_s* at other gates counts for its place and for `wait_s`,
    but not in *queue_s*; if it *may_move*, there is another place to wait at.

    *granted* is the future of a wait, None for a lease that need not wait.  *queue_s* is how long it waited
    in all, *switch_s* the part of it in which its own model's switch was under way; neither means anything
    while it waits.  *service_s* is how long it held the model, which means nothing while it does.  After
    `release` all are right in any case.

    `ask`, `come_back` and *granted* raise `Overloaded`, `WaitExpired`, `LoadFailed`, `BackendDown` and
    `ShuttingDown`.
    """

    _issuer: Issuer
    route: Route
    client: str
    priority: int = 0
    name: str = ""
    user: int | None = None
    waited_s: float = 0.0
    may_move: bool = False
    seat: Any = None
    since: float = 0.0
    queue_s: float = 0.0
    switch_s: float = 0.0
    service_s: float = 0.0
    granted: asyncio.Future[None] | None = None
    _error: DmapError | None = None
    _is_answered: bool = False
    _is_open: bool = False

    def ask(self) -> None:
        """Ask for the model.  It is held when this returns, or when `granted` is done if that is not None."""
        self._is_open = True
        self._begin(self._issuer.enter)

    def come_back(self) -> None:
        """
        Give back a model that did not answer, and wait for it again, in the old place.

        The device is looked at meanwhile.  `wait_s` counts on from `ask`; *granted* is another future.
        """
        self._begin(self._issuer.come_back)

    def give_up(self) -> None:
        """Give back a model that did not answer, for good.  The device is looked at."""
        with contextlib.suppress(DmapError):
            self.come_back()
        self.release()

    def release(self) -> None:
        """Give the model back, or the place in the queue.  Idempotent."""
        if self._is_open:
            self._is_open = False
            self._issuer.leave(self)

    def waited_away(self, queue_s: float, switch_s: float) -> None:
        """Hear that it was in another box's queue for *queue_s* while it was granted here."""
        self.queue_s += queue_s
        self.switch_s += switch_s
        self.service_s -= queue_s

    def answer(self, error: DmapError | None) -> None:
        """Hear, once per wait, that the model is this lease's, or why it will not be; for the issuer."""
        self._is_answered, self._error = True, error
        self._is_open &= error is None
        if self.granted is None or self.granted.done():
            return
        if error is None:
            self.granted.set_result(None)
        else:
            self.granted.set_exception(error)
            self.granted.exception()  # seen: whoever waits for it may be leaving right now

    async def __aenter__(self) -> Self:
        self.ask()
        if self.granted is not None:
            try:
                await self.granted
            except BaseException:
                self.release()
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def _begin(self, enter: Callable[["Lease"], None]) -> None:
        self._is_answered, self.granted = False, None
        enter(self)
        if not self._is_answered:
            self.granted = asyncio.get_running_loop().create_future()
        elif self._error is not None:
            raise self._error
