"""
Whose child a process is: a mark in its environment, which all that it starts inherits.

A process group or a parent can be left by any program; few throw their environment away.  The mark names the
dmap that started the child.  So after that dmap's death the next one finds what is left over, and does not
touch the children of another dmap that lives.  Nor does it touch those of a container: ids are of one
namespace, and the kernel ends all of a namespace with its first process.  It blocks: /proc is read.
"""

import contextlib
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

VARIABLE = "DMAP_CHILD"
GONE_S = 10.0
"""How long the kernel may take to free what was killed, before a start goes on without."""
_LOOK_S = 0.02
_MARK = re.compile(VARIABLE.encode() + rb"=([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9a-f]+)")


class Status(NamedTuple):
    """What the kernel says of a process: its session, its start in ticks, and whether it runs no more."""

    session: int
    started: str
    ended: bool


def new() -> str:
    """Return a mark for one more child of this process."""
    me = os.getpid()
    status = status_of(me)
    return f"{me}.{status.started if status else 0}.{namespace()}.{secrets.token_hex(8)}"


def namespace() -> int:
    """Return the number of the namespace that our process ids are of; 0 if nobody tells."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def left_of(mark: str, session: int) -> list[int]:
    """
    List the processes that bear *mark*, and those of *session*, whatever their environment.

    Where none is seen there is a second look: one that forks and ends while it is looked for is in the list
    of ids, and its child is not.
    """
    for _ in range(2):
        if pids := [pid for pid in _pids() if _is_of(pid, mark, session)]:
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


def end_left(mark: str, session: int, number: int) -> list[int]:
    """Send the signal *number* to what is left of a child; return what that was."""
    pids = left_of(mark, session)
    send(pids, number, lambda pid: _is_of(pid, mark, session))
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
    return Status(int(fields[3]), fields[19].decode(), fields[0] in (b"Z", b"X"))


def _pids() -> Iterator[int]:
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                yield int(name)


def _mark_of(pid: int) -> re.Match[bytes] | None:
    """Return the mark of a process that we may look at, if it has one and has not ended."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return None
    return next(filter(None, map(_MARK.fullmatch, words)), None)


def _is_of(pid: int, mark: str, session: int) -> bool:
    status = status_of(pid)
    if status is None or status.ended:
        return False
    if status.session == session:
        return True
    found = _mark_of(pid)
    return found is not None and found[0].decode() == f"{VARIABLE}={mark}"


def _is_orphan(pid: int) -> bool:
    """Tell whether the dmap that started *pid*, or what started it, has ended."""
    found = _mark_of(pid)
    if found is None or int(found[3]) != namespace():
        return False
    owner = status_of(int(found[1]))
    return owner is None or owner.ended or owner.started != found[2].decode()
