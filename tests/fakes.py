"""
A backend that says exactly the bytes a test gives it, and a client that sees exactly the bytes it gets.

For what real servers do only by accident: heads that never end, answers cut in mid-chunk, pauses.
"""

import asyncio
import contextlib
import gc
import gzip
import json
import logging
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.ports import deaf

Script = Callable[["Exchange"], Awaitable[None]]
Result = TypeVar("Result")

SOON_S = 0.1
"""How soon a client's leaving has to be felt by the backend."""
TURN_S = 0.005
"""The time between two looks at what is awaited."""
QUIET_TURNS = 30
HERE_S = 60.0
"""How long is waited for what has to come: on a machine that was busy with 25 others dmap started in 15 s."""

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
WHOLE = b'{"object": "chat.completion", "choices": []}'


async def soon(is_so: Callable[[], bool], within_s: float) -> None:
    """
    Wait until something is so; raise TimeoutError if it is not within *within_s*.

    The time is counted in turns of our loop: what a busy machine takes away makes a turn longer, and is not
    held against dmap, which runs in the same loop.
    """
    for _ in range(round(within_s / TURN_S)):
        if is_so():
            return
        await asyncio.sleep(TURN_S)
    if not is_so():
        raise TimeoutError(f"still not so after {within_s:g} s")


async def within(bound_s: float, work: Awaitable[Result]) -> Result:
    """Return what *work* does; raise TimeoutError if it takes longer than *bound_s*, counted as in `soon`."""
    task = asyncio.ensure_future(work)
    try:
        await soon(task.done, bound_s)
    finally:
        task.cancel()
    return await task


def chunk(data: bytes) -> bytes:
    """Frame *data* as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(text: str) -> bytes:
    """One record of a chat stream."""
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def answer(body: bytes, *, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """A whole answer with a length."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Exchange:
    """One request that reached the fake backend; a script answers it with `write`, `cut` or `close`."""

    head: bytes
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    left: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    accepted: int = 0

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name
        }

    async def write(self, *pieces: bytes) -> None:
        """Send *pieces*, each drained before the next."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def end(self, *pieces: bytes) -> None:
        """Send *pieces*, the last of this answer, and go on to the next request on this connection."""
        await self.write(*pieces)
        self.done.set()

    async def drip(self, data: bytes) -> None:
        """Send *data* so that each byte can be read before the next."""
        for at in range(len(data)):
            await self.write(data[at : at + 1])
            await asyncio.sleep(0)

    async def pour(self, piece: bytes, times: int) -> None:
        """Send *piece* again and again, until dmap leaves; `accepted` counts what the kernel took from us."""
        with contextlib.suppress(ConnectionError):
            for _ in range(times):
                await self.write(piece)
                self.accepted += len(piece)

    def squeeze(self) -> None:
        """Keep as little as can be between us and dmap: what is accepted is then what dmap has taken."""
        self.writer.transport.set_write_buffer_limits(high=0)
        _socket(self.writer).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def cut(self) -> None:
        """Reset the connection, whatever is still on its way."""
        _reset(self.writer)

    def close(self) -> None:
        """Close the connection after what was written."""
        self.writer.close()

    async def abandoned(self, within_s: float = SOON_S) -> None:
        """Wait until dmap has let go of this connection, which has to be soon."""
        await soon(self.left.is_set, within_s)


class _Reader(asyncio.StreamReader):
    """A reader that tells that the other side has left even when nobody reads."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit=limit)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: BaseException) -> None:
        super().set_exception(exc)
        self.gone.set()


