"""
What happens to an LM Studio past dmap, while a crowd asks: it is killed, and others load and unload.

The stage is `lmstudio_soak`.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.lmstudio_soak import Scene
from tests.lmstudio_world import SPECS

BACK_S = 10.0
"""How long a server that is back is waited for to be used."""
PHASES = ("load", "drain", "stream", "idle")


@dataclass(frozen=True)
class Kill:
    """One kill: at which moment, for how long, and what came after; times in seconds from being back."""

    phase: str
    gone_s: float
    answer_s: float | None
    ready_s: float | None


async def kill(stage: Scene, phase: str) -> Kill:
    """Kill the server in *phase*, start it again after a random while, and wait for the first answer."""
    clock = asyncio.get_running_loop().time
    await _reach(stage, phase)
    died_at = clock()
    await stage.studio.kill()
    stage.open.set()
    await asyncio.sleep(stage.rng.choice((0, stage.rng.uniform(0, 3 * stage.pace))))
    back_at = await stage.studio.start()
    ready = asyncio.create_task(_answers(stage))
    first = None
    while first is None and clock() < back_at + BACK_S:
        await asyncio.sleep(0.01)
        first = stage.tally.first_after(back_at)
    return Kill(
        phase,
        back_at - died_at,
        None if first is None else first.ended - back_at,
        None if (at := await ready) is None else at - back_at,
    )


async def _reach(stage: Scene, phase: str) -> None:
    """Wait for a moment of *phase*, and then a little."""

    def is_there(device: dict[str, Any]) -> bool:
        switch = device["switch"]
        match phase:
            case "idle":
                return not switch and not device["leases"] and not device["waiting"]
            case "stream":
                return not switch and device["leases"] > 0
            case _:
                return bool(switch) and switch["phase"] == phase

    if phase == "idle":
        stage.open.clear()
    await stage.until(is_there, 60 * stage.pace)
    await asyncio.sleep(stage.rng.uniform(0, 0.3 if phase == "load" else 0.1))


async def _answers(stage: Scene) -> float | None:
    """Wait until `/ready` says that the server answers; return when."""
    clock = asyncio.get_running_loop().time
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BACK_S):
            while not (await stage.state())["ready"]:
                await asyncio.sleep(0.01)
            return clock()
    return None


class Hands:
    """Another app, or the owner: loads and unloads over REST, past dmap."""

    def __init__(self, stage: Scene) -> None:
        self._stage = stage
        self._loads: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Hands":
        self._session = aiohttp.ClientSession(self._stage.studio.url, headers={"X-By": "hand"})
        return self

    async def __aexit__(self, *failure: object) -> None:
        await asyncio.gather(*self._loads, return_exceptions=True)
        await self._session.close()

    async def moves(self, count: int, pause_s: float) -> None:
        """Make *count* moves, about *pause_s* apart."""
        for _ in range(count):
            await self.move()
            await asyncio.sleep(self._stage.rng.expovariate(1 / pause_s))

    async def move(self) -> None:
        """
        Unload something, load something, or put another model in the place of all: at random.

        The last is the worst: LM Studio would have the other model answer, or load the first one again.
        Loads are not waited for.
        """
        rng = self._stage.rng
        ids = await self._ids()
        for id in rng.choice(((), ids, rng.sample(ids, 1) if ids else ())):
            await self._post("unload", {"instance_id": id})
        if not ids or rng.random() < 0.5:
            options = rng.choice(({}, {"context_length": 2048}))
            body = {"model": rng.choice(SPECS).key, **options}
            load = asyncio.create_task(self._post("load", body))
            self._loads.add(load)
            load.add_done_callback(self._loads.discard)

    async def _ids(self) -> list[str]:
        async with self._session.get("/api/v1/models") as answer:
            models = (await answer.json())["models"]
        return [one["id"] for model in models for one in model["loaded_instances"]]

    async def _post(self, verb: str, body: dict[str, Any]) -> None:
        async with self._session.post(f"/api/v1/models/{verb}", json=body) as answer:
            await answer.read()
