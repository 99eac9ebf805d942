"""The words of `rubbish`: what clients say, what they should not say, and what becomes of it on the way."""

import base64
import gzip
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> list[str]:
    return text.strip("\n").split("\n")


# Bodies

CONTENTS: tuple[Any, ...] = (
    "Hello",
    "[crash]",
    "tide " * 3000,
    [{"type": "text", "text": "Hi"}],
    [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}],
    [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}}],
    [{"type": "image", "source": {"type": "url", "url": "http://h/"}}],
)
PARAMETERS = _words("""
    temperature topP top_p topK maxTokens max_tokens max_completion_tokens stop stopStrings
    repeatPenalty minP seed presencePenalty reasoning_effort stream_options tools response_format n
    logprobs user ttl STREAM Model \u017ftream draft_model context_length integrations keep_alive
    options echo store instructions
""")
"""Members of a body that some server knows."""

BREAKS: tuple[Callable[[bytes], bytes], ...] = (
    lambda text: text[:-1],
    lambda text: text[: len(text) // 2],
    lambda text: text + text,
    lambda text: text + b"\x00",
    lambda text: b"\xef\xbb\xbf" + text,
    lambda text: text.decode().encode("utf-16"),
    lambda text: text[:-1] + b', "x": "\xff\xfe"}',
    lambda text: text[:-1] + b', "\xc3": 1}',
    lambda text: text[:-1] + b', "model": "m"}',
    lambda text: text[:-1] + b', "stream": true, "stream": false}',
    lambda text: text[:-1] + b', "\\u006dodel": "other"}',
    lambda text: text[:-1] + b', "x": "\\ud800"}',
    lambda text: text[:-1] + b', "x": ' + b"9" * 5000 + b"}",
    lambda text: text[:-1] + b', "x": 1e99999}',
    lambda text: text[:-1] + b', "temperature": NaN}',
    lambda text: text[:-1] + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    lambda text: text[:-1] + b', "messages": ' + b'{"content":' * 900 + b"1" + b"}" * 900 + b"}",
    lambda text: text[:-1] + b', "x": ' + b'{"a":' * 100_000 + b"1",
    lambda text: b"[" * 100_000,
    lambda text: b"[" + text + b"]",
    lambda text: b" " * 9 + text,
    lambda text: b" " * 300_000,
    lambda text: b"",
    lambda text: b"null",
    lambda text: b'"model"',
    lambda text: b"\x00\x01\x02",
    lambda text: text + b"x" * 200_000,
)
"""What becomes of a JSON text."""


PARTS = (
    b'Content-Disposition: form-data; name="model"\r\n\r\nm',
    b'Content-Disposition: form-data; name="Model"\r\n\r\nm',
    b"Content-Disposition: form-data; name=model\r\n\r\ntiny",
    b'Content-Disposition: form-data; name="model"; filename="x"\r\n\r\nm',
    b'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: base64\r\n\r\nbQ==',
    b'Content-Disposition: form-data; name="stream"\r\n\r\ntrue',
    b'Content-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: audio/wav\r\n\r\n\x00\xff',
    b'Content-Disposition: form-data; name="model"\r\n\r\n\xff\xfe',
    b"Content-Disposition: form-data; name*=utf-8''model\r\n\r\nm",
    b"Content-Disposition: form-data\r\n\r\nm",
    b"Content-Disposition:\r\n x\r\n\r\nm",
    b"\r\n\r\nm",
    b"m",
)
KINDS = (
    "multipart/form-data; boundary=xx",
    'multipart/form-data; boundary="xx"',
    "multipart/form-data; charset=utf-8; boundary=xx",
    "Multipart/Form-Data; boundary=xx; boundary=yy",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/mixed; boundary=xx",
    f"multipart/form-data; boundary={'x' * 80}",
)


FORM_BREAKS: tuple[Callable[[bytes], bytes], ...] = (
    lambda body: body[:-4],
    lambda body: b"preamble\r\n" + body,
    lambda body: body + b"--xx\r\n",
    lambda body: body.replace(b"\r", b""),
    lambda body: b"--xx\r\na: b\r\n\r\n\r\n" * 70 + body,
)


CAMELS = {"model_key": "modelKey", "default_inference": "defaultInference", "load_config": "loadConfig"}
GPUS: tuple[Any, ...] = (
    0.5,
    "max",
    {"ratio": 0.5},
    {"ratio": "off", "layers": 3},
    {"x": 1},
    {},
    [],
    "half",
    False,
)


# Heads

BEND: tuple[Callable[[str], str], ...] = (
    str.upper,
    lambda path: path + "/",
    lambda path: path.replace("/", "//", 1),
    lambda path: path.replace("/", "/./", 1),
    lambda path: "/x/.." + path,
    lambda path: path[0] + path[1:].replace("/", "%2F"),
    lambda path: path + "%00",
    lambda path: path + ";a=b",
    lambda path: path + "#x",
    lambda path: path.replace("/", "\\"),
    lambda path: "http://127.0.0.1" + path,
    lambda path: "//elsewhere" + path,
    lambda path: path[:-1],
    lambda path: path + "\xe9",
    lambda path: path + "%e9%ff",
    lambda path: path + "%zz",
    lambda path: path + "x" * 3000,
    lambda path: path.replace("o", "%6f"),
)
QUERIES = (
    *_lines("""
?
?stream=true
?model=m
?type=request
?type=*,x
?type=nothing
?after=0
?after=-1
?after=99999999999999999999
?after=x
?client=*&model=m
?%ff=%00
??x
?model=%ff
?unknown=1
?api_key=sk-all"""),
    "?" + "a=b&" * 100,
    "?model=" + "*" * 200,
)
METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "POST", "post", "BREW")
LINES = (
    *_lines("""
Content-Type: text/plain
Content-Type: application/x-www-form-urlencoded
Content-Type: x
Content-Type: application/json; charset=utf-16
Content-Type: a/b; c=\xe9
X-Forwarded-For: 10.0.0.1
X-Forwarded-For: 10.0.0.1, 127.0.0.1
X-Forwarded-For: \xff
Forwarded: for=10.0.0.1
X-Real-IP: ::1
X-Forwarded-For: fe80::1%eth0
Expect: 100-continue
Expect: the best
Expect: 100-continue, x
Upgrade: websocket
Connection: close
Connection: keep-alive
Connection: content-length
Origin: http://evil.example
Origin: null
Origin: http://127.0.0.1
Origin: \xff
Origin: //[
Last-Event-ID: 0
Last-Event-ID: -1
Last-Event-ID: x
X-Request-Id: r1
X-Request-Id: r2
X-Request-Id: \xe9
Accept-Encoding: gzip, br
Accept: text/event-stream
Range: bytes=0-1
TE: trailers
Trailer: x
If-None-Match: *
If-Modified-Since: never
Cookie: a=b
Transfer-Encoding: identity
Authorization: Basic eDp5
Authorization: Bearer \xff\xfe
Authorization: x
Proxy-Authorization: x
X-Empty:
X-Tab:\tx
Content-Encoding: identity
traceparent: \xe9
user-agent: \x80\xff
anthropic-version: x
Date: x
Via: 1.1 x
Host: again"""),
    "Content-Type: ",
    "X-Forwarded-For: ",
    "Connection: Upgrade\r\nUpgrade: websocket",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c",
    "Origin: http://page.example\r\nAccess-Control-Request-Method: POST",
    "Origin: http://page.example\r\nAccess-Control-Request-Method: POST\r\n"
    "Access-Control-Request-Headers: a, b, \xe9",
    "Last-Event-ID: \xd9\xa0",
    "X-Request-Id: " + "x" * 200,
    "Authorization: Bearer ",
    "x-api-key: ",
    "Authorization: Bearer sk-all\r\nAuthorization: Bearer sk-inf",
    "X-Long: " + "x" * 9000,
    "X-Longer: " + "x" * 15000,
    *(f"Content-Type: {kind}" for kind in KINDS),
)
"""Header lines that HTTP allows, in latin-1."""
HOSTS = ("127.0.0.1",) * 60 + ("localhost", "evil.example", "[::1]", "", "127.0.0.1:9", "[", "a b", "\xff")

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, mtime=0),
    "deflate": zlib.compress,
    "br": base64.b64encode,
    "x": lambda body: body,
    "gzip, gzip": partial(gzip.compress, mtime=0),
}


