"""Two dmaps on one LM Studio of a host: the second does not start, and says which one is the first."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dmap.config import ConfigProblem, parse
from dmap.owner import cards_of, is_here, names_of, owning, place_of, servers_of
from tests.lmstudio_emulator import Emulator, emulator
from tests.ports import free_port
from tests.process import daemon

PORT = free_port(3) + 2
"""Nobody asks this server; its name is what counts.  No other worker has it, nor the two before."""


@pytest.fixture
async def lm() -> AsyncGenerator[Emulator]:
    """Run an LM Studio."""
    async with emulator() as lm:
        yield lm


def config_of(url: str) -> str:
    """Return the configuration of a dmap that switches the models of the LM Studio at *url*."""
    return f"devices: {{gpu0: {{}}}}\nbackends: {{studio: {{kind: lmstudio, url: '{url}', device: gpu0}}}}"


async def started(folder: Path, config: str) -> tuple[int, str]:
    """Start a daemon that is expected to end by itself; return its exit code and what it said."""
    (folder / "config.yaml").write_text(f"listen: {{port: 0}}\n{config}")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dmap", "serve", str(folder / "config.yaml")),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "STATE_DIRECTORY": str(folder / "state")},
    )
    _, said = await child.communicate()
    assert child.returncode is not None
    return child.returncode, said.decode()


async def test_the_second_does_not_start(lm: Emulator, tmp_path: Path) -> None:
    """A second dmap for the same LM Studio ends with 78, and says which process and file the first one is."""
    one, two = tmp_path / "one", tmp_path / "two"
    _ = [folder.mkdir() for folder in (one, two)]
    async with daemon(one, config_of(lm.url)) as first:
        code, said = await started(two, config_of(lm.url.replace("127.0.0.1", "localhost")))

    assert code == 78
    assert f"pid {first.child.pid}, {one / 'config.yaml'}" in said
    assert "backends.studio.url: another dmap on this host" in said


async def test_a_killed_one_is_in_nobodys_way(lm: Emulator, tmp_path: Path) -> None:
    """After a kill the next one starts at once, however the first one ended."""
    for _ in range(2):
        async with daemon(tmp_path, config_of(lm.url)) as process:
            process.ends_with = -signal.SIGKILL
            process.child.kill()


async def test_a_fast_restart_overlaps() -> None:
    """A dmap that starts while the one before is about to end waits for that."""
    servers, told = {"studio": f"http://127.0.0.1:{PORT}"}, list[str]()
    stack = AsyncExitStack()
    await stack.enter_async_context(owning(servers, "the first"))
    second = asyncio.create_task(hold(servers, told))
    await asyncio.sleep(0)

    await stack.aclose()

    await second
    assert told == ["held"]


async def hold(servers: dict[str, str], told: list[str]) -> None:
    async with owning(servers, "the second"):
        told.append("held")


async def test_one_that_stands_still_keeps_what_it_has() -> None:
    """A stopped dmap goes on later; it cannot say which one it is, but the kernel can."""
    code = f"""
