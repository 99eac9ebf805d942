"""
Whose child a process is: a mark that the kernel hands on to all that it starts.

A process group, a session, a parent and an environment can be left by any program, and daemons do.  Limits
are inherited over all of that.  `RLIMIT_LOCKS` has meant nothing since Linux 2.4.25 (getrlimit(2)), so its
soft limit can hold a number, which /proc/PID/limits tells.  It names the dmap that started the child: after
that dmap's death the next one finds what is left over, and does not touch the children of another dmap that
lives.  A number that is no mark is never taken for one, and ids of processes, which are used again, tell
nothing by themselves; so no stranger is ever signalled.

Nor are the children of a dmap in a container, whose ids are of another namespace: the kernel ends all of a
namespace with its first process.  It blocks: /proc is read.
"""

import contextlib
import itertools
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

LIMIT = 10
"""`RLIMIT_LOCKS` of asm-generic/resource.h."""
GONE_S = 10.0
"""How long the kernel may take to free what was killed, before a start goes on without."""
_LOOK_S = 0.02
_SOFT = re.compile(rb"^Max file locks +([0-9]+) ", re.MULTILINE)

_PID_BITS, _TICKS_BITS, _NUMBER_BITS = 22, 20, 11
"""A process id is below 2^22 (proc(5)); of the start and the number of the child the last bits are kept."""
_MAGIC = 0b10_1101_1001
"""What a mark begins with, in the bits that are left of 63: nobody sets such a limit for himself."""
_numbers = itertools.count(secrets.randbelow(1 << _NUMBER_BITS))


class Status(NamedTuple):
    """What the kernel says of a process: its start in ticks since boot, and whether it runs no more."""

    started: int
    ended: bool


class Mark(NamedTuple):
    """The mark of one child: of which dmap it is, by id and start, and its *number* there."""

    owner: int
    ticks: int
    number: int

    @classmethod
    def of(cls, limit: int) -> "Mark | None":
        """Return the mark that *limit* is, if it is one."""
        rest, owner = divmod(limit, 1 << _PID_BITS)
        rest, ticks = divmod(rest, 1 << _TICKS_BITS)
        magic, number = divmod(rest, 1 << _NUMBER_BITS)
        return cls(owner, ticks, number) if magic == _MAGIC else None

    @property
    def limit(self) -> int:
        """The mark as a limit."""
        head = (_MAGIC << _NUMBER_BITS) + self.number
        return (((head << _TICKS_BITS) + self.ticks) << _PID_BITS) + self.owner


def new() -> Mark:
    """Return a mark for one more child of this process."""
    me = os.getpid()
    return Mark(me, _ticks(me) or 0, next(_numbers) % (1 << _NUMBER_BITS))


def mark_of(pid: int) -> Mark | None:
    """Return the mark of a process, if it has one and has not ended."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            found = _SOFT.search(file.read())
    except OSError:
        return None
    mark = Mark.of(int(found[1])) if found else None
    if mark is None:
        return None
    status = status_of(pid)
    return None if status is None or status.ended else mark


def is_ours(pid: int) -> bool:
    """Tell whether this process has started *pid*, or what it has started has."""
    mark, me = mark_of(pid), os.getpid()
    return mark is not None and (mark.owner, mark.ticks) == (me, _ticks(me))


def left_of(mark: Mark) -> list[int]:
    """
    List the processes that bear *mark*.

    Where none is seen there is a second look: one that forks and ends while it is looked for is in the list
    of ids, and its child is not.
    """
    for _ in range(2):
        if pids := [pid for pid in _pids() if mark_of(pid) == mark]:
            return pids
    return []


def send(pids: list[int], number: int, is_meant: Callable[[int], bool] = lambda pid: True) -> None:
    """Send the signal *number* to those of *pids* that exist and are meant still: ids are used again."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            _send(pid, number, is_meant)


def _send(pid: int, number: int, is_meant: Callable[[int], bool]) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # some containers forbid it, others do as if the kernel had none
        if is_meant(pid):
            os.kill(pid, number)
        return
    try:
        if is_meant(pid):
            signal.pidfd_send_signal(process, number)
    finally:
        os.close(process)


def end_left(mark: Mark, number: int) -> list[int]:
    """Send the signal *number* to what is left of a child; return what that was."""
    pids = left_of(mark)
    send(pids, number, lambda pid: mark_of(pid) == mark)
    return pids


def end_orphans() -> list[int]:
    """Kill what the children of dmaps that have died left over; return which processes that were."""
    orphans = [pid for pid in _pids() if _is_orphan(pid)]
    send(orphans, signal.SIGKILL, _is_orphan)
    until = time.monotonic() + GONE_S
    while any(_is_orphan(pid) for pid in orphans) and time.monotonic() < until:
        time.sleep(_LOOK_S)
    return orphans


def status_of(pid: int) -> Status | None:
    """Return what /proc/PID/stat says; None if there is no such process (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Status(int(fields[19]), fields[0] in (b"Z", b"X"))


def _pids() -> Iterator[int]:
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                yield int(name)


def _ticks(pid: int) -> int | None:
    """Return when a process that has not ended began, as marks have it."""
    status = status_of(pid)
    return None if status is None or status.ended else status.started % (1 << _TICKS_BITS)


def _namespace(pid: int | str) -> int | None:
    """Return the number of the namespace that a process's id is of; None if nobody tells."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def _is_orphan(pid: int) -> bool:
    """Tell whether the dmap that started *pid*, or what started it, has ended."""
    mark = mark_of(pid)
    if mark is None or _namespace(pid) != _namespace("self"):
        return False
    return _ticks(mark.owner) != mark.ticks
