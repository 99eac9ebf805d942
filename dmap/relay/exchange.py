"""
One request and its answer, as it comes from a backend.

It owns the stream that the answer comes on, until the answer is complete.  Bytes of the body are pushed into
a callable as they arrive, in the loop's read callback: no task wakes up for a chunk.  What the bytes mean is
not its business; see `relay`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from multidict import CIMultiDict

from dmap.errors import BackendSlow, DmapError, LeaseExpired
from dmap.relay.at_node import AtNode
from dmap.relay.sweep import Sweep
from dmap.wire import hop

HOLD_BYTES = 64 * 1024
"""What is held of a body until somebody takes it; beyond that, its stream is paused."""
_LOOKS = 8
"""How often an exchange is looked at per bound: silence is then noticed at most a quarter of it late."""


class Stale(Exception):
    """The server had closed the idle connection that was reused, and saw nothing of the request."""


class Bounds(NamedTuple):
    """How long an answer may take, in seconds: until its first byte, without a byte after it, and in all."""

    first_byte_s: float
    idle_s: float
    lease_s: float


class Stream(Protocol):
    """What the answer comes on, as far as an exchange has a say in it."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Go on reading."""

    def expect_much(self) -> None:
        """Prepare for many reads and no writes."""

    def abort(self) -> None:
        """Cut the connection."""


@dataclass(slots=True, eq=False)
class Exchange:
    """
    One request and the answer to it.  From its making to its end it is in the sweep *under_way*.

    *first* is done when the head and the first byte of the body are here, or all of an answer without
    one; it fails with what broke the answer before that, `Stale` when the request may be sent again.
    Body bytes go to *sink*, which starts out collecting them in *held*.  *halted* is set while the answer is
    paused, and when it has ended.  *broken* is then None if the answer is complete; else it says why not,
    which may be that one of the *bounds* is over.  A backend that is paused is not silent.

    At a *node* it waits first; the bounds are those of an answer, so they hold from its grant on.
    """

    stream: Stream | None
    loop: InitVar[asyncio.AbstractEventLoop]
    bounds: Bounds
    under_way: "Sweep[Exchange]"
    node: AtNode | None = None
    first: asyncio.Future[None] = field(init=False)
    halted: asyncio.Event = field(default_factory=asyncio.Event)
    look_s: float = field(init=False)
    sent_at: float = field(init=False)
    status: int = 0
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    held: list[bytes] = field(default_factory=list)
    held_bytes: int = 0
    sink: Callable[[bytes], object] = field(init=False)
    chunks: int = 0
    is_paused: bool = False
    ended: bool = False
    broken: DmapError | None = None
    by_eof: bool = False
    _now: Callable[[], float] = field(init=False)
    _seen: int = 0
    _silent_since: float = field(init=False)

    def __post_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first, self._now = loop.create_future(), loop.time
        self.look_s = min(self.bounds) / _LOOKS
        self.sent_at = self._silent_since = loop.time()
        if self.node is not None:
            self.look_s = min(self.look_s, hop.SILENT_S / _LOOKS)
            self.node.begin(self.sent_at)
        self.sink = self.hold
        self.under_way.add(self)

    @property
    def place(self) -> str:
        """What the request waits for, in words."""
        return "waiting for the first token" if self.node is None else self.node.place

    def hear(self, status: int) -> bool:
        """Take the head of an answer in between (1xx); tell whether it means anything, as a node's does."""
        now = self._now()
        if self.node is None or not self.node.hear(status, self.headers, now):
            return False
        if not self.node.waits:
            self._begin_bounds(now)
        return True

    def begin(self, status: int) -> None:
        """Take the *status* of the answer itself: a node that does not refuse the request has granted it."""
        self.status = status
        if self.node is not None and self.node.waits and status < 400:
            now = self._now()
            self.node.grant(now)
            self._begin_bounds(now)

    def hold(self, data: bytes) -> None:
        """Keep a piece of the body in `held`, and pause when that is enough; it is the first sink."""
        self.held.append(data)
        self.held_bytes += len(data)
        if self.held_bytes > HOLD_BYTES:
            self.pause()
        if not self.first.done():
            self.first.set_result(None)

    def take(self) -> bytes:
        """Return what is held of the body, and hold it no longer."""
        body = b"".join(self.held)
        self.held.clear()
        self.held_bytes = 0
        return body

    def pause(self) -> None:
        """Stop reading the answer; the backend feels it when the kernel's buffers are full."""
        self.is_paused = True
        self.halted.set()
        if self.stream is not None:
            self.stream.pause()

    def resume(self) -> None:
        """Go on reading."""
        self.is_paused = False
        if self.stream is not None:
            self.halted.clear()
            self.stream.resume()

    def expect_much(self) -> None:
        """Prepare for a long answer."""
        if self.stream is not None:
            self.stream.expect_much()

    def look(self, now: float) -> None:
        """End the answer if one of its bounds is over; for the sweep."""
        first_byte_s, idle_s, lease_s = self.bounds
        if self.node is not None and self.node.waits:
            silent = self.node.silence(now)
            if silent is not None:
                self.stop(silent)
        elif now - self.sent_at >= lease_s:
            self.stop(LeaseExpired(f"the request held its model for {lease_s:g} s (lease_s of the device)"))
        elif not self.first.done():
            if now - self.sent_at >= first_byte_s:
                reason = f"no first byte from the backend within {first_byte_s:g} s (server.first_byte_s)"
                self.stop(BackendSlow(reason))
        elif self.is_paused or self._seen != self.chunks:
            self._seen, self._silent_since = self.chunks, now
        elif now - self._silent_since >= idle_s:
            self.stop(BackendSlow(f"silence from the backend for {idle_s:g} s (server.idle_s)"))

    def _begin_bounds(self, now: float) -> None:
        """Let the bounds begin: the model is this request's from now on."""
        self.sent_at = self._silent_since = now

    def finish(self, broken: DmapError | Stale | None = None) -> None:
        """Mark the answer complete, or *broken*; called by the connection."""
        self._release()
        self.broken = broken if isinstance(broken, DmapError) else None
        if not self.first.done():
            self.first.set_exception(broken) if broken else self.first.set_result(None)
            self.first.exception()  # whoever waits may be cancelled before it looks

    def stop(self, error: DmapError) -> None:
        """End the answer here if it is not complete, broken by *error*."""
        if not self.ended:
            self.abort()
            self.finish(error)

    def abort(self) -> None:
        """Cut the connection if the answer is not complete: that makes the backend stop generating."""
        stream = self._release()
        if stream is not None:
            stream.abort()

    def _release(self) -> Stream | None:
        stream, self.stream = self.stream, None
        if self.node is not None and not self.ended:
            self.node.end(self._now())
        self.ended = True
        self.halted.set()
        self.under_way.discard(self)
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
        self.sink = drop  # the other one leads back here, and only the collector would free the two


def drop(data: bytes) -> None:
    """Drop bytes that nobody needs any more."""
