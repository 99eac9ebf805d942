"""
What is refused, and how: every row of that table through the running daemon, in one place.

First the requests that are refused as they come, in one table; then the rows that take a scene.  Each of them
is told in OpenAI's shape with its id, and tells a client whether to come again, and when.  What leads to each
of them, and all its variants, is tested where it happens.
"""

import asyncio
import hashlib
import json
import logging
from dataclasses import dataclass, replace

import pytest

from tests.fakes import (
    DONE,
    END,
    HERE_S,
    SSE,
    Answer,
    answer,
    chat,
    chunk,
    delta,
    holding,
    post,
    told,
)
from tests.lmstudio_emulator import Knobs, emulator

CHAT = "/v1/chat/completions"
SMALL, BIG = "llama-3.2-1b-instruct", "openai/gpt-oss-20b"


@dataclass(frozen=True)
class Refusal:
    """
    What a client is told: *status*, *type*, *code* and *param*, and words that the message has.

    *again* is `later`, with `Retry-After`, or `never`, by `x-should-retry: false`; None says neither.
    """

    status: int
    type: str
    code: str
    param: str | None = None
    words: tuple[str, ...] = ()
    again: str | None = None


def assert_told(given: Answer, refusal: Refusal) -> None:
    """Check the whole answer: head, shape, every member."""
    error, headers = given.error, given.head.headers
    got = (given.status, error["type"], error["code"], error["param"])
    assert got == (refusal.status, refusal.type, refusal.code, refusal.param)
    assert [word for word in refusal.words if word not in error["message"]] == []
    assert error["message"]
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert headers["x-request-id"] == "the-id"
    assert headers.get("x-should-retry") == {"never": "false"}.get(refusal.again)
    assert 1 <= int(headers.get("retry-after", 1)) <= 60
    assert ("retry-after" in headers) == (refusal.again == "later")


# What every request here is sent with


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


KEYS = f"""
access:
  allow: [10.0.0.0/8]
  trusted_proxies: [127.0.0.1]
  keys:
    - {{name: all, sha256: {sha256("sk-all")}, scopes: [inference, debug, admin]}}
    - {{name: few, sha256: {sha256("sk-few")}, models: [other]}}
    - {{name: old, sha256: {sha256("sk-old")}, expires: 2020-01-01}}
    - {{name: one, sha256: {sha256("sk-one")}, parallel: 1}}
    - {{name: slow, sha256: {sha256("sk-slow")}, rate_per_min: 1}}
"""


def lines(key: str | None = "sk-all", address: str = "10.0.0.1") -> str:
    """The headers of a request from *address* with *key*."""
    credentials = f"Authorization: Bearer {key}\r\n" if key is not None else ""
    return f"X-Forwarded-For: {address}\r\nX-Request-Id: the-id\r\n{credentials}"


def ask(body=None, path=CHAT, *, key="sk-all", address="10.0.0.1"):
    """A chat, or a POST of *body*."""
    return post(chat() if body is None else body, path, headers=lines(key, address))


def get(path, *, key="sk-all", more=""):
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n{lines(key)}{more}\r\n".encode()


@pytest.fixture
async def serve(start, backend, caplog):
    """Start proxies in front of the fake backend, answered by hand; in the end nothing may be left."""
    backend.script = backend.by_hand
    proxies = []

    async def serve(*, server="{}", options="", rest=""):
        yaml = f"backends: {{fake: {{kind: openai, url: '{backend.url}', {options}}}}}\nserver: {server}\n"
        proxies.append(await start(f"{yaml}{KEYS}{rest}"))
        return proxies[-1]

    yield serve
    assert [await left(proxy, backend) for proxy in proxies] == [(0, 0)] * len(proxies)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def left(proxy, backend):
    """Have everybody leave, and return what is then held or open; it may take a moment."""
    await proxy.close()
    backend.cut_all()
    await proxy.settled()
    return proxy.leftovers, len(proxy.proxy.visits)


async def sent(proxy, *pieces):
    """Send *pieces* on a new connection; return the client."""
    client = await proxy.client()
    for piece in pieces:
        await client.send(piece)
    return client


async def given(proxy, *pieces):
    """Send *pieces* on a new connection; return the answer."""
    return await (await sent(proxy, *pieces)).answer()


async def busy(proxy, count, request=None):
    """Have *count* requests, each on a connection of its own, wait or be answered."""
    for _ in range(count):
        await sent(proxy, request or ask())
    await holding(proxy, count)


# The table

WRONG = "invalid_request_error"
DENIED = Refusal(403, "permission_error", "access_denied")
NO_KEY = Refusal(401, WRONG, "invalid_api_key", words=("Authorization: Bearer",))
INVALID = Refusal(400, WRONG, "invalid_request")
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"

