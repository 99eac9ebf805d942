"""The clients: each asks, waits for the whole answer, looks at it, and asks again."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from bench.switches.models import Stream
from bench.switches.workloads import PAUSE_S, Client, Workload

TOKENS = 30
SPREAD = 10
"""
Answers are of 20 to 40 tokens.  Of answers that are all alike, those that begin together end together, for
ever, and then no model is ever kept busy by clients that overlap.
"""
AGAIN_S = 1.0
"""After so long a client that was refused asks again; what it waits for its answer goes on counting."""


@dataclass
class Ask:
    """
    One question of *client*, to be answered in so many *tokens*: when it was *asked* first, when an answer
    had *begun* with its first word, and when all of it was there.

    Times are those of `time.monotonic`, and None if the window ends before.  *refused* has what it was told
    instead of an answer.
    """

    client: Client
    tokens: int
    asked: float
    begun: float | None = None
    answered: float | None = None
    refused: list[str] = field(default_factory=list)


async def play(url: str, workload: Workload, start: float, end: float) -> list[Ask]:
    """
    Let the clients of *workload* loose on *url* from *start* to *end*, in the time of the loop.

    Who asks first has done so `PAUSE_S` before.  Returns all questions in the order of their answers; those
    that have none come last.
    """
    async with asking(url, workload, start) as asks:
        await _sleep_until(end)
    return sorted(asks, key=lambda ask: ask.answered or float("inf"))


@asynccontextmanager
async def asking(url: str, workload: Workload, start: float) -> AsyncGenerator[list[Ask]]:
    """Let the clients loose from *start* on, as long as the context is open; yield what they have asked."""
    asks: list[Ask] = []
    loops = [asyncio.create_task(_keep_asking(url, client, start, asks)) for client in workload.clients]
    try:
        yield asks
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def _keep_asking(url: str, client: Client, start: float, asks: list[Ask]) -> None:
    connector = aiohttp.TCPConnector(local_addr=(client.name, 0))
    timeout = aiohttp.ClientTimeout()
    lengths = random.Random(client.name)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        if client.asks_first:
            await _sleep_until(start - PAUSE_S)
            await _ask(session, Ask(client, TOKENS, start - PAUSE_S))
        await _sleep_until(start)
        while True:
            tokens = lengths.randint(TOKENS - SPREAD, TOKENS + SPREAD)
            asks.append(Ask(client, tokens, asyncio.get_running_loop().time()))
            await _ask(session, asks[-1])


async def _ask(session: aiohttp.ClientSession, ask: Ask) -> None:
    """Ask until the answer is there, and note it in *ask*."""
    while wrong := await _fault(session, ask):
        ask.refused.append(wrong)
        ask.begun = None
        await asyncio.sleep(AGAIN_S)
    ask.answered = asyncio.get_running_loop().time()


async def _fault(session: aiohttp.ClientSession, ask: Ask) -> str | None:
    """Ask once; return what is wrong with the answer, if anything is."""
    body = {
        "model": ask.client.model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": ask.tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    try:
        async with session.post("/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                return f"{answer.status} {(await answer.text())[:200]}"
            return (await _heard(answer, ask)).fault(ask.client.model, ask.tokens)
    except (aiohttp.ClientError, LookupError, ValueError) as exc:
        return repr(exc)


async def _heard(answer: aiohttp.ClientResponse, ask: Ask) -> Stream:
    """Read *answer* to its end; note when its first word came."""
    stream = Stream()
    async for line in answer.content:
        stream.read(line)
        if stream.text and ask.begun is None:
            ask.begun = asyncio.get_running_loop().time()
    return stream


def _sleep_until(when: float) -> Awaitable[None]:
    return asyncio.sleep(when - asyncio.get_running_loop().time())
