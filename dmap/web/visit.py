"""
One request from its arrival to its end, and all that are under way.

A `Visit` is the one object of a request.  Whoever has to know of requests under way looks at it: the drain,
the queue's pages, an order that ends it, the shares in memory and in its key's bounds, and a slow look at
clients whose leaving nothing else shows.

A client that leaves is noticed by the end of its connection, as long as the connection is read.  One that
has sent a flood of further requests behind its first is not read any more, so the kernel is asked.
"""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from dmap.access import Client, Verdict
from dmap.config import Server
from dmap.errors import BodyTooLarge, DmapError, Overloaded
from dmap.record import RequestRecord
from dmap.wire.hop import Hop

LOOK_S = 1.0
_ESTABLISHED = 1
"""`TCP_ESTABLISHED` of linux/tcp_states.h; the first byte of `struct tcp_info` is the state."""


@dataclass(slots=True, eq=False)
class Visit:
    """
    One request.

    *client* is who asks, once that is known, and *hop* what a front says that asks for it.  *named* is what
    its path names, of a model or a request.  *slot* is what it is counted as over all dmaps, and *said* what
    these let it do; they have no say where there is no Redis.
    *body_bytes* is its share of the memory for bodies.  It is open from entering the context to leaving it:
    it then waits for a model or is answered by one, and `cancel` ends it.
    """

    request: web.BaseRequest
    record: RequestRecord
    client: Client = field(init=False)
    hop: Hop | None = None
    slot: str = ""
    said: Verdict | None = None
    named: str = ""
    body_bytes: int = 0
    unread_since: float | None = None
    _task: asyncio.Task[Any] | None = None
    _ended_by: DmapError | None = None

    @property
    def is_open(self) -> bool:
        """Whether it waits for a model or is answered by one."""
        return self._task is not None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave.  After `cancel` the error given there is raised instead of a `CancelledError`."""
        task, self._task = self._task, None
        if self._ended_by is None or task is None:
            return
        # A client that left at the same time has cancelled the task once more.
        if task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._ended_by from exc

    def cancel(self, error: DmapError) -> None:
        """End an open request, with *error* for its client.  Only the first call counts."""
        if self._task is not None and self._ended_by is None:
            self._ended_by = error
            self._task.cancel()

    def fields(self, now: float) -> dict[str, Any]:
        """Return what others may know of it, *now* being the loop's time."""
        record = self.record
        return {
            "id": record.id,
            "client": record.client,
            "path": record.path,
            "model": record.model,
            "backend": record.backend,
            "stream": record.stream,
            "waits": record.waits,
            "for_s": round(now - record.arrived_at, 3),
            "answering": record.first_byte_s is not None,
            "bytes": record.bytes_out,
        }


class Visits:
    """
    The requests under way; `watch` looks after them.

    *server* has the bounds: of one body, of all bodies together, and of the time for which a connection may
    stay unread until it is cut, for then even the kernel may not know.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.body_bytes = 0
        self._under_way: dict[Visit, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """Return how many requests are under way, whatever they want."""
        return len(self._under_way)

    def open(self) -> Iterator[Visit]:
        """Yield those that wait for a model or are answered by one, in the order of their arrival."""
        return (visit for visit in self._under_way if visit.is_open)

    def enter(self, visit: Visit) -> None:
        """Count *visit* as under way."""
        self._empty.clear()
        self._under_way[visit] = None

    def leave(self, visit: Visit) -> None:
        """Count it no more, and take back its share of the memory."""
        self.free(visit)
        self._under_way.pop(visit, None)
        if not self._under_way:
            self._empty.set()

    def claim(self, visit: Visit, size: int) -> None:
        """
        Let the body of *visit* take *size* more bytes.

        Raises `BodyTooLarge`, or `Overloaded` where all bodies together would take too much.
        """
        self.check(visit, size)
        visit.body_bytes += size
        self.body_bytes += size

    def check(self, visit: Visit, size: int) -> None:
        """Raise what `claim` would, and claim nothing."""
        server = self.server
        if visit.body_bytes + size > server.max_body:
            raise BodyTooLarge(f"the body is over {server.max_body} bytes (server.max_body)")
        if self.body_bytes + size > server.bodies:
            held = f"bodies of requests that are not answered yet fill {server.bodies} bytes (server.bodies)"
            raise Overloaded(held, retry_after_s=5)

    def free(self, visit: Visit) -> None:
        """Take back the share of *visit*, whose body nobody needs any more.  Idempotent."""
        self.body_bytes -= visit.body_bytes
        visit.body_bytes = 0

    async def gone(self) -> None:
        """Wait until no request is under way."""
        await self._empty.wait()

    async def watch(self) -> None:
        """Look for clients that have left, now and then, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = asyncio.get_running_loop().time()
            for visit in list(self._under_way):
                self._look_at(visit, now)

    def _look_at(self, visit: Visit, now: float) -> None:
        transport = visit.request.transport
        if transport is None or transport.is_reading():
            visit.unread_since = None
        elif visit.unread_since is None:
            visit.unread_since = now
        elif _has_left(transport) or now - visit.unread_since > self.server.client_stall_s:
            transport.abort()


def _has_left(transport: asyncio.Transport) -> bool:
    """Ask the kernel.  TLS has no socket any more in the turn before its connection is said to be lost."""
    sock = transport.get_extra_info("socket")
    return sock is None or sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED
