"""Who may ask, for any request at the running daemon; how keys are compared; no secret is ever told."""

import ast
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmap.access import admission, quota, scope_of
from dmap.config import ConfigProblem, parse
from dmap.kinds import ROUTES
from dmap.web.reload import reload
from dmap.web.table import PATHS
from tests.fakes import DONE, END, SSE, FakeBackend, answer, chat, chunk, delta, post
from tests.trees import parsed

ADMIN = (
    "/admin/models/load",
    "/admin/models/unload",
    "/admin/models/activate",
    "/admin/queue/1/cancel",
    "/admin/drain",
    "/admin/resume",
    "/admin/reload",
)
DEBUG = ("/debug/stream", "/debug/status", "/debug/metrics", "/debug/captures", "/debug/logs/m")
ANY = ("/v1/models", "/v1/models/m", "/ready", "/metrics", "/nowhere", "/", "/Admin/reload", "//v1/models")
SCOPES = dict.fromkeys(ROUTES, "inference") | dict.fromkeys(ADMIN, "admin") | dict.fromkeys(DEBUG, "debug")
HOLDERS = {
    "sk-inf": ("inference",),
    "sk-deb": ("debug",),
    "sk-adm": ("admin",),
    "sk-all": ("inference", "debug", "admin"),
}
"""Keys and their scopes."""
GOOD, BAD = ("192.168.1.7", "fd00::1"), ("203.0.113.9", "fe80::1", "192.168.2.1")


def examples(count: int) -> settings:
    """Try *count* examples, the same ones each time, on one daemon."""
    return settings(
        max_examples=count,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def yaml(backend: FakeBackend) -> str:
    """Keys for each scope and one that has expired, an allowlist, and loopback as a trusted proxy."""
    keys = [f"{{name: {k}, sha256: {sha256(k)}, scopes: {[*scopes]}}}" for k, scopes in HOLDERS.items()]
    keys.append(f"{{name: old, sha256: {sha256('sk-old')}, expires: 2020-01-01}}")
    return (
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n"
        "access: {allow: [192.168.1.0/24, 'fd00::/16'], trusted_proxies: [127.0.0.1],"
        f" failures_per_min: 1000000, keys: [{', '.join(keys)}]}}\n"
    )


@dataclass(frozen=True)
class Ask:
    """One request whose body is announced and never sent."""

    path: str
    address: str
    header: str
    key: str | None
    expects: bool
    length: str

    @property
    def status(self) -> int | None:
        """What it must be refused with, told from the rules alone; None if it may be served."""
        if self.address not in GOOD:
            return 403
        if self.key is None or self.key not in HOLDERS:
            return 401
        return 403 if SCOPES.get(self.path) not in (None, *HOLDERS[self.key]) else None

    @property
    def head(self) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", "Host: h", f"X-Forwarded-For: {self.address}", self.length]
        lines += [f"{self.header}{self.key}"] * (self.key is not None)
        lines += ["Expect: 100-continue"] * (self.expects and self.path in ROUTES)
        return "\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode()


_asks = st.builds(
    Ask,
    path=st.sampled_from([*SCOPES, *ANY]),
    address=st.sampled_from(GOOD * 3 + BAD),
    header=st.sampled_from(["Authorization: Bearer ", "x-api-key: "]),
    key=st.one_of(
        st.sampled_from([None, "sk-old", "sk-", sha256("sk-all"), *HOLDERS]),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=50),
    ),
    expects=st.booleans(),
    length=st.sampled_from(["Content-Length: 100000", "Transfer-Encoding: chunked"]),
)


_refused = given(_asks.filter(lambda ask: ask.status is not None))


@examples(150)
@_refused
async def test_nobody_gets_as_far_as_a_body(closed: Any, ask: Ask) -> None:
    """
    Without an address on the list, a valid key and its scope, a request is refused before its body is there.

    It is told so at once, not even asked for the body, and neither a handler nor a backend hears of it.
    """
    client = await closed.client()
    await client.send(ask.head)
    refused = await client.answer()
    client.close()

    assert refused.status == ask.status
    assert refused.error["code"] == {401: "invalid_api_key", 403: "access_denied"}[refused.status]
    assert closed.proxy.visits.body_bytes == 0
    assert types(closed) <= {"access.denied"}


