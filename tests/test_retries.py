"""Requests that meet a real engine in the instant of its death: who waits again, and who must not."""

import asyncio
import logging
import random
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.conftest import Proxy
from tests.fakes import HERE_S, FakeBackend, chat, post, soon
from tests.models import subjects

CHAT = "/v1/chat/completions"
MODELS = {"tiny-sea": "sea", "tiny-kitchen": "kitchen"}


@pytest.fixture
async def engine(start: Any, models: Path) -> Proxy:
    """Run a daemon with room for two models, each with two places."""
    proxy: Proxy = await start(
        f"""
        devices: {{gpu0: {{max_models: 2, cooldown_s: 0}}}}
        backends: {{engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 2, threads: 1}}}}
        server: {{heartbeat_s: 0.2}}
        """
    )
    return proxy


@pytest.fixture
async def session(engine: Proxy) -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(engine.url) as session:
        yield session


def asked(model: str, **fields: Any) -> dict[str, Any]:
    words = [{"role": "user", "content": "what is new"}]
    return {"model": model, "messages": words, "max_tokens": 30, **fields}


async def answered(session: aiohttp.ClientSession, model: str, **fields: Any) -> tuple[int, Any]:
    async with session.post(CHAT, json=asked(model, **fields)) as answer:
        return answer.status, await answer.json()


def children() -> list[psutil.Process]:
    return psutil.Process().children()


async def sent(engine: Proxy, count: int) -> None:
    """Wait until so many requests are written to their engines."""
    await soon(lambda: len([*engine.proxy.pool.under_way]) >= count, HERE_S)


async def sent_or_answered(engine: Proxy, asking: "asyncio.Task[Any]") -> None:
    """Wait until a request is written to its engine, or refused before that."""
    await soon(lambda: asking.done() or bool([*engine.proxy.pool.under_way]), HERE_S)


def told(engine: Proxy, type: str) -> list[dict[str, Any]]:
    return [dict(event.fields) for event in engine.proxy.bus.since(0, 2000)[0] if event.type == type]


async def frozen(session: aiohttp.ClientSession) -> psutil.Process:
    """Load a model and stop its engine, which then takes requests and answers none; a connection is idle."""
    assert (await answered(session, "tiny-sea"))[0] == 200
    (child,) = children()
    child.suspend()
    return child


@pytest.mark.parametrize(("stream", "end"), [(False, '"finish_reason":"'), (True, "data: [DONE]")])
async def test_it_waits_again(
    engine: Proxy, session: aiohttp.ClientSession, stream: bool, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A request whose engine dies before a byte of the answer is served by the next load."""
    caplog.set_level(logging.INFO, "dmap.requests")
    child = await frozen(session)
    await engine.proxy.pool.close()
    asking = asyncio.create_task(session.post(CHAT, json=asked("tiny-sea", stream=stream)))
    await sent(engine, 1)

    child.send_signal(signal.SIGKILL)

    async with await asking as answer:
        text = await answer.text()
    assert (answer.status, end in text, '"model":"tiny-sea"' in text) == (200, True, True)
    await soon(lambda: any("retried=1" in line for line in caplog.messages), HERE_S)
    (event,) = told(engine, "request.retried")
    assert event["reason"].startswith("the backend closed the connection without an answer")
    async with session.get("/metrics") as page:
        assert 'dmap_retries_total{model="tiny-sea"} 1.0' in await page.text()


async def test_it_is_served_before_who_came_later(engine: Proxy, session: aiohttp.ClientSession) -> None:
    """It waits with the age that it has."""
    child = await frozen(session)
    first = [asyncio.create_task(answered(session, "tiny-sea")) for _ in range(2)]
    await sent(engine, 2)
    later = [asyncio.create_task(answered(session, "tiny-sea")) for _ in range(2)]
    await soon(lambda: engine.proxy.devices["gpu0"].snapshot().waiting == 2, HERE_S)
    before = {fields["id"] for fields in told(engine, "request.granted")}

    child.send_signal(signal.SIGKILL)

    await asyncio.gather(*first, *later)
    granted = [fields["id"] for fields in told(engine, "request.granted")]
    assert set(granted[3:5]) <= before
    assert len(granted) == 3 + 2 + 2


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True},
        {"tools": [{"type": "web_search"}]},
        {"web_search_options": {"a": 1}},
    ],
)
async def test_what_acts_is_not_sent_twice(
    engine: Proxy, session: aiohttp.ClientSession, fields: dict[str, Any]
) -> None:
    """A request that its server may have acted on is an honest 502; nor does it go out where one idles."""
    child = await frozen(session)
    asking = asyncio.create_task(answered(session, "tiny-sea", **fields))
    await sent_or_answered(engine, asking)

    child.send_signal(signal.SIGKILL)

    status, body = await asking
    assert (status, body["error"]["code"]) == (502, "backend_broke")
    assert told(engine, "request.retried") == []


async def test_the_second_time_it_is_told(engine: Proxy, session: aiohttp.ClientSession) -> None:
    """A request that has waited again once is not sent a third time."""
    await engine.proxy.pool.close()
    child = await frozen(session)
    engine.proxy.bus.listen(lambda event: [child.suspend() for child in children()], "request.granted")
    asking = asyncio.create_task(answered(session, "tiny-sea"))
    await sent(engine, 1)
    child.send_signal(signal.SIGKILL)
    await soon(lambda: len(told(engine, "request.granted")) == 3, HERE_S)
    await sent(engine, 1)

    children()[0].send_signal(signal.SIGKILL)

    status, body = await asking
    assert (status, body["error"]["code"]) == (502, "backend_broke")
    assert len(told(engine, "request.retried")) == 1


async def deaths(engine: Proxy, chance: random.Random, asking: list[asyncio.Task[Any]]) -> None:
    """Kill what is resident three times, each a few answers after the other, while others are under way."""
    gate = engine.proxy.devices["gpu0"]
    for _ in range(3):
        enough = sum(task.done() for task in asking) + chance.randint(1, 4)
        await soon(lambda enough=enough: sum(task.done() for task in asking) >= enough, HERE_S)
        await soon(lambda: gate.snapshot().plan is None and gate.snapshot().leases, HERE_S)
        for child in children():
            child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("seed", range(4))
async def test_many_deaths(engine: Proxy, session: aiohttp.ClientSession, seed: int) -> None:
    """However engines die among many clients, each gets one answer, of its own model; none fails at once."""
    chance = random.Random(seed)
    models = [*MODELS, *(chance.choice([*MODELS]) for _ in range(118))]
    asking = [asyncio.create_task(answered(session, model)) for model in models]
    await deaths(engine, chance, asking)

    answers = await asyncio.gather(*asking)

    ended = told(engine, "request.finished") + told(engine, "request.failed")
    assert sorted(fields["id"] for fields in ended) == sorted({fields["id"] for fields in ended})
    assert len(ended) == len(models)
    assert told(engine, "request.retried")
    assert {fields.get("retried") for fields in told(engine, "request.failed")} <= {1}
    served = [(model, body) for model, (status, body) in zip(models, answers, strict=True) if status == 200]
    strange = [subjects(body["choices"][0]["message"]["content"]) - {MODELS[model]} for model, body in served]
    assert strange == [set()] * len(served)


async def test_a_backend_without_a_device(proxy: Proxy, backend: FakeBackend) -> None:
    """Where dmap loads nothing, there is nothing to wait for: the client hears it at once."""
    backend.script = backend.by_hand
    client = await proxy.client()
    await client.send(post(chat()))

    (await backend.next()).cut()

    assert (await client.answer()).status == 502
