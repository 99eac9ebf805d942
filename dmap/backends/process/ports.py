"""Ports for the commands: none that another command has, and none that anybody listens on."""

import contextlib
import socket
from itertools import chain

from dmap.errors import LoadFailed

_ANY = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))


class Ports:
    """
    Gives out the ports from *first* to *last*; `free` takes one back.

    They are given out in turn, because a port that was just used may have connections that linger.  Each is
    locked by a socket in the abstract namespace, which has the scope of ports and ends with its process
    (unix(7)).  So no other backend gets the same port, in this dmap or in another: many servers listen with
    `SO_REUSEPORT`, and two on one port would both get requests.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._latest = last
        self._locks: dict[int, socket.socket] = {}

    def take(self) -> int:
        """Return a port that nobody has.  Raises `LoadFailed` if there is none."""
        for port in chain(range(self._latest + 1, self._last + 1), range(self._first, self._latest + 1)):
            if port not in self._locks and self._lock(port):
                self._latest = port
                return port
        raise LoadFailed(f"no port from {self._first} to {self._last} is free; see `ports` of the backend")

    def free(self, port: int) -> None:
        """Take *port* back."""
        self._locks.pop(port).close()

    def _lock(self, port: int) -> bool:
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lock.bind(f"\0dmap-port-{port}")
        except OSError:
            lock.close()
            return False
        if is_used(port):
            lock.close()
            return False
        self._locks[port] = lock
        return True


def is_used(port: int) -> bool:
    """Tell whether somebody listens on *port*, at whatever address of this host."""
    return any(_is_used(family, address, port) for family, address in _ANY)


def _is_used(family: int, address: str, port: int) -> bool:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:  # there is no IPv6 here
        return False
    with contextlib.closing(sock):
        # So that only one that listens is in the way, not what lingers of its connections.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((address, port))
        except OSError:
            return family == socket.AF_INET or _has_ipv6()
    return False


def _has_ipv6() -> bool:
    """Tell whether an address of IPv6 can be bound at all."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::", 0))
        return True
    return False
