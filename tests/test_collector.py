"""Traces in OpenTelemetry's own collector: they arrive whole, and its failures cost nothing but spans."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes import answer, chat, soon
from tests.once import made_once
from tests.otelcol import Otelcol, build
from tests.otlp import Collector, about, collector
from tests.process import Process, daemon
from tests.programs import find

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(find("go") is None, reason="no go here, of which the collector is built"),
    pytest.mark.timeout(1800),
]
CHAT = "/v1/chat/completions"
SPAN = "00f067aa0ba902b7"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "200"}
REAL = """
devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 1}}}}
backends:
  engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 2, context_length: 2048, threads: 1}}
traces: {{url: '{url}', share: 0}}
"""
PLAIN = "backends: {{fake: {{kind: openai, url: '{backend}'}}}}\ntraces: {{url: '{url}', share: 0}}"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the collector, once for all workers."""
    return made_once(tmp_path_factory, "otelcol", build) / "otelcol"


@pytest.fixture
async def behind() -> AsyncGenerator[Collector]:
    """Run what the collector sends on to."""
    async with collector() as made:
        yield made


@pytest.fixture
def otelcol(program: Path, tmp_path: Path, behind: Collector) -> Otelcol:
    return Otelcol(program, tmp_path, behind.url)


def trace_id(number: int) -> str:
    return f"{number + 1:032x}"


async def ask(session: aiohttp.ClientSession, model: str, number: int) -> tuple[int, float]:
    """Ask as a client that records its trace; return the status, and how long it took."""
    headers = {"traceparent": f"00-{trace_id(number)}-{SPAN}-01"}
    body, began = chat(model=model, stream=False, max_tokens=3), time.monotonic()
    async with session.post(CHAT, json=body, headers=headers) as answered:
        await answered.read()
        return answered.status, time.monotonic() - began


async def ask_all(process: Process, models: Sequence[str], first: int, clients: int = 16) -> list[int]:
    """Ask for all of *models* with traces from the number *first* on; return their statuses."""
    async with aiohttp.ClientSession(process.url, connector=aiohttp.TCPConnector(limit=clients)) as session:
        asking = (ask(session, model, first + at) for at, model in enumerate(models))
        return [status for status, _ in await asyncio.gather(*asking)]


def named(spans: Sequence[Any], name: str) -> list[Any]:
    return [span for span in spans if span.name == name]


def check_trace(spans: Sequence[Any], status: int) -> None:
    """Hold one trace against what it has to be: one root, the right parents, times within, a status."""
    (own,) = named(spans, f"POST {CHAT}")
    waits, relays, switches = (named(spans, name) for name in ("queue", "relay", "switch"))
    assert own.parent_span_id.hex() == SPAN
    assert {span.parent_span_id for span in (*waits, *relays)} <= {own.span_id}
    assert {span.parent_span_id for span in switches} <= {span.span_id for span in waits}
    assert len({span.span_id for span in spans}) == len(spans)
    assert own.start_time_unix_nano <= min(span.start_time_unix_nano for span in spans)
    assert own.end_time_unix_nano >= max(span.end_time_unix_nano for span in spans)
    assert about(own)["http.response.status_code"] == status
    assert (own.status.code, own.kind) == (0 if status == 200 else 2, 2)
    assert len(relays) == (status == 200)
    assert [span.kind for span in relays] == [3] * len(relays)


async def test_under_load(models: Path, tmp_path: Path, otelcol: Otelcol, behind: Collector) -> None:
    """All traces of many requests arrive whole: two models in turn, and one that does not exist."""
    wanted = ["tiny-sea", "tiny-kitchen", "nobody", "tiny-sea"] * 40

    async with otelcol.running():
        config = REAL.format(models=models, url=otelcol.url)
        async with daemon(tmp_path, config, **SOON) as process:
            statuses = await ask_all(process, wanted, 0)
        traces = [await behind.trace(trace_id(number), 1) for number in range(len(wanted))]

    assert statuses == [200, 200, 404, 200] * 40
    for spans, status in zip(traces, statuses, strict=True):
        check_trace(spans, status)
    assert len(named(behind.spans, "switch")) >= 2
    ids = {about(span)["dmap.request"] for span in named(behind.spans, f"POST {CHAT}")}
    assert {about(span)["dmap.for"] for span in named(behind.spans, "switch")} <= ids


async def test_killed_and_there_again(
    backend: Any, tmp_path: Path, otelcol: Otelcol, behind: Collector
) -> None:
    """A collector that is killed costs nothing but spans: every answer comes, and later spans arrive."""
    backend.script = lambda e: e.end(answer(b"{}"))
    config = PLAIN.format(backend=backend.url, url=otelcol.url)

    async with daemon(tmp_path, config, **SOON) as process:
        async with otelcol.running() as child:
            before = await ask_all(process, ["m"] * 100, 0)
            await behind.trace(trace_id(99), 2)
            child.kill()
            without = await ask_all(process, ["m"] * 100, 100)
        await soon(lambda: any("traces_lost" in line for line in process.log), 30)
        async with otelcol.running():
            after = await ask_all(process, ["m"] * 100, 200)
            await soon(lambda: any("traces_sent_again" in line for line in process.log), 30)
            whole = [await behind.trace(trace_id(number), 2) for number in (*range(100), *range(200, 300))]

    assert before + without + after == [200] * 300
    for spans in whole:
        check_trace(spans, 200)
    assert sum("traces_lost" in line for line in process.log) == 1


async def test_one_that_does_not_answer(
    backend: Any, tmp_path: Path, otelcol: Otelcol, behind: Collector
) -> None:
    """A collector that stands still holds up nobody: what waits is bounded, and the end waits 2 s for it."""
    backend.script = lambda e: e.end(answer(b"{}"))
    config = PLAIN.format(backend=backend.url, url=otelcol.url)

    async with otelcol.running() as child:
        async with daemon(tmp_path, config, **SOON) as process:
            assert await ask_all(process, ["m"], 0) == [200]
            await behind.trace(trace_id(0), 2)
            child.send_signal(signal.SIGSTOP)
            statuses = await ask_all(process, ["m"] * 3000, 1)
            began = time.monotonic()
        took_s = time.monotonic() - began

    assert statuses == [200] * 3000
    lost = [line for line in process.log if "traces_lost" in line]
    assert any("too many wait" in line or "does not take" in line for line in lost)
    assert took_s < 10, "the end waits for `END_S`"
