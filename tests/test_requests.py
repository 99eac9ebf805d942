"""What comes in: requests that are late, broken, too large, too many, misspelt or meant for somebody else."""

import asyncio
import gc
import json

import pytest

from dmap.web.asked import Asked
from tests.fakes import (
    DONE,
    END,
    HERE_S,
    SSE,
    answer,
    chat,
    chunk,
    delta,
    holding,
    post,
    served,
    soon,
    told,
    zipped,
)

PATH = "/v1/chat/completions"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SIZED = HEAD + b"Content-Length: 99\r\n\r\n"
BODY = json.dumps(chat()).encode()


@pytest.fixture
async def serve(start, backend, caplog):
    async with served(start, backend, caplog) as serve:
        yield serve


@pytest.fixture
async def proxy(serve):
    return await serve()


async def sent(proxy, *pieces):
    """Send *pieces* on a new connection; return the client."""
    client = await proxy.client()
    for piece in pieces:
        await client.send(piece)
    return client


async def finished(backend, times=1):
    """Answer the next *times* requests."""
    for _ in range(times):
        await (await backend.next()).end(SSE, chunk(DONE), END)


class TestBody:
    async def test_in_chunks(self, proxy, backend):
        """A body in chunks goes up whole and with a length."""
        await sent(proxy, CHUNKED, chunk(BODY[:9]), chunk(BODY[9:]), END)

        exchange = await backend.next()

        assert exchange.body == BODY
        assert "transfer-encoding" not in exchange.headers

    async def test_byte_by_byte(self, proxy, backend):
        """A request may come in pieces of any size."""
        client = await proxy.client()
        await drip(client, post(chat()))

        assert (await backend.next()).body == BODY

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x", "gzip, identity", "GZIP"])
    async def test_packed(self, proxy, encoding):
        """A body in any encoding is refused, and the connection goes on if it is here whole."""
        client = await sent(proxy, post(zipped(chat()), headers=f"Content-Encoding: {encoding}\r\n"))

        given = await client.answer()

        assert (given.status, given.error["code"]) == (415, "encoded_body")
        assert given.head.headers["accept-encoding"] == "identity"
        assert "connection" not in given.head.headers

    async def test_packed_in_two_headers(self, proxy):
        """A second `Content-Encoding` counts as the first does."""
        lines = "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n"
        client = await sent(proxy, post(zipped(chat()), headers=lines))

        assert (await client.answer()).status == 415

    async def test_in_no_encoding(self, proxy, backend):
        """`identity` is no encoding."""
        await sent(proxy, post(chat(), headers="Content-Encoding: Identity\r\n"))

        assert (await backend.next()).body == BODY

    @pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics", "/admin/reload", "/nowhere", PATH])
    @pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
    async def test_packed_for_any_route(self, serve, method, path):
        """Wherever it goes, an encoded body is refused before keys are looked at, and is not unpacked."""
        proxy = await serve(rest=f"access: {{keys: [{{name: a, sha256: '{'0' * 64}'}}]}}")
        head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: 14\r\n\r\n"
        client = await sent(proxy, 2 * (head.encode() + b"no gzip at all"))

        statuses = [(await client.answer()).status, (await client.answer()).status]

        assert statuses == [415, 415]

    @pytest.mark.parametrize("lines", ["", "Connection: keep-alive\r\n"])
    async def test_in_chunks_by_http_1_0(self, proxy, lines):
        """HTTP/1.0 has no chunks: who sends them is refused, and nothing behind them is read."""
        head = CHUNKED.replace(b"HTTP/1.1\r\n", f"HTTP/1.0\r\n{lines}".encode())
        client = await sent(proxy, head + chunk(BODY) + END + post(chat()))

        given = await client.all()

        assert given.startswith(b"HTTP/1.0 400 ")
        assert given.count(b"\r\n\r\n") == 1

    async def test_after_a_question(self, proxy, backend):
        """`Expect: 100-continue` is answered, and then the request served."""
        head = HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        client = await sent(proxy, head)

        go = await client.until(b"\r\n\r\n")
        await client.send(BODY)
        await finished(backend)

        assert go == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.answer()).body == DONE

    async def test_after_a_question_that_is_refused(self, proxy, backend):
        """A client that asks before it sends its body is refused before it has sent any of it."""
        head = HEAD + b"X-Forwarded-For: 10.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
        client = await sent(proxy, head)

        assert (await client.answer()).status == 403

    async def test_that_expects_what_nobody_knows(self, proxy, backend):
        """An expectation that dmap does not know is passed over."""
        await sent(proxy, HEAD + b"Expect: the best\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)

        assert (await backend.next()).body == BODY

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b'{"model": 1}', b'{"model": "m", "stream": "yes"}', b"\xff\xfe"]
    )
    async def test_that_is_no_request(self, proxy, backend, body):
        """What is not JSON, or has the wrong types where dmap looks, is a 400 and the connection stays."""
        client = await sent(proxy, post(body))
        refused = await client.answer()

        await client.send(post(chat()))
        await finished(backend)

        assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")
        assert (await client.answer()).body == DONE

    async def test_of_nobodys_model(self, proxy, backend):
        """A model that nobody has is a 404 before anything is asked of a backend."""
        client = await sent(proxy, post(chat(model="other")))

        given = await client.answer()

        assert (given.status, given.error["code"], given.error["param"]) == (404, "model_not_found", "model")
        assert backend.requests == []


