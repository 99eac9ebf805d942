"""Pages of other sites: what a browser is told, through the production server."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import END, SSE, Answer, FakeBackend, chat, chunk, delta, post

UI = "https://ui.example"
ASK = (
    "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,x-stainless-os\r\n"
)
KEYS = "keys: [{name: k, sha256: 2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683}]"
"""The SHA-256 of `key`."""


async def ask(proxy: Any, request: bytes) -> Answer:
    client = await proxy.client()
    await client.send(request)
    head = await client.head()
    return Answer(head, b"" if head.status == 204 else await client.body(head))


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    headers = "".join(f"{line}\r\n" for line in lines)
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


def preflight(origin: str, path: str = "/v1/chat/completions") -> bytes:
    return get(path, f"Origin: {origin}", ASK, method="OPTIONS")


def granted(answer: Answer) -> dict[str, str]:
    """Return what an answer tells a browser of origins."""
    names = ("access-control-", "vary")
    return {name: value for name, value in answer.head.headers.items() if name.startswith(names)}


@pytest.fixture
def serve(start: Callable[[str], Any], backend: FakeBackend) -> Callable[[str], Any]:
    """Start a proxy with the given `access`."""
    return lambda access: start(
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\naccess: {{{access}}}"
    )


@pytest.mark.parametrize(
    ("cors", "origin", "told"),
    [
        (f"cors: ['{UI}']", UI, UI),
        (f"cors: ['http://other.example', '{UI}']", UI, UI),
        ("cors: ['https://UI.example:8443']", "https://ui.example:8443", "https://ui.example:8443"),
        ("cors: ['*']", "https://any.example", "*"),
        ("cors: ['*']", "null", "*"),
    ],
)
async def test_a_listed_page_may_send(serve, cors, origin, told):
    """A browser that asks for a page of a listed origin is told yes, without a key."""
    answer = await ask(await serve(f"{cors}, {KEYS}"), preflight(origin))

    assert answer.status == 204 and answer.body == b""
    headers = answer.head.headers
    assert headers["access-control-allow-origin"] == told
    assert headers["access-control-allow-methods"] == "GET, POST, DELETE"
    assert headers["access-control-max-age"] == "600"
    allowed = headers["access-control-allow-headers"].lower().split(", ")
    assert allowed == ["authorization", "x-stainless-os"]
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("origin", ["https://evil.example", "http://ui.example", f"{UI}:444", "null"])
async def test_others_may_not(serve, origin):
    """For a page of any other origin the question is a request without a key."""
    answer = await ask(await serve(f"cors: ['{UI}'], {KEYS}"), preflight(origin))

    assert answer.status == 401
    assert granted(answer) == {"vary": "Origin"}


async def test_a_header_name_is_a_name(serve):
    """What is no name of a header is not repeated."""
    request = preflight(UI).replace(b"x-stainless-os", b'x-good, "bad", a:b,' + b"x" * 65)

    answer = await ask(await serve(f"cors: ['{UI}']"), request)

    assert answer.head.headers["access-control-allow-headers"] == "authorization, x-good"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/v1/models", "Authorization: Bearer key", f"Origin: {UI}"), 200),
        (get("/v1/models", f"Origin: {UI}"), 401),
        (get("/health", f"Origin: {UI}"), 200),
        (get("/nowhere", "Authorization: Bearer key", f"Origin: {UI}"), 404),
        (get("/v1/embeddings", "Authorization: Bearer key", f"Origin: {UI}"), 405),
        (post(b"{", headers=f"Authorization: Bearer key\r\nOrigin: {UI}\r\n"), 400),
    ],
)
async def test_a_listed_page_may_read(serve, request_, status):
    """Answers and errors may be read by the page that asked, with the headers that help it."""
    answer = await ask(await serve(f"cors: ['{UI}'], {KEYS}"), request_)

    assert answer.status == status
    assert granted(answer) == {
        "access-control-allow-origin": UI,
        "access-control-expose-headers": (
            "x-request-id, Retry-After, x-should-retry, Server-Timing, Age, Dmap-Cache"
        ),
        "vary": "Origin",
    }


async def test_a_stream_may_be_read(serve, backend):
    """A stream too; what the backend says of origins is not passed on."""
    head = SSE.replace(b"\r\n\r\n", b"\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\n\r\n")
    backend.script = lambda exchange: exchange.write(
        head, chunk(delta("hi")), chunk(b"data: [DONE]\n\n"), END
    )
    proxy = await serve(f"cors: ['{UI}']")

    answer = await ask(proxy, post(chat(), headers=f"Origin: {UI}\r\n"))

    assert answer.status == 200
    origins = [value for name, value in answer.head.lines if name == "access-control-allow-origin"]
    varies = [value for name, value in answer.head.lines if name == "vary"]
    assert (origins, varies) == ([UI], ["Accept", "Origin"])


async def test_no_key_is_still_no_key(serve):
    """Without keys a listed page may use models; one that is not listed may not."""
    proxy = await serve(f"cors: ['{UI}']")

    assert (await ask(proxy, get("/v1/models", f"Origin: {UI}"))).status == 200
    assert (await ask(proxy, get("/v1/models", "Origin: https://evil.example"))).status == 403
    assert (await ask(proxy, get("/debug/stream", f"Origin: {UI}"))).status == 403


async def test_without_a_list_nothing_is_said(serve):
    """Unless it is configured, no answer says a word of origins, and the question is no route."""
    proxy = await serve(KEYS)
    key = "Authorization: Bearer key"

    answers = [
        await ask(proxy, get("/v1/models", key, f"Origin: {UI}")),
        await ask(proxy, get("/v1/models", f"Origin: {UI}")),
        await ask(proxy, get("/v1/embeddings", key, f"Origin: {UI}", ASK, method="OPTIONS")),
    ]

    assert [answer.status for answer in answers] == [200, 401, 405]
    assert [granted(answer) for answer in answers] == [{}, {}, {}]


async def test_an_option_without_its_question(serve):
    """OPTIONS that is no browser's question is a wrong method."""
    proxy = await serve(f"cors: ['{UI}']")

    assert (await ask(proxy, get("/v1/embeddings", f"Origin: {UI}", method="OPTIONS"))).status == 405
