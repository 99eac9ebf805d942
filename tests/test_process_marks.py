"""Children that no dmap owns any more: found by their marks and ended; those of others are left alone."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import psutil
import pytest

from dmap.process import end_orphans, marks

SLEEP = (sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)")


@contextmanager
def sleeping(mark: str) -> Generator[subprocess.Popen[bytes]]:
    """A process that bears *mark*."""
    environment = {**os.environ, marks.VARIABLE: mark}
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE, env=environment, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def dead() -> str:
    """A mark that a process made which has ended, but is not reaped."""
    text = "from dmap.process import marks; print(marks.new(), flush=True)"
    with subprocess.Popen((sys.executable, "-c", text), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.read().strip()


def test_orphans_are_killed(dead):
    """What bears the mark of a dead dmap is gone when `end_orphans` returns, though it heeds nothing else."""
    with sleeping(dead) as orphan:
        orphan.send_signal(signal.SIGSTOP)

        end_orphans()  # or a daemon that another test starts at this moment

        assert psutil.Process(orphan.pid).status() == psutil.STATUS_ZOMBIE


def test_children_of_one_that_lives_are_left_alone():
    """Another dmap's children, here ours, are nobody's orphans; nor is a process without a proper mark."""
    with sleeping(marks.new()) as own, sleeping("1.x") as strange, sleeping(f"{os.getpid()}..") as other:
        assert not {own.pid, strange.pid, other.pid} & set(end_orphans())

        assert (own.poll(), strange.poll(), other.poll()) == (None, None, None)


def test_an_id_that_is_used_again_is_another_process():
    """A mark names its maker by id and start, so that a later process of the same id protects nobody."""
    with sleeping(f"{os.getpid()}.1.{marks.namespace()}.aa") as orphan:
        end_orphans()

        assert orphan.wait() == -signal.SIGKILL


def test_children_in_a_container_are_left_alone():
    """There a dmap's id is of another namespace, and means nobody here, or somebody else."""
    with sleeping(f"{os.getpid()}.1.1.aa") as other:
        assert other.pid not in end_orphans()

        assert other.poll() is None


def test_nobody_is_signalled_by_mistake():
    """A process that is not meant any more gets no signal, and one that has gone is no error."""
    with sleeping(marks.new()) as one:
        marks.send([one.pid, 2**22 - 1], signal.SIGKILL, lambda pid: False)

        assert one.poll() is None


FORBIDDEN = """
import ctypes, os, signal, struct, sys
from dmap.process import marks

PIDFD_OPEN, ALLOW, ERRNO = 434, 0x7FFF0000, 0x00050000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # of the number of the call, which comes first (seccomp(2))
program = b"".join(
    struct.pack("HBBI", *line)
    for line in (
        (LOAD, 0, 0, 0),
        (EQUAL, 0, 1, PIDFD_OPEN),
        (RETURN, 0, 0, ERRNO | int(sys.argv[1])),
        (RETURN, 0, 0, ALLOW),
    )
)
text = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(text)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no new privileges"
assert libc.prctl(22, 2, filter) == 0, "seccomp"
try:
    os.pidfd_open(os.getpid())
except OSError as exc:
    print(exc.errno, flush=True)
marks.send([int(sys.argv[2])], signal.SIGKILL)
"""
"""Sends a signal where the kernel refuses pidfd_open with the error *1*, as containers have it."""


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
def test_where_the_kernel_refuses_pidfds(error):
    """Some containers forbid pidfd_open, others do as if there were none: the signal is sent all the same."""
    with sleeping(marks.new()) as one:
        command = (sys.executable, "-c", FORBIDDEN, str(error), str(one.pid))

        sent = subprocess.run(command, capture_output=True, text=True, timeout=60)

        assert (sent.stdout, sent.stderr) == (f"{error}\n", "")
        assert one.wait(10) == -signal.SIGKILL
