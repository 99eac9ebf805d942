"""
Where clients come in: a listening socket, and the connections that are taken from it while there is room.

uvloop's own server would take and cut at once the connections that it has no descriptor for.  Here they wait
in the kernel until others have ended.
"""

import asyncio
import functools
import logging
import resource
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web

from dmap import tasks
from dmap.aiohttp_insides import ClientConnection, connections_of
from dmap.logfmt import logfmt

PAUSE_S = 0.1
"""How soon it is tried again where there was no room."""
SPARE = 64
"""Descriptors for all that is no client's connection and no backend's."""
_BATCH = 64
"""Connections taken in one turn of the loop."""
_BACKLOG = 4096
"""Connections that the kernel holds until we accept them; systemd's own number for its sockets."""

_log = logging.getLogger(__name__)


class Listener:
    """
    Takes the connections of *sock* for *http*; *tls* holds what `connect_accepted_socket` has to know of TLS.

    There is room for half as many clients as there may be descriptors: each needs one more for its backend.
    """

    def __init__(self, sock: socket.socket, http: web.Server, tls: dict[str, Any]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._http = http
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._connection: Callable[[], Any] = functools.partial(ClientConnection, http, self._loop)
        self._timer: asyncio.TimerHandle | None = None
        self._is_full = False

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._sock.getsockname()[:2]
        return host, port

    def start(self) -> None:
        """Begin to take connections."""
        self._sock.listen(_BACKLOG)
        self._resume()

    def close(self) -> None:
        """Take no more of them.  Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._sock, self._take)

    def _take(self) -> None:
        for _ in range(_BATCH):
            if connections_of(self._http) >= _most():
                return self._pause("as many clients as there is room for")
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                self._is_full = False
                return
            except OSError as exc:
                return self._pause(exc.strerror)
            sock.setblocking(False)
            opening = self._loop.connect_accepted_socket(self._connection, sock, **self._tls)
            tasks.errand(opening, "take a connection", expected=(OSError,))

    def _pause(self, reason: str | None) -> None:
        """Leave the others waiting for a moment; the log is told once, until nobody waits any more."""
        if not self._is_full:
            self._is_full = True
            _log.warning(
                logfmt("clients_wait", {"reason": reason, "connections": len(self._http.connections)})
            )
        self._loop.remove_reader(self._sock)
        self._timer = self._loop.call_later(PAUSE_S, self._resume)


def _most() -> int:
    return max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE) // 2)
