"""systemd's two small protocols: what is read of an environment, and what a real datagram socket hears."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from dmap import tasks
from dmap.notify import Notifier, listen_fds


@pytest.fixture
def ear(tmp_path: Path) -> Generator[socket.socket]:
    """Listen where a service manager would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def notifier_of(ear: socket.socket, watchdog_usec: int = 0) -> Notifier:
    """Make what tells *ear*."""
    return Notifier({"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": str(watchdog_usec)}, 7)


@pytest.fixture
def notifier(ear: socket.socket) -> Notifier:
    return notifier_of(ear)


def heard(ear: socket.socket) -> list[str]:
    """Return the lines of the next datagram that has come already."""
    return ear.recv(5000).decode().splitlines()


def silent(ear: socket.socket) -> bool:
    """Tell whether nothing has come."""
    try:
        return not ear.recv(5000)
    except BlockingIOError:
        return True


class TestTake:
    def test_nobody_asks(self):
        """Without NOTIFY_SOCKET there is nobody to tell, and telling does nothing."""
        notifier = Notifier({}, 7)

        notifier.ready()

        assert (notifier.address, notifier.watchdog_s) == (None, None)

    @pytest.mark.parametrize(
        ("name", "address"),
        [
            ("/run/systemd/notify", "/run/systemd/notify"),
            ("@notify", "\0notify"),
            ("vsock:2:9", None),
            ("", None),
        ],
    )
    def test_address(self, name, address):
        """NOTIFY_SOCKET is a path, or behind an `@` an abstract name; others lead out of this host."""
        assert Notifier({"NOTIFY_SOCKET": name}, 7).address == address

    @pytest.mark.parametrize(
        ("environ", "watchdog_s"),
        [
            ({"WATCHDOG_USEC": "30000000"}, 30),
            ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30),
            ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
            ({"WATCHDOG_USEC": "0"}, None),
            ({"WATCHDOG_USEC": "soon"}, None),
            ({"WATCHDOG_PID": "7"}, None),
        ],
    )
    def test_watchdog(self, environ, watchdog_s):
        """The watchdog is ours if WATCHDOG_PID says so, or says nothing."""
        assert Notifier(dict(environ), 7).watchdog_s == watchdog_s

    def test_children_do_not_inherit(self):
        """The variables are taken out of the environment: a child shall not speak for the daemon."""
        environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "7", "HOME": "/"}

        Notifier(environ, 7)

        assert environ == {"HOME": "/"}


class TestListenFds:
    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {"LISTEN_FDS": "1"},
            {"LISTEN_FDS": "1", "LISTEN_PID": "8"},
            {"LISTEN_FDS": "-1", "LISTEN_PID": "7"},
            {"LISTEN_FDS": "0", "LISTEN_PID": "7"},
        ],
    )
    def test_not_for_us(self, environ):
        """Descriptors for nobody, or for another process, are left alone."""
        assert listen_fds(environ, 7) == []

    def test_children_do_not_inherit(self):
        """The variables are taken out of the environment, also when they were for another process."""
        environ = {"LISTEN_FDS": "1", "LISTEN_PID": "8", "LISTEN_FDNAMES": "http", "HOME": "/"}

        listen_fds(environ, 7)

        assert environ == {"HOME": "/"}


class TestTell:
    def test_states(self, notifier, ear):
        """Each state is a line of its own; the first that is ready tells its status too."""
        notifier.ready()
        notifier.tell(STOPPING="1")

        assert heard(ear) == ["READY=1", "STATUS=starting"]
        assert heard(ear) == ["STOPPING=1"]

    def test_reload(self, notifier, ear):
        """A reload begins with its time, microseconds of CLOCK_MONOTONIC: `notify-reload` asks for it."""
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        after = time.monotonic_ns() // 1000

        state, stamp = heard(ear)

        assert state == "RELOADING=1"
        assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= after

    def test_abstract_socket(self, tmp_path):
        """A name in the abstract namespace is heard as a path is."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ear:
            ear.bind(f"\0{tmp_path}")
            Notifier({"NOTIFY_SOCKET": f"@{tmp_path}"}, 7).ready()

            assert heard(ear)[0] == "READY=1"

    def test_no_line_can_be_smuggled_in(self, notifier, ear):
        """A model whose name has a line break in it cannot speak to systemd."""
        notifier.tell(STATUS="a model\nMAINPID=1\x00 \udcff" + "x" * 9000)

        (line,) = heard(ear)

        assert line.startswith("STATUS=a model MAINPID=1") and len(line) < 600

    def test_nobody_listens(self, tmp_path, caplog):
        """An address where nobody listens is told once, in the log, and harms nothing."""
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 7)

        notifier.ready()
        notifier.tell(STOPPING="1")

        assert [record.getMessage().split()[0] for record in caplog.records] == ["notify_failed"]

    def test_a_full_queue_loses_nothing(self, notifier, ear):
        """What a full queue does not take goes with the next news, the newest state last."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
            _fill(other, ear.getsockname())

        notifier.tell(STATUS="old")
        notifier.reloading()
        notifier.ready()
        _empty(ear)
        notifier.tell(STATUS="new")

        told = dict(line.split("=", 1) for line in heard(ear))
        assert [name for name in told if name != "MONOTONIC_USEC"] == ["RELOADING", "READY", "STATUS"]
        assert told["STATUS"] == "new"


def _fill(sock: socket.socket, address: str) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.sendto(b"x", address)


def _empty(ear: socket.socket) -> None:
    while not silent(ear):
        pass


class TestBeating:
    async def test_each_beat_tells_the_status(self, ear):
        """A beat feeds the watchdog and tells the status as it is then."""
        notifier, loop = notifier_of(ear, 20_000), asyncio.get_running_loop()

        async with tasks.running(notifier.beat, "notify"), asyncio.timeout(30):
            first = await loop.sock_recv(ear, 5000)
            notifier.status = lambda: "busy"
            second = await loop.sock_recv(ear, 5000)

        assert (first, second) == (b"WATCHDOG=1\nSTATUS=starting", b"WATCHDOG=1\nSTATUS=busy")

    async def test_a_loop_that_is_stuck_feeds_nothing(self, ear):
        """While the loop is blocked the watchdog gets nothing, so systemd notices."""
        async with tasks.running(notifier_of(ear, 20_000).beat, "notify"):
            await asyncio.get_running_loop().sock_recv(ear, 5000)
            _empty(ear)  # what was told before the loop came to us

            time.sleep(0.1)

            assert silent(ear)

    async def test_without_a_watchdog_nothing_is_fed(self, ear):
        """Without WATCHDOG_USEC no WATCHDOG=1 is sent."""
        async with tasks.running(notifier_of(ear).beat, "notify"), asyncio.timeout(30):
            assert await asyncio.get_running_loop().sock_recv(ear, 5000) == b"STATUS=starting"

    async def test_it_ends_with_its_context(self, ear):
        """Nothing is told after the context is closed."""
        async with tasks.running(notifier_of(ear, 20_000).beat, "notify"):
            await asyncio.get_running_loop().sock_recv(ear, 5000)

        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "notify"] == []

    async def test_nobody_asks(self):
        """Without an address nothing beats."""
        async with tasks.running(Notifier({}, 7).beat, "notify"):
            await asyncio.sleep(0)
