"""What a request leaves behind: its events, in order, and at its end one log line."""

import json
import logging
from typing import Any

import aiohttp
import pytest

from dmap.wire.users import user_of
from tests.fakes import DONE, END, HERE_S, SSE, Exchange, FakeBackend, answer, chat, chunk, delta, post, soon

CHAT = "/v1/chat/completions"


def events(proxy: Any) -> list[tuple[str, dict[str, Any]]]:
    """List what was told so far, as (type, fields)."""
    return [(event.type, dict(event.fields)) for event in proxy.proxy.bus.since(0, 1000)[0]]


async def test_one_stream(proxy: Any, backend: FakeBackend, caplog: pytest.LogCaptureFixture) -> None:
    """A stream is received, granted, begun and finished, under one id, and leaves one line."""
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}\n\n'
    backend.script = lambda e: e.write(SSE, chunk(delta("one") + usage + DONE) + END)
    client = await proxy.client()

    with caplog.at_level(logging.INFO, "dmap.requests"):
        await client.send(post(chat()))
        await client.answer()
        await proxy.settled()

    told = events(proxy)
    assert [type for type, _ in told] == [
        "request.received",
        "request.granted",
        "request.first_byte",
        "request.finished",
    ]
    assert len({fields["id"] for _, fields in told}) == 1
    assert {
        name: told[-1][1][name] for name in ("model", "chunks", "tokens_in", "tokens_out", "outcome")
    } == {
        "model": "m",
        "chunks": 1,
        "tokens_in": 3,
        "tokens_out": 4,
        "outcome": "success",
    }
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("answered", "rate"),
    [
        ({"usage": {"completion_tokens": 4}, "timings": {"predicted_per_second": 51.239}}, 51.24),
        ({"usage": {"completion_tokens": 4}}, None),
    ],
)
async def test_the_speed_of_an_answer(
    proxy: Any, backend: FakeBackend, answered: dict[str, Any], rate: float | None
) -> None:
    """The end of a plain answer tells its server's own speed; a time that holds the prefill is none."""
    backend.script = lambda e: e.end(answer(json.dumps({"id": "x", "model": "m", **answered}).encode()))
    client = await proxy.client()

    await client.send(post(chat(stream=False)))
    await client.answer()
    await proxy.settled()

    assert events(proxy)[-1][1].get("tokens_per_s") == rate


async def test_who_has_to_wait(start: Any, backend: FakeBackend) -> None:
    """A request that cannot be served at once is told as queued, with its place, before it is granted."""
    backend.script = backend.by_hand
    proxy = await start(f"backends: {{fake: {{kind: openai, url: '{backend.url}', parallel: 1}}}}")
    first, second = await proxy.client(), await proxy.client()
    await first.send(post(chat()))
    answering = await backend.next()
    await second.send(post(chat()))
    await soon(lambda: "request.queued" in [type for type, _ in events(proxy)], HERE_S)

    await answering.end(SSE, chunk(DONE), END)
    await (await backend.next()).end(SSE, chunk(DONE), END)
    await second.answer()

    [queued] = [fields for type, fields in events(proxy) if type == "request.queued"]
    assert (queued["model"], queued["backend"], queued["position"]) == ("m", "fake", 1)
    assert queued["behind"] == "parallel"
    assert [type for type, fields in events(proxy) if fields["id"] == queued["id"]][:4] == [
        "request.received",
        "request.queued",
        "request.granted",
        "request.first_byte",
    ]


@pytest.mark.parametrize(
    ("named", "mismatches"),
    [("m", 0), ("M", 0), ("/models/m.gguf", 0), ("m-2026-11-01", 0), ("other", 1)],
)
async def test_an_answer_of_another_model(
    proxy: Any, backend: FakeBackend, named: str, mismatches: int
) -> None:
    """An answer that names another model than was asked is told and counted, and passed on all the same."""

    async def reply(exchange: Exchange) -> None:
        await exchange.end(answer(b'{"model": "%b", "choices": []}' % named.encode()))

    backend.script = reply
    async with aiohttp.ClientSession(proxy.url) as session:
        async with session.post(CHAT, json={"model": "m", "messages": []}) as answered:
            assert answered.status == 200
        async with session.get("/metrics") as page:
            text = await page.text()

    told = [fields for type, fields in events(proxy) if type == "request.mismatch"]
    expected = [("127.0.0.1", "m", named)] * mismatches
    assert [(fields["client"], fields["model"], fields["answered"]) for fields in told] == expected
    reasons = [fields.get("reason") for type, fields in events(proxy) if type == "request.finished"]
    assert reasons == [f"answered as {named!r}" if mismatches else None]
    assert ('dmap_mismatches_total{model="m"} 1.0' in text) is bool(mismatches)


