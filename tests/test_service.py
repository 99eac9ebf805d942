"""dmap as a service: what systemd hears of it, sockets that systemd holds, the units, the installation."""

import asyncio
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pytest

import dmap
from dmap.config import load, warnings_of
from tests.fakes import HERE_S, FakeBackend, RawClient, chat, post
from tests.process import Process, daemon
from tests.programs import find, why_not

ROOT = Path(dmap.__file__).parent.parent
SYSTEMD = ROOT / "systemd"
DROP_INS = sorted((SYSTEMD / "drop-ins").iterdir())
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
WATCHDOG_S = 0.4

needs_analyze = pytest.mark.skipif(bool(why_not("systemd-analyze")), reason=why_not("systemd-analyze"))
needs_activate = pytest.mark.skipif(
    bool(why_not("systemd-socket-activate")), reason=why_not("systemd-socket-activate")
)


class Ear:
    """What a service manager hears of its daemon."""

    def __init__(self, address: Path) -> None:
        self.address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    async def next(self) -> list[str]:
        """Wait for the next datagram; return its lines."""
        data = await asyncio.get_running_loop().sock_recv(self._socket, 5000)
        return data.decode().splitlines()

    async def until(self, pattern: str) -> str:
        """Wait for a line that *pattern* describes whole; return it."""
        async with asyncio.timeout(HERE_S):
            while True:
                for line in await self.next():
                    if re.fullmatch(pattern, line):
                        return line

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def ear(tmp_path):
    ear = Ear(tmp_path / "notify")
    yield ear
    ear.close()


@pytest.fixture
async def running(tmp_path, backend, ear) -> AsyncGenerator[Process]:
    """Run a daemon that reports to `ear`, in front of a fake backend that is answered for by hand."""
    backend.script = backend.by_hand
    watchdog = str(int(WATCHDOG_S * 1e6))
    async with daemon(
        tmp_path, config_of(backend), NOTIFY_SOCKET=ear.address, WATCHDOG_USEC=watchdog
    ) as process:
        yield process
        backend.cut_all()


def config_of(backend: FakeBackend) -> str:
    return f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n"


async def asked(url: str, request: bytes = HEALTH) -> bytes:
    """Ask over a connection of its own; return all that comes."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        client = RawClient(reader, writer)
        await client.send(request)
        return await client.all()
    finally:
        writer.close()


class TestNotify:
    async def test_ready(self, running, ear):
        """READY=1 comes when dmap answers, not before."""
        await ear.until("READY=1")

        assert b" 200 OK" in await asked(running.url)

    async def test_status(self, running, ear, backend):
        """The status tells how many are served, soon after that has changed."""
        asking = asyncio.ensure_future(asked(running.url, post(chat(), headers="Connection: close\r\n")))
        exchange = await backend.next()

        busy = await ear.until("STATUS=.* 1 served")
        exchange.cut()
        await asking

        assert busy == "STATUS=resident: none; 0 waiting, 1 served"
        assert await ear.until("STATUS=.* 0 served")

    async def test_watchdog(self, running, ear):
        """The watchdog is fed more often than it has to be."""
        clock = asyncio.get_running_loop().time
        await ear.until("WATCHDOG=1")
        fed = [(await ear.until("WATCHDOG=1"), clock())[1] for _ in range(6)]

        gaps = [b - a for a, b in zip(fed, fed[1:], strict=False)]
        assert median(gaps) < WATCHDOG_S  # a single one may be this machine's delay

    async def test_stopping(self, running, ear, backend):
        """STOPPING=1 comes at once, and the watchdog is fed as long as streams are given time."""
        asking = asyncio.ensure_future(asked(running.url, post(chat(), headers="Connection: close\r\n")))
        exchange = await backend.next()

        running.child.send_signal(signal.SIGTERM)

        await ear.until("STOPPING=1")
        await ear.until("WATCHDOG=1")
        exchange.cut()
        await asking
        await running.child.wait()


# Sockets that somebody holds for dmap

_HAND_OVER = """
import os, sys
count = int(sys.argv[1])
os.environ.update(LISTEN_FDS=str(count), LISTEN_PID=str(os.getpid()))
for at, given in enumerate(sys.argv[2:2 + count]):
    os.dup2(int(given), 3 + at)
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""
"""Does what systemd does between fork and exec: descriptors from 3 on, for the process that it is."""


