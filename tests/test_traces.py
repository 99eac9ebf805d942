"""Where the time of a request went, as a collector gets it."""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from dmap.record import RequestRecord
from dmap.traces.spans import SWITCHES, SeenSwitch, spans_of
from dmap.wire.trace import trace_of
from tests.conftest import front_of
from tests.fakes import HERE_S, answer, chat, soon
from tests.otlp import Collector, about, collector
from tests.process import daemon

CHAT = "/v1/chat/completions"
ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{ID}-{SPAN}-01"}


@pytest.fixture
async def otlp(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Collector]:
    """Run a collector; the SDK sends what it has five times a second, where that is said by OpenTelemetry."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    async with collector() as made:
        yield made


@pytest.fixture
async def traced(start: Any, backend: Any, otlp: Collector) -> AsyncGenerator[Any]:
    """Run a proxy that sends traces, of those requests that ask for it."""
    fake = f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}"
    proxy = await start(f"{fake}\ntraces: {{url: '{otlp.url}', share: 0}}")
    yield proxy
    await proxy.close()
    backend.cut_all()
    await proxy.settled()


async def asked(proxy: Any, headers: Any, path: str = CHAT) -> Any:
    """Ask for one answer; return its headers."""
    async with (
        aiohttp.ClientSession(proxy.url) as session,
        session.post(path, json=chat(stream=False), headers=headers) as answered,
    ):
        await answered.read()
        return answered.headers


async def test_one_request(traced: Any, backend: Any, otlp: Collector) -> None:
    """A request has a span below its client's, and below that one for its server, who is told of it."""
    backend.script = backend.by_hand
    asking = asyncio.create_task(asked(traced, SAMPLED))
    exchange = await backend.next()
    await exchange.end(answer(b'{"model": "m", "usage": {"prompt_tokens": 3}}'))

    headers = await asking

    own, relay = sorted(await otlp.trace(ID, 2), key=lambda span: span.name)
    assert (own.name, own.parent_span_id.hex()) == ("POST /v1/chat/completions", SPAN)
    assert (relay.name, relay.parent_span_id) == ("relay", own.span_id)
    assert headers["traceresponse"] == f"00-{ID}-{own.span_id.hex()}-01"
    sent = re.search(rb"traceparent: (\S+)", exchange.head)
    assert sent is not None and sent[1].decode() == f"00-{ID}-{relay.span_id.hex()}-01"
    told = about(own)
    assert (told["gen_ai.request.model"], told["http.response.status_code"]) == ("m", 200)
    assert told["gen_ai.usage.input_tokens"] == 3
    assert about(relay)["dmap.first_byte_s"] >= 0


async def test_the_trace_is_told_everywhere(traced: Any, backend: Any, caplog: Any) -> None:
    """The id of the trace is in the answer's headers, an error's too, in the events and in the log line."""
    caplog.set_level("INFO", "dmap.requests")
    backend.script = lambda e: e.end(answer(b"{}"))

    right, wrong = await asked(traced, {}), await asked(traced, {}, "/v2/nothing")

    ids = [headers["traceresponse"].split("-")[1] for headers in (right, wrong)]
    await soon(lambda: len(caplog.messages) == 2, HERE_S)
    assert [f"trace={id}" in line for id, line in zip(ids, caplog.messages, strict=True)] == [True, True]
    events = [event.fields for event in traced.proxy.bus.since(0, 100)[0] if "id" in event.fields]
    assert {fields["trace"] for fields in events} == {ids[0]}


async def test_who_is_not_let_in_has_no_spans(start: Any, backend: Any, otlp: Collector) -> None:
    """Strangers, who may ask without end, and looks at health or lists make no spans, whatever they say."""
    access = f"access: {{keys: [{{name: k, sha256: {hashlib.sha256(b'k').hexdigest()}}}]}}"
    fake = f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}"
    proxy = await start(f"{fake}\n{access}\ntraces: {{url: '{otlp.url}', share: 1}}")
    backend.script = lambda e: e.end(answer(b"{}"))

    await asked(proxy, SAMPLED)
    await asked(proxy, SAMPLED | {"x-api-key": "k"}, "/v2/nothing")
    async with aiohttp.ClientSession(proxy.url) as session:
        await asyncio.gather(session.get("/health"), session.get("/v1/models", headers={"x-api-key": "k"}))
    await asked(proxy, SAMPLED | {"x-api-key": "k"})

    await otlp.trace(ID, 2)
    assert [span.name for span in otlp.spans] == ["POST /v1/chat/completions", "relay"]


