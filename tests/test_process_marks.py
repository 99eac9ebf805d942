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
from hypothesis import given
from hypothesis import strategies as st

from dmap.process import end_orphans, launch, marks
from dmap.process.marks import Mark

SLEEP = (sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)")


@contextmanager
def sleeping(limit: int) -> Generator[subprocess.Popen[bytes]]:
    """A process with *limit*, in a session of its own, which has thrown its environment away."""
    launched = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(marks.LIMIT), str(limit))
    command = (*launched, *SLEEP)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={}, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def dead() -> Generator[Mark]:
    """A mark that a process made which has ended, but is not reaped."""
    text = "from dmap.process import marks; print(*marks.new(), flush=True)"
    with subprocess.Popen((sys.executable, "-c", text), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Mark(*map(int, process.stdout.read().split()))


def test_orphans_are_killed(dead):
    """What bears the mark of a dead dmap is gone when `end_orphans` returns, though it heeds nothing else."""
    with sleeping(dead.limit) as orphan:
        os.kill(orphan.pid, signal.SIGSTOP)  # for `send_signal` reaps one that has ended

        end_orphans()  # or a daemon that another test starts, as soon as the orphan is there

        assert psutil.Process(orphan.pid).status() == psutil.STATUS_ZOMBIE


def test_children_of_one_that_lives_are_left_alone():
    """Another dmap's children, here ours, are nobody's orphans."""
    with sleeping(marks.new().limit) as own:
        assert own.pid not in end_orphans()

        assert own.poll() is None


@pytest.mark.parametrize("limit", [0, 1, 1000, 2**62, 2**62 + 4_000_000, 2**63 - 1])
def test_a_limit_of_others_is_no_mark(limit):
    """Whoever has such a limit for reasons of his own is nobody's orphan."""
    with sleeping(limit) as stranger:
        assert marks.mark_of(stranger.pid) is None
        assert stranger.pid not in end_orphans()

        assert stranger.poll() is None


def test_an_id_that_is_used_again_is_another_process():
    """A mark names its maker by id and start, so that a later process of the same id protects nobody."""
    mine = marks.new()
    with sleeping(mine._replace(ticks=mine.ticks ^ 1).limit) as orphan:
        end_orphans()

        assert orphan.wait() == -signal.SIGKILL


def test_a_session_that_is_used_again_is_another_ones():
    """A stranger whose session has the number that a child's had is not taken for what the child left."""
    with sleeping(0) as stranger, sleeping(marks.new().limit) as sibling:
        child = marks.new()

        assert os.getsid(stranger.pid) == stranger.pid
        assert marks.end_left(child, signal.SIGKILL) == []
        assert (stranger.poll(), sibling.poll()) == (None, None)


def test_children_in_a_container_are_left_alone(dead):
    """There a dmap's id is of another namespace, and means nobody here, or somebody else."""
    contain = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
    launched = (sys.executable, "-I", "-S", launch.__file__, "0", str(marks.LIMIT), str(dead.limit))
    with subprocess.Popen((*contain, *launched, *SLEEP), stdout=subprocess.PIPE) as outside:
        assert outside.stdout is not None
        assert outside.stdout.readline() == b"1\n"
        (contained,) = psutil.Process(outside.pid).children()

        found, ended = marks.mark_of(contained.pid), end_orphans()

        outside.kill()
    assert (found, contained.pid in ended) == (dead, False)


def test_nobody_is_signalled_by_mistake():
    """A process that is not meant any more gets no signal, and one that has gone is no error."""
    with sleeping(marks.new().limit) as one:
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
    with sleeping(marks.new().limit) as one:
        command = (sys.executable, "-c", FORBIDDEN, str(error), str(one.pid))

        sent = subprocess.run(command, capture_output=True, text=True, timeout=60)

        assert (sent.stdout, sent.stderr) == (f"{error}\n", "")
        assert one.wait(10) == -signal.SIGKILL


@given(st.builds(Mark, st.integers(1, 2**22 - 1), st.integers(0, 2**20 - 1), st.integers(0, 2**11 - 1)))
def test_a_mark_is_a_limit_that_can_be_set(mark):
    """Every mark is a limit below what a signed word holds, and is read from that."""
    assert Mark.of(mark.limit) == mark
    assert 2**62 < mark.limit < 2**63
