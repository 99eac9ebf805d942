"""Starts a contender in a place of its own, and ends it with all that it started."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from bench.switches.contenders import Contender, Place
from bench.switches.models import THEMES
from bench.switches.pace import Pace

START_S = 60.0
END_S = 10.0
LOOK_S = 0.2
FIRST_PORT = 12000
"""From here on: below the ports that Linux gives to whoever connects, so that none is taken meanwhile."""


def free_ports() -> Iterator[int]:
    """Yield ports that nobody listens on."""
    for port in range(FIRST_PORT, 32768):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            yield port


def place(folder: Path, models: Path, ports: Iterator[int]) -> Place:
    """Return a place in *folder*, which is made, with a port for the door and one for each model."""
    folder.mkdir(parents=True)
    return Place(folder, models, tuple(next(ports) for _ in range(1 + len(THEMES))))


def load_log(place: Place) -> Path:
    """Return where the loads of this place are noted, see `pace.loads`."""
    return place.folder / "loads"


@asynccontextmanager
async def running(contender: Contender, place: Place, pace: Pace) -> AsyncGenerator[None]:
    """Run *contender* in *place*, ready to be asked."""
    command = contender.command(place)
    paced = pace.environment(load_log(place))
    environment = {**os.environ, **paced, **contender.environment(place)}
    with (place.folder / "log").open("wb") as log:
        child = subprocess.Popen(
            command, cwd=place.folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        async with asyncio.timeout(START_S):
            await _answers(place.url + contender.ready, child)
        await asyncio.to_thread(contender.teach, place)
        yield
    finally:
        await asyncio.to_thread(_end, child)


async def _answers(url: str, child: subprocess.Popen[bytes]) -> None:
    """Return once *url* answers."""
    async with aiohttp.ClientSession() as session:
        while child.poll() is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(LOOK_S)
    raise RuntimeError(f"{child.args!r} has ended with {child.returncode}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child, and then whatever of its group is left."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
