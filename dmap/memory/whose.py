"""Whose processes are on a device, as far as the kernel tells.  It blocks: /proc is read."""

import os
from collections.abc import Iterable

from dmap.process import marks

_FIRST = 0xEFFFFFFC
"""The inode of the namespace of process ids that a host begins with (`PROC_PID_INIT_INO`, proc_ns.h)."""
_NAME_LETTERS = 15
"""The kernel has no more of a name (proc_pid_comm(5))."""


def sees_all() -> bool:
    """
    Tell whether this process knows all others by their ids.

    It does not in a container: a driver then tells ids of the host, or leaves others out.
    """
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _FIRST
    except OSError:
        return False


def own_of(pids: Iterable[int]) -> frozenset[int]:
    """Return those of *pids* that this dmap has started, or what it has started has."""
    return frozenset(filter(marks.is_ours, pids))


def name_of(pid: int) -> str:
    """Return the name of a process; nothing if the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            name = file.read(_NAME_LETTERS + 1)
    except OSError:
        return ""
    return "".join(letter for letter in name if letter.isprintable())
