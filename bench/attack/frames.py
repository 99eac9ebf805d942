"""
Raw requests whose frames, paths or headers two servers may read differently, and who may look at what.

Each is sent as it stands, with the key that may use one model only; the servers behind must get nothing that
nobody asked for by the book, on no path but those of the table, and each answer must be its own request's.
"""

import asyncio
import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from bench.attack.attack import CHAT
from bench.attack.bypass import CLIENTS, Result, Street, seen, street, wrong
from bench.attack.house import ask, request

_SMALL = b'{"model":"small-py","messages":[]}'
_BIG = b'{"model":"big-py","messages":[]}'
_OK = "Host: localhost\r\nAuthorization: Bearer sk-small\r\nContent-Type: application/json\r\n"
_INNER = b"POST %b HTTP/1.1\r\nHost: x\r\nx-request-id: smuggled\r\nContent-Length: %d\r\n\r\n%b" % (
    CHAT.encode(),
    len(_BIG),
    _BIG,
)
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


@dataclass(frozen=True)
class Frame:
    """Raw bytes, and how many requests by the book they hold at most."""

    group: str
    raw: bytes
    most: int = 1


def frames() -> Iterator[Frame]:
    """Yield every frame."""
    yield from _lengths()
    yield from _headers()
    yield from _lines()
    yield from _paths()


def _post(lines: str, body: bytes, *, version: str = "1.1", path: str = CHAT) -> bytes:
    return f"POST {path} HTTP/{version}\r\n{_OK}{lines}\r\n".encode("latin-1") + body


def _chunked(body: bytes, extension: bytes = b"", trailer: bytes = b"", end: bytes = b"\r\n") -> bytes:
    head = b"%x%b%b" % (len(body), extension, end)
    return head + body + end + b"0" + end + trailer + end


_ENCODINGS = (
    "Transfer-Encoding: chunked", "Transfer-Encoding : chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: Chunked",
    "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    "X: y\r\n Transfer-Encoding: chunked", "Transfer-Encoding:\r\n chunked", "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: \"chunked\"", "Transfer_Encoding: chunked", "transfer-encoding: gzip, chunked", "Transfer-Encoding: chun\xadked",
    "X: y\nTransfer-Encoding: chunked", "X: y\rTransfer-Encoding: chunked", "Transfer-Encoding: chunked\x00", "Content-Encoding: chunked",
)  # fmt: skip
"""Lines that some take for `Transfer-Encoding: chunked`."""


def _lengths() -> Iterator[Frame]:
    """Content-Length against Transfer-Encoding, in all the ways of request smuggling."""
    size, whole = len(_SMALL), _chunked(_SMALL)
    for line, version in itertools.product(_ENCODINGS, ("1.1", "1.0")):
        for length in (
            "",
            f"Content-Length: {size}\r\n",
            f"Content-Length: {len(whole)}\r\n",
            "Content-Length: 4\r\n",
        ):
            for order in (f"{line}\r\n{length}", f"{length}{line}\r\n"):
                yield Frame("lengths", _post(order, whole + _INNER, version=version))
    yield from _odd_lengths()
    yield from _odd_chunks()


def _odd_lengths() -> Iterator[Frame]:
    """A Content-Length that is no number to all, alone, and before and behind a good one."""
    size = len(_SMALL)
    odd = (
        "+%d",
        "-%d",
        "%d ",
        "0%d",
        "0x%x",
        "%d, %d",
        "%d_0",
        "%d\x00",
        "\x0b%d",
        "%d.0",
        "%de0",
        "%d;x",
        "\uff13%d"[1:],
        "",
    )
    for written in odd:
        value = written % ((size,) * written.count("%"))
        yield Frame("lengths", _post(f"Content-Length: {value}\r\n", _SMALL + _INNER))
        yield Frame(
            "lengths", _post(f"Content-Length: {size}\r\nContent-Length: {value}\r\n", _SMALL + _INNER)
        )
        yield Frame(
            "lengths", _post(f"Content-Length: {value}\r\nContent-Length: {size}\r\n", _SMALL + _INNER)
        )