@pytest.mark.parametrize(("parent", "goes_on"), [(f"00-{ID}-{SPAN}-00", True), ("00-none", False)])
async def test_the_state_of_a_trace_goes_with_it(
    traced: Any, backend: Any, parent: str, goes_on: bool
) -> None:
    """What tools note in `tracestate` is of their own trace, so a new one begins without (section 3.3)."""
    backend.script = backend.by_hand
    asking = asyncio.create_task(asked(traced, {"traceparent": parent, "tracestate": "tool=1"}))
    exchange = await backend.next()
    await exchange.end(answer(b"{}"))
    await asking

    assert (b"tracestate: tool=1" in exchange.head) is goes_on


async def test_without_traces_there_is_no_trace(proxy: Any, backend: Any) -> None:
    """Where they are not wanted nobody gets one, and a client's own goes up as it came."""
    backend.script = backend.by_hand
    asking = asyncio.create_task(asked(proxy, SAMPLED))
    exchange = await backend.next()
    await exchange.end(answer(b"{}"))

    assert "traceresponse" not in await asking
    assert SAMPLED["traceparent"].encode() in exchange.head


async def test_without_traces_nothing_is_imported(tmp_path: Path, backend: Any) -> None:
    """The SDK takes a quarter of a second and 15 MB, NVML a driver: a daemon without them has neither."""
    backend.script = lambda e: e.end(answer(b"{}"))
    config = f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}"

    async with daemon(tmp_path, config, ("-X", "importtime", "-m", "dmap")) as process:
        await asked(process, SAMPLED)

    imported = "".join(process.log)
    assert "| dmap.traces" in re.sub(r"\| +", "| ", imported)
    assert not re.search(r"\| +(opentelemetry|google\.protobuf|pynvml)", imported)


@pytest.mark.parametrize("status", [400, 503])
async def test_a_collector_that_fails_is_heard_once(
    traced: Any, backend: Any, otlp: Collector, caplog: Any, status: int
) -> None:
    """One warning when spans are lost, one when they are taken again; requests do not notice."""
    backend.script = lambda e: e.end(answer(b"{}"))
    otlp.status = status
    await asked(traced, SAMPLED)
    await soon(lambda: any("traces_lost" in line for line in caplog.messages), HERE_S)

    otlp.status = 200
    await asked(traced, SAMPLED)
    await soon(lambda: any("traces_sent_again" in line for line in caplog.messages), HERE_S)

    assert [line.split()[0] for line in caplog.messages if line.startswith("traces_")] == [
        "traces_lost",
        "traces_sent_again",
    ]


def record(**facts: Any) -> RequestRecord:
    """Make the record of a request for `gguf/m` on `gpu0`, with *facts*."""
    made = RequestRecord("req_1", CHAT, "app", 0.0, method="POST", backend="gguf", model="m", device="gpu0")
    made.trace = trace_of([SAMPLED["traceparent"]], lambda: False)
    made.outcome = "success"
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def waited(since: float, until: float, **facts: Any) -> RequestRecord:
    """Make the record of a request that waited from *since* until *until*, and was sent."""
    made = record(**facts)
    fields = {"position": 1, "estimate_s": 2.0, "p80_s": 3.0, "behind": "gguf/other", "backend": "gguf"}
    made.trace.note(since, "request.queued", fields)
    made.trace.note(until, "request.granted", {})
    made.trace.send(until)
    return made


def switch(since: float, until: float | None, device: str = "gpu0") -> SeenSwitch:
    return SeenSwitch(device, since, until, {"dmap.load": f"{since:g}"})


def below(made: RequestRecord, *switches: SeenSwitch) -> list[tuple[str, float, float]]:
    """Return the spans of *made*, which ended at 100 after 90 s, as names with begin and end."""
    spans = spans_of(made, made.trace, 100.0, 90.0, switches)
    return [(span.name, span.since, span.until) for span in spans[1:]]


def test_a_wait_and_its_switches() -> None:
    """Below a wait are the switches of its device while it lasted, each as long as it was seen."""
    made = waited(20, 40)
    before, other = switch(5, 20), switch(20, 30, "gpu1")

    spans = below(made, before, switch(10, 25), other, switch(30, 35), switch(38, None), switch(41, 50))

    seen = [("switch", 20, 25), ("switch", 30, 35), ("switch", 38, 40)]
    assert spans == [("queue", 20, 40), *seen, ("relay", 40, 100)]


