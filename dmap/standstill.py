"""A bound on waiting that holds, too, when it is this process that has stood still."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


@asynccontextmanager
async def patient(within_s: float) -> AsyncGenerator[None]:
    """
    Raise TimeoutError, as `asyncio.timeout` does, if the context takes longer than *within_s*.

    The time is two halves, and the second begins when the first has been seen to end.  After the process has
    stood still, the loop heeds its timers before it reads what came meanwhile: with a single timer everything
    that was awaited would be late.
    """
    loop, half_s = asyncio.get_running_loop(), within_s / 2
    async with asyncio.timeout(None) as bound:
        first = loop.call_later(half_s, lambda: bound.reschedule(loop.time() + half_s))
        try:
            yield
        finally:
            first.cancel()
