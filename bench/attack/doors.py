"""Who gets in and what they learn: rebinding pages, keys that ask for models of others, orders."""

import asyncio
import functools
import itertools
import re
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager

from bench.attack.attack import CHAT, SPEECH
from bench.attack.bypass import Result, seen, street
from bench.attack.hostile import hostile
from bench.attack.house import Answer, House, ask, house, request

HOSTS = (
    "evil.example", "evil.example:{port}", "EVIL.Example", "evil.example.", "localhost.evil.example", "127.0.0.1.nip.io", "127.0.0.1.evil.example:{port}",
    "localhost, evil.example", "localhost@evil.example", "evil.example@localhost", "evil.example#localhost", "evil.example/localhost", "evil.example?localhost", "evil.example\\localhost",
    "[::1].evil.example", "[::1]evil.example", "evil.example:localhost", "evil.example:80:localhost", "evil.local.example", "evil.lan.example", "evil.home.arpa.example", "evil.internal.example",
    "evil.example%00.local", "evil.example%2elocal", "evil.example .local", "evil.example\t.local", "evil.example,.local", "evil.examplelocal.x", "evil.example;.local", "evil.example\xad.local", "",
    "evil.xn--local-x", "l\xf6cal.example", "127.1.example", "0x7f000001.example", "evil.example\r\nHost: localhost", "localhost\r\nHost: evil.example", "localhost.:evil.example", "http://localhost.example",
)  # fmt: skip
"""What a browser, or somebody who takes it for one, may say when a page has its name resolve to this host."""

OWN_HOSTS = (
    "localhost",
    "localhost:{port}",
    "127.0.0.1:{port}",
    "[::1]:{port}",
    "gpubox",
    "gpubox:{port}",
    "GPUBOX.local",
    "gpubox.lan:80",
    "box.home.arpa",
    "a.internal",
    "192.168.1.9:{port}",
)
ORIGINS = (
    "http://evil.example", "null", "http://localhost:1", "http://localhost", "http://127.0.0.1:{port}", "http://localhost:{port}.evil.example",
    "http://localhost:{port}@evil.example", "http://localhost:{port}, http://evil.example", "chrome-extension://x", "file://", "http://LOCALHOST.evil", "http://[::1]:{port}",
)  # fmt: skip
"""Pages that may not, told to `Host: localhost:{port}`."""

LAN = "X-Forwarded-For: 192.168.1.7"
_READ = (
    "/v1/models",
    "/ready",
    "/metrics",
    "/api/v0/models",
    "/v1/models/msink",
    "/debug/status",
    "/admin/models",
)


@asynccontextmanager
async def _keyless() -> AsyncGenerator[House]:
    async with hostile() as port:
        backends = f"backends:\n  sink: {{kind: openai, url: 'http://127.0.0.1:{port}/sink'}}\n"
        async with house(
            f"access: {{allow: [192.168.1.0/24], trusted_proxies: [127.0.0.1]}}\n{backends}"
        ) as found:
            yield found


async def hosts() -> dict[str, Result]:
    """Ask without a key under other names, as a page would; from this host and from the LAN."""
    results = {"hosts of others": Result(), "own hosts": Result(), "pages of others": Result()}
    async with _keyless() as found:
        for headers, is_own in _named(found.port):
            result = results["own hosts" if is_own else "hosts of others"]
            for raw in _asked(headers, chats=not is_own):
                _note(result, await ask(found.port, raw), raw, want=200 if is_own else 0)
        for origin in ORIGINS:
            lines = (f"Host: localhost:{found.port}", f"Origin: {origin.format(port=found.port)}")
            for raw in _asked(lines, chats=True):
                _note(results["pages of others"], await ask(found.port, raw), raw)
        for site in ("cross-site", "same-site"):
            for raw in _asked((f"Host: localhost:{found.port}", f"Sec-Fetch-Site: {site}"), chats=True):
                _note(results["pages of others"], await ask(found.port, raw), raw)
        for path in _READ:
            raw = f"GET http://evil.example{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            _note(results["hosts of others"], await ask(found.port, raw), raw)
            _note(
                results["hosts of others"],
                await ask(found.port, f"GET {path} HTTP/1.0\r\n\r\n".encode()),
                raw,
            )
    return results


