"""The command line: exit codes and what is said, to people and to service managers."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmap import __version__
from dmap.cli import main
from dmap.sockets import ANOTHER

ROOT = Path(__file__).parents[1]
A = "backends: {a: {kind: openai, url: 'http://127.0.0.1:1'}}\n"
SILENT = (
    "{}:1:12: warning: backends.a: could not be asked what models it has: "
    "the backend 'a' does not list its models: connection refused\n"
)


@pytest.fixture
def written(tmp_path):
    """Write a configuration; return its path."""

    def write(text: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of loopback that somebody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def dmap(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "dmap", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def complaints(stderr: str) -> list[str]:
    """What the command itself says, without its log."""
    return [line for line in stderr.splitlines() if line.startswith("dmap: ")]


def test_a_good_file(written, capsys):
    """`check-config` says that all is well, and ends with 0; a server that is down is no mistake."""
    path = written(A)

    assert main(["check-config", path]) == 0
    assert capsys.readouterr() == (f"{path}: ok\n", SILENT.format(path))


def test_a_file_with_a_warning(written, capsys):
    """A warning is told but is no failure."""
    path = written(A + "listen: {host: 0.0.0.0}\naccess: {open: true}")

    assert main(["check-config", path]) == 0
    assert capsys.readouterr() == (
        f"{path}: ok\n",
        SILENT.format(path)
        + f"{path}:3:10: warning: access.open: anyone who reaches this host may use every model\n",
    )


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_a_bad_file(written, capsys, command):
    """All problems are told at once, a line each with its place and path, and the exit code is 78."""
    path = written("listen: {port: x, hots: y}\nbackends: {a: {kind: openai, url: ''}}\nfoo: 1")

    assert main([command, path]) == 78
    assert capsys.readouterr() == (
        "",
        f"{path}:1:10: listen.port: must be a whole number\n"
        f"{path}:1:19: listen.hots: no such key; did you mean host?\n"
        f"{path}:2:30: backends.a.url: not a URL; write it like http://127.0.0.1:1234, http:// or https:// "
        f"included\n{path}:3:1: foo: no such key\n",
    )


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_no_file(tmp_path, capsys, name):
    """A file that cannot be read is a problem of the configuration too."""
    assert main(["serve", str(tmp_path / name)]) == 78
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ("", 78),
        ("access: {trusted_proxies: [10.0.0.0/8]}", 78),
        ("access: {open: true}", 0),
        ("access: {allow: [10.0.0.0/8]}", 0),
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "'::'"])
def test_beyond_loopback_only_protected(written, capsys, host, rest, code):
    """A file that would open dmap to the world unprotected is refused."""
    path = written(f"{A}listen: {{host: {host}}}\n{rest}")

    assert main(["check-config", path]) == code
    assert ("access.keys" in capsys.readouterr().err) == (code == 78)


@pytest.mark.parametrize(
    "arguments", [[], ["serve"], ["no-such-command"], ["serve", "a", "b"], ["demo", "--port", "x"]]
)
def test_a_wrong_command(capsys, arguments):
    """A command that cannot be understood is told how it is written; the exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert "usage: dmap" in capsys.readouterr().err


def test_the_version(capsys):
    """The version is told."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert (ended.value.code, capsys.readouterr().out) == (0, f"dmap {__version__}\n")


def test_the_port_on_the_command_line(written, taken_port):
    """`--port` goes before the file's, also where that is taken."""
    ended = dmap("serve", "--port", str(taken_port), written(f"{A}listen: {{port: 1}}"))

    assert complaints(ended.stderr) == [
        f"dmap: listen: 127.0.0.1:{taken_port}: address already in use{ANOTHER}"
    ]


@pytest.mark.parametrize("module", [("dmap", "demo"), ("tests.demo_lmstudio",)])
def test_a_demo_whose_port_is_in_use(taken_port, module):
    """A demo says in one line that its port is taken."""
    ended = subprocess.run(
        (sys.executable, "-m", *module, "--port", str(taken_port)), capture_output=True, text=True, cwd=ROOT
    )

    assert complaints(ended.stderr) == [
        f"dmap: listen: 127.0.0.1:{taken_port}: address already in use{ANOTHER}"
    ]
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)


