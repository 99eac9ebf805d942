"""
Answers without end, and both ends of their way through dmap: blocking sockets in threads of their own.

What the loop has to do in the meantime is dmap's work alone, so its CPU time tells what a flood costs.
"""

import asyncio
import contextlib
import itertools
import resource
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.fakes import SSE, answer, chunk, delta

MIB = 1024 * 1024
_BLOCK = 256 * 1024
_TICK_S = 0.001
_GET = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'

_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_CHUNKED = _PLAIN + b"Transfer-Encoding: chunked\r\n\r\n"
_BEGUN = SSE + chunk(delta("a"))

FLOODS = {
    # beside the body
    "newlines": (b"", b"\r\n"),
    "interim": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim-headers": (b"", b"HTTP/1.1 103 Early Hints\r\na:\r\n\r\n"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"a:\r\n"),
    "one-header": (b"HTTP/1.1 200 OK\r\na:", b"a"),
    "reason": (b"HTTP/1.1 200 ", b"a"),
    "trailers": (_BEGUN + b"0\r\n", b"a:\r\n"),
    "long-trailers": (_BEGUN + b"0\r\n", b"a: " + b"b" * 1000 + b"\r\n"),
    "one-extension": (_BEGUN + b"1;", b"a"),
    "extensions": (_BEGUN, b"1;a=b;c=d\r\n\n\r\n"),
    "long-extensions": (_BEGUN, b"1;a=" + b"b" * 60_000 + b"\r\n\n\r\n"),
    # streams
    "tiny-chunks": (SSE, b"1\r\nx\r\n"),
    "empty-records": (SSE, b"2\r\n\n\n\r\n"),
    "newlines-in-one-chunk": (SSE + b"ffffffff\r\n", b"\n\n"),
    "crlf-in-one-chunk": (SSE + b"ffffffff\r\n", b"\r\n\r\n"),
    "comments": (SSE + b"ffffffff\r\n", b":\n\n"),
    "one-record": (SSE + b"ffffffff\r\n", b"x"),
    "nearly-ends": (SSE + b"ffffffff\r\n", b"\r\n\r"),
    "words-of-error": (SSE + b"ffffffff\r\n", b"data: error\n\n"),
    "fields-of-error": (SSE + b"ffffffff\r\n", b'data: {"a":"error"}\n\n'),
    "no-errors": (SSE + b"ffffffff\r\n", b'data: {"error":null}\n\n'),
    "error-events": (SSE + b"ffffffff\r\n", b"event: error\n\n"),
    "unended-errors": (SSE + b"ffffffff\r\n", b'data: {"error":'),
    "nested": (SSE + b"ffffffff\r\ndata: ", b"["),
    "nested-errors": (SSE + b"ffffffff\r\n", b'data: {"error":' + b"[" * 900 + b"]" * 900 + b"}\n\n"),
    "lists-in-an-error": (SSE + b"ffffffff\r\n", b'data: {"error":[' + b"[]," * 20_000 + b"0]}\n\n"),
    "models": (SSE + b"ffffffff\r\n", b'{"model":'),
    "models-with-spaces": (SSE + b"ffffffff\r\n", b'"model"                                   '),
    "escapes": (SSE + b'ffffffff\r\n"model":"', b'\\"'),
    "lines": (SSE + b"ffffffff\r\n", b"data:\n"),
    "events": (SSE + b"ffffffff\r\n", b"event: error_\n"),
    # plain answers
    "plain-tiny-chunks": (_CHUNKED, b"1\r\n \r\n"),
    "plain-lists": (_CHUNKED + b"ffffffff\r\n[", b"[],"),
    "plain-models": (_CHUNKED + b"ffffffff\r\n", b'"model":"'),
    "plain-unframed": (_PLAIN + b"\r\n", b"[[[["),
    "plain-sized": (_PLAIN + b"Content-Length: 18446744073709551615\r\n\r\n", b"{}"),
    "two-answers": (answer(b"{}"), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
}
"""How each begins, and what follows again and again."""


@dataclass
class Flooding:
    """A server that answers each POST with *begin* and then *again* until *total* bytes are written."""

    begin: bytes
    again: bytes
    total: int
    sent: int = 0
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        """Serve one connection after another, until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection = self.listener.accept()[0]
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while head := _head(connection):
                if head.startswith(b"GET "):
                    connection.sendall(answer(_GET))
                else:
                    self._flood(connection)
                    return

    def _flood(self, connection: socket.socket) -> None:
        connection.sendall(self.begin)
        block = self.again * (_BLOCK // len(self.again) + 1)
        while self.sent < self.total:
            connection.sendall(block)
            self.sent += len(block)


def _head(connection: socket.socket) -> bytes:
    """Read a request with its body, roughly: all that is here once its head is."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = connection.recv(65536)
        if not piece:
            return b""
        got += piece
    return got


def read_all(address: tuple[str, int], request: bytes) -> bytes:
    """Send *request* and read until the end; return the first bytes of what came."""
    with socket.create_connection(address) as connection:
        connection.sendall(request)
        first = b""
        with contextlib.suppress(OSError):
            for piece in itertools.takewhile(bool, iter(lambda: connection.recv(MIB), None)):
                first = first or piece
        return first


@dataclass
class Toll:
    """What the loop had to do: the most CPU seconds between two of its turns, and MiB of memory gained."""

    longest_s: float = 0.0
    gained_mib: float = 0.0


@contextlib.contextmanager
def toll() -> Iterator[Toll]:
    """Measure the running loop inside the context.  CPU time, since neighbours may hold its core for long."""
    loop, found, before = asyncio.get_running_loop(), Toll(), _peak_mib()
    last = time.thread_time()

    def tick() -> None:
        nonlocal last, timer
        now = time.thread_time()
        found.longest_s, last = max(found.longest_s, now - last), now
        timer = loop.call_later(_TICK_S, tick)

    timer = loop.call_later(_TICK_S, tick)
    try:
        yield found
    finally:
        timer.cancel()
        found.gained_mib = _peak_mib() - before


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
