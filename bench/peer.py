"""The Go program in `peer/`: built once per run, then asked to be the model server, a proxy, or the load."""

import json
import os
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, Self, TypeAlias, cast

from machine import confined_to

Figures: TypeAlias = dict[str, Any]  # as the Go program reports them, times in nanoseconds

_SOURCE = Path(__file__).parent / "peer"
# On one core a second running thread of Go can only wait, spinning, for the first.
_ONE_CORE = {"GOMAXPROCS": "1", "GOGC": "400"}
_PATIENCE_S = 120  # no single measurement takes longer, whatever happens


def build(go: str, folder: Path) -> Path:
    """Compile the program into *folder* without touching the network."""
    program = folder / "dmapbench"
    offline = {**os.environ, "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    subprocess.run([go, "build", "-o", str(program), "."], cwd=_SOURCE, env=offline, check=True)
    return program


def read_port(process: subprocess.Popen[str]) -> int:
    """Return the port that a started server announces as its first line."""
    return int(_read_line(process)["port"])


def _read_line(process: subprocess.Popen[str]) -> Figures:
    """Read a line of JSON; a process that is silent for too long is killed, which shows as a ValueError."""
    assert process.stdout is not None
    limit = Timer(_PATIENCE_S, process.kill)
    limit.start()
    try:
        return cast(Figures, json.loads(process.stdout.readline()))
    finally:
        limit.cancel()


@dataclass(frozen=True, slots=True)
class Door:
    """Where clients go: a loopback *port*, and the *key* that they show there, if any."""

    port: int
    key: str = ""

    def flags(self) -> list[str]:
        """Return what tells the Go program."""
        return ["-address", f"127.0.0.1:{self.port}", "-key", self.key]

    def headers(self) -> dict[str, str]:
        """Return the headers that show the key."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass(slots=True)
class Peer:
    """The fake model server, running, and the program whose other subcommands load a proxy."""

    program: Path
    core: int
    proxy_core: int
    process: subprocess.Popen[str]
    port: int

    @classmethod
    def start(cls, program: Path, *, core: int, proxy_core: int) -> Self:
        """Start the fake server on *core*; the caller stops it. Proxies are to run on *proxy_core*."""
        process = subprocess.Popen(
            [program, "upstream"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **_ONE_CORE},
            preexec_fn=confined_to(core),
        )
        return cls(program, core, proxy_core, process, read_port(process))

    @property
    def url(self) -> str:
        """Where proxies find the fake server."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End the fake server."""
        self.process.kill()
        self.process.communicate()

    def stream(
        self, to: Door, pids: list[int], *, streams: int, rate: int, window_s: float, in_step: bool = False
    ) -> Figures:
        """Relay *streams* through a proxy and return the figures of one window; `whole`: of the whole run."""
        flags = ["-streams", str(streams), "-rate", str(rate), "-window", f"{window_s}s"]
        return self._measure("stream", to, pids, [*flags, "-in-step"] if in_step else flags)

    def burst(self, to: Door, pids: list[int], *, streams: int) -> Figures:
        """Begin *streams* at once, five times; the delay is that of their first bytes."""
        return self._measure("burst", to, pids, ["-streams", str(streams)])

    def request(self, to: Door, pids: list[int], *, clients: int, requests: int) -> Figures:
        """Ask *requests* times through a proxy, from *clients* in a closed loop, and return the figures."""
        return self._measure("request", to, pids, ["-clients", str(clients), "-requests", str(requests)])

    def hold(self, to: Door, streams: int) -> tuple[subprocess.Popen[str], Figures]:
        """Open idle *streams*; they last until the caller closes the process's stdin and waits for it."""
        process = self._run("idle", [*to.flags(), "-streams", str(streams)])
        return process, _read_line(process)

    def watch(self, to: Door, *, scrape_s: float = 0) -> subprocess.Popen[str]:
        """
        Read dmap's debug stream as soon as it is up, and `/metrics` each *scrape_s* (0: never).

        It ends when its stdin is closed, with a line of figures.
        """
        return self._run("watch", [*to.flags(), "-scrape", f"{scrape_s}s"])

    def last_chat(self) -> Figures:
        """Return the body of the last chat request, as it came to the fake server."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{self.url}/last") as answer:
            return cast(Figures, json.load(answer))

    def _measure(self, command: str, to: Door, pids: list[int], flags: list[str]) -> Figures:
        watched = ["-proxy", ",".join(map(str, pids)), "-upstream", str(self.process.pid)]
        watched += ["-core", str(self.proxy_core)]
        process = self._run(command, [*to.flags(), *watched, *flags])
        try:
            output, _ = process.communicate(timeout=_PATIENCE_S)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return cast(Figures, json.loads(output))

    def _run(self, command: str, flags: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.program, command, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **_ONE_CORE},
            preexec_fn=confined_to(self.core),
        )