TABLE = {
    "no key": (ask(key=None), NO_KEY),
    "a wrong key": (ask(key="sk-wrong"), NO_KEY),
    "a key that has expired": (ask(key="sk-old"), replace(NO_KEY, words=("'old'", "2020-01-01"))),
    "no key, where there is no route": (get("/nowhere", key=None), NO_KEY),
    "an address that is not allowed": (ask(address="192.0.2.7"), replace(DENIED, words=("192.0.2.7",))),
    "no scope for the admin API": (
        get("/admin/models", key="sk-few"),
        replace(DENIED, words=("'few'", "'admin'")),
    ),
    "no scope for what is watched": (get("/debug/stream", key="sk-few"), replace(DENIED, words=("'debug'",))),
    "an unknown model": (
        ask(chat(model="nobody")),
        Refusal(404, WRONG, "model_not_found", "model", ("'nobody'", "/v1/models")),
    ),
    "an unknown model, looked at": (
        get("/v1/models/nobody"),
        Refusal(404, WRONG, "model_not_found", "model", ("'nobody'",)),
    ),
    "a model that this key may not use": (
        ask(key="sk-few"),
        Refusal(404, WRONG, "model_not_found", "model", ("'m'", "/v1/models")),
    ),
    "no model named, none active": (
        ask({"messages": []}),
        replace(INVALID, param="model", words=("none is active", "'m'")),
    ),
    "a body that is too large": (
        ask(b" " * 1025),
        Refusal(413, WRONG, "body_too_large", words=("1024", "server.max_body")),
    ),
    "a body that is no JSON": (ask(b"{'model': 'm'}"), replace(INVALID, words=("not JSON",))),
    "a body that is no object": (ask(b"[]"), replace(INVALID, words=("JSON object",))),
    "a model that is no name": (ask(chat(model=7)), replace(INVALID, param="model", words=("a string",))),
    "a stream neither on nor off": (
        ask(chat(stream="yes")),
        replace(INVALID, param="stream", words=("true or false",)),
    ),
    "an order with several mistakes": (
        post(b'{"x": 1}', "/admin/models/load", headers=f"{lines()}Content-Type: application/json\r\n"),
        replace(INVALID, param="modelKey", words=("modelKey: is missing", "x: no such field")),
    ),
    "an unknown path": (ask(path="/v2/chat"), Refusal(404, WRONG, "unknown_path", words=("/v2/chat",))),
    "another method": (get(CHAT), Refusal(405, WRONG, "invalid_request", words=("POST",))),
    "a WebSocket": (
        get("/v1/models", more=UPGRADE),
        Refusal(501, "server_error", "not_implemented", words=("WebSocket", "lms"), again="never"),
    ),
}


@pytest.mark.parametrize(("request_", "refusal"), TABLE.values(), ids=TABLE)
async def test_what_is_refused_as_it_comes(serve, backend, request_, refusal):
    """A request that cannot be served is refused before a backend hears of it."""
    proxy = await serve(server="{max_body: 1KiB}")

    got = await given(proxy, request_)

    got = replace(got, body=json.dumps(without_problems(got)).encode())
    assert_told(got, refusal)
    assert backend.requests == []


async def test_who_was_refused(serve, caplog):
    """The line of a request that was refused names its own client, not the proxy that it came through."""
    caplog.set_level("INFO")
    proxy = await serve()

    await given(proxy, ask(key="wrong"))
    await given(proxy, ask(address="11.0.0.1"))
    await given(proxy, ask(address="nobody"))

    clients = [line.partition("client=")[2].split()[0] for line in caplog.messages if "client=" in line]
    assert clients == ["10.0.0.1", "11.0.0.1", "127.0.0.1"]


def without_problems(got):
    """Return the body without the list that `message` has as well."""
    body = json.loads(got.body)
    body["error"].pop("problems", None)
    return body


# A prompt that does not fit


async def test_a_prompt_that_does_not_fit(serve, backend):
    """What does not fit the context is refused with both numbers, and not asked."""

    async def count(exchange):
        await exchange.write(answer(b'{"tokens": [%b]}' % b",".join([b"1"] * 300)))

    proxy = await serve(rest="models: {m: {backend: fake, load: {context_length: 256}}}")
    backend.script = count

    got = await given(proxy, ask(chat(messages=[{"role": "user", "content": "tide " * 300}])))

    assert_told(got, Refusal(400, WRONG, "context_length_exceeded", "messages", ("300", "256")))
    assert [exchange.path for exchange in backend.requests] == ["/tokenize"]


# Too many, too long

BUSY = Refusal(429, "rate_limit_error", "rate_limit_exceeded", again="later")
EXPIRED = Refusal(503, "server_error", "wait_expired", words=("0.2 s",), again="later")