@pytest.mark.soak
@examples(2000)
@_refused
async def test_nobody_of_many_gets_as_far_as_a_body(closed: Any, ask: Ask) -> None:
    """The same at length."""
    await test_nobody_gets_as_far_as_a_body.hypothesis.inner_test(closed, ask)


@pytest.fixture
async def closed(start: Callable[[str], Any], backend: FakeBackend) -> AsyncGenerator[Any]:
    """Run a proxy with keys and an allowlist, whose backend must hear of nothing."""
    proxy = await start(yaml(backend))
    yield proxy
    assert backend.requests == []


def events(proxy: Any) -> list[Any]:
    """Everything that was told and is still kept."""
    return proxy.proxy.bus.since(0, 100_000)[0]


def types(proxy: Any) -> set[str]:
    return {event.type for event in events(proxy)} - {"model.appeared"}


@pytest.mark.parametrize("path", sorted(ROUTES))
async def test_who_has_all_three_is_asked_for_the_body(closed: Any, path: str) -> None:
    """With address, key and scope the body is called for: what the others are refused is there to be had."""
    client = await closed.client()

    await client.send(Ask(path, GOOD[0], "x-api-key: ", "sk-inf", True, "Content-Length: 9").head)

    assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_every_route_needs_what_it_should() -> None:
    """Of all routes, only lists and `/ready` take any key, and `/health` takes none."""
    assert {path for path in PATHS if scope_of(path) is None} == {
        "/api/v0/models",
        "/api/v0/models/{id}",
        "/api/v1/models",
        "/health",
        "/ready",
        "/v1/models",
        "/v1/models/{id}",
    }
    assert {path for path in PATHS if scope_of(path) == "inference"} == set(ROUTES)


# Pages in a browser

LOCAL = (
    "localhost", "llm", "my_box", "a.localhost", "llm.local", "deep.llm.lan", "llm.home.arpa",
    "host.docker.internal", "127.0.0.1", "192.168.1.7", "0.0.0.0", "[::1]", "[fd00::7]", "llm.example.com",
)  # fmt: skip
PUBLIC = (
    "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evillocal.example", "127.1",
    "llm.example.com.evil.example", "not-llm.example.com", "example.com", "xn--vil-bma.example", "lan.evil",
    "internal.evil.example", "1.2.3.4.5", "llm.local.evil.example", "llm.lan.evil.example",
    "a.localhost.evil",
)  # fmt: skip
BROKEN = (
    "", ".", ":80", "localhost:evil", "localhost:80:80", "u@localhost", "localhost@evil.example", "::1",
    "[::1", "[localhost]", "evil.example,localhost", "localhost evil.example", "localhost/", "http://localhost",
    "l\xf6cal", "localhost%00", ".local", "a..local", "localhost\\", "local\thost",
)  # fmt: skip
PORTS = ("", ":80", ":443", ":8000", ":3000")
UI = "https://ui.example"


@dataclass(frozen=True)
class Name:
    """A host as a header has it, and what it is for a browser: None if it is none."""

    text: str
    host: str | None
    port: str = ""

    def origin(self, scheme: str) -> tuple[str, str, str]:
        """The site that a browser means by this host."""
        return scheme, self.host or "", self.port or {"http": ":80", "https": ":443"}[scheme]


_spelling = st.sampled_from([str.lower, str.upper, str.title, lambda name: f"{name}."])
_good = st.builds(
    lambda host, spell, port: Name(spell(host) + port, host, port),
    st.sampled_from(LOCAL + PUBLIC),
    _spelling,
    st.sampled_from(PORTS),
).filter(lambda name: not name.text.startswith("[") or "]." not in name.text)
_names = st.one_of(_good, st.sampled_from(BROKEN).map(lambda text: Name(text, None)))


