"""Ports for servers that have to be told where they listen before they do, and ports that say nothing."""

import os
import random
import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_draw = random.Random(os.getpid())


def free_port(count: int = 1) -> int:
    """
    Return the first of *count* ports on which nobody listens, and which nobody gets who asks for any.

    Those of `RANGE` the kernel gives away, to each connection too: one of them may be somebody's before the
    server that it is meant for begins to listen.
    """
    lowest = int(RANGE.read_text().split()[0])
    while True:
        first = _draw.randrange(lowest - 2_500, lowest - count)
        with suppress(OSError), ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


@contextmanager
def deaf(port: int) -> Generator[None]:
    """Let *port* say nothing at all, not even that nobody listens: its queue of connections is full."""
    with socket.create_server(("127.0.0.1", port), backlog=0), ExitStack() as stack:
        for _ in range(4):
            full = stack.enter_context(socket.socket())
            full.setblocking(False)
            full.connect_ex(("127.0.0.1", port))
        yield