@asynccontextmanager
async def given(
    sockets: Sequence[socket.socket], config: Path, *through: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a daemon that is given *sockets*, started *through* another program if there is one."""
    high = [os.dup(sock.fileno()) for sock in sockets]
    high = [_over(descriptor, 50) for descriptor in high]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _HAND_OVER, str(len(high)), *map(str, high)),
        *(*through, sys.executable, "-m", "dmap", "serve", str(config)),
        stderr=asyncio.subprocess.PIPE,
        pass_fds=high,
        cwd=ROOT,
    )
    for descriptor in high:
        os.close(descriptor)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
        await asyncio.wait_for(child.communicate(), HERE_S)


def _over(descriptor: int, least: int) -> int:
    """Move *descriptor* out of the way of those that begin at 3."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, least)
    os.close(descriptor)
    return moved


def listener(host: str = "127.0.0.1", family: int = socket.AF_INET) -> socket.socket:
    return socket.create_server((host, 0), family=family, backlog=4096)


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@pytest.fixture
def written(tmp_path: Path, backend: FakeBackend) -> Path:
    """Write a configuration that would listen somewhere else."""
    path = tmp_path / "config.yaml"
    path.write_text(f"listen: {{port: 1}}\n{config_of(backend)}")
    return path


class TestSockets:
    async def test_several(self, written):
        """Every socket that is given is served, of IPv4 and of IPv6; `listen` is not used."""
        with listener() as four, listener("::1", socket.AF_INET6) as six:
            async with given([four, six], written):
                answers = [await asked(url_of(sock)) for sock in (four, six)]

        assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * 2

    @pytest.mark.parametrize(
        "through",
        [
            pytest.param([], id="directly"),
            pytest.param(["systemd-socket-activate"], marks=needs_activate, id="systemd-socket-activate"),
        ],
    )
    async def test_restart_refuses_nobody(self, written, through):
        """While dmap is restarted under load, no connection to a socket that another holds is refused."""
        program, outcomes, stop = [str(find(name)) for name in through], Counter(), asyncio.Event()

        with listener() as sock:
            load = [asyncio.ensure_future(_load(url_of(sock), outcomes, stop)) for _ in range(8)]
            for _ in range(2):
                async with given([sock], written, *program):
                    await _more(outcomes, 50)
            async with given([sock], written, *program):
                stop.set()
                await asyncio.gather(*load)

        assert outcomes["refused"] == 0
        assert outcomes["answered"] >= 100

    @pytest.mark.parametrize(
        ("make", "complaint"),
        [
            (lambda: listener("0.0.0.0"), "open to others"),
            (lambda: listener("::", socket.AF_INET6), "open to others"),
            (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), "Accept=no"),
            (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), "ListenStream="),
            (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "ListenStream="),
        ],
        ids=["everyone", "everyone of IPv6", "a connection", "a path", "UDP"],
    )
    async def test_unfit(self, written, make: Callable[[], socket.socket], complaint):
        """A socket that cannot be served, or would be open to all without a key, is a wrong configuration."""
        with make() as sock:
            async with given([sock], written) as child:
                _, log = await asyncio.wait_for(child.communicate(), HERE_S)

        assert child.returncode == 78
        assert complaint in log.decode()

    async def test_open_to_those_with_a_key(self, written):
        """A socket beyond loopback is served where access is limited."""
        written.write_text(written.read_text() + "access: {allow: [127.0.0.0/8]}\n")
        with listener("0.0.0.0") as sock:
            async with given([sock], written):
                answer = await asked(f"http://127.0.0.1:{sock.getsockname()[1]}")

        assert answer.startswith(b"HTTP/1.1 200 OK")