import asyncio
from dmap.owner import owning
async def main():
    async with owning({{"studio": "http://0.0.0.0:{PORT - 2}"}}, "me"):
        print("held", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"held\n"
    child.send_signal(signal.SIGSTOP)

    with pytest.raises(ConfigProblem, match=rf"server: pid {child.pid}; only one may"):
        await hold({"studio": f"http://localhost:{PORT - 2}"}, [])

    child.kill()
    await child.wait()
    await hold({"studio": f"http://localhost:{PORT - 2}"}, [])


async def test_others_are_in_nobodys_way() -> None:
    """Other servers, of this host or another, are free; two backends of one file may have the same."""
    async with (
        owning({"a": f"http://127.0.0.1:{PORT}", "b": f"http://[::1]:{PORT}/v1"}, "one"),
        owning({"a": f"http://127.0.0.1:{PORT - 1}"}, "two"),
        owning({"a": f"http://studio.example:{PORT}"}, "three"),
    ):
        with pytest.raises(ConfigProblem, match=rf"pid {os.getpid()}, one; only one may"):
            await hold({"c": f"http://localhost:{PORT}"}, [])


async def test_a_card_of_another_dmap_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Two dmaps may share a GPU; the second one says so, and which one is the first."""
    card = PORT % 900  # is no other worker's either
    device = f"devices: {{gpu0: {{gpus: [{card}, {card + 1}]}}}}"
    devices = cards_of(
        parse(f"{device}\nbackends: {{s: {{kind: openai, url: 'http://h', device: gpu0}}}}", {})
    )
    async with owning({}, "the first", devices):
        assert caplog.messages == []
        async with owning({}, "the second", {str(card + 1): "big", str(card + 2): "small"}):
            pass

    assert caplog.messages == [f'gpu_of_another device=big gpu={card + 1} by="pid {os.getpid()}, the first"']


def test_only_servers_that_dmap_switches() -> None:
    """A server that runs its models by itself, or a child of dmap, is no reason to refuse anything."""
    text = f"""
devices: {{gpu0: {{}}}}
backends:
  studio: {{kind: lmstudio, url: 'http://127.0.0.1:{PORT}', device: gpu0}}
  other: {{kind: openai, url: 'http://127.0.0.1:{PORT - 1}'}}
"""

    assert servers_of(parse(text, {})) == {"studio": f"http://127.0.0.1:{PORT}"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "LOCALHOST"])
def test_spellings_of_this_host(host: str) -> None:
    """However this host is spelled, it is one place; others call it by its name."""
    assert place_of(f"http://{host}:1234/v1") == ("localhost", 1234)
    assert all(name.endswith(":1234") and "localhost" not in name for name in names_of(f"http://{host}:1234"))


@pytest.mark.parametrize("host", ["lmstudio", "host.docker.internal", "172.17.0.1", "[fe80::1]"])
def test_names_that_mean_another_server_elsewhere(host: str) -> None:
    """What each host calls a server of its own is told apart from what another host calls so."""
    assert re.fullmatch(r"[0-9a-f-]{36}/.*:1234", "".join(names_of(f"http://{host}:1234")))


@pytest.mark.parametrize("host", ["studio.example", "192.0.2.7", "172.18.0.1", "2001:db8::1"])
def test_names_that_mean_one_server_everywhere(host: str) -> None:
    """What all hosts call one server is its name as it is."""
    assert names_of(f"http://{f'[{host}]' if ':' in host else host}:1234") == [f"{host}:1234"]


def test_a_host_that_has_no_such_lock() -> None:
    """Where the lock cannot be taken, for whatever reason but another dmap, the daemon goes on unchecked."""
    code = """
import asyncio, os, resource
from dmap.owner import owning
async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 4096))
    async with owning({"studio": "http://127.0.0.1:9"}, "me"):
        print("goes on")
asyncio.run(main())
"""

    said = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)

    assert said.stdout == "goes on\n"
    assert "server_unchecked backend=studio" in said.stderr
    assert "Too many open files" in said.stderr


@pytest.mark.parametrize("host", ["192.0.2.7", "studio.example", "fe80::1", "2001:db8::1", "a" * 300])
def test_what_is_not_this_host(host: str) -> None:
    """Neither another address nor another name is this host."""
    assert not is_here(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.1", "::ffff:127.0.0.1"])
def test_other_words_for_loopback(host: str) -> None:
    """What the system takes for loopback is this host: some servers say that they listen on 0.0.0.0."""
    assert is_here(host)


def test_addresses_of_this_host() -> None:
    """The address by which others reach this host is this host, and others may know it by that name."""
    name = socket.gethostname()
    own = {str(found[4][0]) for found in socket.getaddrinfo(name, 1)}

    assert all(is_here(each) for each in own)
    assert names_of("http://127.0.0.1:1234")[0] == f"{name.lower()}:1234"


def test_ports_that_go_without_saying() -> None:
    """A URL without a port means that of its scheme."""
    assert (place_of("http://h"), place_of("https://h")) == (("h", 80), ("h", 443))