@pytest.mark.parametrize(
    ("options", "key", "under_way", "words"),
    [
        ("parallel: 1, queue: 1", "sk-all", 2, ("is full, at 1",)),
        ("", "sk-one", 1, ("'one'", "1")),
    ],
    ids=["queue", "parallel"],
)
async def test_a_full_queue_and_a_clients_limit(serve, options, key, under_way, words):
    """What is over the queue, or over what a key may have at once, is told when to come again."""
    proxy = await serve(options=options)
    await busy(proxy, under_way, ask(key=key))

    got = await given(proxy, ask(key=key))

    assert_told(got, replace(BUSY, words=words))


async def test_a_wait_in_vain(serve):
    """Of two who come together one would wait for longer than it may, and is told so at once."""
    proxy = await serve(options="parallel: 1, wait_s: 3")
    await busy(proxy, 1)
    clients = [await proxy.client() for _ in range(2)]
    await asyncio.gather(*(client.send(ask()) for client in clients))

    answers = [asyncio.ensure_future(client.answer()) for client in clients]
    [refused], [waiting] = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)

    assert_told(refused.result(), replace(BUSY, words=("would wait for about 1", "wait_s is 3")))
    waiting.cancel()


async def test_a_clients_pace(serve, backend):
    """What is over a key's requests in a minute is told when the next may come."""
    proxy = await serve()
    await sent(proxy, ask(key="sk-slow"))
    await backend.next()

    got = await given(proxy, ask(key="sk-slow"))

    assert_told(got, replace(BUSY, words=("'slow'", "rate_per_min")))


async def test_a_wait_that_was_too_long(serve):
    """Who waits longer than `wait_s` is told to come again."""
    proxy = await serve(options="parallel: 1, wait_s: 0.2")
    await busy(proxy, 1)

    assert_told(await given(proxy, ask()), EXPIRED)


async def test_a_wait_that_was_too_long_in_a_stream(serve):
    """Who has heard by then at which position it is hears that as an event, in a stream without an end."""
    proxy = await serve(server="{heartbeat_s: 0.01}", options="parallel: 1, wait_s: 2")
    await busy(proxy, 1)
    client = await sent(proxy, ask())

    head, rest = await client.head(), await client.all()

    assert (head.status, head.headers["x-request-id"]) == (200, "the-id")
    assert b": dmap: position 1 in the queue" in rest
    assert told(rest)["error"]["code"] == "wait_expired"
    assert not rest.endswith(END)


async def test_too_many_bodies(serve, backend):
    """Over `server.bodies`, counted over all who wait, there is no room for one more."""
    proxy = await serve(server="{max_body: 1KiB, bodies: 1KiB}")
    await sent(proxy, ask(json.dumps(chat()).encode().ljust(1000)))
    await backend.next()

    assert_told(await given(proxy, ask()), replace(BUSY, words=("1024", "server.bodies")))


async def test_a_slow_upload(serve):
    """A body that is not here within `body_s` is not waited for any longer."""
    proxy = await serve(server="{body_s: 0.2}")

    got = await given(proxy, ask()[:-5])

    assert_told(got, Refusal(408, WRONG, "upload_timeout", words=("server.body_s",), again="never"))


# Backends that fail

FAULT = "backend_error"
FAILED = Refusal(502, FAULT, "model_load_failed", again="never")
BACK_OFF = Refusal(503, FAULT, "backend_down", words=("at the last try",), again="later")
DOWN = Refusal(503, FAULT, "backend_down", again="later")
SLOW = Refusal(504, FAULT, "backend_slow", words=("0.2 s",), again="never")


async def test_a_load_that_failed(start):
    """A failed load is told with LM Studio's own reason; after a back-off the model is tried again."""
    async with emulator(knobs=Knobs(load_s=0.01, memory_bytes=3 * 10**9)) as lm:
        studio = f"backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}"
        proxy = await start(f"devices: {{gpu0: {{cooldown_s: 0}}}}\n{studio}\n{KEYS}")

        first, second = await given(proxy, ask(chat(model=BIG))), await backed_off(proxy, BIG)
        other = await given(proxy, ask(chat(model=SMALL, stream=False)))
        lm.world.knobs = Knobs()

        assert_told(first, replace(FAILED, words=("insufficient system resources", BIG)))
        assert_told(second, replace(BACK_OFF, words=("insufficient system resources", BIG)))
        assert other.status == 200
        await answered(proxy, ask(chat(model=BIG)))
        await proxy.settled()


async def backed_off(proxy, model):
    """Ask until the model is not tried again at once, and return what is told then: a try may be late."""
    async with asyncio.timeout(HERE_S):
        while (got := await given(proxy, ask(chat(model=model)))).status != BACK_OFF.status:
            pass
    return got