class TestHalf:
    """A request that does not come whole."""

    @pytest.mark.parametrize("leave", ["close", "half_close", "reset"])
    @pytest.mark.parametrize(
        "half",
        [
            HEAD[:20],
            HEAD,
            SIZED + BODY[:9],
            CHUNKED + b"9\r\n12",
        ],
        ids=["line", "head", "length", "chunked"],
    )
    async def test_and_its_client_leaves(self, proxy, backend, half, leave):
        """Half a request leaves nothing behind."""
        client = await sent(proxy, half)

        getattr(client, leave)()

        await proxy.proxy.visits.gone()
        assert proxy.leftovers == 0
        assert backend.requests == []

    @pytest.mark.parametrize(
        "half",
        [SIZED + BODY[:9], CHUNKED + b"2\r\n"],
        ids=["length", "chunked"],
    )
    async def test_that_takes_too_long(self, serve, backend, half):
        """A body that is not here within `body_s` is a 408."""
        proxy = await serve(server="{body_s: 0.2}")
        client = await sent(proxy, half)

        given = await client.answer()

        assert (given.status, given.error["code"]) == (408, "upload_timeout")
        assert given.head.headers["x-should-retry"] == "false"

    async def test_that_drips(self, serve, backend):
        """`body_s` is for the whole body: a byte now and then does not stretch it."""
        proxy = await serve(server="{body_s: 0.3}")
        client = await sent(proxy, HEAD + b"Content-Length: 9999\r\n\r\n")

        dripping = asyncio.ensure_future(drip(client, b" " * 9999, 0.05))

        assert (await client.answer()).status == 408
        dripping.cancel()

    async def test_a_body_that_breaks_off_its_framing(self, proxy, backend):
        """A chunk that is none is a 400."""
        client = await sent(proxy, CHUNKED + b"zz\r\n")

        assert (await client.answer()).status == 400


async def drip(client, data, pause_s=0.0):
    """Send *data* byte by byte."""
    for at in range(len(data)):
        await client.send(data[at : at + 1])
        await asyncio.sleep(pause_s)


