"""Model servers that say whatever hurts: each a generator of the bytes of its answer, up to 500 MiB."""

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

MOST_BYTES = 500 * 2**20
BLOCK = 2**20
Answer = Iterable[bytes | float]
"""Pieces to send; a number is a pause in seconds."""

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
_CHAT = b'{"id":"x","object":"chat.completion","choices":[]}'
_RECORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


def flood(piece: bytes, most: int = MOST_BYTES) -> Iterator[bytes]:
    """Repeat *piece* to *most* bytes, in large blocks."""
    block = piece * max(1, BLOCK // len(piece))
    for _ in range(most // len(block)):
        yield block


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    """Frame *data* as one chunk."""
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


def sized(head: bytes, body: bytes) -> bytes:
    """Return a whole answer."""
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def framed(head: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Return an answer of chunks without an end."""
    yield head
    yield from map(chunk, pieces)


def _dripped(data: bytes) -> Iterator[bytes | float]:
    for at in range(len(data)):
        yield data[at : at + 1]
        yield 0.002


ANSWERS: dict[str, Callable[[], Answer]] = {
    "status line without end": lambda: itertools.chain([b"HTTP/1.1 200 "], flood(b"x")),
    "header without end": lambda: itertools.chain([_OK, b"X: "], flood(b"y")),
    "headers without end": lambda: itertools.chain([_OK], flood(b"X: y\r\n")),
    "header name without end": lambda: itertools.chain([_OK], flood(b"X")),
    "empty lines first": lambda: flood(b"\r\n"),
    "1xx flood": lambda: flood(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "103 flood with headers": lambda: flood(b"HTTP/1.1 103 Early\r\nLink: a\r\nX: " + b"y" * 900 + b"\r\n\r\n"),
    "1xx, then headers": lambda: itertools.chain([b"HTTP/1.1 100 C\r\n"], flood(b"A:b\r\n")),
    "no HTTP": lambda: flood(b"\x00"),
    "101 and noise": lambda: itertools.chain([b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"], flood(b"x")),
    "noise after the end": lambda: itertools.chain([sized(_OK, _CHAT)], flood(b"HTTP/1.1 200 OK\r\n\r\n")),
    "answers without end": lambda: flood(sized(_OK, _CHAT)),
    "length of 500 MiB, JSON": lambda: itertools.chain([_OK + b"Content-Length: %d\r\n\r\n" % MOST_BYTES], flood(b"[1],")),
    "until it closes": lambda: itertools.chain([_OK + b"Connection: close\r\n\r\n"], flood(b"{")),
    "large chunks": lambda: framed(_CHUNKED, flood(b"a")),
    "chunks of a byte": lambda: itertools.chain([_CHUNKED], flood(b"1\r\na\r\n")),
    "chunk extension without end": lambda: itertools.chain([_CHUNKED, b"5;"], flood(b"x")),
    "chunk extensions": lambda: itertools.chain([_CHUNKED], flood(b"1;a=" + b"x" * 200 + b"\r\na\r\n")),
    "chunk size without end": lambda: itertools.chain([_CHUNKED], flood(b"0")),
    "trailers": lambda: itertools.chain([_CHUNKED, chunk(_CHAT), b"0\r\n"], flood(b"X: y\r\n")),
    "trailer line without end": lambda: itertools.chain([_CHUNKED, chunk(_CHAT), b"0\r\nX: "], flood(b"y")),
    "trailers of a stream": lambda: itertools.chain([_SSE, chunk(_RECORD), chunk(b"data: [DONE]\n\n"), b"0\r\n"], flood(b"A:\r\n")),
    "stream without newlines": lambda: framed(_SSE, flood(b"data: x")),
    "stream of tiny records": lambda: framed(_SSE, flood(b"data:\n\n")),
    "stream of newlines": lambda: framed(_SSE, flood(b"\n")),
    "stream of returns": lambda: framed(_SSE, flood(b"\r")),
    "stream of comments": lambda: framed(_SSE, flood(b":\n")),
    "stream of events": lambda: framed(_SSE, flood(b"event: a\n")),
    "stream of records": lambda: framed(_SSE, flood(_RECORD)),
    "stream in bytes": lambda: itertools.chain([_SSE], flood(b"1\r\nd\r\n")),
    "stream in tiny chunks": lambda: itertools.chain([_SSE], flood(chunk(b"data:1\n\n"))),
    "stream of errors": lambda: framed(_SSE, flood(b'data: {"error":{"message":"x"}}\n\n')),
    "stream of ends": lambda: framed(_SSE, flood(b"data: [DONE]\n\n")),
    "stream of usage": lambda: framed(_SSE, flood(b'data: {"usage":{"prompt_tokens":' + b"9" * 4000 + b"}}\n\n")),
    "one record of 500 MiB": lambda: framed(_SSE, itertools.chain([b'data: {"error":"'], flood(b"a"))),
    "deep last record": lambda: framed(_SSE, itertools.chain([b'data: {"usage":'], flood(b"[", 2**25), [b"\n\ndata: [DONE]\n\n"])),
    "wide last record": lambda: [_SSE, *map(chunk, (_RECORD, b'data: {"usage":[' + b"[]," * 10_000_000 + b"1]}\n\n", b"data: [DONE]\n\n")), b"0\r\n\r\n"],
    "JSON error of 500 MiB": lambda: itertools.chain([_BAD + b"Content-Length: %d\r\n\r\n" % MOST_BYTES], flood(b'{"error":')),
    "deep JSON error": lambda: [sized(_BAD, b'{"error":' * 6000)],
    "wide JSON error": lambda: [sized(_BAD, b'{"error":[' + b"[]," * 21000 + b"1]}")],
    "numbers in an error": lambda: [sized(_BAD, b'{"error":{"code":' + b"9" * 60000 + b"}}")],
    "broken letters in an error": lambda: [sized(_BAD, b'{"error":{"message":"' + b"\xff\xed\xa0\x80" * 9000 + b'"}}')],
    "wide JSON answer": lambda: [sized(_OK, b'{"object":"x","choices":[' + b"[]," * 21000 + b"1]}")],
    "wide JSON answer of 60 MiB": lambda: [sized(_OK, b'{"object":"x","choices":[' + b"[]," * 20_000_000 + b"1]}")],
    "tokens beyond counting": lambda: [sized(_OK, b'{"object":"x","usage":{"prompt_tokens":1e999,"completion_tokens":' + b"9" * 5000 + b"}}")],
    "named as 60 KiB": lambda: [sized(_OK, b'{"object":"x","model":"' + b"a*" * 30000 + b'"}')],
    "packed": lambda: [sized(_OK + b"Content-Encoding: gzip\r\n", b"\x1f\x8b" + b"\0" * 9999)],
    "type of 60 KiB": lambda: [b"HTTP/1.1 200 OK\r\nContent-Type: " + b"; a" * 20000 + b"\r\nContent-Length: 0\r\n\r\n"],
    "retry after for ever": lambda: [sized(b"HTTP/1.1 503 X\r\nRetry-After: " + b"9" * 5000 + b"\r\n", b"")],
    "redirect": lambda: [sized(b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:9/\r\n", b"")],
    "drip of the head": lambda: _dripped(_OK + b"X: " + b"y" * 9000),
    "drip of a stream": lambda: itertools.chain([_SSE], _dripped(chunk(_RECORD) * 9)),
    "cut at once": lambda: [],
}  # fmt: skip
"""Answers to a chat, each by its name."""


def _models(items: Iterable[bytes], wrap: bytes = b'{"object":"list","data":[') -> Iterator[bytes]:
    yield _CHUNKED
    yield chunk(wrap)
    yield from map(chunk, items)
    yield chunk(b'{"id":"last"}]}') + b"0\r\n\r\n"


def _named(count: int, length: int = 0) -> Iterator[bytes]:
    for start in range(0, count, 1000):
        yield b"".join(
            b'{"id":"%b%d","key":"k%d","type":"llm"},' % (b"a" * length, at, at)
            for at in range(start, start + 1000)
        )


LISTS: dict[str, Callable[[], Answer]] = {
    "200,000 models": lambda: _models(_named(200_000)),
    "10,000 models": lambda: _models(_named(10_000)),
    "models of long names": lambda: _models(_named(1000, 4000)),
    "500 MiB of models": lambda: _models(_named(12_000_000)),
    "tiny items": lambda: _models(flood(b"[],", 2**22 - 4096)),
    "deep list": lambda: _models(flood(b"[")),
    "deep inside": lambda: _models([b'{"id":"a","meta":' + b"[" * 900 + b"]" * 900 + b"},"]),
    "numbers": lambda: _models([b'{"id":"a","max_model_len":%b},' % (b"9" * 5000)]),
    "odd names": lambda: _models([json.dumps({"id": name}).encode() + b"," for name in ("", "\n", "a\x00b", "\ud800", "*", "../x", "é" * 999)]),
    "list in bytes": lambda: itertools.chain([_CHUNKED], flood(b"1\r\n \r\n")),
    "list behind 1xx": lambda: flood(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "list behind headers": lambda: itertools.chain([_OK], flood(b"X: y\r\n")),
    "list behind a header": lambda: itertools.chain([_OK, b"X: "], flood(b"y")),
    "list before trailers": lambda: itertools.chain([_CHUNKED, chunk(b'{"data":[]}'), b"0\r\n"], flood(b"X: y\r\n")),
    "list before a trailer": lambda: itertools.chain([_CHUNKED, chunk(b'{"data":[]}'), b"0\r\nX: "], flood(b"y")),
    "list of extensions": lambda: itertools.chain([_CHUNKED], flood(b"1;" + b"x" * 4000 + b"\r\n \r\n")),
    "list in gzip": lambda: [sized(_OK + b"Content-Encoding: gzip\r\n", BOMB)],
    "list in drips": lambda: itertools.chain([_CHUNKED], itertools.cycle((b"1\r\n \r\n", 0.05))),
}  # fmt: skip
"""Answers to a question for the models, each by its name."""

BOMB = b""
"""100 MiB in gzip; made by `prepare`, for it takes a while."""


def prepare() -> None:
    """Make what the answers need."""
    global BOMB
    import gzip

    BOMB = gzip.compress(b"[" * 2**27, 1)


@asynccontextmanager
async def hostile() -> AsyncGenerator[int]:
    """
    Serve all of `ANSWERS` and `LISTS` below the paths `/N/`, where N counts both; give the port.

    Below `/sink/` is a server that lists one model and answers any chat at once.
    """
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, limit=2**20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError)
    with contextlib.suppress(*gone):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await _swallow(reader, head)
            await _send(writer, _answer(head))
    writer.transport.abort()


async def _swallow(reader: asyncio.StreamReader, head: bytes) -> None:
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    left = int(length[1]) if length else 0
    while left:
        piece = await reader.read(min(left, 2**20))
        if not piece:
            raise ConnectionError
        left -= len(piece)


def _answer(head: bytes) -> Answer:
    method, target = head.split(b" ", 2)[:2]
    number = target.split(b"/")[1].decode()
    ways = [*ANSWERS.values(), *LISTS.values()]
    if number == "sink" or (method == b"GET" and int(number) < len(ANSWERS)):
        model = b'{"data":[{"id":"m%b"}]}' % number.encode()
        return [sized(_OK, model if method == b"GET" else _CHAT)]
    return ways[int(number)]()


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    for piece in answer:
        if isinstance(piece, float):
            await asyncio.sleep(piece)
        elif writer.transport.is_closing():
            raise ConnectionError
        else:
            writer.write(piece)
            await writer.drain()