def test_who_never_got_its_turn() -> None:
    """A wait that was given up lasts to the end, and nothing was sent."""
    made = record(outcome="wait_expired", reason="it took too long")
    made.trace.note(20, "request.queued", {"position": 1, "estimate_s": 1.0, "behind": "x"})

    own, wait = spans_of(made, made.trace, 100.0, 90.0, ())

    assert (wait.since, wait.until) == (20, 100)
    assert (own.error, own.about["error.type"]) == ("it took too long", "wait_expired")


def test_nothing_begins_before_the_whole() -> None:
    """The time of the end is read a moment after its length, and everything else lies within the whole."""
    own, *others = spans_of(made := waited(9.5, 40), made.trace, 100.0, 90.0, ())

    assert [own.since, *(span.since for span in others)] == [9.5, 9.5, 40]


def test_a_path_that_a_client_made_up() -> None:
    """It is in no name of a span, by which collectors count; it is told beside that."""
    [own] = spans_of(record(path="/v1/files/file-17"), trace_of([], lambda: True), 100.0, 90.0, ())

    assert (own.name, own.about.get("http.route"), own.about["url.path"]) == (
        "POST",
        None,
        "/v1/files/file-17",
    )


def test_who_was_sent_twice() -> None:
    """A request that took its place again has each wait and each sending by itself."""
    made = waited(20, 30)
    made.trace.note(50, "request.retried", {"reason": "gone"})
    made.trace.note(50, "request.queued", {"position": 1, "estimate_s": 1.0, "behind": "x"})
    made.trace.note(60, "request.granted", {})
    made.trace.send(60)

    assert below(made) == [("queue", 20, 30), ("queue", 50, 60), ("relay", 30, 50), ("relay", 60, 100)]


def test_switches_are_bounded() -> None:
    """Of very many switches below one wait the last are shown."""
    made = waited(20, 90)
    many = [switch(20 + at, 21 + at) for at in range(2 * SWITCHES)]

    shown = [span for span in below(made, *many) if span[0] == "switch"]

    assert [since for _, since, _ in shown] == [20 + at for at in range(SWITCHES, 2 * SWITCHES)]


CONFIG = """
devices: {{gpu0: {{max_models: 1, cooldown_s: 0}}}}
backends:
  engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 1, context_length: 2048, threads: 1}}
traces: {{url: '{url}'}}
"""


async def told(session: aiohttp.ClientSession) -> int:
    """Return how many requests wait."""
    async with session.get("/debug/status") as answered:
        return len((await answered.json())["devices"]["gpu0"]["waiting"])


async def answering(session: aiohttp.ClientSession) -> None:
    """Wait until some request is being answered."""
    async with asyncio.timeout(HERE_S):
        while True:
            async with session.get("/debug/status") as answered:
                if any(each["answering"] for each in (await answered.json())["served"]):
                    return
            await asyncio.sleep(0.01)


async def switching(session: aiohttp.ClientSession) -> None:
    """Wait until a switch has begun."""
    async with asyncio.timeout(HERE_S):
        while True:
            async with session.get("/debug/status") as answered:
                if (await answered.json())["devices"]["gpu0"]["switch"] is not None:
                    return
            await asyncio.sleep(0.01)


async def asked_as(session: aiohttp.ClientSession, id: str, model: str, tokens: int, **more: Any) -> int:
    """Ask *model* as the request *id*, in a trace of its own; return the status."""
    headers = {"x-request-id": id, "traceparent": f"00-{id * 32}-{SPAN}-01"}
    body = chat(model=model, max_tokens=tokens, **more)
    async with session.post(CHAT, json=body, headers=headers) as answered:
        await answered.read()
        return answered.status


