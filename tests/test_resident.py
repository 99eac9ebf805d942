"""A model that is resident as a child process, and what becomes of one that hangs."""

import asyncio
from typing import Any

from dmap.backends.base import Loaded, Target
from dmap.backends.resident import MISSES, Recipe, Resident
from dmap.process import Child, Log
from tests.fakes import HERE_S
from tests.ports import free_port


async def resident() -> Resident:
    """Return one whose child lives, and never answers."""

    async def come_up(child: Child) -> tuple[Target, Loaded]:
        return Target.of(f"http://127.0.0.1:{free_port()}", None), Loaded()

    recipe = Recipe("m", ("sleep", "600"), {}, come_up, "/health", lambda what, lines: what)
    made = Resident(recipe, {}, Log(), lambda gone: None)
    await made.come_up(HERE_S)
    return made


async def test_a_child_that_hangs_is_told_once(caplog: Any) -> None:
    """It is killed and told, and not told again before the kernel has taken it away."""
    hung = await resident()
    looks = [hung.check("box", HERE_S, in_use=False) for _ in range(MISSES + 1)]

    await asyncio.gather(*looks)
    await hung.child.ended()

    assert hung.child.status == -9
    assert caplog.text.count("engine_hung") == 1
