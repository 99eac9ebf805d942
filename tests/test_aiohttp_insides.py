"""Each use of aiohttp's insides; above all what never reaches the application or follows a refusal."""

import asyncio
import contextlib
import gzip
import hashlib
import json
import logging
import socket
import time
from itertools import pairwise

import pytest
from aiohttp import StreamReader

from dmap.aiohttp_insides import ClientConnection, HttpServer, read_some
from tests.fakes import DONE, END, HERE_S, SSE, RawClient, chat, chunk, delta, post, served, soon


@pytest.fixture
async def serve(start, backend, caplog):
    """Start proxies that have logged no error in the end."""
    caplog.set_level(logging.INFO)
    async with served(start, backend, caplog) as serve:
        yield serve


@pytest.fixture
async def proxy(serve):
    return await serve()


async def test_every_answer_is_signed(proxy):
    """Every answer tells who made it and for which request, also one that aiohttp makes of broken bytes."""
    client = await proxy.client()
    await client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: my-id\r\n\r\n")
    served = await client.answer()

    await client.send(b"no http\r\n\r\n")
    broken = await client.answer()

    assert (served.head.headers["x-request-id"], served.head.headers["server"]) == ("my-id", "dmap")
    assert (broken.head.headers["x-request-id"][:4], broken.head.headers["server"]) == ("req_", "dmap")


async def test_an_expectation_that_nobody_knows(proxy):
    """An `Expect` that dmap does not know is passed over; a server need not answer 417."""
    client = await proxy.client()
    await client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: the best\r\n\r\n")

    assert (await client.answer()).status == 200


async def test_a_client_that_leaves_before_its_stream_begins(proxy):
    """A reader of events that is gone before the head is out is no bug."""
    client = await proxy.client()
    client.writer.write(b"GET /debug/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    client.half_close()

    assert await client.all() == b""
    await proxy.proxy.visits.gone()
    assert proxy.proxy.bus.readers == 0


async def test_a_bomb_is_not_unpacked(proxy):
    """What is inside an encoded body never gets into memory, also behind a request that is served."""
    bomb = gzip.compress(bytes(2**26))
    client = await proxy.client()
    lines = "Content-Encoding: gzip\r\n"
    before = time.thread_time()

    await client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + post(bomb, headers=lines))
    served, refused = await client.answer(), await client.answer()

    assert (served.status, refused.status) == (200, 415)
    assert time.thread_time() - before < 0.1


