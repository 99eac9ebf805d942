"""JSON bodies that say two things at once, or one thing so that not everybody hears it."""

import itertools
import json
import random
from collections.abc import Iterator

from bench.attack.attack import CHAT, HELD, MAY, MAY_NOT, Attack
from bench.attack.links import links
from bench.attack.spelling import spellings

REST = b'"messages":[{"role":"user","content":"hi"}]'
SMALL, BIG = b'"%b"' % MAY, b'"%b"' % MAY_NOT
GUARDED = {
    "draft_model": b'"<may-not>"',
    "context_length": b"9999",
    "integrations": b'["mcp/playwright"]',
    "keep_alive": b"0",
    "options": b'{"num_ctx":9999}',
    "mcp_servers": b'[{"type":"url","url":"http://127.0.0.1:9"}]',
    "contextLength": b"9999",
    "draftModel": b'"<may-not>"',
    "tools": b'[{"type":"mcp","server_url":"http://127.0.0.1:9"}]',
}
"""Guarded fields in the words that servers have for them, each with a value that asks for something."""


def bodies(seed: int, fuzzed: int) -> Iterator[Attack]:
    """Yield every attempt by a JSON body; the last *fuzzed* of them by chance."""
    yield from _doubles()
    yield from _whole()
    yield from _loose()
    yield from _guarded()
    yield from links()
    yield from _held()
    yield from _types()
    yield from _innocent()
    yield from _fuzzed(seed, fuzzed)


def _doubles() -> Iterator[Attack]:
    """A second `model` or `stream` in every spelling, before and behind the first, and around it."""
    for word in spellings("model"):
        second = b'"%b":%b' % (word, BIG)
        for body in _orders(b'"model":' + SMALL, second):
            yield Attack("doubles", body)
    for word in spellings("stream"):
        for body in _orders(b'"stream":false', b'"%b":true' % word):
            yield Attack("doubles", b'{"model":%b,%b' % (SMALL, body[1:]))
    for value in (b"null", b"1", b"{}", b'["<may-not>"]', b'{"model":"<may-not>"}', b'""'):
        for body in _orders(b'"model":' + SMALL, b'"model":' + value):
            yield Attack("doubles", body)
    for word in spellings("model"):
        yield Attack("doubles", b'{"%b":%b,%b}' % (word, BIG, REST))


def _orders(first: bytes, second: bytes) -> Iterator[bytes]:
    yield b"{%b,%b,%b}" % (first, second, REST)
    yield b"{%b,%b,%b}" % (second, first, REST)
    yield b"{%b,%b,%b}" % (first, REST, second)
    yield b"{%b,%b,%b,%b}" % (second, REST, first, second)


def _whole() -> Iterator[Attack]:
    """The whole body in another encoding, which Python's json finds out by itself."""
    text = '{"model":"<may-not>","messages":[]}'
    for encoding in (
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "utf-32-le",
        "utf-8-sig",
        "utf-7",
        "cp037",
    ):
        raw = text.encode(encoding)
        for kind in ("application/json", f"application/json; charset={encoding}", "text/plain"):
            yield Attack("encodings", raw, headers=(f"Content-Type: {kind}",))
    small = b'{"model":%b,%b}' % (SMALL, REST)
    for encoding in ("gzip", "deflate", "br", "identity", "GZIP", "gzip, gzip", "x-gzip", "zstd"):
        yield Attack("encodings", small, headers=(f"Content-Encoding: {encoding}",))
    for charset in ("utf-16", "utf-7", "punycode", "idna", "latin-1", "rot13", '"utf-8"'):
        yield Attack("encodings", small, headers=(f"Content-Type: application/json; charset={charset}",))
    for junk in (b"\xc1\xad", b"\xed\xa0\x80", b"\xff", b"\x00", b"\xe2\x84"):
        yield Attack("encodings", b'{"model":%b,"m%bodel":%b,%b}' % (SMALL, junk, BIG, REST))


def _loose() -> Iterator[Attack]:
    """What is no JSON, though some decoders take it: comments, commas, a second document."""
    whole, other = b'{"model":%b,%b}' % (SMALL, REST), b'{"model":%b,%b}' % (BIG, REST)
    glue = (b"", b"\n", b",", b"\x00", b"\x1e", b" // ", b"\r\n\r\n", b"#", b";", b"\xef\xbb\xbf")
    for between in glue:
        yield Attack("loose", whole + between + other)
        yield Attack("loose", between + whole)
        yield Attack("loose", b"[" + whole + b"," + other + b"]")
    for comment in (b"/*,%b,*/", b"//%b\n", b"#%b\n", b"/*%b", b"<!--%b-->"):
        hidden = comment % (b'"model":' + BIG)
        yield Attack("loose", b'{"model":%b,%b%b}' % (SMALL, hidden, REST))
        yield Attack("loose", b"%b%b" % (hidden, whole))
    for value in (
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"01",
        b"+1",
        b"0x1",
        b".5",
        b"1.",
        b"1e",
        b"'a'",
        b"\x0b1",
    ):
        yield Attack("loose", b'{"model":%b,"x":%b,"model":%b,%b}' % (SMALL, value, BIG, REST))
        yield Attack("loose", b'{"model":%b,"x":%b,%b}' % (SMALL, value, REST))
    for odd in (
        b"{model:%b}",
        b"{'model':%b}",
        b'{"model"=%b}',
        b'{"model":%b,}',
        b'{,"model":%b}',
        b'{"model":%b',
    ):
        yield Attack("loose", odd % BIG)
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "multipart/mixed"):
        yield Attack("loose", b"model=<may-not>", headers=(f"Content-Type: {kind}",))
        yield Attack("loose", whole, headers=(f"Content-Type: {kind}",))