def _odd_chunks() -> Iterator[Frame]:
    """Chunks with extensions, trailers and sizes that not all read alike."""
    size = len(_SMALL)
    chunk = "Transfer-Encoding: chunked\r\n"
    for extension in (
        b";x=y",
        b" ",
        b";",
        b'; "\r\n"',
        b"\x00",
        b";x\ny",
        b"\r",
        b";" + b"x" * 9000,
        b"_",
        b"h",
        b";\xff",
    ):
        yield Frame("lengths", _post(chunk, _chunked(_SMALL, extension) + _INNER))
    for trailer in (
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: x\r\n",
        b" x\r\n",
        b"X\r\n",
        b"Authorization: Bearer sk-admin\r\n",
        b"X: " + b"y" * 99999 + b"\r\n",
    ):
        yield Frame("lengths", _post(chunk, _chunked(_SMALL, trailer=trailer) + _INNER))
    for size_line in (b"-1", b"+22", b"0x22", b"022", b"ffffffffffffffff1", b"22 22", b"", b"2 2"):
        yield Frame("lengths", _post(chunk, size_line + b"\r\n" + _SMALL + b"\r\n0\r\n\r\n" + _INNER))
    for end in (b"\n", b"\r"):
        yield Frame("lengths", _post(chunk, _chunked(_SMALL, end=end) + _INNER))
    yield Frame("lengths", _post(f"Content-Length: {size}\r\n", _SMALL) * 5, most=5)


def _headers() -> Iterator[Frame]:
    """Header lines that are no header lines, other hosts, upgrades, expectations, keys twice."""
    length = f"Content-Length: {len(_BIG)}\r\n"
    lines = (
        "authorization : Bearer sk-admin", "x-api-key: sk-admin", "Proxy-Authorization: Bearer sk-admin",
        "Cookie: key=sk-admin", "X-Original-URL: /admin/status", "X-Rewrite-URL: /admin/status", "X-HTTP-Method-Override: PUT", "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Host: a", "Forwarded: for=127.0.0.1", "Connection: Authorization", "Connection: x-request-id, close", "Connection: upgrade\r\nUpgrade: h2c",
        "Upgrade: websocket", "Upgrade: h2c\r\nHTTP2-Settings: AA", "Expect: 100-continue", "Expect: 200-ok", "Host: evil", "Host:", "TE: trailers", "Max-Forwards: 0",
        "X\x00Y: z", "X Y: z", ": z", "X", "X: \x00", "X: a\r b", "\x80: b", "Content-Type: multipart/form-data; boundary=b", "x-request-id: a\tb", "x-request-id: " + "a" * 999,
        "Content-Length: 0", "Range: bytes=0-1", "Content-Encoding: gzip", "Accept: */*\r\nAccept: text/event-stream", "traceparent: \xff\r\nTransfer-Encoding: x",
    )  # fmt: skip
    for line in lines:
        yield Frame(
            "headers", f"POST {CHAT} HTTP/1.1\r\n{line}\r\n{_OK}{length}\r\n".encode("latin-1") + _BIG
        )
        yield Frame(
            "headers", f"POST {CHAT} HTTP/1.1\r\n{_OK}{line}\r\n{length}\r\n".encode("latin-1") + _BIG
        )
    yield Frame("headers", f"POST {CHAT} HTTP/1.1\r\n{_OK}".encode() + b"X: y\r\n" * 5000 + b"\r\n")
    yield Frame("headers", f"POST {CHAT} HTTP/1.1\r\n{_OK}X: ".encode() + b"y" * 300_000 + b"\r\n\r\n")


def _lines() -> Iterator[Frame]:
    """First lines that are none, or more than one."""
    rest = f"{_OK}Content-Length: {len(_BIG)}\r\n\r\n".encode() + _BIG
    starts = (
        b"POST  %b HTTP/1.1", b"POST %b  HTTP/1.1", b"POST\t%b HTTP/1.1", b"POST %b HTTP/1.2", b"POST %b HTTP/2.0", b"POST %b HTTP/0.9", b"POST %b", b"post %b HTTP/1.1",
        b"POST %b HTTP/1.1 HTTP/1.0", b"POST http://x%b HTTP/1.1", b"POST //x%b HTTP/1.1", b"POST *%b HTTP/1.1", b" POST %b HTTP/1.1", b"\r\nPOST %b HTTP/1.1", b"\x00POST %b HTTP/1.1",
        b"PUT %b HTTP/1.1", b"PATCH %b HTTP/1.1", b"GET %b HTTP/1.1", b"PRI %b HTTP/2.0", b"CONNECT %b HTTP/1.1", b"OPTIONS %b HTTP/1.1", b"POST %b\x00 HTTP/1.1", b"POST %b\x0b HTTP/1.1",
        b"POST %b HTTP/1.1\r", b"POST %b HTTP/1.1\n", b"POST %b HTTP/1.1\x0b", b"POST %b HTTP/1.10", b"POST %b HTTP/11", b"M-SEARCH %b HTTP/1.1", b"POST %b ICE/1.0",
    )  # fmt: skip
    for start in starts:
        yield Frame("first lines", start % CHAT.encode() + b"\r\n" + rest)
        yield Frame("first lines", start % CHAT.encode() + b"\n" + rest)