def _named(port: int) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield the lines for each name of the host, from here and from the LAN, and whether it is our own."""
    for host in HOSTS:
        yield (f"Host: {host.format(port=port)}",), False
        yield (f"Host: {host.format(port=port)}", LAN), False
        yield ("Host: localhost", f"X-Forwarded-Host: {host.format(port=port)}", LAN), False
    for host in OWN_HOSTS:
        yield (f"Host: {host.format(port=port)}", LAN), True


def _asked(headers: tuple[str, ...], *, chats: bool) -> Iterator[bytes]:
    """Yield questions with just these lines of headers."""
    chat = b'{"model":"msink","messages":[]}'
    for path in _READ if chats else _READ[:1]:
        yield "\r\n".join([f"GET {path} HTTP/1.1", *headers, "", ""]).encode("latin-1")
    for kind in ("application/json", "text/plain"):
        lines = [f"POST {CHAT} HTTP/1.1", *headers, f"Content-Length: {len(chat)}", f"Content-Type: {kind}"]
        yield "\r\n".join([*lines, "", ""]).encode("latin-1") + chat


def _note(result: Result, got: Answer, raw: bytes, *, want: int = 0) -> None:
    is_well = got.status == want if want else 400 <= got.status < 500
    result.outcomes["passed, as checked" if want else "refused"] += is_well
    if not is_well:
        result.outcomes["finding"] += 1
        result.findings.append(f"{got.status} {got.body[:120]!r} to {raw[:300]!r}")


async def oracle() -> dict[str, Result]:
    """Ask with a key for models that it may not use and for such as there are none; nothing may differ."""
    result = Result()
    async with street() as place:
        port = place.house.port
        await ask(port, request("POST", CHAT, b'{"model":"big-py","messages":[]}', bearer="sk-admin"))
        for site, way in itertools.product(place.victims, _ways()):
            there, nowhere, near = f"big-{site}", f"bag-{site}", f"bigg-{site}"
            both = [await ask(port, way(name)) for name in (there, nowhere, near)]
            shapes = {_shape(got, name) for got, name in zip(both, (there, nowhere, near), strict=True)}
            result.outcomes["refused"] += len(both)
            if len(shapes) > 1 or there.encode() in both[2].body:
                result.findings.append(f"{way(there)[:90]!r}: {shapes}")
        for path in ("/v1/models", "/api/v0/models", "/api/v1/models", "/ready", "/metrics"):
            got = await ask(port, request("GET", path, bearer="sk-small"))
            result.outcomes["passed, as checked"] += 1
            if b"big-" in got.body:
                result.findings.append(f"{path} names a model that the key may not use: {_around(got.body)}")
        result.findings += [f"a server got {each['path']}" for each in (await seen(place))[1:]]
    return {"what is there": result, "how long it takes": await _timing()}


def _around(body: bytes) -> str:
    at = body.index(b"big-")
    return body[max(0, at - 60) : at + 20].decode()


def _ways() -> Iterator[Callable[[str], bytes]]:
    """Yield each way to ask for a model by its name."""
    for path in (CHAT, "/v1/embeddings", "/v1/rerank", "/api/v0/chat/completions", "/api/v1/chat"):
        yield functools.partial(_chat, path)
    for path in ("/v1/models/", "/api/v0/models/"):
        yield lambda name, path=path: request("GET", path + name, bearer="sk-small")  # type: ignore[misc]
    yield _form


def _chat(path: str, name: str) -> bytes:
    return request("POST", path, b'{"model":"%b","messages":[]}' % name.encode(), bearer="sk-small")


def _form(name: str) -> bytes:
    body = f'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n{name}\r\n--b--\r\n'.encode()
    kind = "Content-Type: multipart/form-data; boundary=b"
    return request("POST", SPEECH, body, bearer="sk-small", headers=(kind,))


def _shape(got: Answer, name: str) -> str:
    """Return the answer without what must differ."""
    told = re.sub(r"req_\w+", "ID", f"{got.status} {sorted(got.headers)} {got.body.decode(errors='replace')}")
    return told.replace(name, "NAME")


async def _timing() -> Result:
    """Compare how long the two refusals take, while the servers' lists are no longer fresh."""
    result = Result()
    took: dict[str, list[float]] = {"big-py": [], "bag-py": []}
    async with street() as place:
        for name in ("big-py", "bag-py") * 4:
            await asyncio.sleep(1.1)
            raw = _chat(CHAT, name)
            began = time.perf_counter()
            await ask(place.house.port, raw)
            took[name].append(time.perf_counter() - began)
    there, nowhere = (1000 * statistics.median(each) for each in took.values())
    result.outcomes["refused"] = 8
    if max(there, nowhere) > 3 * min(there, nowhere):
        result.findings.append(
            f"{there:.1f} ms for a model that is there, {nowhere:.1f} ms for one that is not"
        )
    return result


ORDERS = (
    b'{"modelKey":"%b","modelKey":"%b"}', b'{"modelKey":"%b","model_key":"%b"}', b'{"modelKey":"%b","model":"%b"}', b'{"model":"%b","model":"%b"}',
    b'{"modelKey":"%b","ModelKey":"%b"}', b'{"modelKey":"%b","model\\u004bey":"%b"}', b'{"modelKey":"%b","model\xe2\x84\xaaey":"%b"}', b'{"modelKey":"%b","modelKey\\u0000":"%b"}',
    b'{"modelKey":"%b","defaultInference":{"temperature":1,"temperature":2},"x":"%b"}', b'{"modelKey":"%b","defaultInference":{},"defaultInference":{"user":"%b"}}',
    b'{"modelKey":"%b"}{"modelKey":"%b"}', b'[{"modelKey":"%b"},"%b"]', b'{"modelKey":"%b",/*"%b"*/}', b'\xef\xbb\xbf{"modelKey":"%b","x":"%b"}',
)  # fmt: skip


async def orders() -> dict[str, Result]:
    """Give orders that say two things; each has to be 400, and the one that says one thing has to work."""
    result = Result()
    async with street() as place:
        port = place.house.port
        for form, path in itertools.product(ORDERS, ("load", "unload", "activate")):
            raw = request("POST", f"/admin/models/{path}", form % (b"small-py", b"big-py"), bearer="sk-admin")
            _note(result, await ask(port, raw), raw)
        for body in (
            b'{"device":"a","device":"b"}',
            b'{"unload":true,"unload":false}',
            b'{"unload":false,"Unload":true}',
        ):
            raw = request("POST", "/admin/drain", body, bearer="sk-admin")
            _note(result, await ask(port, raw), raw)
        for path, bearer in itertools.product(
            ("models/load", "drain", "reload", "queue/x/cancel"), ("", "sk-small", "sk-lister", "sk-none")
        ):
            raw = request("POST", f"/admin/{path}", b"{}", bearer=bearer)
            _note(result, await ask(port, raw), raw)
        raw = request("POST", "/admin/models/activate", b'{"modelKey":"small-py"}', bearer="sk-admin")
        _note(result, await ask(port, raw), raw, want=200)
    return {"orders": result}