@dataclass(frozen=True)
class Browsed:
    """A request as a browser, a program or a proxy of either may send it."""

    path: str
    host: Name
    scheme: str
    origin: Name | str | None
    forwarded: Name | None
    site: str | None
    target: str

    @property
    def is_own(self) -> bool:
        return isinstance(self.origin, Name) and (
            self.origin.origin(self.scheme) == self.host.origin(self.scheme)
        )

    @property
    def is_foreign(self) -> bool:
        """Whether a page sends it that may not."""
        if self.origin == UI and self.path.startswith("/v1"):
            return False
        if self.origin is None:
            return self.site not in (None, "none", "same-origin")
        return not self.is_own or self.site not in (None, "none", "same-origin")

    @property
    def status(self) -> set[int]:
        """What it may be answered with, told from the rules alone."""
        names = [self.host, *([self.forwarded] if self.forwarded else [])]
        if any(name.host not in LOCAL for name in names) or self.is_foreign:
            return {403}
        return {404} if self.target else {200, 400}

    @property
    def head(self) -> bytes:
        origin = f"{self.scheme}://{self.origin.text}" if isinstance(self.origin, Name) else self.origin
        method, body = (
            ("POST", "Content-Type: application/json") if "models" not in self.path else ("GET", "")
        )
        lines = [
            f"{method} {self.target}{self.path} HTTP/1.1",
            f"Host: {self.host.text}",
            "Content-Length: 0",
        ]
        lines += [body] * bool(body) + [f"Origin: {origin}"] * (origin is not None)
        if self.forwarded is not None:
            lines += [f"X-Forwarded-Host: {self.forwarded.text}", "X-Forwarded-For: 127.0.0.1"]
        lines += [f"Sec-Fetch-Site: {self.site}"] * (self.site is not None)
        lines += ["Referer: http://localhost/"]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


_browsed = st.builds(
    Browsed,
    path=st.sampled_from(["/v1/models", "/v1/chat/completions", "/admin/drain", "/admin/models"]),
    host=_names,
    scheme=st.sampled_from(["http", "https"]),
    origin=st.one_of(
        st.none(), _names, st.sampled_from(["null", "", "file://", UI, "ftp://localhost", "http://["])
    ),
    forwarded=st.one_of(st.none(), st.none(), _names),
    site=st.sampled_from([None, None, "none", "same-origin", "same-site", "cross-site", "x"]),
    target=st.sampled_from(["", "", "", "http://localhost", "http://evil.example"]),
)
_own = st.builds(lambda asked, same: replace(asked, origin=same, host=same), _browsed, _good)


@pytest.fixture
async def keyless(start: Callable[[str], Any], backend: FakeBackend) -> Any:
    """Run a proxy without keys that trusts loopback to be a proxy."""
    return await start(
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n"
        f"listen: {{names: [LLM.example.com.]}}\naccess: {{trusted_proxies: [127.0.0.1], cors: ['{UI}']}}\n"
    )


@examples(250)
@given(st.one_of(_browsed, _own))
async def test_no_foreign_page_gets_in(keyless: Any, asked: Browsed) -> None:
    """Without keys no name that public DNS may lead here, and no page of another site or port, is served."""
    client = await keyless.client()
    await client.send(asked.head)
    answer = await client.answer()
    client.close()

    assert answer.status in asked.status


@pytest.mark.soak
@examples(5000)
@given(st.one_of(_browsed, _own))
async def test_no_foreign_page_of_many_gets_in(keyless: Any, asked: Browsed) -> None:
    """The same at length."""
    await test_no_foreign_page_gets_in.hypothesis.inner_test(keyless, asked)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v1/models HTTP/1.0\r\n\r\n", 403),
        (b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET http://localhost/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET http://u:p@evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET //evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
)
async def test_a_target_is_a_path(keyless: Any, head: bytes, status: int) -> None:
    """A request has one `Host`, and no other host in its target."""
    client = await keyless.client()

    await client.send(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    assert (await client.head()).status == status


# How keys are compared


def compared(tree: ast.AST) -> set[str]:
    """Return every name and attribute that stands in an `==`, `!=`, `in` or `not in`."""
    kinds = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    sides = [
        side for node in nodes if isinstance(node.ops[0], kinds) for side in (node.left, *node.comparators)
    ]
    inner = [part for side in sides for part in ast.walk(side)]
    return {part.id for part in inner if isinstance(part, ast.Name)} | {
        part.attr for part in inner if isinstance(part, ast.Attribute)
    }


def looked_up(tree: ast.AST) -> set[str]:
    """Return every name by which something is looked up: in `[...]`, or given to `get` and its like."""
    calls = [
        argument
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("get", "index", "startswith", "find", "match", "pop")
        for argument in node.args
    ]
    slices = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    return {part.id for side in (*calls, *slices) for part in ast.walk(side) if isinstance(part, ast.Name)}


def test_keys_are_compared_in_constant_time() -> None:
    """Digests meet in `compare_digest` alone, for every key, and a credential in no comparison at all."""
    tree = parsed(Path(admission.__file__).read_text())
    secret = {"digest", "credentials", "token", "sha256", "headers"}

    meeting = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "hmac.compare_digest"
    ]

    assert [ast.unparse(node) for node in meeting] == ["hmac.compare_digest(key.sha256, digest)"]
    loops = [
        node for node in ast.walk(tree) if isinstance(node, ast.ListComp) and meeting[0] in ast.walk(node)
    ]
    assert [ast.unparse(loop.generators[0].iter) for loop in loops] == ["self._keys"]
    assert compared(tree) & secret == set()
    assert looked_up(tree) & secret == set()


