"""
A crowd of clients that knows what is right: which model has answered, how many tokens, and that it is whole.

Each server says its own name in what it answers, and how many tokens that had, so an answer of another model,
or one that is short, shows.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import openai

PAUSE_S = 0.2
"""After an error; the official clients wait for half a second and more."""
PATIENCE_S = 120.0
"""A request that takes longer is given up."""


@dataclass
class Tally:
    """
    What the clients saw: kinds of outcomes, answers that have *begun*, and what must not be.

    *hungry_s* is the longest time that a client went without an answer.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    begun: int = 0
    hungry_s: float = 0.0


@dataclass
class Crowd:
    """Clients that ask at *url* for *models*, one after the other, with *headers*."""

    url: str
    models: Sequence[str]
    headers: Mapping[str, str] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def asking(self, seed: int, clients: int, official: int = 0) -> AsyncGenerator[Tally]:
        """Have so many *clients* ask meanwhile, of which so many *official* ones are OpenAI's for Python."""
        ways = [self._official] * official + [self._plain] * (clients - official)
        seeded = [random.Random(seed + number) for number in range(clients)]
        tasks = [asyncio.create_task(way(rng)) for way, rng in zip(ways, seeded, strict=True)]
        try:
            yield self.tally
        finally:
            self._stop.set()
            await asyncio.gather(*tasks)

    async def _plain(self, rng: random.Random) -> None:
        """Ask one model after the other until the end."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=self.headers) as session:
            fed = time.monotonic()
            while not self._stop.is_set():
                asked = Asked(rng)
                model = rng.choice(self.models)
                try:
                    kind = await self._ask(session, model, asked)
                except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                    kind = "cut" if not isinstance(exc, aiohttp.ClientConnectorError) else "refused"
                    self.tally.errors[f"{type(exc).__name__}"] += 1
                    await asyncio.sleep(PAUSE_S)
                fed = self._count(kind, fed)

    async def _official(self, rng: random.Random) -> None:
        """Do the same with OpenAI's client, for which a stream that ends without an error is whole."""
        key = self.headers.get("Authorization", "Bearer none").removeprefix("Bearer ")
        client = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, timeout=PATIENCE_S, max_retries=0)
        fed = time.monotonic()
        async with client:
            while not self._stop.is_set():
                asked, model = Asked(rng), rng.choice(self.models)
                try:
                    kind = await self._stream(client, model, asked)
                except (openai.APIError, aiohttp.ClientError, OSError) as exc:
                    kind = "cut" if isinstance(exc, openai.APIConnectionError) else "error"
                    self.tally.errors[f"openai: {type(exc).__name__}"] += 1
                    await asyncio.sleep(PAUSE_S)
                fed = self._count(kind, fed)

    def _count(self, kind: str, fed: float) -> float:
        """Count an outcome; return when this client last had an answer."""
        now = time.monotonic()
        self.tally.kinds[kind] += 1
        self.tally.hungry_s = max(self.tally.hungry_s, now - fed)
        return now if kind == "answer" else fed

    async def _ask(self, session: aiohttp.ClientSession, model: str, asked: "Asked") -> str:
        body = {"model": model, **asked.body}
        async with session.post(f"{self.url}/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                self.tally.errors[f"{answer.status} {await _code(answer)}"] += 1
                await asyncio.sleep(PAUSE_S)
                return "error"
            streams = asked.streams
            events = [event async for event in self._events(answer)] if streams else [await answer.json()]
            self.tally.begun += not streams
        return self._judged(events, model, asked)

    async def _stream(self, client: openai.AsyncOpenAI, model: str, asked: "Asked") -> str:
        body: dict[str, Any] = {**asked.body, "model": model, "stream": True}
        body["stream_options"] = {"include_usage": True}
        stream = await client.chat.completions.create(**body)
        events: list[Any] = [chunk.model_dump(exclude_none=True) async for chunk in stream]
        self.tally.begun += 1
        return self._judged([*events, "[DONE]"], model, asked)

    async def _events(self, answer: aiohttp.ClientResponse) -> AsyncGenerator[Any]:
        has_begun = False
        async for line in answer.content:
            if line.startswith(b"data: "):
                self.tally.begun += not has_begun and b'"error"' not in line
                has_begun = True
                data = line.removeprefix(b"data: ").strip()
                yield data.decode() if data == b"[DONE]" else json.loads(data)

    def _judged(self, events: list[Any], model: str, asked: "Asked") -> str:
        """Tell what became of an answer that looks whole: right, an error inside it, or bad."""
        told = [event for event in events if isinstance(event, dict)]
        errors = [event["error"] for event in told if event.get("error")]
        if errors:
            self.tally.errors[f"in the stream: {errors[0]['code']}"] += 1
            return "error"
        names = {event["model"] for event in told}
        usage = next((event["usage"] for event in reversed(told) if event.get("usage")), {})
        choices = [choice for event in told for choice in event.get("choices", ())]
        reasons = {choice["finish_reason"] for choice in choices if choice.get("finish_reason")}
        is_whole = not asked.streams or (bool(events) and events[-1] == "[DONE]")
        is_long = usage.get("completion_tokens") == asked.tokens
        if names != {model}:
            self.tally.bad.append(f"{model} asked, {names} answered")
        elif not (is_whole and (reasons == {"stop"} or (reasons == {"length"} and is_long))):
            end = str(events[-1])[:80]
            self.tally.bad.append(f"{model}: {reasons}, {usage}, {asked.tokens} asked, ends with {end}")
        return "answer"


class Asked:
    """One request, drawn by *rng*: how many tokens, streamed or not, of no other's words."""

    def __init__(self, rng: random.Random) -> None:
        self.tokens, self.streams = rng.randint(5, 150), rng.random() < 0.6
        messages = [{"role": "user", "content": f"what is new at {rng.random()}"}]
        self.body: dict[str, Any] = {"messages": messages, "max_tokens": self.tokens, "stream": self.streams}
        if self.streams:
            self.body["stream_options"] = {"include_usage": True}


async def _code(answer: aiohttp.ClientResponse) -> str:
    """Return the code of a refusal, or what a load balancer says in its place."""
    text = await answer.text()
    if answer.content_type != "application/json":
        return f"{answer.content_type} {text[:40]!r}"
    return str(json.loads(text)["error"]["code"])
