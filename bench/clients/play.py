"""One client and one task: the driver runs, and what the task is about happens to it meanwhile."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from bench.clients.place import KEY, WAIT_S, Place
from bench.clients.verdict import Cell, Seen, judged
from tests.models import tool_call

IN_QUEUE_S = 1.5
"""How long a client is kept in the queue."""


@dataclass
class Driver:
    """A driver that runs; `first` is set once it has said so, or has ended."""

    child: asyncio.subprocess.Process
    first: asyncio.Event = field(default_factory=asyncio.Event)

    async def said(self) -> dict[str, Any]:
        """Read to its end; return its last line."""
        assert self.child.stdout is not None
        last = b""
        async for line in self.child.stdout:
            last = line
            self.first.set()
        self.first.set()
        await self.child.wait()
        try:
            return dict(json.loads(last))
        except ValueError:
            return {"error": f"the driver ended with {self.child.returncode}"}


async def play(place: Place, task: str, command: tuple[str, ...], environment: dict[str, str]) -> Cell:
    """Have a driver do *task*; return how it went."""
    mark = len(place.process.log)
    async with AsyncExitStack() as stack:
        await _prepare(place, task, stack)
        mark = len(place.process.log)
        driver = await _started(place, task, command, environment)
        beside = asyncio.create_task(_MEANWHILE.get(task, _nothing)(place, driver, mark, stack))
        try:
            async with asyncio.timeout(WAIT_S):
                said = await driver.said()
        except TimeoutError:
            driver.child.kill()
            said = {"error": f"no end within {WAIT_S:.0f} s"}
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)
        seen = await _seen(place, task, mark)
    return judged(task, said, seen)


async def _prepare(place: Place, task: str, stack: AsyncExitStack) -> None:
    """Bring about what has to be there before the client asks."""
    if task in ("busy 429", "queue"):
        await stack.enter_async_context(place.held("slow"))
    if task == "busy 429":
        await stack.enter_async_context(place.waiting("tiny-kitchen"))
    if task == "busy 503":
        await stack.enter_async_context(place.held("holder"))


async def _started(place: Place, task: str, command: tuple[str, ...], environment: dict[str, str]) -> Driver:
    bias = json.dumps(tool_call("tiny-sea")["logit_bias"])
    key = "wrong" if task == "wrong key" else KEY
    child = await asyncio.create_subprocess_exec(
        *(*command, task, place.process.url, key),
        stdout=asyncio.subprocess.PIPE,
        stderr=sys.stderr if os.environ.get("LOUD") else asyncio.subprocess.DEVNULL,
        env={**os.environ, "BIAS": bias, **environment},
    )
    return Driver(child)


Meanwhile = Callable[[Place, Driver, int, AsyncExitStack], Awaitable[None]]


async def _nothing(place: Place, driver: Driver, mark: int, stack: AsyncExitStack) -> None:
    """Do nothing."""


async def _make_room(place: Place, driver: Driver, mark: int, stack: AsyncExitStack) -> None:
    """Once the client was refused, have the others leave."""
    await place.until_logged(mark, r"status=(429|503)")
    await stack.aclose()


async def _keep_waiting(place: Place, driver: Driver, mark: int, stack: AsyncExitStack) -> None:
    """Once the client waits, have it wait some more; then the others leave."""
    await place.until(place.has_waiter)
    await asyncio.sleep(IN_QUEUE_S)
    await stack.aclose()


async def _break(place: Place, driver: Driver, mark: int, stack: AsyncExitStack) -> None:
    """Kill the engine once the answer has begun."""
    await driver.first.wait()
    place.kill_engines()


_MEANWHILE: dict[str, Meanwhile] = {
    "busy 429": _make_room,
    "busy 503": _make_room,
    "queue": _keep_waiting,
    "broken": _break,
}


_TOLD = {"cancel": "outcome=client_left", "queue": r"queue_s=[1-9]"}
"""What the log has to say of a task; it says so a moment after the client has ended."""


async def _seen(place: Place, task: str, mark: int) -> Seen:
    with suppress(TimeoutError, KeyError):
        async with asyncio.timeout(WAIT_S):
            await place.until_logged(mark, _TOLD[task])
    return Seen(
        refusals=len(place.since(mark, r"status=(429|503)")),
        left=bool(place.since(mark, "outcome=client_left")),
        queue_s=max((float(found[1]) for found in place.since(mark, r"queue_s=([\d.]+)")), default=0.0),
    )