FRAMINGS = (
    *_lines("""
Content-Length: {}0
Content-Length: -{}
Content-Length: +{}
Content-Length: 1
X: {}
Transfer-Encoding: chunked, chunked
Transfer-Encoding: gzip, chunked
Transfer-Encoding: chunked
Content-Length: 99999999999999999999
Content-Length: 0x5
Content-Length: 5_0
Content-Length: \xb2
Content-Length : 3
Bad Name: x
: x
no colon
X: a\x00b"""),
    "Content-Length: {0}\r\nContent-Length: {0}",
    "Content-Length: {}\r\nContent-Length: 3",
    "Content-Length: {}\r\nTransfer-Encoding: chunked",
    "X: a\nY: b",
    "X: a\r\n b",
    "Host: \r\n\r\nGET / HTTP/1.1",
    "X: " + "x" * 40000,
    "X: y\r\n" * 150 + "Z: z",
)
"""What stands where the length should: wrong, double, impossible."""

CHUNKS = (
    b"zz\r\n",
    b"-1\r\n",
    b"5\r\nabc\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"ffffffffffffffffff\r\nx",
    b"5;x=y\r\nhello",
    b"5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
    b"0\r\n\r\n",
    b"\r\n",
    b"5\nhello\n0\n\n",
    b"00000000000000000000005\r\nhello\r\n",
)
NOISE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"\r\n" * 50,
    b"GET\r\n\r\n",
    b"GET / HTTP/0.9\r\n\r\n",
    b"GET  /  HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\n\n",
    b"HELO x\r\n",
    b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
    b"\x00" * 100,
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n",
    b"G",
    b"PROXY TCP4 1 2 3 4\r\n",
)