async def _load(url: str, outcomes: Counter[str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            answer = await asked(url)
            outcomes["answered" if answer.startswith(b"HTTP/1.1 200") else "broken"] += 1
        except ConnectionRefusedError:
            outcomes["refused"] += 1
        except ConnectionError:
            outcomes["broken"] += 1


async def _more(outcomes: Counter[str], count: int) -> None:
    wanted = outcomes["answered"] + count
    async with asyncio.timeout(HERE_S):
        while outcomes["answered"] < wanted:
            await asyncio.sleep(0.005)


# The units


def analyzed(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(find("systemd-analyze")), *map(str, arguments)], capture_output=True, text=True, timeout=HERE_S
    )


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copy the units, with an interpreter that exists here."""
    folder = tmp_path / "units"
    folder.mkdir()
    for unit in SYSTEMD.glob("dmap.*"):
        text = unit.read_text().replace("/opt/dmap/bin/python", sys.executable)
        (folder / unit.name).write_text(text)
    return folder


def add(drop_in: Path, units: Path) -> None:
    (units / "dmap.service.d").mkdir()
    shutil.copy(drop_in, units / "dmap.service.d")


def figure(units: Path) -> float:
    """Return the exposure that systemd finds, from 0 (none) to 10."""
    ended = analyzed("security", "--offline=true", "--no-pager", units / "dmap.service")
    return float(re.search(r"Overall exposure level for dmap.service: ([\d.]+)", ended.stdout)[1])


def about(file: Path) -> object:
    """Read the figure that *file* says; each version of systemd weighs a little differently."""
    stated = re.search(r"^# systemd-analyze security: ([\d.]+)", file.read_text(), re.MULTILINE)[1]
    return pytest.approx(float(stated), abs=0.2)


@needs_analyze
class TestUnits:
    @pytest.mark.parametrize("unit", ["dmap.service", "dmap.socket"])
    def test_verify(self, units, unit):
        """systemd has nothing to say about the units."""
        ended = analyzed("verify", "--man=no", units / unit)

        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    @pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.name)
    def test_verify_drop_in(self, units, drop_in):
        """Nor about the service with any of the drop-ins."""
        add(drop_in, units)

        ended = analyzed("verify", "--man=no", units / "dmap.service")

        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    def test_security(self, units):
        """The service is exposed as little as its file says, and less than 2.0."""
        assert figure(units) == about(SYSTEMD / "dmap.service") and figure(units) < 2.0

    def test_security_where_it_lies(self):
        """Nothing beside the file in the repository loosens it, as a folder of drop-ins there would."""
        assert figure(SYSTEMD) == about(SYSTEMD / "dmap.service")

    @pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.name)
    def test_security_with_drop_in(self, units, drop_in):
        """What each drop-in costs is what it says."""
        add(drop_in, units)

        assert figure(units) == about(drop_in) and figure(units) < 2.0


# The installation


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Stand for python3, as far as making a venv and having pip install into it."""
    path = tmp_path / "python"
    path.write_text(
        '#!/bin/sh\ncase "$1 $2" in\n"-c "*) echo /usr/bin/python3 ;;\n'
        '"-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; : >"$3/pyvenv.cfg" ;;\n'
        '"-m pip") echo "#!$0" >"${0%/*}/dmap" ;;\nesac\n'
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def make(tmp_path: Path, python: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one of the Makefile's targets into the tree `root`, with a strict umask as root may have one."""

    def run(target: str, **variables: object) -> subprocess.CompletedProcess[str]:
        chosen = {"DESTDIR": tmp_path / "root", "PYTHON": python, **variables}
        command = ["make", "-s", target, *(f"{name}={value}" for name, value in chosen.items())]
        return subprocess.run(command, cwd=ROOT, umask=0o077, capture_output=True, text=True, timeout=HERE_S)

    return run


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of everything under *root*."""
    return {
        str(path.relative_to(root)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


class TestInstall:
    def test_twice(self, make, tmp_path):
        """Installing again gives the same tree."""
        first_run = make("install-service")
        first = tree(tmp_path / "root")
        second_run = make("install-service")

        assert (
            (first_run.returncode, first_run.stderr) == (second_run.returncode, second_run.stderr) == (0, "")
        )
        assert tree(tmp_path / "root") == first

    def test_what_is_where(self, make, tmp_path):
        """The service's user can read it all; the program knows where it will be."""
        make("install-service")

        root = tree(tmp_path / "root")
        assert {path for path, (mode, _) in root.items() if mode & 0o004 == 0} == set()
        assert root["opt/dmap/bin/dmap"][1] == b"#!/opt/dmap/bin/python\n"
        assert root["etc/systemd/system/dmap.service"][1] == (SYSTEMD / "dmap.service").read_bytes()
        assert {"etc/dmap/config.yaml", "etc/systemd/system/dmap.socket", "opt/dmap/share/dmap/gpu.conf"} < {
            *root
        }

    def test_every_page(self, make, tmp_path):
        """Whatever page a message, a drop-in or another page names is there."""
        make("install-service")

        share = tmp_path / "root/opt/dmap/share/dmap"
        assert {page.name for page in (ROOT / "docs").iterdir()} <= {page.name for page in share.iterdir()}

    def test_other_places(self, make, tmp_path):
        """A package may choose its own places; the units follow."""
        make("install-service", PREFIX="/usr/lib/dmap", UNITDIR="/lib/systemd/system")

        unit = (tmp_path / "root/lib/systemd/system/dmap.service").read_text()
        assert "ExecStart=/usr/lib/dmap/bin/python -P -m dmap serve /etc/dmap/config.yaml" in unit
        assert "/opt/dmap" not in unit

    @needs_analyze
    def test_a_second_one(self, make, tmp_path):
        """`dmap@front` is the same service, with a file, secrets and a state of its own; systemd takes it."""
        make("install-service", PREFIX="/opt/dmap")
        unit = tmp_path / "root/etc/systemd/system/dmap@.service"
        text = unit.read_text()
        first = (SYSTEMD / "dmap.service").read_text().splitlines()
        differing = [line for line in text.splitlines() if line not in first and not line.startswith("#")]
        unit.write_text(text.replace("/opt/dmap/bin/python", sys.executable))

        ended = analyzed("verify", "--man=no", unit.rename(unit.with_name("dmap@front.service")))

        assert differing == [
            "Description=dmap, the model arbitration proxy, %i",
            "ExecStart=/opt/dmap/bin/python -P -m dmap serve /etc/dmap/%i.yaml",
            "ExecReload=/opt/dmap/bin/python -P -m dmap check-config /etc/dmap/%i.yaml",
            "EnvironmentFile=-/etc/dmap/%i.environment",
            "StateDirectory=dmap-%i",
        ]
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    def test_the_owners_configuration_stays(self, make, tmp_path):
        """Neither installing again nor uninstalling touches the configuration; the rest goes."""
        make("install-service")
        mine = tmp_path / "root/etc/dmap/config.yaml"
        mine.write_text("mine")

        make("install-service")
        ended = make("uninstall-service")
        make("uninstall-service")

        assert mine.read_text() == "mine"
        assert ended.returncode == 0
        assert [path.name for path in (tmp_path / "root").rglob("*") if path.is_file()] == ["config.yaml"]

    def test_further_dmaps(self, make, tmp_path):
        """`dmap@front` that was enabled is not left as a link to nothing."""
        make("install-service")
        wants = tmp_path / "root/etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True)
        for unit in ("dmap@front.service", "nginx.service"):
            (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")

        ended = make("uninstall-service")

        assert (ended.returncode, ended.stderr) == (0, "")
        assert [link.name for link in wants.iterdir()] == ["nginx.service"]

    def test_enabled_timers(self, make, tmp_path):
        """Timers that were enabled for models go too, whatever is in their names; others' stay."""
        make("install-service", UNITDIR="/lib/systemd/system")
        wants = tmp_path / "root/etc/systemd/system/timers.target.wants"
        wants.mkdir(parents=True)
        for timer in ("dmap-load@m.timer", r"dmap-load@qwen-qwen3\x2d8b.timer", "logrotate.timer"):
            (wants / timer).symlink_to("/lib/systemd/system/a.timer")

        ended = make("uninstall-service", UNITDIR="/lib/systemd/system")

        assert (ended.returncode, ended.stderr) == (0, "")
        assert [link.name for link in wants.iterdir()] == ["logrotate.timer"]

    def test_a_prefix_in_use(self, make, tmp_path):
        """A folder with something else in it is neither filled nor, later, removed."""
        mine = tmp_path / "root/usr/bin/mine"
        mine.parent.mkdir(parents=True)
        mine.touch()

        installing = make("install-service", PREFIX="/usr")
        make("uninstall-service", PREFIX="/usr")

        assert installing.returncode != 0 and "choose another PREFIX" in installing.stderr
        assert mine.exists()

    def test_an_interpreter_in_a_home(self, make, python):
        """A Python that the service could not see is refused, with the one to take."""
        python.write_text(python.read_text().replace("/usr/bin/python3", "/home/me/.pyenv/bin/python3"))

        ended = make("install-service")

        assert ended.returncode != 0 and "PYTHON=/usr/bin/python3" in ended.stderr

    def test_first_configuration(self):
        """What is installed first is a working configuration that only loopback can reach."""
        config = load(SYSTEMD / "config.yaml", {})

        assert config.listen.host == "127.0.0.1"
        assert warnings_of(config, datetime.now(UTC)) == []

    @pytest.mark.skipif(bool(why_not("shellcheck")), reason=why_not("shellcheck"))
    @pytest.mark.parametrize("script", ["systemd/install.sh", "tests/install_programs.sh", ".ci/run"])
    def test_shellcheck(self, script):
        """shellcheck has nothing to say about the scripts."""
        command = [str(find("shellcheck")), ROOT / script]

        ended = subprocess.run(command, capture_output=True, text=True, timeout=HERE_S)

        assert ended.stdout == ""
