"""Loads of real engines that everybody left."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from tests.fakes import soon
from tests.test_retries import HERE_S, answered, children, told


async def test_a_load_that_everybody_left(start: Any, models: Path) -> None:
    """Its engine is ended for who waits for another model, though it takes no notice of a SIGTERM."""
    engine = await start(
        f"""
        devices: {{gpu0: {{cooldown_s: 0}}}}
        backends: {{engine: {{kind: gguf, path: {models}, device: gpu0, threads: 1}}}}
        """
    )
    async with aiohttp.ClientSession(engine.url) as session:
        first = asyncio.create_task(answered(session, "tiny-sea"))
        await soon(lambda: bool(children()), HERE_S)
        (child,) = children()
        child.suspend()
        second = asyncio.create_task(answered(session, "tiny-kitchen"))
        await soon(lambda: engine.proxy.devices["gpu0"].snapshot().waiting == 2, HERE_S)

        first.cancel()

        assert (await second)[0] == 200
        assert not child.is_running()
        (given_up,) = told(engine, "switch.cancelled")
        assert given_up["model"] == "tiny-sea"
        assert told(engine, "switch.failed") == []
        assert (await answered(session, "tiny-sea"))[0] == 200
