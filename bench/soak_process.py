"""
dmap before real llama.cpp servers as commands, under a crowd, while servers or dmap itself are killed.

Four models of which one fits, 24 clients, streams and whole answers, judged by `bench.crowd`.

    python -m bench.soak_process servers --seconds 300    # a server gets a SIGKILL every few seconds
    python -m bench.soak_process dmap --count 20          # dmap gets it, and is started again at once

Every process that a dmap of the run has started bears its mark; whoever is left at the end is told.  Each
server holds a lock on the one file that stands for the device, from before its start until the kernel has
ended it.  So a second server at any moment is a failed load, and none is missed between two looks.  The exit
code is 1 if something was as it must not be.
"""

import argparse
import asyncio
import contextlib
import math
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import uvloop

from bench.crowd import Crowd, Tally
from dmap import lines
from dmap.process import marks
from tests.models import make

MODELS = ("tiny-sea", "tiny-kitchen", "tiny-brief", "slow")
CLIENTS = 24
SERVED_S = 5.0
"""How long after its restart dmap may take to serve again."""
LOOK_S = 0.02
SAID = {
    "listens": (b"listening url=",),
    "runs a server": (b"engine_says", b"serving "),
    "has loaded": (b" switch ", b"outcome=ok"),
}
"""What dmap logs on its way to the first answer after a start; the line of a load may come after that."""
TWO = 99
"""The exit status of a server that finds another one on the device."""
ROOT = Path(__file__).parent.parent
PROGRAM = "tests.llama_serve"
CONFIG = """
listen: {{port: {port}}}
state: {folder}/state.json
devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 3, wait_s: 60, lease_s: 60}}}}
backends:
  box: {{kind: process, device: gpu0, ports: {first}-{last}, parallel: 4, stop_s: 5, load_s: 60}}
macros:
  llama: >-
    flock --no-fork --nonblock --conflict-exit-code {two} {folder}/gpu0
    {python} -m {program} --port {{port}} --alias {{model}} -c 8192 -np {{parallel}}
models:
"""