class FakeBackend:
    """
    A raw server; `script` decides the answer to each POST, `requests` keeps them all.

    With `by_hand` as the script, the test itself answers what `next` returns.  `on_head`, if set, is run
    instead of the script as soon as a head is here, and has the body still to come.  `GET /v1/models`
    lists the model `m` without a script: it says *listing*.
    """

    def __init__(self) -> None:
        self.script: Script = self.finish
        self.listing = answer(b'{"object": "list", "data": [{"id": "m", "object": "model"}]}')
        self.on_head: Script | None = None
        self.requests: list[Exchange] = []
        self.connections = 0
        self.port = 0
        self.hold = asyncio.Event()
        self.hangs = False
        self._server: asyncio.Server | None = None
        self._stuffing = ExitStack()
        self._writers: set[asyncio.StreamWriter] = set()
        self._inbox: asyncio.Queue[Exchange] = asyncio.Queue()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def finish(self, exchange: Exchange) -> None:
        """Answer with a short, whole stream."""
        await exchange.write(SSE, chunk(delta("hi")), chunk(DONE), END)

    async def by_hand(self, exchange: Exchange) -> None:
        """Leave the answer to the test, until it calls `end` or cuts."""
        self._inbox.put_nowait(exchange)
        await exchange.done.wait()

    async def next(self) -> Exchange:
        """Return the next request to answer by hand."""
        async with asyncio.timeout(HERE_S):
            return await self._inbox.get()

    async def serve(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: _Reader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        exchange = Exchange(head.removesuffix(b"\r\n\r\n"), b"", reader, writer, reader.gone)
        if self.on_head is not None and head.startswith(b"POST "):
            self.requests.append(exchange)
            await self.on_head(exchange)
            return False
        exchange.body = await reader.readexactly(int(exchange.headers.get("content-length", 0)))
        if head.startswith(b"GET "):
            if self.hangs:
                await self.hold.wait()
            await exchange.write(self.listing)
            return True
        self.requests.append(exchange)
        await self.script(exchange)
        return not writer.is_closing()

    async def listen(self) -> None:
        """Begin to serve on a free port."""

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(_Reader(2**20), self.serve)  # type: ignore[arg-type]

        self._server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Stop listening, and reset every connection."""
        assert self._server is not None
        self._server.close()
        self.cut_all()
        await self._server.wait_closed()

    def stuff(self) -> None:
        """Listen again, but accept nobody: the queue of connections is full from the start."""
        self._stuffing.enter_context(deaf(self.port))

    def close(self) -> None:
        """End everything."""
        self.hold.set()
        if self._server is not None:
            self._server.close()
        self._stuffing.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()
        for exchange in self.requests:
            exchange.done.set()


@asynccontextmanager
async def fake_backend() -> AsyncGenerator[FakeBackend]:
    """Run a `FakeBackend` on a free port."""
    backend = FakeBackend()
    await backend.listen()
    try:
        yield backend
    finally:
        backend.close()


@dataclass
class RawClient:
    """A TCP connection to the proxy.  Every wait is bounded."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, mark: bytes) -> bytes:
        """Read up to and with *mark*."""
        async with asyncio.timeout(HERE_S):
            return await self.reader.readuntil(mark)

    async def all(self) -> bytes:
        """Read to the end; a reset raises ConnectionResetError."""
        async with asyncio.timeout(HERE_S):
            return await self.reader.read()

    async def head(self) -> "Head":
        """Read one answer's head."""
        return Head(await self.until(b"\r\n\r\n"))

    async def body(self, head: "Head") -> bytes:
        """Read the body that *head* announces, without its framing."""
        if "content-length" in head.headers:
            async with asyncio.timeout(HERE_S):
                return await self.reader.readexactly(int(head.headers["content-length"]))
        body = b""
        while size := int(await self.until(b"\r\n"), 16):
            async with asyncio.timeout(HERE_S):
                body += (await self.reader.readexactly(size + 2))[:-2]
        assert await self.until(b"\r\n") == b"\r\n"
        return body

    async def answer(self) -> "Answer":
        """Read one whole answer."""
        head = await self.head()
        return Answer(head, await self.body(head))

    def resume(self) -> None:
        """Begin to read, after `narrow`."""
        self.writer.transport.resume_reading()

    def half_close(self) -> None:
        """Send no more, but go on reading."""
        self.writer.write_eof()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Leave with a reset."""
        _reset(self.writer)


@dataclass(frozen=True)
class Head:
    """The head of one answer, as it came."""

    raw: bytes

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Its header lines, names in lower case."""
        lines = self.raw.decode("latin-1").split("\r\n")[1:-2]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.lines)


@dataclass(frozen=True)
class Answer:
    """One whole answer."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def error(self) -> dict[str, Any]:
        """The `error` of a body in OpenAI's shape."""
        error = json.loads(self.body)["error"]
        assert sorted(error) == ["code", "message", "param", "type"]
        return error


def told(event: bytes) -> dict[str, Any]:
    """Return the payload of one event inside a stream, given with its HTTP framing or without."""
    line = next(line for line in event.splitlines() if line.startswith(b"data: "))
    return json.loads(line.removeprefix(b"data: "))


