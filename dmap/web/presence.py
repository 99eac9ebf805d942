"""
Who is still there: the requests under way, and a slow look at clients whose leaving nothing else shows.

A client that leaves is noticed by the end of its connection, as long as the connection is read.  One that
has sent a flood of further requests behind its first is not read any more, so the kernel is asked.
"""

import asyncio
import socket

from aiohttp import web

LOOK_S = 1.0
_ESTABLISHED = 1
"""`TCP_ESTABLISHED` of linux/tcp_states.h; the first byte of `struct tcp_info` is the state."""


class Presence:
    """
    The requests under way; `start` and `close` own the task that looks after them.

    A connection that cannot be read for *unread_s* is cut, for then even the kernel may not know.
    """

    def __init__(self, unread_s: float) -> None:
        self.unread_s = unread_s
        self._visits: set[_Visit] = set()
        self._task: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def of(self, request: web.Request) -> "_Visit":
        """Return a context inside which *request* counts as under way."""
        return _Visit(self, request)

    def _came(self, visit: "_Visit") -> None:
        self._visits.add(visit)
        self._empty.clear()

    def _went(self, visit: "_Visit") -> None:
        self._visits.discard(visit)
        if not self._visits:
            self._empty.set()

    async def gone(self) -> None:
        """Wait until no request is under way."""
        await self._empty.wait()

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._look(), name="presence")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now = asyncio.get_running_loop().time()
            for visit in list(self._visits):
                self._check(visit, now)

    def _check(self, visit: "_Visit", now: float) -> None:
        transport = visit.request.transport
        if transport is None or transport.is_reading():
            visit.unread_since = None
        elif visit.unread_since is None:
            visit.unread_since = now
        elif _has_left(transport) or now - visit.unread_since > self.unread_s:
            transport.abort()


class _Visit:
    """One request under way, inside the context.  A generator in its place would cost thrice as much."""

    __slots__ = ("_presence", "request", "unread_since")

    def __init__(self, presence: Presence, request: web.Request) -> None:
        self.request = request
        self.unread_since: float | None = None
        self._presence = presence

    def __enter__(self) -> None:
        self._presence._came(self)

    def __exit__(self, *_: object) -> None:
        self._presence._went(self)


def _has_left(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED)
