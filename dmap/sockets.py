"""
The sockets that dmap listens on: its own, or those that systemd hands over.

Here is also what the kernel does for their connections, and what this host is called.
"""

import errno
import os
import socket
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

from dmap.config import AccessSection, ConfigProblem, Listen, exposure
from dmap.notify import listen_fds

ANOTHER = "; --port (with make: PORT=8001), listen.port in the file or DMAP_LISTEN names another"
_BACKLOG = 4096
"""Connections that the kernel holds until they are accepted; systemd's own number for its sockets."""
_PROBE_AFTER_S, _PROBE_EVERY_S, _PROBES = 15, 5, 3
_NODE_PROBE_S = 5
_NAME_S = 2.0
"""How long DNS may take to tell what this host is called."""


def taken(host: str, port: int) -> list[socket.socket]:
    """
    Listen on *port* of *host*, on each of its addresses; the caller owns the sockets.

    `::` is one socket for all addresses of both families: by itself it is those of IPv6 alone (RFC 3493,
    5.3).  Clients of IPv4 come there as `::ffff:192.0.2.1`, and count as what they are.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as exc:
        raise OSError(f"listen.host: {host}: {exc.strerror}") from exc
    return [_listening(family, address) for family, *_, address in dict.fromkeys(found)]


def _listening(family: int, address: Any) -> socket.socket:
    is_both = address[0] == "::"
    if is_both and not socket.has_dualstack_ipv6():
        raise OSError("listen.host: this host has no IPv6; write 0.0.0.0 instead of ::")
    try:
        return socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=is_both)
    except OSError as exc:
        at = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
        hint = ANOTHER if exc.errno == errno.EADDRINUSE else ""
        raise OSError(f"listen: {at}: {os.strerror(exc.errno or 0).lower()}{hint}") from exc


def given_to_us(access: AccessSection) -> list[socket.socket]:
    """
    Return the sockets that systemd hands over; without any, the list is empty.

    Raises `ConfigProblem` for one that cannot be served, or must not be served with *access* as it is.
    """
    sockets = [socket.socket(fileno=descriptor) for descriptor in listen_fds(os.environ, os.getpid())]
    if problems := [problem for sock in sockets for problem in _problems(sock, access)]:
        raise ConfigProblem(problems)
    return sockets


def _problems(sock: socket.socket, access: AccessSection) -> Iterator[str]:
    address = sock.getsockname()
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        yield f"the socket unit gives {address!r}; write HOST:PORT after ListenStream="
    elif not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        yield "the socket unit gives a connection; write Accept=no"
    elif exposed := exposure(address[0], access):
        yield f"the socket unit: {exposed}"


def find_vanished(sock: socket.socket, stall_s: float) -> None:
    """
    Have the kernel notice hosts that vanish without a word; accepted sockets inherit all of this.

    `TCP_USER_TIMEOUT` also ends a connection whose window stays shut, so it is longer than the stall bound.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_AFTER_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    patience_ms = int(1000 * (stall_s + _PROBE_AFTER_S + _PROBES * _PROBE_EVERY_S))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)


def watch_node(sock: socket.socket) -> None:
    """Have the kernel notice that a node has vanished: within 20 s, or 10 s if it has to acknowledge."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _NODE_PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _NODE_PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * 2 * _NODE_PROBE_S)


def names_of(listen: Listen) -> frozenset[str]:
    """Return the names of this host, its own and those of the configuration, in lower case."""
    return frozenset(name.lower().removesuffix(".") for name in (*_own_names(), *listen.names))


@cache
def _own_names() -> tuple[str, ...]:
    """Return what this host is called.  The system is asked once; it may ask DNS, for `_NAME_S` at most."""
    found = [socket.gethostname()]
    asked = threading.Thread(target=lambda: found.append(socket.getfqdn()), daemon=True)
    asked.start()
    asked.join(_NAME_S)
    return tuple(found)