def test_the_looking_finds_something() -> None:
    """A comparison that is not in constant time would be found."""
    tree = parsed("a = key.digest == digest\nb = digest in known\nc = known[digest]\nd = known.get(token)")

    assert (compared(tree), looked_up(tree)) == ({"key", "digest", "known"}, {"digest", "token"})


def test_quotas_know_no_key() -> None:
    """What counts wrong keys counts addresses: no part of a key gets that far."""
    assert "digest" not in Path(quota.__file__).read_text()


# Secrets

PLANTED = {
    "key": "PLANTED-key-4711",
    "wrong key": "PLANTED-wrong-4712",
    "backend's key": "PLANTED-backend-4713",
    "query": "PLANTED-query-4714",
    "header": "PLANTED-header-4715",
    "cookie": "PLANTED-cookie-4716",
    "basic": "PLANTED-basic-4717",
    "prompt": "PLANTED-prompt-4718",
    "environment": "PLANTED-environment-4719",
}
LINES = (
    f"Authorization: Bearer {PLANTED['key']}\r\n"
    f"X-Secret: {PLANTED['header']}\r\nCookie: session={PLANTED['cookie']}\r\n"
)
QUERY = f"?api_key={PLANTED['query']}&token={PLANTED['query']}"


def secrets(backend: FakeBackend) -> str:
    return (
        f"backends: {{fake: {{kind: openai, url: '{backend.url}', api_key: '${{TOKEN}}'}},"
        f" down: {{kind: openai, url: 'http://127.0.0.1:9', api_key: '{PLANTED['environment']}'}}}}\n"
        f"models: {{lost: {{backend: down}}}}\n"
        f"access: {{keys: [{{name: k, sha256: {sha256(PLANTED['key'])}, scopes: [inference, debug, admin]}},"
        f" {{name: small, sha256: {sha256('small')}, scopes: [debug]}}]}}\n"
    ).replace("${TOKEN}", PLANTED["backend's key"])


def get(path: str, lines: str = LINES) -> bytes:
    return f"GET {path}{QUERY} HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode()


