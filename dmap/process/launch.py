"""
The program that every child begins as, and that becomes the child's command.

`python -I -S launch.py PARENT LIMIT MARK COMMAND ...`, by its path: it imports nothing of dmap.  It asks the
kernel for a SIGKILL when *PARENT* dies, takes *MARK* for its soft limit number *LIMIT*, closes what uvloop
hands down, and executes the command in its own place.  To do this between fork and exec would run Python in a
copy of a process with threads, which may deadlock.

The kernel's promise holds for the command alone, not for what the command starts; see `marks`.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1
NOT_STARTED = 127
"""What a shell returns for a command that it cannot start."""


def main(parent: int, limit: int, mark: int, command: list[str]) -> NoReturn:
    """Become *command*, bound to *parent*; or end with `NOT_STARTED`, and the reason on standard error."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Looked at only now: a parent that died before the call above sends no signal any more.
    if os.getppid() != parent:
        os._exit(NOT_STARTED)
    _, most = resource.getrlimit(limit)
    with contextlib.suppress(ValueError, OSError):  # somebody has bounded it: then its group has to do
        resource.setrlimit(limit, (mark, most))
    # uvloop hands down whatever is inheritable, such as sockets that systemd opened.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that down
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as exc:
        os.write(2, f"cannot start {command[0]}: {exc.strerror}\n".encode(errors="replace"))
    os._exit(NOT_STARTED)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