class TestTooMuch:
    SMALL = "{max_body: 1KiB, bodies: 2KiB}"

    async def test_by_its_length(self, serve, backend):
        """A body announced as too large is refused before it is sent."""
        proxy = await serve(server=self.SMALL)
        client = await sent(proxy, HEAD + b"Content-Length: 1025\r\n\r\n")

        given = await client.answer()

        assert (given.status, given.error["code"]) == (413, "body_too_large")

    async def test_and_sent_all_the_same(self, serve, backend):
        """A client that sends its refused body anyway gets the answer, and may ask again."""
        proxy = await serve(server=self.SMALL)
        client = await sent(proxy, post(b" " * 1025))
        refused = await client.answer()

        await client.send(post(chat()))
        await finished(backend)

        assert (refused.status, (await client.answer()).status) == (413, 200)

    async def test_by_its_growth(self, serve, backend):
        """A body in chunks is refused as soon as it is too large."""
        proxy = await serve(server=self.SMALL)
        client = await sent(proxy, CHUNKED, chunk(b" " * 1025))

        assert (await client.answer()).status == 413

    async def test_just_not(self, serve, backend):
        """A body of exactly `max_body` is served."""
        proxy = await serve(server=self.SMALL)
        await sent(proxy, post(BODY.ljust(1024)))

        assert len((await backend.next()).body) == 1024

    async def test_announced_is_not_held(self, serve, backend):
        """Bodies that are only announced take nothing from the others."""
        proxy = await serve(server=self.SMALL)
        await sent(proxy, HEAD + b"Content-Length: 1024\r\n\r\n")
        await sent(proxy, HEAD + b"Content-Length: 1024\r\n\r\n")

        await sent(proxy, post(BODY))

        assert (await backend.next()).body == BODY

    async def test_no_longer_held_once_the_answer_begins(self, serve, backend):
        """A stream under way takes nothing of the room for bodies, and its body is let go."""
        proxy = await serve(server=self.SMALL)
        streams = [await sent(proxy, post(BODY.ljust(1024 - n))) for n in range(2)]
        exchanges = [await backend.next() for _ in streams]
        full = proxy.proxy.visits.body_bytes
        await exchanges[0].write(SSE, chunk(delta("a")))
        await exchanges[1].write(SSE, chunk(delta("a")))
        await streams[0].head(), await streams[1].head()

        await sent(proxy, post(BODY.ljust(1023)))

        assert (full, len((await backend.next()).body)) == (2047, 1023)
        assert proxy.proxy.visits.body_bytes == 1023

    async def test_for_all_together(self, serve, backend):
        """When the bodies that wait for an answer take all of `bodies`, the next is a 429, to come again."""
        proxy = await serve(server=self.SMALL)
        await sent(proxy, post(BODY.ljust(1024)))
        await sent(proxy, post(BODY.ljust(1000)))
        await holding(proxy, 2)
        client = await sent(proxy, post(chat()))

        given = await client.answer()

        assert (given.status, given.error["code"]) == (429, "rate_limit_exceeded")
        assert given.head.headers["retry-after"] == "5"

    async def test_no_more(self, serve, backend):
        """The room of a request that is over is free again."""
        proxy = await serve(server=self.SMALL)
        client = await sent(proxy, *[post(BODY.ljust(1024))] * 5)
        await finished(backend, 5)

        assert [(await client.answer()).status for _ in range(5)] == [200] * 5

    async def test_for_the_queue(self, serve, backend):
        """A full queue is a 429 at once."""
        proxy = await serve(backend_options="parallel: 1, queue: 1")
        await sent(proxy, post(chat()))
        await sent(proxy, post(chat()))
        await holding(proxy, 2)

        client = await sent(proxy, post(chat()))

        given = await client.answer()
        assert given.status == 429
        assert "retry-after" in given.head.headers

    async def test_for_its_patience(self, serve, backend):
        """Who waits for longer than `wait_s` is told to come again."""
        proxy = await serve(backend_options="parallel: 1, wait_s: 0.2")
        await sent(proxy, post(chat()))
        await holding(proxy, 1)

        client = await sent(proxy, post(chat()))

        given = await client.answer()
        assert (given.status, given.error["code"]) == (503, "wait_expired")

    async def test_for_its_patience_after_a_heartbeat(self, serve, backend):
        """Who has heard comments is told so inside the stream."""
        proxy = await serve(server="{heartbeat_s: 0.01}", backend_options="parallel: 1, wait_s: 2")
        await sent(proxy, post(chat()))
        await holding(proxy, 1)

        client = await sent(proxy, post(chat()))

        assert told(await client.all())["error"]["code"] == "wait_expired"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_and_leaves_no_body(self, serve, backend, stream):
        """What was refused is out of memory at once, and not when the collector comes by."""
        proxy = await serve(server="{heartbeat_s: 0.05}", backend_options="parallel: 1, wait_s: 1")
        await sent(proxy, post(chat()))
        await holding(proxy, 1)
        gc.disable()
        try:
            client = await sent(proxy, post(chat(stream=stream)))
            await client.reader.readuntil(b"wait_expired")
            await holding(proxy, 1)
            await soon(lambda: len([1 for _ in proxy.proxy.visits.open()]) == 1, HERE_S)

            assert len([each for each in gc.get_objects() if isinstance(each, Asked)]) == 1
        finally:
            gc.enable()