class Dmap:
    """`dmap serve` as a process that may be killed and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.pids: list[int] = []
        self._config = folder / "config.yaml"
        self._child: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._log = (folder / "dmap.log").open("wb")
        self._compiled = folder / "compiled"
        self.said: list[tuple[float, bytes]] = []
        places = {"port": port, "first": port + 1, "last": port + 60, "folder": folder, "two": TWO}
        text = CONFIG.format(**places, python=sys.executable, program=PROGRAM)
        for name in MODELS:
            file = make(name, folder / "models")
            text += f"  {name}: {{backend: box, cmd: '{{llama}} {file}', env: {{PYTHONPATH: '{ROOT}'}}}}\n"
        self._config.write_text(text)

    async def start(self) -> None:
        """Start it, with its modules compiled as pip leaves them; return when it listens."""
        command = (sys.executable, "-m", "dmap", "serve", str(self._config))
        compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self._compiled)}
        self._child = await asyncio.create_subprocess_exec(
            *command, stderr=asyncio.subprocess.PIPE, env={**os.environ, **compiled}
        )
        self.pids.append(self._child.pid)
        self.said = []
        assert self._child.stderr is not None
        while line := await self._child.stderr.readline():
            self._note(line)
            if b"listening url=" in line:
                break
        self._reading = asyncio.create_task(self._read(self._child.stderr))

    async def end(self, number: int) -> int:
        """Send it a signal; return its exit status."""
        assert self._child is not None and self._reading is not None
        self._child.send_signal(number)
        status = await self._child.wait()
        await self._reading
        self._log.flush()
        return status

    def said_at(self, *words: bytes) -> float:
        """Return when this life of it first logged a line with all *words*; infinity if it has not."""
        return next((at for at, line in self.said if all(word in line for word in words)), math.inf)

    def _note(self, line: bytes) -> None:
        self._log.write(line)
        self.said.append((time.monotonic(), line))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self._note(line)

    def marked(self) -> Iterator[psutil.Process]:
        """Yield what runs and was started by any of its lives."""
        for process in psutil.process_iter():
            mark = marks.mark_of(process.pid)
            if mark is not None and mark.owner in self.pids:
                yield process

    def servers(self) -> list[psutil.Process]:
        """List the servers among these, past their launcher."""
        return [each for each in self.marked() if _is_server(each)]


def _is_server(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()[1:3] == ["-m", PROGRAM]
    return False


async def kill_servers(dmap: Dmap, tally: Tally, rng: random.Random, options: argparse.Namespace) -> bool:
    """Kill a server now and then."""
    until, kills = time.monotonic() + options.seconds, 0
    while time.monotonic() < until:
        await asyncio.sleep(rng.uniform(0.5, 4))
        for server in await asyncio.to_thread(dmap.servers):
            with contextlib.suppress(psutil.Error):
                server.kill()
                kills += 1
    print(f"{kills} servers killed in {options.seconds:g} s")
    return kills > 0


async def kill_dmap(dmap: Dmap, tally: Tally, rng: random.Random, options: argparse.Namespace) -> bool:
    """Kill dmap and start it again; tell how long it took until an answer began, and where the time went."""
    took = []
    for _ in range(options.count):
        await asyncio.sleep(rng.uniform(1, 5))
        await dmap.end(signal.SIGKILL)
        began = time.monotonic()
        await dmap.start()
        before = tally.begun  # what the one before was asked is cut by now
        while tally.begun == before:
            await asyncio.sleep(LOOK_S)
        answered_s = time.monotonic() - began
        await asyncio.sleep(2 * lines.WITHIN_S)  # what it has logged by now is written by then
        marks = (SAID["listens"], SAID["runs a server"], SAID["has loaded"])
        took.append([*(dmap.said_at(*words) - began for words in marks), answered_s])
    worst = max(took, key=lambda times: times[-1])
    medians = [statistics.median(times) for times in zip(*took, strict=True)]
    print(f"{len(took)} kills of dmap, seconds from the restart until it")
    for what, median, last in zip((*SAID, "answers"), medians, worst, strict=True):
        print(f"  {what:14} {median:5.2f} median {last:5.2f} in the slowest")
    return worst[-1] < SERVED_S


async def main(options: argparse.Namespace) -> bool:
    """Run what *options* name."""
    run = {"servers": kill_servers, "dmap": kill_dmap}[options.run]
    with tempfile.TemporaryDirectory() as folder:
        dmap = Dmap(Path(folder), options.port)
        await dmap.start()
        await dmap.end(signal.SIGTERM)  # what it imports is compiled by now
        await dmap.start()
        async with Crowd(dmap.url, MODELS).asking(options.seed, CLIENTS) as tally:
            fine = await run(dmap, tally, random.Random(options.seed), options)
        status = await dmap.end(signal.SIGTERM)
        left = [process.pid for process in dmap.marked()]
        log = (Path(folder) / "dmap.log").read_text(errors="replace")
    switches = log.count("switch device=")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"clients: {dict(tally.kinds)}; {switches} switches; exit status {status}; left over: {left}")
    for why, count in tally.errors.most_common():
        print(f"  {count} x {why}")
    for verdict in tally.bad[:20]:
        print(f"  BAD {verdict}")
    bugs = [line for line in log.splitlines() if " bug " in line or "Traceback" in line]
    bugs += [f"two servers at once: {line}" for line in log.splitlines() if f"status {TWO}" in line]
    print("\n".join(bugs[:20]))
    return fine and not tally.bad and not left and status == 0 and not bugs


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="real servers as commands, killed under a crowd")
    parser.add_argument("run", choices=("servers", "dmap"))
    parser.add_argument("--seconds", type=float, default=300.0, help="how long servers are killed (300)")
    parser.add_argument("--count", type=int, default=20, help="how many kills of dmap (20)")
    parser.add_argument("--port", type=int, default=9400, help="of dmap; the 60 above it are the servers'")
    parser.add_argument("--seed", type=int, default=os.getpid())
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(not uvloop.run(main(options())))
