"""What the bench asks the machine: which programs and cores it has, and how much memory a process holds."""

import ctypes
import grp
import os
import platform
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

_LIBC = ctypes.CDLL(None)
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_FIRST = -20  # of the values of nice(1)
_AUTOGROUP = Path("/proc/self/autogroup")
# Where the official packages put what is often missing from a user's PATH.
_USUAL_PLACES = {"go": "/usr/local/go/bin/go", "nginx": "/usr/sbin/nginx"}


def find_program(name: str) -> str | None:
    """Return the path of *name*, also when it lies outside PATH in its usual place."""
    usual = _USUAL_PLACES.get(name, "")
    return shutil.which(name) or (usual if os.access(usual, os.X_OK) else None)


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def split_cores() -> tuple[int, int]:
    """Return the core for the proxy under test and the core for everything else; they differ if they can."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-1], cores[0]


def confined_to(core: int) -> Callable[[], None]:
    """
    Return a `preexec_fn` that pins the child to *core*, puts it before others there if this user may do
    that, and lets it open enough sockets.

    A proxy that has to wait for its core finds many sockets ready when it runs, and so looks cheaper than
    it is: without priority the neighbours decide the ranking.
    """

    def confine() -> None:
        os.sched_setaffinity(0, {core})
        _take_priority()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        # In its own session the child hears of no Ctrl-C, nor of our death, unless told.
        _LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)

    return confine


def _take_priority() -> bool:
    # With autogroups (sched(7)) a nice value counts only within its session, so the session needs one too.
    # Real-time scheduling would be surer, but Go's threads spin for each other and can starve the core.
    try:
        os.setsid()
        os.setpriority(os.PRIO_PROCESS, 0, _FIRST)
        if _AUTOGROUP.exists():
            _AUTOGROUP.write_text(str(_FIRST))
    except OSError:
        return False
    return True


def may_take_priority() -> bool:
    """Tell whether this user may raise the priority of processes: root, or by `nice` in limits.conf(5)."""
    child = os.fork()
    if child == 0:
        os._exit(0 if _take_priority() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def with_children(pid: int) -> list[int]:
    """Return *pid* and all its descendants, such as the workers of nginx."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += with_children(int(child))
    return found


def memory_kib(pids: Iterable[int]) -> dict[str, int]:
    """Return the summed resident set (`rss`) and proportional set (`pss`) of *pids*, in KiB."""
    rolls = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return {key.lower(): sum(_field(roll, key) for roll in rolls) for key in ("Rss", "Pss")}


def _field(text: str, key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) if match else 0


def describe() -> dict[str, str]:
    """Return what a reader of the figures must know of the machine."""
    return {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": _version("nginx", "-v"),
        "go": _version("go", "version"),
        "priority": "raised" if may_take_priority() else "ordinary",
    }


def _cpu_model() -> str:
    match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def _version(name: str, flag: str) -> str:
    program = find_program(name)
    if program is None:
        return "absent"
    run = subprocess.run([program, flag], capture_output=True, text=True, check=False)
    match = re.search(r"\d+\.\d+(\.\d+)?", run.stdout + run.stderr)
    return match[0] if match else "unknown"


def user_directive() -> str:
    """
    Return nginx's `user` line.

    Started by root, nginx would give its workers to `nobody`, who may not enter our folder; started by
    anybody else, it warns about the line.
    """
    if os.geteuid() != 0:
        return ""
    account = pwd.getpwuid(0)
    return f"user {account.pw_name} {grp.getgrgid(account.pw_gid).gr_name};"
