"""
Where clients come in: a listening socket, and the connections that are taken from it while there is room.

uvloop's own server would take and cut at once the connections that it has no descriptor for.  Here they wait
in the kernel until others have ended.  Meanwhile connections that ask nothing are cut, those that have asked
nothing for longest first: idle ones, and those whose first request is not there yet.
"""

import asyncio
import functools
import itertools
import logging
import resource
import socket
from typing import Any

from dmap import tasks
from dmap.aiohttp_insides import HttpServer
from dmap.logfmt import Line
from dmap.tls import Certificate

PAUSE_S = 0.1
"""How soon it is tried again where there was no room."""
IDLE_S = 1.0
"""How long a connection may ask nothing where there is no room."""
HANDSHAKE_S = 20.0
"""How long a TLS handshake may take."""
SPARE = 64
"""Descriptors for all that is no client's connection and no backend's."""
_BATCH = 64
"""Connections taken in one turn of the loop."""

_log = logging.getLogger(__name__)


class Listener:
    """
    Takes the connections of *sock*, which listens already, for *http*.

    With a *certificate* they begin with a TLS handshake.  There is room for half as many clients as there may
    be descriptors: each needs one more for its backend.
    """

    def __init__(self, sock: socket.socket, http: HttpServer, certificate: Certificate | None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._http = http
        self._tls: dict[str, Any] = {}
        if certificate is not None:
            self._tls = {"ssl": certificate.context, "ssl_handshake_timeout": HANDSHAKE_S}
        self._loop = asyncio.get_running_loop()
        self._opening: dict[asyncio.Task[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_full = False

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._sock.getsockname()[:2]
        return host, port

    def start(self) -> None:
        """
        Take connections, at first or again.

        A bug there would come up for ever, with nobody let in: it is vital.
        """
        take = functools.partial(tasks.attempt, "taking connections", self._take, vital=True)
        self._loop.add_reader(self._sock, take)

    def end(self) -> None:
        """Take those who are connected, for whom there is room, and no more: a close would cut them."""
        self._take(_most())
        self.close()

    def close(self) -> None:
        """Take no more of them.  Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _take(self, most: int = _BATCH) -> None:
        room = _most() - len(self._http) - len(self._opening)
        if room <= 0:
            return self._pause("as many clients as there is room for")
        for _ in range(min(room, most)):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                self._is_full = False
                return
            except OSError as exc:
                return self._pause(exc.strerror)
            self._open(sock)

    def _open(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        opening = self._loop.connect_accepted_socket(self._http, sock, **self._tls)
        task = tasks.errand(opening, "take a connection", expected=(OSError,))
        self._opening[task] = self._loop.time()
        task.add_done_callback(self._opening.pop)

    def _pause(self, reason: str | None) -> None:
        """
        Leave the other clients waiting for a moment, and make room for them.

        One line is logged for as long as clients wait.
        """
        if not self._is_full:
            self._is_full = True
            _log.warning(Line("clients_wait", {"reason": reason, "connections": len(self._http)}))
        self._make_room()
        self._loop.remove_reader(self._sock)
        self._timer = self._loop.call_later(PAUSE_S, self.start)

    def _make_room(self) -> None:
        """Cut those who have asked nothing for longest: idle connections, and clients yet to agree on TLS."""
        self._http.cut_idle(_BATCH, IDLE_S)
        until = self._loop.time() - IDLE_S
        for task, since in list(itertools.islice(self._opening.items(), _BATCH)):
            if since <= until:
                task.cancel()


def _most() -> int:
    return max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE) // 2)