async def test_each_second_of_a_wait(models: Path, tmp_path: Path, otlp: Collector) -> None:
    """Its trace alone tells of each part of a wait what it went to: patience, others' answers, the switch."""
    config = CONFIG.format(models=models, url=otlp.url).replace(
        "cooldown_s: 0", "cooldown_s: 0, patience_s: 0.5"
    )
    async with daemon(tmp_path, config) as process, aiohttp.ClientSession(process.url) as session:
        long = asyncio.create_task(asked_as(session, "a", "slow", 500))
        await answering(session)
        (engine,) = map(psutil.Process, process.engines)
        engine.suspend()  # its answer lasts until somebody has lost patience
        asking = asyncio.create_task(asked_as(session, "b", "tiny-kitchen", 5))
        await switching(session)
        engine.resume()
        assert [await asking, await long] == [200, 200]
        own, wait, switch, relay = await otlp.trace("b" * 32, 4)

    assert [span.name for span in (own, wait, switch, relay)] == [f"POST {CHAT}", "queue", "switch", "relay"]
    told, why = about(wait), about(switch)
    assert (told["dmap.behind"], told["dmap.position"]) == ("engine/slow", 1)
    assert (why["dmap.cause"], why["dmap.load"], why["dmap.for"]) == ("patience", "engine/tiny-kitchen", "b")
    patience_s = (switch.start_time_unix_nano - wait.start_time_unix_nano) / 1e9
    parts = [patience_s, *(why[f"dmap.{part}_s"] for part in ("drain", "unload", "load"))]
    waited_s = (wait.end_time_unix_nano - wait.start_time_unix_nano) / 1e9
    assert min(parts) >= 0 and parts[0] >= 0.4
    assert sum(parts) == pytest.approx(waited_s, abs=0.25)
    assert about(own)["dmap.queue_s"] == pytest.approx(waited_s, abs=0.25)


async def test_why_a_request_waited(models: Path, tmp_path: Path, otlp: Collector) -> None:
    """The trace of a request that waited tells behind what, and the switches that it saw, its own or not."""
    async with daemon(tmp_path, CONFIG.format(models=models, url=otlp.url)) as process:
        async with aiohttp.ClientSession(process.url) as session:

            async def order(path: str) -> None:
                async with session.post(path, json={}) as answered:
                    assert answered.status == 200

            async def waiting(count: int) -> None:
                async with asyncio.timeout(HERE_S):
                    while (await told(session)) != count:
                        await asyncio.sleep(0.01)

            await order("/admin/drain")
            first = asyncio.create_task(asked_as(session, "a", "tiny-sea", 20))
            await waiting(1)
            second = asyncio.create_task(asked_as(session, "b", "tiny-kitchen", 20))
            await waiting(2)
            await order("/admin/resume")
            assert [await first, await second] == [200, 200]

        own, wait, *switches, relay = await otlp.trace("b" * 32, 5)

    assert [span.name for span in (own, wait, relay)] == ["POST /v1/chat/completions", "queue", "relay"]
    assert about(wait)["dmap.behind"] == "drain"
    seen = [(span.name, about(span)["dmap.load"], about(span)["dmap.for"]) for span in switches]
    assert seen == [("switch", "engine/tiny-sea", "a"), ("switch", "engine/tiny-kitchen", "b")]
    assert {span.parent_span_id for span in switches} == {wait.span_id}
    log = "".join(process.log)
    assert re.search(r"switch_begun .*load=engine/tiny-kitchen for=b ", log)
    assert re.search(r" request id=b .* trace=b{32} ", log)


async def test_a_trace_over_a_hop(otlp: Collector, start: Any, backend: Any) -> None:
    """From the client to the engine it is one trace: the node's span is below the front's."""
    backend.script = backend.by_hand
    traces = f"traces: {{url: '{otlp.url}', share: 0}}"
    fake = f"backends: {{fake: {{kind: openai, url: '{backend.url}', parallel: 1}}}}"
    node = await start(f"{fake}\n{traces}")
    front = await front_of(start, [node.url], traces)
    before = asyncio.create_task(asked(front, {}))
    first = await backend.next()
    asking = asyncio.create_task(asked(front, SAMPLED))
    await soon(lambda: [visit.record.waits for visit in front.proxy.visits.open()] == [False, True], HERE_S)
    await first.end(answer(b'{"model": "m"}'))
    exchange = await backend.next()
    await exchange.end(answer(b'{"model": "m"}'))
    await asyncio.gather(before, asking)

    spans = await otlp.trace(ID, 6)

    parents = {span.span_id: span.parent_span_id for span in spans}
    engine = bytes.fromhex(re.search(rb"traceparent: 00-\w+-(\w+)-01", exchange.head)[1].decode())  # type: ignore[index]
    at_node = parents[engine]
    sent = parents[at_node]
    at_front = parents[sent]
    assert parents[at_front].hex() == SPAN
    named = {span.span_id: span.name for span in spans}
    assert [named[each] for each in (at_front, sent, at_node, engine)] == [
        "POST /v1/chat/completions",
        "relay",
        "POST /v1/chat/completions",
        "relay",
    ]
    queues = [span.parent_span_id for span in spans if span.name == "queue"]
    assert sorted(queues) == sorted((at_front, at_node))
