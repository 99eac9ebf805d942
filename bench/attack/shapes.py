"""Single requests of up to `max_body` that cost whoever reads them much more than they weigh."""

from collections.abc import Callable, Iterator

from bench.attack.attack import CHAT, SPEECH
from bench.attack.house import request

MOST = 64 * 2**20 - 4096
_START = b'{"model":"msink","messages":['


def _filled(before: bytes, piece: bytes, after: bytes, size: int = MOST) -> bytes:
    return before + piece * ((size - len(before) - len(after)) // len(piece)) + after


def _chat(piece: bytes, last: bytes, size: int = MOST) -> bytes:
    return _filled(_START, piece, last + b"]}", size)


def _numbered(form: bytes) -> bytes:
    return b"".join(form % at for at in range(MOST // (len(form) + 5)))


_TURN = b'{"role":"user","content":"a"}'

JSON: dict[str, Callable[[], bytes]] = {
    "lists": lambda: _chat(b"[],", b"[]"),
    "objects": lambda: _chat(b"{},", b"{}"),
    "messages": lambda: _chat(_TURN + b",", _TURN),
    "messages, 21 MB": lambda: _chat(_TURN + b",", _TURN, 21_000_000),
    "messages, just under the bound": lambda: _chat(_TURN + b",", _TURN, 24_000 * (len(_TURN) + 1)),
    "one string": lambda: _chat(b"a", b"").replace(b'"messages":[', b'"prompt":"', 1)[:-2] + b'"}',
    "one message of words": lambda: _filled(b'{"model":"msink","messages":[{"role":"user","content":"', b"a ", b'"}]}'),
    "one message of new lines": lambda: _filled(b'{"model":"msink","messages":[{"role":"user","content":"', b"\\n", b'"}]}'),
    "one message of escapes": lambda: _filled(b'{"model":"msink","messages":[{"role":"user","content":"', b"\\u00e9", b'"}]}'),
    "one message of pairs": lambda: _filled(b'{"model":"msink","messages":[{"role":"user","content":"', b"\\ud83d\\ude00", b'"}]}'),
    "one message of commas": lambda: _filled(b'{"model":"msink","messages":[{"role":"user","content":"', b",[{", b'"}]}'),
    "one message of emoji": lambda: _filled(b'{"model":"msink","messages":[{"role":"user","content":"', "\U0001f600 ".encode(), b'"}]}'),
    "one message of quotes": lambda: _filled(b'{"model":"msink","messages":[{"role":"user","content":"', b'\\"model\\":', b'"}]}'),
    "one image": lambda: _filled(b'{"model":"msink","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,', b"QUJD", b'"}}]}]}'),
    "prompt of tokens": lambda: _filled(b'{"model":"msink","prompt":[', b"1,", b"1]}"),
    "prompt of strings": lambda: _filled(b'{"model":"msink","input":[', b'"",', b'""]}'),
    "prompt of strings, 400,000": lambda: _filled(b'{"model":"msink","input":[', b'"a b c d",', b'""]}', 4_000_000),
    "deep, open": lambda: b"[" * MOST,
    "deep, closed": lambda: b'{"model":"msink","messages":' + b"[" * (MOST // 2 - 99) + b"]" * (MOST // 2 - 99) + b"}",
    "deep objects": lambda: _filled(b'{"model":"msink","messages":', b'{"content":', b"1"),
    "deep within reason": lambda: _chat(b'{"content":' * 400 + b"1" + b"}" * 400 + b",", b"1", 3_000_000),
    "a number": lambda: _filled(b'{"model":"msink","n":', b"9", b"}"),
    "a fraction": lambda: _filled(b'{"model":"msink","n":0.', b"9", b"}"),
    "numbers of 4,000 digits": lambda: _filled(b'{"model":"msink","prompt":[', b"9" * 4000 + b",", b"1]}"),
    "numbers of 300 digits": lambda: _filled(b'{"model":"msink","prompt":[', b"9." + b"9" * 300 + b"e-300,", b"1]}"),
    "keys": lambda: b'{"model":"msink",' + _numbered(b'"k%d":1,') + b'"z":1}',
    "the same key": lambda: _filled(b'{"model":"msink",', b'"k":1,', b'"z":1}'),
    "the model again and again": lambda: _filled(b'{"model":"msink",', b'"model":"m",', b'"z":1}'),
    "nearly the model": lambda: b'{"model":"msink",' + _numbered(b'"Model%d":1,') + b'"z":1}',
    "guarded again and again": lambda: _filled(b'{"model":"msink",', b'"options":{"num_ctx":1},', b'"z":1}'),
    "a key": lambda: _filled(b'{"model":"msink","', b"k", b'":1}'),
    "a key of escapes": lambda: _filled(b'{"model":"msink","', b"\\u006d", b'":1}'),
    "a model": lambda: _filled(b'{"messages":[],"model":"', b"m", b'"}'),
    "a model, nearly there": lambda: _filled(b'{"messages":[],"model":"', b"msin", b'"}', 60_000),
    "a model of stars": lambda: _filled(b'{"messages":[],"model":"', b"*a", b'"}', 60_000),
    "blanks": lambda: _filled(b'{"model":"msink","messages":[]', b" ", b"}"),
    "blanks alone": lambda: b" " * MOST,
    "no JSON": lambda: b"a" * MOST,
    "broken at the end": lambda: _chat(b'"a",', b'"'),
    "broken letters": lambda: _filled(_START + b'"', b"\xff", b'"]}'),
    "NULs": lambda: b"\0" * MOST,
    "quotes": lambda: b'"' * MOST,
    "backslashes": lambda: _filled(_START + b'"', b"\\\\", b'"]}'),
    "commas": lambda: b"," * MOST,
    "links": lambda: _chat(b'{"content":[{"image_url":{"url":"data:"}}]},', b"1", 10_000_000),
    "tools": lambda: _filled(b'{"model":"msink","messages":[],"tools":[', b'{"type":"function","function":{"parameters":{"a":[]}}},', b"1]}", 12_000_000),
    "stops": lambda: _filled(b'{"model":"msink","messages":[],"stop":[', b'"a",', b'"a"]}', 1_500_000),
}  # fmt: skip
"""Bodies of a chat, each by its name."""


def _part(disposition: bytes, value: bytes) -> bytes:
    return b"--b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (disposition, value)


_MODEL = _part(b'name="model"', b"msink")
_END = b"--b--\r\n"
FORMS: dict[str, Callable[[], bytes]] = {
    "a file": lambda: _MODEL + _part(b'name="file"; filename="a"', b"\0" * (MOST - 400)) + _END,
    "parts": lambda: _filled(_MODEL, _part(b'name="x"', b""), _END),
    "half delimiters": lambda: _MODEL + _part(b'name="file"; filename="a"', b"\r\n--" * (MOST // 4 - 99)) + _END,
    "headers": lambda: _filled(_MODEL + b"--b\r\n", b"X: y\r\n", b"\r\n\r\n" + _END),
    "no headers": lambda: _filled(_MODEL + b"--b\r\n", b"x", b"\r\n" + _END),
    "a name": lambda: _MODEL + _part(b'name="%b"' % (b"a" * (MOST - 400)), b"") + _END,
    "blanks in a disposition": lambda: _MODEL + _part(b" " * (MOST - 400), b"") + _END,
    "quotes in a disposition": lambda: _MODEL + _part(b'name="file"; filename="' + b'\\"' * (MOST // 2 - 400), b"") + _END,
    "semicolons in a disposition": lambda: _MODEL + _part(b'name="x"' + b" ;" * (MOST // 2 - 400), b"") + _END,
    "a model": lambda: _part(b'name="model"', b"m" * (MOST - 400)) + _END,
    "no end": lambda: _filled(_MODEL, b"\r\n--b", b""),
}  # fmt: skip
"""Bodies of an upload, each by its name."""


def shapes() -> Iterator[tuple[str, bytes]]:
    """Yield each request with its name."""
    for name, body in JSON.items():
        yield f"JSON: {name}", request("POST", CHAT, body(), bearer="sk-all")
    for path in (
        "/v1/messages",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/messages/count_tokens",
        "/v1/rerank",
        "/admin/models/load",
    ):
        for name in ("lists", "messages, just under the bound", "keys"):
            yield f"{path}: {name}", request("POST", path, JSON[name](), bearer="sk-all")
    kind = "Content-Type: multipart/form-data; boundary=b"
    for name, body in FORMS.items():
        yield f"form: {name}", request("POST", SPEECH, body(), bearer="sk-all", headers=(kind,))
    yield from _framed()
    yield from _headed()


def _framed() -> Iterator[tuple[str, bytes]]:
    """Bodies in frames that cost more than their bytes."""
    head = request("POST", CHAT, bearer="sk-all").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    yield "frames: chunks of a byte", head + b"1\r\n \r\n" * (MOST // 6) + b"0\r\n\r\n"
    yield "frames: chunk extension", head + b"1;" + b"x" * MOST + b"\r\n \r\n0\r\n\r\n"
    yield "frames: trailers", head + b"1\r\n \r\n0\r\n" + b"X: y\r\n" * (MOST // 6) + b"\r\n"
    yield "frames: trailer", head + b"1\r\n \r\n0\r\nX: " + b"y" * MOST + b"\r\n\r\n"
    yield "frames: requests", request("POST", CHAT, b'{"model":"none"}', bearer="sk-all") * 3000
    yield "frames: empty lines", b"\r\n" * (MOST // 2)
    yield "frames: a header", b"GET /health HTTP/1.1\r\nX: " + b"y" * MOST
    yield "frames: headers", b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * (MOST // 6)
    yield "frames: a path", b"GET /" + b"a" * MOST


def _headed() -> Iterator[tuple[str, bytes]]:
    """Heads and queries whose reading may take long."""
    many = ", ".join(["127.0.0.1"] * 1400)
    for line in (
        f"X-Forwarded-For: {many}",
        "Origin: http://" + "a." * 3900,
        "Accept: " + "*/*," * 3800,
        "Forwarded: " + "for=1," * 2500,
    ):
        yield f"head: {line[:15]}", request("GET", "/v1/models", bearer="sk-all", headers=(line,))
    kind = "Content-Type: multipart/form-data; boundary=b" + "; charset=a" * 700
    yield "head: kinds", request("POST", SPEECH, _MODEL + _END, bearer="sk-all", headers=(kind,))
    stars = "*a" * 3000 + "b"
    yield "query: stars", request("GET", f"/debug/stream?model={stars}", bearer="sk-all")
    for path in (
        "/v1/models/" + "msin" * 1900,
        "/v1/models/" + "%41" * 2600,
        "/debug/stream?" + "&".join(["type=a"] * 900),
    ):
        yield f"path: {path[:15]}", request("GET", path, bearer="sk-all")