def test_a_port_in_use(written, taken_port):
    """A port that somebody else listens at is told in one line with the address; the exit code is 1."""
    ended = dmap("serve", written(f"{A}listen: {{port: {taken_port}}}"))

    (line,) = complaints(ended.stderr)
    assert line == f"dmap: listen: 127.0.0.1:{taken_port}: address already in use{ANOTHER}"
    assert "Traceback" not in ended.stderr
    assert (ended.returncode, ended.stdout) == (1, "")


def test_a_host_that_is_not_there(written):
    """A name to listen at that leads nowhere is told in one line with the name."""
    ended = dmap("serve", written(f"{A}listen: {{host: no-such-host.invalid}}\naccess: {{open: true}}"))

    (line,) = complaints(ended.stderr)
    assert line.startswith("dmap: listen.host: no-such-host.invalid: ")
    assert ended.returncode == 1


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_a_port_in_use_of_every_address(written, taken_port):
    """A port that is taken on one of the addresses is told with where dmap was to listen."""
    ended = dmap("serve", written(f"{A}listen: {{host: '::', port: {taken_port}}}\naccess: {{open: true}}"))

    assert complaints(ended.stderr) == [f"dmap: listen: [::]:{taken_port}: address already in use{ANOTHER}"]
    assert ended.returncode == 1


NO_IPV6 = """
import errno, os, socket, sys
from dmap.cli import main

def kernel(event, arguments):
    if event == "socket.__new__" and arguments[1] == socket.AF_INET6:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

sys.addaudithook(kernel)
sys.exit(main(["serve", sys.argv[1]]))
"""
"""Refuses sockets of IPv6, as a kernel with `ipv6.disable=1` does."""


def test_a_host_without_ipv6(written):
    """Where there is no IPv6, `::` is refused, with what to write instead."""
    path = written(f"{A}listen: {{host: '::', port: 0}}\naccess: {{open: true}}")

    ended = subprocess.run([sys.executable, "-c", NO_IPV6, path], capture_output=True, text=True, timeout=100)

    assert complaints(ended.stderr) == [
        "dmap: listen.host: this host has no IPv6; write 0.0.0.0 instead of ::"
    ]
    assert ended.returncode == 1


INTERRUPTED = """
import signal, sys
import dmap.local  # beforehand: an interrupt in the making of a class, Python 3.11 tells as a RuntimeError
from dmap.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
signal.signal(signal.SIGVTALRM, lambda *_: signal.raise_signal(signal.SIGINT))
signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)
sys.exit(main(["simulate"]))
"""


def test_ctrl_c_while_it_works():
    """Ctrl-C ends a command that serves nobody without a traceback."""
    command = [sys.executable, "-c", INTERRUPTED]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)

    assert (ended.returncode, ended.stderr) == (130, "")


def test_the_module_is_the_command():
    """`python -m dmap` is the command `dmap`."""
    assert dmap("--version").stdout == f"dmap {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["load"], ["drain"], ["reload", "x"], ["tail", "--after", "-1"], ["tail", "--after", "x"]]
    + [["tail", "--after", "1", "--all"], ["status", "x"]],
)
def test_a_wrong_remote_command(capsys, arguments):
    """A command for a running daemon that cannot be understood asks nobody; the exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert "usage: dmap" in capsys.readouterr().err


def test_a_wrong_address(capsys, monkeypatch):
    """An address of the daemon that cannot be one is told in one line; the exit code is 1."""
    monkeypatch.setenv("DMAP_URL", "localhost")

    assert main(["status"]) == 1
    assert capsys.readouterr() == ("", "dmap: DMAP_URL: write it like http://127.0.0.1:8000\n")


def test_a_log_that_is_not_there(tmp_path, capsys):
    """What the system says of a file is told in words, after its name, and never with a number."""
    assert main(["simulate", "--replay", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"dmap: {tmp_path}/nowhere: no such file or directory\n"