async def narrow(proxy: Any, window: int = 4096) -> RawClient:
    """
    Open a raw connection that reads nothing by itself, and for which the kernel holds little.

    A small segment size keeps the send buffer at the other end small too (`tcp_sndbuf_expand`).
    """
    return await proxy._stack.enter_async_context(narrow_to(proxy.daemon.addresses[0], window))


@asynccontextmanager
async def narrow_to(address: tuple[str, int], window: int = 4096) -> AsyncGenerator[RawClient]:
    """Do as `narrow` for a server at *address*."""
    reader, writer = await asyncio.open_connection(sock=_narrow(address, window), limit=2**20)
    writer.transport.pause_reading()
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()


def _narrow(address: tuple[str, int], window: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    sock.connect(address)
    sock.setblocking(False)
    return sock


def _in_kernel(*ports: int) -> int:
    """Return how many bytes the kernel holds of the connections to *ports*: sent, and not read yet."""
    marks = [f":{port:04X} " for port in ports]
    table = Path("/proc/net/tcp").read_text().splitlines()
    queues = [line.split()[4] for line in table if any(mark in line for mark in marks)]
    return sum(int(size, 16) for queue in queues for size in queue.split(":"))


def _socket(writer: asyncio.StreamWriter) -> socket.socket:
    return writer.get_extra_info("socket")


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        _socket(writer).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


async def holding(proxy: Any, count: int) -> None:
    """Wait until just *count* requests wait or have a lease."""
    await soon(lambda: _tickets(proxy) == count, HERE_S)


def _tickets(proxy: Any) -> int:
    views = [gate.snapshot() for gate in proxy.proxy.gates.values()]
    return sum(view.leases + view.waiting for view in views)


async def held(proxy: Any, backend: FakeBackend, exchange: Exchange) -> int:
    """
    Return how many bytes of an answer are neither with the client nor in the kernel, once they get no more.

    How much the kernel takes is its own affair: some 300 KiB at once, and megabytes bit by bit.
    """

    def count() -> int:
        return exchange.accepted - _in_kernel(backend.port, proxy.daemon.addresses[0][1])

    most, quiet = count(), 0
    async with asyncio.timeout(5 * HERE_S):  # a look takes 20 ms of CPU where 5,000 connections are listed
        while quiet < QUIET_TURNS:
            await asyncio.sleep(TURN_S)
            before, most = most, max(most, count())
            quiet = 0 if most > before else quiet + 1
    return most


@asynccontextmanager
async def served(
    start: Callable[[str], Awaitable[Any]], backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> AsyncGenerator[Callable[..., Awaitable[Any]]]:
    """
    Yield what starts proxies in front of *backend*, given parts of the configuration in YAML.

    The backend is answered for by hand.  At the end nothing may be held any more, and nothing may have been
    logged as an error.
    """
    backend.script = backend.by_hand
    proxies = []
    gc.freeze()  # what was there before is not looked through at the end

    async def serve(*, server: str = "{}", backend_options: str = "", rest: str = "") -> Any:
        options = f"kind: openai, url: '{backend.url}', {backend_options}"
        proxies.append(await start(f"backends: {{fake: {{{options}}}}}\nserver: {server}\n{rest}"))
        return proxies[-1]

    yield serve
    for proxy in proxies:
        await proxy.close()
        backend.cut_all()
        await proxy.settled()
        async with asyncio.timeout(HERE_S):
            await proxy.proxy.visits.gone()
    gc.collect()  # only then a task or a future whose exception nobody looked at complains
    gc.unfreeze()
    logged = [*caplog.get_records("call"), *caplog.records]
    assert [record.getMessage() for record in logged if record.levelno >= logging.ERROR] == []


def post(
    body: bytes | dict[str, object],
    path: str = "/v1/chat/completions",
    *,
    version: str = "1.1",
    headers: str = "",
) -> bytes:
    """The bytes of one POST to dmap."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
    return head.encode() + data


def zipped(body: dict[str, object]) -> bytes:
    """*body* as JSON, packed with gzip."""
    return gzip.compress(json.dumps(body).encode())


def chat(**fields: object) -> dict[str, object]:
    """A streamed chat request for the model `m`; *fields* are added or replaced."""
    return {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hello"}], **fields}