def _guarded() -> Iterator[Attack]:
    """Guarded fields in every spelling, alone and doubled behind a harmless one."""
    for name, value in GUARDED.items():
        for word in [name.encode(), *spellings(name)]:
            member, harmless = b'"%b":%b' % (word, value), b'"%b":null' % name.encode()
            start = b'{"model":%b,%b' % (SMALL, REST)
            yield Attack("guarded", b"%b,%b}" % (start, member))
            yield Attack("guarded", b"%b,%b,%b}" % (start, harmless, member))
            yield Attack("guarded", b"%b,%b,%b}" % (start, member, harmless))
    for word in spellings("num_ctx"):
        yield Attack("guarded", b'{"model":%b,%b,"options":{"%b":9,"num_ctx":9}}' % (SMALL, REST, word))
    for word in spellings("server_url"):
        tool = b'{"type":"mcp","%b":"x"}' % word
        yield Attack("guarded", b'{"model":%b,%b,"tools":[%b]}' % (SMALL, REST, tool))
        yield Attack("guarded", b'{"model":%b,%b,"tools":[],"tools":[%b]}' % (SMALL, REST, tool))


def _held() -> Iterator[Attack]:
    """What the owner forces and strips, said again in all spellings."""
    for word in spellings("temperature"):
        yield Attack("forced", b'{"model":"%b","temperature":1,"%b":2,%b}' % (HELD, word, REST))
        yield Attack("forced", b'{"model":"%b",%b,"%b":2}' % (HELD, REST, word))
    for word in spellings("logit_bias"):
        yield Attack("forced", b'{"model":"%b","%b":{"1":5},%b}' % (HELD, word, REST))


def _types() -> Iterator[Attack]:
    """A restricted body under every Content-Type, and several at once."""
    kinds = (
        "text/plain",
        "application/json; charset=utf-16",
        "application/JSON",
        "multipart/mixed; boundary=b",
        "",
    )
    kinds += (
        "application/vnd.api+json",
        "text/json",
        "application/x-ndjson",
        "*/*",
        "application/json, text/plain",
    )
    for kind in kinds:
        for body in _orders(b'"model":' + SMALL, b'"Model":' + BIG):
            yield Attack("types", body, headers=(f"Content-Type: {kind}",))
            yield Attack("types", body, headers=(f"Content-Type: {kind}", "Content-Type: application/json"))
            yield Attack("types", body, headers=("Content-Type: application/json", f"content-type: {kind}"))


def _innocent() -> Iterator[Attack]:
    """What real clients send: words that are guarded elsewhere, inside schemas, texts and arguments."""
    words = (
        "model",
        "stream",
        "options",
        "image_url",
        "url",
        "keep_alive",
        "context_length",
        "tools",
        "Model",
    )
    for number, chosen in enumerate(itertools.combinations(words, 3)):
        schema = {word: {"type": "string", "description": f"the {word}"} for word in chosen}
        schema["nested"] = {
            "type": "object",
            "properties": dict(schema),
            "default": {"image_url": "http://x"},
        }
        function = {"name": f"f{number}", "parameters": {"type": "object", "properties": schema}}
        yield _kind(tools=[{"type": "function", "function": function}])
    yield from _innocent_messages()


def _innocent_messages() -> Iterator[Attack]:
    """Texts, calls and pictures in which such words stand."""
    arguments = json.dumps({"model": "x", "image_url": "http://x", "Model": 1})
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    yield _kind(messages=[{"role": "assistant", "content": None, "tool_calls": [call]}])
    for text in (
        '"model":"big","model":"x"',
        "see http://x/image_url",
        '{"options": {"num_ctx": 1}}',
        "\u0131\u017f",
    ):
        yield _kind(messages=[{"role": "user", "content": text}])
    yield _kind(
        messages=[
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}],
            }
        ]
    )
    yield _kind(
        metadata={"model": "x", "Model": "y"},
        options={"temperature": 1},
        stream_options={"include_usage": True},
    )
    yield _kind(
        response_format={"type": "json_schema", "json_schema": {"schema": {"properties": {"url": {}}}}}
    )


def _kind(**members: object) -> Attack:
    body = {"model": MAY.decode(), "messages": [{"role": "user", "content": "hi"}], **members}
    return Attack("innocent", json.dumps(body).encode(), innocent=True)


def _fuzzed(seed: int, count: int) -> Iterator[Attack]:
    """Yield bodies out of pieces of all the above, put together and bent by chance."""
    rng = random.Random(seed)
    models = [b'"%b":%b' % (word, value) for word in spellings("model") for value in (SMALL, BIG)]
    members = [b'"%b":%b' % (word, value) for name, value in GUARDED.items() for word in spellings(name)]
    plain = [
        b'"model":' + SMALL,
        REST,
        b'"stream":false',
        b'"n":1e9',
        b'"x":"\\ud83d"',
        b'"a":{"model":%b}' % BIG,
    ]
    for _ in range(count):
        chosen = [
            plain[0],
            *rng.sample(plain, 2),
            *rng.sample(models, rng.randint(0, 2)),
            *rng.sample(members, rng.randint(0, 2)),
        ]
        rng.shuffle(chosen)
        body = bytearray(b"{" + b",".join(chosen) + b"}")
        for _ in range(rng.choice((0, 0, 1, 2))):
            _bend(body, rng)
        yield Attack("fuzzed", bytes(body), path=rng.choice((CHAT, CHAT, "/v1/responses", "/v1/embeddings")))


def _bend(body: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(body))
    piece = rng.choice(
        (b"", b"\x00", b"\\", b'"', b",", b" ", b"\xff", b"\\u006d", b"{", b"}", b"\xe2\x80\xa8", b"/")
    )
    body[at : at + rng.randint(0, 1)] = piece