async def answered(proxy, request):
    """Ask again and again until *request* is answered."""
    async with asyncio.timeout(HERE_S):
        while (await given(proxy, request)).status != 200:
            await asyncio.sleep(0.1)


async def test_an_engine_that_failed_to_load(start, models, tmp_path):
    """What a real engine says of a file that it cannot load reaches the client."""
    whole = (models / "tiny-sea.gguf").read_bytes()
    (tmp_path / "torn.gguf").write_bytes(whole.replace(b"output_norm.weight", b"output_none.weight"))
    engine = f"backends: {{local: {{kind: gguf, path: '{tmp_path}', device: box, threads: 1}}}}"
    proxy = await start(f"devices: {{box: {{cooldown_s: 0}}}}\n{engine}\n{KEYS}")

    first, second = await given(proxy, ask(chat(model="torn"))), await backed_off(proxy, "torn")

    assert_told(first, replace(FAILED, words=("torn", "tensor")))
    assert_told(second, BACK_OFF)
    await proxy.settled()


async def test_a_backend_that_is_down_and_comes_back(start):
    """A backend that is down is told so at once; the probe that finds it up is all that it takes to go on."""
    async with emulator() as lm:
        proxy = await start(f"backends: {{fake: {{kind: openai, url: '{lm.url}'}}}}\n{KEYS}")
        await lm.kill()

        first, second = [await given(proxy, ask(chat(model=SMALL))) for _ in range(2)]
        await lm.start()
        await answering(proxy)
        third = await given(proxy, ask(chat(model=SMALL, stream=False)))

        assert_told(first, replace(DOWN, words=("cannot be reached",)))
        assert_told(second, replace(DOWN, words=("the backend 'fake' is down",)))
        assert third.status == 200
        await proxy.settled()


async def answering(proxy):
    """Wait until a probe has found a backend up; there is one every two seconds."""
    async with asyncio.timeout(HERE_S):
        while not proxy.proxy.inventory.answering:
            await asyncio.sleep(0.02)


async def test_no_first_byte(serve, backend):
    """A head alone is no answer: without a byte of a body within `first_byte_s` it is a 504."""
    proxy = await serve(server="{first_byte_s: 0.2}")
    client = await sent(proxy, ask())
    exchange = await backend.next()
    await exchange.write(SSE)

    got = await client.answer()

    assert_told(got, replace(SLOW, words=("first byte", "server.first_byte_s")))
    await exchange.abandoned()


BROKEN = "the backend closed the connection in mid-answer"
NO_MARK = "the backend ended the stream before its end mark"
SILENT = "silence from the backend for 0.5 s (server.idle_s)"


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize(
    ("last", "ending", "words"),
    [(b"", "wait", SILENT), (b"", "close", BROKEN), (b"", "cut", BROKEN), (END, "wait", NO_MARK)],
    ids=["silence", "close", "reset", "no-mark"],
)
async def test_a_stream_that_breaks(serve, backend, path, last, ending, words):
    """Once the head is out, it is an error event of the route's form and a cut, never a clean end."""
    proxy = await serve(server="{idle_s: 0.5}")
    client = await sent(proxy, ask(chat(input="Hello"), path))
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("a")))
    await client.until(chunk(delta("a")))
    await exchange.write(last)
    {"close": exchange.close, "cut": exchange.cut, "wait": lambda: None}[ending]()

    end = await client.all()

    event = told(end)
    assert event.get("error", event)["message"].startswith(words)
    assert end.startswith(b"%x\r\n" % (len(end) - end.index(b"\r\n") - 4))
    assert end.endswith(b"}\n\n\r\n")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (b'{"error": "Unexpected endpoint or method. (POST /v1/x)"}', 404, "backend_error"),
        (b'{"error": {"message": "no such model", "code": "model_not_found"}}', 404, "model_not_found"),
        (b'{"error": {"message": "bad", "type": "invalid_request"}}', 400, "invalid_request"),
        (b'{"error": {"message": "busy", "code": 503}}', 503, "503"),
        (b'{"error": {"message": "broken"}}', 502, "backend_error"),
    ],
)
async def test_an_error_in_a_200(serve, backend, said, status, code, stream):
    """A 200 that holds an error gets the status that it should have had."""
    proxy = await serve()
    client = await sent(proxy, ask(chat(stream=stream)))
    await (await backend.next()).end(answer(said))

    assert_told(await client.answer(), Refusal(status, FAULT, code))


async def test_after_a_refusal_the_connection_goes_on(serve, backend):
    """A refusal costs a client its request and nothing else."""
    proxy = await serve()
    client = await sent(proxy, ask(chat(model="nobody")), ask(chat(stream=7)), ask())
    await (await backend.next()).end(SSE, chunk(DONE), END)

    assert [(await client.answer()).status for _ in range(3)] == [404, 400, 200]
