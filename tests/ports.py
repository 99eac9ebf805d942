"""Ports for servers that have to be told where they listen before they do, and ports that say nothing."""

import itertools
import os
import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
SHARE = 200
"""So many ports are a worker's own; there are 12 workers at most."""
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_turns = itertools.count(os.getpid())  # so that two runs on one host begin with different ones


def free_port(count: int = 1) -> int:
    """
    Return the first of *count* ports on which nobody listens, and which nobody gets who asks for any.

    Those of `RANGE` the kernel gives away, to each connection too: one of them may be somebody's before the
    server that it is meant for begins to listen.  Nor does another worker get it, or this one again soon.
    """
    lowest = int(RANGE.read_text().split()[0]) - SHARE * (_WORKER % 12 + 1)
    while True:
        turns = [next(_turns) % SHARE for _ in range(count)]
        with suppress(OSError), ExitStack() as stack:
            for turn in turns:
                stack.enter_context(socket.create_server(("127.0.0.1", lowest + turn)))
            if turns == sorted(turns):
                return lowest + turns[0]


@contextmanager
def nobody() -> Generator[int]:
    """Keep a port on which nobody listens, nor can: whoever comes is refused."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@contextmanager
def deaf(port: int) -> Generator[None]:
    """Let *port* say nothing at all, not even that nobody listens: its queue of connections is full."""
    with socket.create_server(("127.0.0.1", port), backlog=0), ExitStack() as stack:
        for _ in range(4):
            full = stack.enter_context(socket.socket())
            full.setblocking(False)
            full.connect_ex(("127.0.0.1", port))
        yield