def everything() -> list[bytes]:
    """Requests that end in every way there is, each with secrets in all its places."""
    ask = chat(messages=[{"role": "user", "content": PLANTED["prompt"]}])
    wrong = LINES.replace(PLANTED["key"], PLANTED["wrong key"])
    basic = LINES.replace(f"Bearer {PLANTED['key']}", f"Basic {PLANTED['basic']}")
    return [
        post(ask, headers=LINES),
        post(ask | {"stream": False}, headers=LINES),
        post(ask, path=f"/v1/chat/completions{QUERY}", headers=LINES),
        post(ask | {"model": "lost"}, headers=LINES),
        post(ask | {"model": "nobody"}, headers=LINES),
        post(ask | {"draft_model": "x"}, headers=LINES),
        post(json.dumps(ask).encode()[:-5], headers=LINES),
        post(ask, headers=wrong),
        post(ask, headers=basic),
        post(ask, headers=LINES.replace(PLANTED["key"], "small")),
        post(ask, path=f"/v1/unknown{QUERY}", headers=LINES),
        post(ask, path=f"/admin/reload{QUERY}", headers=LINES),
        post(ask, path=f"/admin/models/load{QUERY}", headers=f"{LINES}Content-Type: application/json\r\n"),
        post(ask, path="/v1/responses", headers=f"{LINES}X-Forwarded-For: 1.2.3.4\r\n"),
        post(ask, headers=f"{LINES}Content-Encoding: br\r\n"),
        get("/v1/models"),
        get("/v1/models", wrong),
        get("/v1/chat/completions"),
        get("/nowhere"),
        get("/ready"),
        get("/metrics"),
        get("/admin/models"),
        get("/admin/queue"),
        get("/debug/status"),
        get("/debug/metrics"),
        get("/debug/captures"),
        get("/v1/models", f"{LINES}Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        get("/v1/models", f"{LINES}X-Big: {'x' * 20_000}\r\n"),
        f"GET / HTTP/1.1\r\nHost: h\r\nAuthorization Bearer {PLANTED['key']}\r\n\r\n".encode(),
        f"{PLANTED['key']} / HTTP/1.1\r\nHost: h\r\n\r\n".encode(),
        f"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: {PLANTED['key']}\x00\r\n\r\n".encode("latin-1"),
    ]


async def end_of(proxy: Any, request: bytes) -> bytes:
    """Send *request*; return all that comes back."""
    client = await proxy.client()
    await client.send(request.replace(b"\r\nHost: ", b"\r\nConnection: close\r\nHost: ", 1))
    try:
        return await client.all()
    except ConnectionResetError:
        return b""
    finally:
        client.close()


def told(places: dict[str, str]) -> set[tuple[str, str]]:
    """Return which secret stands where."""
    hashes = {"its hash": sha256(PLANTED["key"])}
    return {
        (place, what)
        for place, text in places.items()
        for what, secret in (PLANTED | hashes).items()
        if secret in text
    }


def reload_problems(proxy: Any, text: str) -> str:
    """Return what a reload of *text* is refused with."""
    with pytest.raises(ConfigProblem) as refused:
        reload(proxy.proxy, parse(text, {"TOKEN": PLANTED["environment"]}))
    return f"{refused.value} {refused.value!r} {refused.value.problems}"


async def test_no_secret_is_told(
    start: Callable[[str], Any], backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """
    What clients, the owner and their programs keep secret stands in no log line, event, answer or dump.

    Not even at DEBUG, not when the backend fails, and not in what a reload is refused with.
    """
    caplog.set_level(logging.DEBUG)
    text = secrets(backend)
    proxy = await start(text)
    replies = iter(
        [
            SSE + chunk(delta("one")),
            answer(b"no", status="500 Bad"),
            SSE + chunk(delta("hi")) + chunk(DONE) + END,
        ]
    )

    async def script(exchange: Any) -> None:
        await exchange.write(next(replies, SSE + chunk(DONE) + END))
        exchange.close()

    backend.script = script

    answers = b"".join([await end_of(proxy, request) for request in everything()])
    refused = reload_problems(proxy, f"{text}sever: {PLANTED['environment']}\n")
    refused += reload_problems(
        proxy, text.replace(f"sha256: {sha256(PLANTED['key'])}", f"sha256: {PLANTED['key']}")
    )
    refused += reload_problems(proxy, text.replace("4713'", "4713 x'"))
    refused += reload_problems(proxy, f"{text}x: '{PLANTED['environment']}\n")
    refused += reload_problems(
        proxy, text.replace("url: '", "url: 'http://u:" + PLANTED["environment"] + "@h")
    )

    places = {
        "log": caplog.text,
        "events": b"".join(event.frame for event in events(proxy)).decode(),
        "answers": answers.decode("latin-1"),
        "reload": refused,
        "config": f"{proxy.proxy.config!r} {proxy.proxy.config}",
        "parts": f"{proxy.proxy.access!r} {proxy.proxy.access.usages!r} {proxy.proxy!r}",
    }
    assert told(places) == set()
    assert {"access.denied", "request.failed", "request.finished"} <= types(proxy)
    assert all(len(text) > 40 for text in places.values())
    assert PLANTED["backend's key"] in backend.requests[0].headers["authorization"]


def test_the_looking_finds_secrets() -> None:
    """A secret that is told would be found."""
    assert told({"log": f"... {PLANTED['query']} ..."}) == {("log", "query")}