async def test_what_was_done_to_it(start: Any, backend: FakeBackend) -> None:
    """The grant tells what was filled in, forced and stripped; a capture has both bodies."""
    backend.script = lambda e: e.end(answer(b"{}"))
    proxy = await start(
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n"
        "debug: {capture: true}\ndefaults: {temperature: 0.5}\n"
        "models: {m: {force: {seed: 7}, strip: [user]}}"
    )
    async with aiohttp.ClientSession(proxy.url) as session:
        asked = {"model": "m", "messages": [], "user": "me"}
        async with session.post(CHAT, json=asked) as answered:
            assert answered.status == 200
        async with session.get("/debug/captures") as page:
            (capture,) = (await page.json())["captures"]

    (granted,) = [fields for type, fields in events(proxy) if type == "request.granted"]
    told = {name: granted[name] for name in ("filled", "forced", "stripped")}
    assert told == {"filled": ["temperature"], "forced": ["seed"], "stripped": ["user"]}
    assert json.loads(capture["body"]) == asked
    assert json.loads(capture["sent"]) == {"model": "m", "messages": [], "seed": 7, "temperature": 0.5}


@pytest.mark.parametrize("status", [400, 422])
async def test_an_error_in_anthropics_dialect(proxy: Any, backend: FakeBackend, status: int) -> None:
    """An error that a backend told in OpenAI's shape gets the member by which Anthropic's clients know it."""
    backend.script = lambda e: e.end(answer(b'{"error": {"message": "no"}}', status=f"{status} No"))
    asked = {"model": "m", "max_tokens": 1, "messages": []}

    async with (
        aiohttp.ClientSession(proxy.url) as session,
        session.post("/v1/messages", json=asked) as answered,
    ):
        assert await answered.json() == {"type": "error", "error": {"message": "no"}}
        assert answered.status == status


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches"])
async def test_anthropics_routes_have_anthropics_errors(proxy: Any, path: str) -> None:
    """Whatever of Anthropic's API a client asks for, it reads why that was refused."""
    async with (
        aiohttp.ClientSession(proxy.url) as session,
        session.post(path, json={"model": "nobody", "messages": []}) as answered,
    ):
        told = await answered.json()

    assert (told["type"], told["error"]["type"]) == ("error", "not_found_error")


async def test_an_error_that_the_backend_told(proxy: Any, backend: FakeBackend) -> None:
    """An error that goes down as the backend told it is no success."""
    body = b'{"error": {"message": "no", "type": "x", "param": null, "code": null}}'
    backend.script = lambda e: e.end(answer(body, status="422 Unprocessable"))
    asked = {"model": "m", "messages": []}

    async with aiohttp.ClientSession(proxy.url) as session, session.post(CHAT, json=asked) as answered:
        assert answered.status == 422

    assert (events(proxy)[-1][0], events(proxy)[-1][1]["outcome"]) == ("request.failed", "backend_error")


async def test_what_is_refused(proxy: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A request that is refused is told as failed, with the reason."""
    body = {"model": "nobody", "messages": []}
    async with aiohttp.ClientSession(proxy.url) as session, session.post(CHAT, json=body) as answered:
        assert answered.status == 404

    told = events(proxy)
    assert [type for type, _ in told] == ["request.received", "request.failed"]
    assert (told[1][1]["status"], told[1][1]["outcome"]) == (404, "model_not_found")
    assert "model" not in told[1][1]


async def test_a_user_behind_a_name(
    start: Any, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks is known to the queue as a number, and told to nobody."""
    proxy = await start(f"backends: {{fake: {{kind: openai, parallel: 1, url: '{backend.url}'}}}}")
    backend.script = backend.by_hand
    caplog.set_level(logging.DEBUG)
    first, second = await proxy.client(), await proxy.client()
    await first.send(post(chat(user="Ann Smith")))
    exchange = await backend.next()
    await second.send(post(chat(user="other"), headers="X-OpenWebUI-User-Id: Ann Smith\r\n"))
    await soon(lambda: len(proxy.proxy.gates["backend fake"].view.first(1)) == 1, HERE_S)

    (waiting,) = proxy.proxy.gates["backend fake"].view.first(1)

    assert waiting.user == user_of({}, {"user": "Ann Smith"})
    exchange.cut()
    first.close()
    second.close()
    await proxy.settled()
    assert "Ann Smith" not in caplog.text + str(events(proxy))
