"""What may hang is read beside the loop, one at a time."""

import asyncio
import threading

from dmap.reads import Reads
from tests.fakes import HERE_S


async def test_one_at_a_time() -> None:
    """Reads take turns, errors are their callers', and who leaves while he waits takes no turn."""
    slow, going, turns = Reads(), threading.Event(), list[str]()

    def first() -> str:
        going.wait(HERE_S)
        return "first"

    def wrong() -> None:
        raise OSError("broken")

    reads = [asyncio.create_task(slow.read(what)) for what in (first, lambda: turns.append("left"), wrong)]
    await asyncio.sleep(0)
    reads[1].cancel()
    assert slow.is_held
    going.set()
    said = await asyncio.gather(*reads, return_exceptions=True)

    assert said[0] == "first" and isinstance(said[2], OSError)
    assert isinstance(said[1], asyncio.CancelledError) and turns == []
    assert not slow.is_held