class TestPipeline:
    async def test_answers_come_in_order(self, proxy, backend):
        """Requests sent behind one another are answered one after the other."""
        client = await sent(proxy, post(chat(stream=False)) * 3)

        await (await backend.next()).end(answer(b'{"id": 1}'))
        await (await backend.next()).end(answer(b'{"id": 2}'))
        await (await backend.next()).end(answer(b'{"id": 3}'))

        bodies = [(await client.answer()).body for _ in range(3)]
        assert bodies == [b'{"id": 1}', b'{"id": 2}', b'{"id": 3}']

    async def test_the_second_waits_for_the_first(self, proxy, backend):
        """A request behind another is not begun before that one's answer is out."""
        await sent(proxy, post(chat()) * 2)
        first = await backend.next()
        await first.write(SSE, chunk(delta("a")))
        await holding(proxy, 1)

        await first.end(chunk(DONE), END)

        assert (await backend.next()).body == BODY
        assert len(backend.requests) == 2

    async def test_a_refusal_between(self, proxy, backend):
        """A refused request does not disturb those around it."""
        client = await sent(proxy, post(chat()) + post(chat(model="other")) + post(chat()))
        await finished(backend, 2)

        statuses = [(await client.answer()).status for _ in range(3)]

        assert statuses == [200, 404, 200]

    @pytest.mark.parametrize("count", [1, 10])
    async def test_a_client_with_more_to_ask_leaves(self, proxy, backend, count):
        """Requests that wait behind the first do not hide that their client has left."""
        client = await sent(proxy, post(chat()) + post(chat()) * count)
        exchange = await backend.next()

        client.close()

        await exchange.abandoned()
        assert len(backend.requests) == 1

    @pytest.mark.parametrize(
        ("flood", "leave"),
        [
            (post(chat()) * 300, "close"),
            (post(chat()) * 300, "half_close"),
            (post(b" " * 200_000), "close"),
            (post(b" " * 200_000), "reset"),
        ],
        ids=["requests-close", "requests-half-close", "body-close", "body-reset"],
    )
    async def test_a_client_with_a_flood_to_ask_leaves(self, proxy, backend, flood, leave):
        """Where so much waits behind the first that nothing is read any more, leaving is still noticed."""
        client = await sent(proxy, post(chat()))
        exchange = await backend.next()
        await client.send(flood)

        getattr(client, leave)()

        await exchange.abandoned(6)  # the kernel is asked once a second
        await proxy.settled()
        assert len(backend.requests) == 1

    async def test_a_flood_that_hides_its_end(self, serve, backend):
        """Where even the kernel cannot see the end of the flood, its connection lasts for the stall bound."""
        proxy = await serve(server="{client_stall_s: 0.5}")
        client = await sent(proxy, post(chat()))
        exchange = await backend.next()
        client.writer.write(post(chat()) * 50_000)

        client.close()

        await exchange.abandoned(8)
        await proxy.settled()

    async def test_a_flood_is_served_as_well(self, proxy, backend):
        """A client that stays gets an answer to each, however many it sent at once."""
        client = await sent(proxy, post(chat(model="other")) * 200)

        assert [(await client.answer()).status for _ in range(200)] == [404] * 200

    async def test_a_half_closed_client_gets_no_answer(self, proxy, backend):
        """A client that closes its side behind its request counts as gone."""
        client = await sent(proxy, post(chat()))
        client.half_close()

        assert await client.all() == b""
        await proxy.settled()


