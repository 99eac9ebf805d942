"""
dmap as a process in front of two emulated LM Studios with the same models, each on a device of its own.

One of them is killed and started again while a crowd asks.  `bench/soak_places.py` runs it at length, the
tests in short.
"""

import asyncio
import random
import statistics
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.lmstudio_clients import CHATS, Client, Tally, Verdict, drawn
from tests.lmstudio_soak import LOAD_GB_S, LOAD_S, TOKEN_S, WAIT_S, Studio
from tests.process import Process, daemon

CONFIG = """
devices:
  gpu0: {{cooldown_s: {cooldown_s}, patience_s: {patience_s}, wait_s: 60, lease_s: 60}}
  gpu1: {{cooldown_s: {cooldown_s}, patience_s: {patience_s}, wait_s: 60, lease_s: 60}}
backends:
  one: {{kind: lmstudio, url: '{one}', device: gpu0, load_s: 60}}
  two: {{kind: lmstudio, url: '{two}', device: gpu1, load_s: 60}}
server: {{heartbeat_s: 2}}
"""
MODELS = CHATS[:3]


@dataclass
class Twins:
    """Two servers, a proxy before them, and a crowd."""

    servers: tuple[Studio, Studio]
    proxy: Process
    pace: float
    rng: random.Random
    tally: Tally = field(default_factory=Tally)

    async def answered(self, count: int) -> None:
        """Wait for *count* answers more, 100 s at most."""
        goal = len(self.tally.of("answer")) + count
        async with asyncio.timeout(100):
            while len(self.tally.of("answer")) < goal:
                await asyncio.sleep(0.01)

    async def kill(self, which: int, gone_s: float) -> float:
        """
        Kill a server, and start it again after *gone_s*.

        Return in how many seconds the other one had answered four requests.
        """
        clock = asyncio.get_running_loop().time
        before, began = len(self.tally.of("answer")), clock()
        await self.servers[which].kill()
        while len(self.tally.of("answer")) < before + 4 and clock() < began + 30:
            await asyncio.sleep(0.005)
        served_s = clock() - began
        await asyncio.sleep(max(0.0, gone_s - served_s))
        await self.servers[which].start()
        await self._both_answer()
        return served_s

    async def _both_answer(self) -> None:
        """Wait until dmap has seen both servers, 60 s at most: with both down there is nothing to show."""
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{self.proxy.url}/ready") as answer:
                    if all(each["answers"] for each in (await answer.json())["backends"].values()):
                        return
                await asyncio.sleep(0.02)

    @property
    def lost(self) -> list[Verdict]:
        """What failed before anything of its answer had come."""
        untold = [one for one in self.tally.of("told") if one.why.endswith(" after 0 records")]
        return [*self.tally.of("error"), *untold]

    @property
    def used(self) -> list[int]:
        """How many generations each server has begun."""
        return [
            sum(len(world.happened("generation_start")) for world in server.lives) for server in self.servers
        ]


@asynccontextmanager
async def twins(
    folder: Path, *, clients: int = 12, pace: float = 0.3, seed: int = 1
) -> AsyncGenerator[Twins]:
    """Run everything inside the context."""
    times = {"--load-s": LOAD_S, "--load-gb-s": LOAD_GB_S, "--token-s": TOKEN_S}
    arguments = [word for flag, value in times.items() for word in (flag, str(value * pace))]
    one, two = Studio(*arguments), Studio(*arguments)
    await asyncio.gather(one.start(), two.start())
    text = CONFIG.format(one=one.url, two=two.url, cooldown_s=0.3 * pace, patience_s=5 * pace)
    try:
        async with daemon(folder, text) as proxy:
            stage = Twins((one, two), proxy, pace, random.Random(seed))
            asking = [asyncio.create_task(_client(stage, number)) for number in range(clients)]
            try:
                yield stage
            finally:
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
    finally:
        await asyncio.gather(one.kill(), two.kill())


async def _client(stage: Twins, number: int) -> None:
    """Ask, think, ask again."""
    rng = random.Random(stage.rng.random() + number)
    client = Client(number, stage.proxy.url, bound_s=2 * WAIT_S)
    try:
        while True:
            call = drawn(rng, MODELS[number % len(MODELS)])
            verdict = await client.ask(call)
            stage.tally.verdicts.append(verdict)
            await asyncio.sleep(0.1 if verdict.kind != "answer" else rng.expovariate(2 / stage.pace))
    finally:
        await client.close()


def median_and_most(values: list[float]) -> str:
    """Return both as text."""
    return f"median {statistics.median(values):.2f} s, most {max(values):.2f} s"
