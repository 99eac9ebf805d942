"""Ports for servers that have to be told where they listen before they do."""

import os
import random
import socket
from contextlib import ExitStack, suppress
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
