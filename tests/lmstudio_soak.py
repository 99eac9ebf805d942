"""
dmap as a process, in front of an emulated LM Studio as another, under a crowd: the long runs.

What happens meanwhile past dmap is in `lmstudio_outside`.  `bench/soak_lmstudio.py` runs it at length, the
tests in short.  All times grow with the `pace`: 1 is about a tenth of what real models take.
"""

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.lmstudio_clients import CHATS, Client, Tally, drawn
from tests.lmstudio_world import World
from tests.ports import free_port
from tests.process import Process, daemon

CONFIG = """
devices:
  gpu0: {{max_models: 1, cooldown_s: {cooldown_s}, patience_s: {patience_s}, wait_s: {wait_s}, lease_s: 60}}
backends:
  studio: {{kind: lmstudio, url: '{url}', device: gpu0, load_s: 60}}
server: {{heartbeat_s: 2}}
"""
COOLDOWN_S, PATIENCE_S = 0.3, 5.0
WAIT_S = 60.0
"""It does not grow with the pace: on a machine busy with others a switch takes what they leave it."""
LOAD_S, LOAD_GB_S, TOKEN_S = 0.15, 0.06, 0.01
"""At pace 1: a load takes 0.2 to 1 s, an answer 0.05 to 0.4 s."""


class Studio:
    """The emulator as a process; each of its lives has its own log of events, as a `World`'s."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()  # which nobody gets while it is down
        self.lives: list[World] = []
        self._arguments = arguments
        self._child: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def world(self) -> World:
        return self.lives[-1]

    async def start(self) -> float:
        """Start it, each time on the same port; return when it accepted connections, by the loop's clock."""
        command = (sys.executable, "-m", "tests.lmstudio_emulator", "--port", str(self.port))
        self._child = await asyncio.create_subprocess_exec(
            *command, *self._arguments, stderr=asyncio.subprocess.PIPE, limit=2**20
        )
        assert self._child.stderr is not None
        while not (line := (await self._child.stderr.readline()).decode()).startswith("an emulated"):
            assert line, "the emulator ended"
        at = asyncio.get_running_loop().time()
        self.lives.append(World())
        self._reading = asyncio.create_task(self._read(self._child.stderr, self.world))
        return at

    async def kill(self) -> None:
        """End it with SIGKILL, and read what it had to tell."""
        if self._child is not None and self._reading is not None:
            self._child.kill()
            await self._child.wait()
            await self._reading

    async def _read(self, stream: asyncio.StreamReader, world: World) -> None:
        while line := await stream.readline():
            if line.startswith(b"{"):
                world.events.append(json.loads(line))

    def cuts(self) -> list[dict[str, Any]]:
        return [cut for world in self.lives for cut in world.cuts()]

    def stacks(self, by: str) -> list[dict[str, Any]]:
        return [one for world in self.lives for one in world.stacks() if one["by"] == by]

    def uncalled(self) -> list[dict[str, Any]]:
        """List dmap's mistakes: loads on demand of what was never there, or what it had unloaded itself."""
        return [one for world in self.lives for one in _uncalled(world.events)]

    def loads(self, by: str) -> int:
        return sum(one["by"] == by for world in self.lives for one in world.happened("load_start"))

    def most(self) -> int:
        """Count the chat models that were in memory at once, at most."""
        return max(world.most() for world in self.lives)

    def wrong(self) -> int:
        """Count the requests that a model took which they did not name, whatever became of the answer."""
        return sum(len(world.wrong()) for world in self.lives)


def _uncalled(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    unloaded_by: dict[str, str] = {}
    for event in events:
        if event["event"] == "gone":
            unloaded_by[event["model"]] = event["by"]
        is_called = event["event"] == "load_start" and event["by"] == "jit"
        if is_called and unloaded_by.get(event["model"], "rest") == "rest":
            yield event


@dataclass
class Scene:
    """A server, a proxy before it, and a crowd; *open* lets the crowd ask."""

    studio: Studio
    proxy: Process
    pace: float
    rng: random.Random
    tally: Tally = field(default_factory=Tally)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    left: int = 0

    async def state(self) -> dict[str, Any]:
        """Return what `/ready` tells."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.proxy.url}/ready") as answer:
            return await answer.json()

    async def until(self, condition: Callable[[dict[str, Any]], bool], within_s: float) -> bool:
        """Look at the device until *condition* holds; False if it does not in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not condition((await self.state())["devices"]["gpu0"]):
                    await asyncio.sleep(0.002)
                return True
        return False

    async def answered(self, count: int) -> None:
        """Wait for *count* answers more, 100 s at most."""
        goal = len(self.tally.of("answer")) + count
        async with asyncio.timeout(100):
            while len(self.tally.of("answer")) < goal:
                await asyncio.sleep(0.01)

    def switches(self) -> int:
        return sum(" switch " in line and "outcome=ok" in line for line in self.proxy.log)


@asynccontextmanager
async def scene(
    folder: Path,
    *,
    clients: int = 24,
    pace: float = 1.0,
    seed: int = 1,
    jit: bool = True,
    leave: float = 0.03,
) -> AsyncGenerator[Scene]:
    """Run everything inside the context; of the requests the share *leave* is left in the middle."""
    times = {"--load-s": LOAD_S, "--load-gb-s": LOAD_GB_S, "--token-s": TOKEN_S}
    arguments = [word for flag, value in times.items() for word in (flag, str(value * pace))]
    studio = Studio(*arguments, *(() if jit else ("--without", "jit")))
    await studio.start()
    text = CONFIG.format(
        url=studio.url, cooldown_s=COOLDOWN_S * pace, patience_s=PATIENCE_S * pace, wait_s=WAIT_S
    )
    try:
        async with daemon(folder, text) as proxy:
            stage = Scene(studio, proxy, pace, random.Random(seed))
            stage.open.set()
            asking = [asyncio.create_task(_client(stage, number, leave)) for number in range(clients)]
            try:
                yield stage
            finally:
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
    finally:
        await studio.kill()


async def _client(stage: Scene, number: int, leave: float) -> None:
    """Ask, think, ask again."""
    rng = random.Random(stage.rng.random() + number)
    client = Client(number, stage.proxy.url, bound_s=2 * WAIT_S)
    try:
        while True:
            await stage.open.wait()
            call = drawn(rng, CHATS[number % len(CHATS)])
            bound_s = rng.uniform(0, 0.5) * stage.pace if rng.random() < leave else None
            verdict = await _unless_left(client.ask(call), bound_s)
            if verdict is None:
                stage.left += 1
            else:
                stage.tally.verdicts.append(verdict)
            failed = verdict is not None and verdict.kind != "answer"
            await asyncio.sleep(0.1 if failed else rng.expovariate(2 / stage.pace))
    finally:
        await client.close()


async def _unless_left(asking: Awaitable[Any], bound_s: float | None) -> Any:
    """Wait *bound_s* for the end, then leave and return None."""
    task = asyncio.ensure_future(asking)
    try:
        await asyncio.wait((task,), timeout=bound_s)
        return task.result() if task.done() else None
    finally:
        task.cancel()