@pytest.mark.parametrize("framing", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
async def test_a_refused_body_is_not_read_to_its_end(proxy, framing):
    """Who goes on sending what was refused gets the answer, and is cut off after a little more of it."""
    client = await proxy.client()
    await client.send(f"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode())

    refused = await client.answer()
    sent = await poured(client, chunk(b"x" * 65_000), 4000)

    assert (refused.status, refused.head.headers["connection"]) == (404, "close")
    assert sent < 40 * 2**20


async def test_a_refused_body_that_comes_late(proxy):
    """Who sends the rest of a small refused body gets the answer and a clean end."""
    client = await proxy.client()
    await client.send(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
    refused = await client.answer()

    await client.send(b"123456789")

    assert refused.status == 404
    assert await client.all() == b""


@pytest.mark.parametrize("body", [b"zz\r\nno chunk", b"5\r\nhello5\r\n"])
async def test_a_refused_body_that_is_broken(proxy, body):
    """A refused body that breaks its framing ends the connection, without a word in the log."""
    client = await proxy.client()
    await client.send(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    refused = await client.answer()

    await client.send(body)

    assert refused.status == 404
    assert await client.all() == b""


def in_chunks(path: str, body: bytes, *, end: bytes = END, headers: str = "") -> bytes:
    """The bytes of one POST in chunks, the last one with its trailer fields being *end*."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Transfer-Encoding: chunked\r\n\r\n"
    return head.encode() + chunk(body) + end


TRAILER = b"0\r\nx-one: 1\r\nx-request-id: borrowed\r\n\r\n"
NEXT = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
CALL = json.dumps(chat()).encode()
CHAT = "/v1/chat/completions"
KEY = "Authorization: Bearer sk-webui\r\n"


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        (CHAT, b"no json", KEY, 400),
        (CHAT, b"no json", KEY + "Expect: 100-continue\r\n", 400),
        (CHAT, CALL, "", 401),
        (CHAT, CALL, KEY + "Content-Encoding: gzip\r\n", 415),
        (CHAT, CALL, KEY + "Connection: Upgrade\r\nUpgrade: websocket\r\n", 501),
        ("/nowhere", b"unread", KEY, 404),
        ("/health", b"unread", "", 405),
    ],
)
@pytest.mark.parametrize(("size", "behind"), [(2**16, NEXT), (1, b"")])
async def test_trailers_reach_no_other_request(serve, caplog, path, body, headers, status, size, behind):
    """What follows a request in chunks is not served: its trailer fields would be the next one's headers."""
    key = hashlib.sha256(b"sk-webui").hexdigest()
    proxy = await serve(rest=f"access: {{keys: [{{name: webui, sha256: {key}}}]}}")
    client = await proxy.client()
    data = in_chunks(path, body, end=TRAILER, headers=headers) + behind

    for at in range(0, len(data), size):
        await client.send(data[at : at + size])
    given = (await client.all()).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")

    assert given.startswith(b"HTTP/1.1 %d " % status)
    assert given.count(b"HTTP/1.1 ") == given.count(b"\r\nConnection: close\r\n") == 1
    assert "borrowed" not in caplog.text


async def test_trailers_behind_a_stream(proxy, backend, caplog):
    """A stream that answers a request in chunks is the last answer of its connection, and says so."""
    client = await proxy.client()
    await client.send(NEXT + in_chunks(CHAT, CALL, end=TRAILER) + NEXT)
    exchange = await backend.next()
    await exchange.end(SSE, chunk(delta("hi")), chunk(DONE), END)

    before, streamed = await client.answer(), await client.answer()

    assert (before.status, "connection" in before.head.headers) == (200, False)
    assert (streamed.status, streamed.head.headers["connection"]) == (200, "close")
    assert await client.all() == b""
    assert "borrowed" not in caplog.text


async def test_tiny_chunks_are_read_in_turns():
    """Of a read of the socket that brings 40,000 chunks, each turn of the loop parses a few thousand."""
    bodies = asyncio.Queue[StreamReader]()

    async def answer(request):
        bodies.put_nowait(request.content)
        await asyncio.Event().wait()

    http = HttpServer(answer, lambda request, response: None)
    ours, theirs = socket.socketpair()
    transport, connection = await http.loop.connect_accepted_socket(http, ours)
    connection.data_received(in_chunks(CHAT, b" ", end=40_000 * chunk(b" ") + END))

    parsed = await by_turn(await bodies.get())

    assert parsed[-1] == 40_001
    assert max(after - before for before, after in pairwise(parsed)) < 5000
    transport.abort()
    theirs.close()


async def test_bytes_that_are_no_http(proxy):
    """What aiohttp's parser refuses is told in OpenAI's shape, without a byte of it."""
    client = await proxy.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: sk-secret\x00\r\n\r\n")

    given = await client.answer()

    assert (given.status, given.error["code"]) == (400, "invalid_request")
    assert b"secret" not in given.body
    assert await client.all() == b""


async def test_a_client_of_ipv4_on_a_socket_of_both(serve, caplog):
    """A client of IPv4 counts as its address of IPv4."""
    proxy = await serve(rest="listen: {host: '::'}\naccess: {open: true}")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.daemon.addresses[0][1])
    client = RawClient(reader, writer)

    await client.send(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert (await client.answer()).status == 404
    assert "client=127.0.0.1 " in caplog.text
    writer.close()


async def test_a_question_for_the_body_is_no_part_of_the_answer(proxy):
    """An error that comes after `100 Continue` is told as any other."""
    client = await proxy.client()
    await client.send(post(b"no json", headers="Expect: 100-continue\r\n").removesuffix(b"no json"))
    go = await client.until(b"\r\n\r\n")

    await client.send(b"no json")

    assert go == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await client.answer()).error["code"] == "invalid_request"


async def test_a_full_buffer_is_told_at_once():
    """A connection calls *on_full* when the transport says that its buffer is full, and at no other time."""
    connection = ClientConnection(HttpServer(lambda request: None, lambda request, response: None))
    seen = []
    connection.on_full = lambda: seen.append(connection.writing_paused)

    connection.pause_writing()
    connection.resume_writing()

    assert seen == [True]


async def test_the_end_of_a_connection_is_told_before_its_handler_hears_of_it():
    """Bytes of a backend that come in between are not written: uvloop raises, and a bug would be told."""
    seen, began, over = [], asyncio.Event(), asyncio.Event()

    async def answer(request):
        request.protocol.on_full = lambda: seen.append("told")
        began.set()
        try:
            await over.wait()
        finally:
            seen.append("cancelled")
            over.set()

    http = HttpServer(answer, lambda request, response: None)
    async with await asyncio.get_running_loop().create_server(http, "127.0.0.1", 0) as listener:
        _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        writer.write(NEXT)
        await began.wait()
        writer.transport.abort()
        await over.wait()

    assert seen == ["told", "cancelled"]


async def test_a_head_goes_out_with_the_first_bytes(proxy, backend):
    """The first record of a stream comes in one read with the head before it."""
    backend.script = backend.by_hand
    client = await proxy.client()
    await client.send(post(chat(stream=True)))

    await (await backend.next()).write(SSE + chunk(delta("first")))

    assert delta("first") in await client.reader.read(65536)


async def test_connections_are_counted(proxy):
    """A server's connections are those that are open now."""
    http = proxy.daemon._listeners[0]._http
    clients = [await proxy.client() for _ in range(3)]
    await soon(lambda: len(http) == 3, HERE_S)

    clients[0].close()

    await soon(lambda: len(http) == 2, HERE_S)


async def test_idle_connections_are_known(proxy, backend):
    """A connection is idle before its first request's head is whole, and after each answer."""
    http = proxy.daemon._listeners[0]._http
    first, second = await proxy.client(), await proxy.client()
    await soon(lambda: len(http.idle) == 2, HERE_S)

    await first.send(post(chat()))
    exchange = await backend.next()
    during = len(http.idle)
    await exchange.end(SSE, chunk(DONE), END)
    await first.answer()
    await soon(lambda: len(http.idle) == 2, HERE_S)
    http.cut_idle(1, 0)

    assert (during, await second.all()) == (1, b"")
    await first.send(NEXT)
    assert (await first.answer()).status == 200
    first.close()
    await soon(lambda: not http.idle, HERE_S)


async def by_turn(body):
    """Read *body* whole; return how much of it had been parsed at each turn of the loop meanwhile."""
    parsed = [0]

    async def note():
        while True:
            parsed.append(body.total_bytes)
            await asyncio.sleep(0)

    noting = asyncio.ensure_future(note())
    while await read_some(body):
        pass
    noting.cancel()
    return [*parsed, body.total_bytes]


async def poured(client, piece, times):
    """Send *piece* until the proxy has had enough; return how many bytes went out."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            await client.send(piece)
            sent += len(piece)
    return sent
