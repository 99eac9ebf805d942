"""
A process beside dmap that asks `/health` every few milliseconds and tells how long the worst took.

    python -m bench.attack.gauge PORT PID

It writes a line of JSON for each line that it reads, and starts anew.  *net_ms* leaves out for how long dmap
and this process themselves waited for a core, which on a busy machine is most of it (`run_delay`,
Documentation/scheduler/sched-stats.rst in the kernel).
"""

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.attack.house import House, lag_s

PAUSE_S = 0.004
_ASK = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
_GONE_S = 20.0
HEALTH_S = 2.5e-4
"""The CPU that an answer of `/health` takes, which is not the attack's."""


@dataclass
class Reading:
    """What one attack has cost: the worst answer of `/health`, CPU, memory."""

    worst_ms: float = 0.0
    net_ms: float = 0.0
    cpu_s: float = 0.0
    peak_mib: float = 0.0
    lag_ms: float = 0.0


class Gauge:
    """The process that asks, from the outside."""

    def __init__(self, house: House, child: asyncio.subprocess.Process) -> None:
        self.house = house
        self._child = child

    @asynccontextmanager
    async def measuring(self) -> AsyncGenerator[Reading]:
        """Fill in the reading that this gives when the context ends."""
        reading, cpu_s = Reading(), self.house.cpu_s()
        await self._told()
        self.house.forget_peak()
        yield reading
        told = await self._told()
        reading.worst_ms, reading.net_ms = told["worst_ms"], told["net_ms"]
        reading.cpu_s = self.house.cpu_s() - cpu_s - told["asked"] * HEALTH_S
        reading.peak_mib = self.house.peak_bytes() / 2**20
        reading.lag_ms = 1000 * await lag_s(self.house.port, "sk-all")

    async def _told(self) -> dict[str, float]:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(b"\n")
        found: dict[str, float] = json.loads(await self._child.stdout.readline())
        return found


@asynccontextmanager
async def gauge(house: House) -> AsyncGenerator[Gauge]:
    """Run the process that asks *house* inside the context."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.attack.gauge", str(house.port), str(house.child.pid)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Gauge(house, child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


class _Worst:
    """The worst of the answers since the last time it was told."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.ended, self.lock = threading.Event(), threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.worst_s = self.net_s = 0.0
        self.asked = 0

    @contextmanager
    def one(self) -> Generator[None]:
        """Measure one question."""
        began, waited = time.monotonic(), self._waited_s()
        yield
        took = time.monotonic() - began
        net_s = took - (self._waited_s() - waited)
        with self.lock:
            self.asked += 1
            self.worst_s, self.net_s = max(self.worst_s, took), max(self.net_s, net_s)
        self.ended.set()

    def _waited_s(self) -> float:
        """Return for how long dmap's threads, each of which may hold the interpreter's lock, and we waited."""
        waited = _run_delay(Path("/proc/thread-self/schedstat"))
        return (waited + sum(map(_run_delay, Path(f"/proc/{self._pid}/task").glob("*/schedstat")))) / 1e9


def _run_delay(path: Path) -> int:
    try:
        return int(path.read_text().split()[1])
    except OSError:
        return 0


def _poll(port: int, worst: _Worst) -> None:
    sock: socket.socket | None = None
    while True:
        with worst.one():
            try:
                sock = sock or socket.create_connection(("127.0.0.1", port), _GONE_S)
                sock.sendall(_ASK)
                if not sock.recv(4096):
                    sock = None
            except OSError:
                sock = None
        time.sleep(PAUSE_S)


def main(port: int, pid: int) -> None:
    """Ask until the end, and tell when asked."""
    worst = _Worst(pid)
    threading.Thread(target=_poll, args=(port, worst), daemon=True).start()
    for _ in sys.stdin:
        for _ in range(2):  # the answer under way counts, and one to a question from now on
            worst.ended.clear()
            worst.ended.wait(_GONE_S)
        with worst.lock:
            told = {"worst_ms": 1e3 * worst.worst_s, "net_ms": 1e3 * worst.net_s, "asked": worst.asked}
            worst.reset()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