def _paths() -> Iterator[Frame]:
    """Other spellings of paths, each with the model that may be used, which no server may see by them."""
    bends = (
        "//v1/chat/completions", "/v1//chat/completions", "/v1/./chat/completions", "/v1/x/../chat/completions", "/%761/chat/completions", "/v1/chat%2fcompletions",
        "/v1/chat/completions/", "/v1/chat/completions%00", "/v1/chat/completions;x", "/V1/chat/completions", "/v1/chat/Completions", "/v1/chat/completions%20", "/v1\\chat\\completions",
        "/v1/chat/completions#x", "/v1/chat/completions%23", "/v1/chat/completions%3f", "/health/../v1/chat/completions", "/health/%2e%2e/v1/chat/completions", "/health;/v1/chat/completions",
        "/v1/models/../chat/completions", "/v1/models/x/../../chat/completions", "/api/generate", "/api/pull", "/api/v1/models/load", "/v1/v1/chat/completions", "/chat/completions",
        "/v1/../admin/models/load", "/v1/%2e%2e/admin/models/load", "/metrics/../admin/reload", "/admin/reload", "/admin%2freload", "//admin/reload", "/Admin/reload", "/\x00admin/reload", "/v1/responses/x/cancel",
    )  # fmt: skip
    length = f"Content-Length: {len(_SMALL)}\r\n"
    for path in bends:
        yield Frame("paths", _post(length, _SMALL, path=path), most=0)
    for query in (
        "?model=big-py",
        "?model=big-py&stream=true",
        "?x=%00",
        "?" + "a" * 7000,
        "?a\tb",
        "?key=sk-admin",
    ):
        yield Frame("queries", _post(length, _SMALL, path=CHAT + query))


async def smuggle() -> dict[str, Result]:
    """Send all frames, each on a connection of its own; return what came of each group."""
    results: dict[str, Result] = {}
    async with street() as place:
        todo = iter(frames())

        async def client() -> None:
            for frame in todo:
                result = results.setdefault(frame.group, Result())
                statuses = await _statuses(place.house.port, frame.raw)
                result.outcomes["passed, as checked" if 200 in statuses else "refused"] += 1
                if statuses.count(200) > frame.most or set(statuses) & {500, 502, 504}:
                    result.findings.append(f"answers {statuses} to {frame.raw[:600]!r}")

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        results["seen behind"] = Result(findings=[*_foreign(await seen(place)), *place.house.bugs()])
        results["still well"] = Result(
            findings=[] if await _is_well(place) else ["a plain request is not served"]
        )
    return results


async def _statuses(port: int, raw: bytes) -> list[int]:
    """Send *raw*, then the end of it all, and return the status of each answer that comes."""
    got = b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(raw)
        while piece := await asyncio.wait_for(reader.read(65536), 0.4):
            got += piece
    writer.transport.abort()
    return [int(status) for status in _STATUS.findall(got)]


def _foreign(entries: list[dict[str, object]]) -> Iterator[str]:
    """Yield what a server has read that none should: another path, another's key, a model nobody checked."""
    for entry in entries:
        views, headers = entry["views"], entry["headers"]
        assert isinstance(views, dict) and isinstance(headers, dict)
        carried = {
            "authorization",
            "x-api-key",
            "cookie",
            "transfer-encoding",
            "upgrade",
            "expect",
        } & headers.keys()
        is_wrong = any(wrong(view, "") for view in views.values())
        if is_wrong or carried or entry["path"] != CHAT or entry["id"] == "smuggled":
            yield f"{entry['path']} {entry['id']} {sorted(carried)} {views}"


async def _is_well(place: Street) -> bool:
    got = await ask(place.house.port, request("POST", CHAT, _SMALL, bearer="sk-small"))
    return got.status == 200