class TestNoHTTP:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"hello\r\n\r\n",
            b"POST /v1/chat/completions HTTP/9.9\r\n\r\n",
            b"POST * HTTP/1.1\r\n\r\n",
            b"POST /caf\xe9 HTTP/1.1\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nBad Name: x\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\n: x\r\n\r\n",
            HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            HEAD + b"Content-Length: -2\r\n\r\n{}",
            HEAD + b"Content-Length: +2\r\n\r\n{}",
            HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}",
            HEAD + b"X: " + b"x" * 40_000 + b"\r\n\r\n",
            HEAD + b"X: y\r\n" * 200 + b"\r\n",
            b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
        ],
        ids=[
            *(
                "tls",
                "words",
                "version",
                "star",
                "not-ascii",
                "bad-name",
                "no-name",
                "two-lengths",
                "length-and-chunked",
            ),
            *("negative", "plus", "encoding", "long-header", "many-headers", "long-line"),
        ],
    )
    async def test_it_is_refused_in_json(self, proxy, backend, data):
        """What is not HTTP, or could be read in two ways, is a 400 and the end of its connection."""
        client = await sent(proxy, data)

        given = await client.answer()

        assert (given.status, given.error["type"]) == (400, "invalid_request_error")
        assert given.head.headers["content-type"].startswith("application/json")
        assert await client.all() == b""
        assert backend.requests == []

    async def test_headers_that_are_too_large_together(self, proxy, backend):
        """Many headers that are each small enough are bounded as well."""
        client = await sent(proxy, post(chat(), headers=f"X: {'x' * 9000}\r\n" * 2))

        given = await client.answer()

        assert (given.status, given.error["code"]) == (400, "invalid_request")

    async def test_behind_a_request(self, proxy, backend):
        """What is not HTTP behind a good request does not take that one's answer away."""
        client = await sent(proxy, post(chat()))
        exchange = await backend.next()
        await client.send(b"hello\r\n\r\n")
        await exchange.end(SSE, chunk(DONE), END)

        assert (await client.answer()).body == DONE
        assert (await client.answer()).status == 400

    async def test_a_web_socket(self, proxy, backend):
        """A WebSocket is told that there is none."""
        upgrade = (
            b"GET /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        client = await sent(proxy, upgrade)

        given = await client.answer()

        assert (given.status, given.error["code"]) == (501, "not_implemented")


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/v1//chat/completions",
            "//v1/chat/completions",
            "/v1/chat/completions/",
            "/V1/chat/completions",
            "/v1/Chat/Completions",
            "/v1/./chat/completions",
            "/v1/x/../chat/completions",
            "/../v1/chat/completions",
            "/v1%2Fchat/completions",
            "/v1/chat%2fcompletions",
            "/v1/chat/%63ompletions",
            "/v1/%2e%2e/v1/chat/completions",
            "/v1/chat/completions%00",
            "/v1/chat/completions;x=y",
            "/v1/chat/completions#x",
            "/v1\\chat\\completions",
            "http://127.0.0.1/v1/chat/completions",
            "/",
            "/v1",
            "/models/load",
            "/api/v1/models/load",
            "/slots",
            "/props",
            "/lora-adapters",
            "/cors-proxy",
            "/api/pull",
            "/v1/caf%C3%A9",
        ],
    )
    async def test_any_other_spelling_is_not_found(self, proxy, backend, path):
        """Paths are taken literally; what is not in the table is a 404 and reaches no backend."""
        client = await sent(proxy, post(chat(), path=path))

        given = await client.answer()

        assert (given.status, given.error["type"]) == (404, "invalid_request_error")
        assert backend.requests == []

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
    async def test_another_method(self, proxy, backend, method):
        """Only POST makes a model work; the rest is told so."""
        client = await sent(proxy, f"{method} {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

        head = await client.head()

        assert (head.status, head.headers["allow"]) == (405, "POST")
        assert "access-control-allow-origin" not in head.headers
        assert backend.requests == []

    async def test_head_has_no_body(self, proxy, backend):
        """After a HEAD the connection is in step."""
        client = await sent(proxy, f"HEAD {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await client.head()

        await client.send(post(chat()))
        await finished(backend)

        assert (await client.answer()).body == DONE

    async def test_every_refusal_has_an_id(self, proxy, backend):
        """Each answer, whatever it says, has the id of its request."""
        client = await sent(proxy, post(chat(), path="/", headers="X-Request-Id: my-id\r\n"))

        assert (await client.head()).headers["x-request-id"] == "my-id"


class TestContentType:
    async def test_is_what_dmap_read(self, proxy, backend):
        """A JSON body on a form route goes up as JSON, so that nobody can read another model into it."""
        body = b'{"model": "m", "z": "&model=evil&"}'
        kind = "Content-Type: application/x-www-form-urlencoded\r\n"
        await sent(proxy, post(body, "/v1/images/edits", headers=kind))

        assert (await backend.next()).headers["content-type"] == "application/json"


class TestSecrets:
    @pytest.mark.parametrize("end", [b"\x00\r\n", b"\x7f\r\n", b"\n", b"x" * 40_000 + b"\r\n"])
    async def test_a_key_in_a_broken_header(self, proxy, backend, caplog, end):
        """What cannot be read as HTTP is quoted neither in the answer nor in the log: it may hold a key."""
        caplog.set_level("INFO")
        line = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer SECRET"
        client = await sent(proxy, line + end + b"\r\n")

        given = await client.all()

        assert given.startswith(b"HTTP/1.0 400 ") and b"x-request-id: " in given
        assert b"SECRET" not in given
        assert "SECRET" not in caplog.text


class TestTheLine:
    async def test_of_one_that_waited_in_vain(self, serve, backend, caplog):
        """The log line of a request that never got its model tells how long it waited, and why it ended."""
        caplog.set_level("INFO")
        proxy = await serve(backend_options="parallel: 1, wait_s: 0.1")
        await sent(proxy, post(chat()))
        await holding(proxy, 1)
        client = await sent(proxy, post(chat()))

        refused = await client.answer()

        (line,) = [line for line in caplog.messages if "wait_expired" in line]
        assert refused.status == 503
        assert float(line.partition("queue_s=")[2].split()[0]) >= 0.1
        assert 'reason="waited 0.1 s' in line


class TestDown:
    async def test_a_refusal_does_not_grow(self, start):
        """However often a backend that is down is asked for, the refusal says so once, and not where."""
        proxy = await start(
            "backends: {f: {kind: openai, url: 'http://127.0.0.1:1'}}\nmodels: {m: {backend: f}}"
        )
        for _ in range(3):
            client = await sent(proxy, post(chat()))
            given = await client.answer()

        assert given.status == 503
        assert given.error["message"] == "the backend 'f' does not list its models: connection refused"


class TestName:
    CONFIG = (
        "backends: {{b: {{kind: openai, url: '{url}'}}}}\n"
        "models: {{m: {{served_model_name: org/m-2, aliases: [n]}}}}\n"
    )

    @pytest.mark.parametrize("asked", ["m", "n", "b/m"])
    async def test_a_server_may_know_a_model_by_another_name(self, start, backend, asked):
        """Whatever a client calls the model, its server is sent the name that it knows."""
        proxy = await start(self.CONFIG.format(url=backend.url))
        client = await sent(proxy, post(chat(model=asked)))

        assert (await client.answer()).status == 200
        assert json.loads(backend.requests[0].body)["model"] == "org/m-2"
