"""What the relay passes on: bytes as they are, a head of its own, and signs of life until there are bytes."""

import asyncio
import gzip
import re

import pytest

from tests.fakes import DONE, END, SSE, answer, chat, chunk, delta, post, served, told

FIVE_MB = b'data: {"choices": [{"delta": {"content": "' + b"x" * 5_000_000 + b'"}}]}\n\n'
LARGE = b'{"object": "list", "data": ["' + b"0123456789" * 20_000 + b'"]}'
JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
LF = delta("a") + delta("b") + DONE
CRLF = LF.replace(b"\n", b"\r\n")
BEAT = b": dmap: waiting for the first token\n\n"


@pytest.fixture
async def serve(start, backend, caplog):
    async with served(start, backend, caplog) as serve:
        yield serve


@pytest.fixture
async def proxy(serve):
    return await serve()


async def ask(proxy, request):
    """Send *request*; return the client."""
    client = await proxy.client()
    await client.send(request)
    return client


async def relayed(proxy, backend, *pieces, **fields):
    """Return what a client gets of an answer of *pieces*."""
    client = await ask(proxy, post(chat(**fields)))
    await (await backend.next()).end(*pieces)
    return await client.answer()


class TestFraming:
    async def test_a_chunk_goes_down_at_once_and_as_it_came(self, proxy, backend):
        """Each piece of a stream goes down as one chunk of its own as soon as it is here."""
        client = await ask(proxy, post(chat()))
        exchange = await backend.next()

        await exchange.write(SSE, chunk(delta("a")))
        await client.head()
        first = await client.until(delta("a") + b"\r\n")
        await exchange.end(chunk(delta("b") + DONE), END)
        rest = await client.until(END)

        assert first == chunk(delta("a"))
        assert rest == chunk(delta("b") + DONE) + END

    async def test_a_small_answer_gets_a_length(self, proxy, backend):
        """A small plain answer goes down with a length, however the backend framed it."""
        head = JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        given = await relayed(proxy, backend, head, chunk(b'{"id": '), chunk(b'"x"}'), END, stream=False)

        assert given.head.headers["content-length"] == "11"
        assert given.body == b'{"id": "x"}'

    async def test_a_large_answer_keeps_its_length(self, proxy, backend):
        """A large plain answer whose length is known is passed on with it."""
        given = await relayed(proxy, backend, answer(LARGE), stream=False)

        assert given.head.headers["content-length"] == str(len(LARGE))
        assert given.body == LARGE

    async def test_a_large_answer_without_length_is_chunked(self, proxy, backend):
        """A large plain answer whose length nobody knows is chunked."""
        head = JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        given = await relayed(proxy, backend, head, chunk(LARGE), END, stream=False)

        assert given.head.headers["transfer-encoding"] == "chunked"
        assert given.body == LARGE

    @pytest.mark.parametrize(
        ("head", "body", "stream"),
        [(SSE_HEAD, LF, True), (JSON_HEAD, b'{"id": "x"}', False), (JSON_HEAD, LARGE, False)],
        ids=["stream", "small", "large"],
    )
    async def test_a_body_may_end_with_its_connection(self, proxy, backend, head, body, stream):
        """An answer without any framing ends where the backend closes, and that well."""
        client = await ask(proxy, post(chat(stream=stream)))
        exchange = await backend.next()
        await exchange.write(head + b"\r\n", body)

        exchange.close()

        assert (await client.answer()).body == body

    async def test_informational_answers_are_skipped(self, proxy, backend):
        """A 1xx before the answer leaves no trace."""
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
        given = await relayed(proxy, backend, b"HTTP/1.1 100 Continue\r\n\r\n", hints, SSE, chunk(DONE), END)

        assert given.status == 200
        assert "link" not in given.head.headers
        assert given.body == DONE

    async def test_trailers_and_chunk_extensions_are_dropped(self, proxy, backend):
        """What a backend says beside the bytes of its chunks does not go down."""
        client = await ask(proxy, post(chat()))
        exchange = await backend.next()

        extended = b"e;name=value\r\n" + DONE + b"\r\n"
        await exchange.end(SSE, extended, b"0\r\nX-Checksum: 7\r\nSet-Cookie: a=b\r\n\r\n")
        await client.head()

        assert await client.until(END) == chunk(DONE) + END

    async def test_trailers_are_no_headers(self, proxy, backend):
        """A small answer, whose head goes down after its end, does not take the trailers for headers."""
        head = JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        trailers = b"0\r\nX-Checksum: 7\r\n\r\n"
        given = await relayed(proxy, backend, head, chunk(b"{}"), trailers, stream=False)

        assert (given.body, "x-checksum" in given.head.headers) == (b"{}", False)

    async def test_no_content_has_no_body(self, proxy, backend):
        """After a 204 the connection is in step: not one byte of a body was written."""
        client = await ask(proxy, post(chat(stream=False)))
        await (await backend.next()).end(b"HTTP/1.1 204 No Content\r\n\r\n")
        first = await client.head()

        await client.send(post(chat(stream=False)))
        await (await backend.next()).end(answer(b"{}"))

        assert (first.status, "transfer-encoding" in first.headers) == (204, False)
        assert (await client.answer()).body == b"{}"

    async def test_an_http_1_0_client_gets_plain_bytes(self, proxy, backend):
        """A client of HTTP/1.0 gets a stream without chunks, and its end is the end of the connection."""
        client = await ask(proxy, post(chat(), version="1.0"))
        await (await backend.next()).end(SSE, chunk(delta("a")), chunk(DONE), END)

        head = await client.head()

        assert "transfer-encoding" not in head.headers
        assert await client.all() == delta("a") + DONE

    async def test_an_http_1_0_client_is_not_kept(self, proxy, backend):
        """Even with keep-alive asked for, a stream to HTTP/1.0 ends with the connection."""
        client = await ask(proxy, post(chat(), version="1.0", headers="Connection: keep-alive\r\n"))
        await (await backend.next()).end(SSE, chunk(DONE), END)

        await client.head()

        assert await client.all() == DONE

    async def test_a_connection_serves_one_request_after_another(self, proxy, backend):
        """A stream that ended well leaves the client's connection usable."""
        client = await ask(proxy, post(chat()))
        await (await backend.next()).end(SSE, chunk(DONE), END)
        first = await client.answer()

        await client.send(post(chat(stream=False)))
        await (await backend.next()).end(answer(b"{}"))

        assert (first.body, (await client.answer()).body) == (DONE, b"{}")


class TestBytes:
    @pytest.mark.parametrize("stream", [LF, CRLF], ids=["lf", "crlf"])
    async def test_every_byte_in_a_chunk_of_its_own(self, proxy, backend, stream):
        """Records may come in pieces of any size, down to one byte."""
        pieces = [chunk(stream[i : i + 1]) for i in range(len(stream))]
        given = await relayed(proxy, backend, SSE, *pieces, END)

        assert given.body == stream

    async def test_every_byte_of_the_connection_by_itself(self, proxy, backend):
        """The backend's own framing may be cut anywhere, also inside the head and inside a chunk's size."""
        client = await ask(proxy, post(chat()))
        exchange = await backend.next()

        await exchange.drip(SSE + chunk(LF) + END)

        assert (await client.answer()).body == LF

    @pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["lf", "crlf"])
    @pytest.mark.parametrize("at", range(1, len(DONE)))
    async def test_an_end_mark_in_two_pieces(self, proxy, backend, at, newline):
        """The end mark is seen wherever a chunk's border cuts it."""
        stream = LF.replace(b"\n", newline)
        border = len(stream) - len(DONE) + at
        given = await relayed(proxy, backend, SSE, chunk(stream[:border]), chunk(stream[border:]), END)

        assert given.body == stream

    async def test_a_record_of_five_megabytes(self, proxy, backend):
        """A record may be far larger than any buffer."""
        given = await relayed(proxy, backend, SSE, chunk(FIVE_MB + DONE), END)

        assert given.body == FIVE_MB + DONE

    async def test_a_large_record_whose_end_is_in_two_pieces(self, proxy, backend):
        """However much of a record was not kept for a look, its end is seen."""
        pieces = chunk(FIVE_MB[:-1]), chunk(FIVE_MB[-1:] + DONE)
        given = await relayed(proxy, backend, SSE, *pieces, END)

        assert given.body == FIVE_MB + DONE

    async def test_all_bytes_there_are(self, proxy, backend):
        """What is no text passes as well."""
        sound = bytes(range(256)) * 1000
        given = await relayed(proxy, backend, answer(sound, kind="audio/mpeg"), stream=False)

        assert given.body == sound
        assert given.head.headers["content-type"] == "audio/mpeg"

    async def test_pings_of_the_backend_are_bytes_like_others(self, proxy, backend):
        """llama-server's comments during prefill go down as they are."""
        given = await relayed(proxy, backend, SSE, chunk(b":\n\n"), chunk(b":\n\n"), chunk(LF), END)

        assert given.body == b":\n\n:\n\n" + LF


class TestEncoded:
    """An answer that comes encoded, though nobody asked for it, passes unscanned."""

    async def test_a_stream(self, proxy, backend):
        """A packed stream needs no end mark that can be seen."""
        packed = gzip.compress(delta("a"))
        head = SSE_HEAD + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        given = await relayed(proxy, backend, head, chunk(packed), END)

        assert given.head.headers["content-encoding"] == "gzip"
        assert given.body == packed

    @pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
    async def test_a_plain_answer(self, proxy, backend, status):
        """A packed answer is not taken for JSON that is cut short."""
        packed = gzip.compress(b'{"error": {"message": "no"}}')
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        framed = f"{head}Content-Length: {len(packed)}\r\n\r\n".encode() + packed
        given = await relayed(proxy, backend, framed, stream=False)

        assert given.head.raw.startswith(f"HTTP/1.1 {status}\r\n".encode())
        assert given.head.headers["content-encoding"] == "gzip"
        assert given.body == packed

    async def test_a_stream_that_is_cut(self, proxy, backend):
        """No words are put into a packed stream: it just breaks off."""
        client = await ask(proxy, post(chat()))
        exchange = await backend.next()
        packed = chunk(gzip.compress(LF)[:-9])
        await exchange.write(
            SSE_HEAD + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", packed
        )

        exchange.close()

        await client.head()
        assert await client.all() == packed

    async def test_after_a_heartbeat(self, serve, backend):
        """A packed stream cannot follow comments that were plain: it becomes an error event."""
        proxy = await serve(server="{heartbeat_s: 0.05}")
        client = await ask(proxy, post(chat()))
        exchange = await backend.next()
        await client.until(BEAT)

        head = SSE_HEAD + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        await exchange.end(head, chunk(gzip.compress(LF)), END)

        assert b"\x1f\x8b" not in (rest := await client.all())
        assert told(rest)["error"]["code"] == "backend_broke"


class TestHeadersUp:
    async def test_the_request_goes_on_with_allowed_headers_only(self, serve, backend):
        """Of a client's headers a few go up; its credentials, cookies and addresses never do."""
        proxy = await serve(backend_options="api_key: the-token")
        mine = (
            "Authorization: Bearer mine\r\nX-Api-Key: mine\r\nCookie: a=b\r\nX-Custom: c\r\nTE: trailers\r\n"
            "Accept-Encoding: gzip\r\nContent-Type: text/plain\r\nConnection: X-Custom\r\n"
            "User-Agent: tester\r\nAccept: */*\r\nTraceparent: 00-ab-cd-01\r\nTracestate: x=y\r\n"
            "Anthropic-Version: 2023-06-01\r\nX-Request-Id: my-id\r\n"
        )
        await ask(proxy, post(chat(), headers=mine))

        exchange = await backend.next()

        assert exchange.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert exchange.headers == {
            "host": f"127.0.0.1:{backend.port}",
            "content-length": str(len(exchange.body)),
            "content-type": "application/json",
            "accept-encoding": "identity",
            "authorization": "Bearer the-token",
            "user-agent": "tester",
            "accept": "*/*",
            "traceparent": "00-ab-cd-01",
            "tracestate": "x=y",
            "anthropic-version": "2023-06-01",
            "x-request-id": "my-id",
        }

    async def test_a_query_is_not_passed_on(self, proxy, backend):
        """The path that goes up comes from the table, without what the client hung on it."""
        await ask(proxy, post(chat(), path="/v1/chat/completions?autoload=true"))

        assert (await backend.next()).path == "/v1/chat/completions"

    async def test_a_header_that_is_no_text(self, proxy, backend):
        """Bytes beyond ASCII in an allowed header go up as they came."""
        request = post(chat(), headers="User-Agent: X\r\n").replace(b"X\r\n", b"caf\xe9\r\n")
        await ask(proxy, request)

        assert b"User-Agent: caf\xe9\r\n" in (await backend.next()).head

    async def test_the_body_is_the_very_bytes(self, proxy, backend):
        """A body that needs no change is not written anew."""
        body = b'{ "stream":true,\n "model" : "m", "messages": [], "x": 1.0e2 }'
        await ask(proxy, post(body))

        assert (await backend.next()).body == body


class TestHeadersDown:
    async def test_headers_about_the_hop_or_the_backend_stay_here(self, serve, backend):
        """Hop-by-hop headers and what a backend says of itself do not go down; the rest does, doubles too."""
        proxy = await serve(backend_options="api_key: the-token")
        theirs = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
            b"Server: llama.cpp\r\nDate: yesterday\r\nX-Powered-By: Express\r\nKeep-Alive: timeout=5\r\n"
            b"Connection: keep-alive, X-Private\r\nX-Private: 1\r\nProxy-Authenticate: Basic\r\n"
            b"Access-Control-Allow-Origin: \r\nSet-Cookie: a=b\r\nWWW-Authenticate: Bearer\r\n"
            b"Upgrade: h2c\r\nX-Request-Id: theirs\r\nX-Model: one\r\nX-Model: two\r\n\r\n{}"
        )
        client = await ask(proxy, post(chat(stream=False), headers="X-Request-Id: my-id\r\n"))
        await (await backend.next()).end(theirs)

        head = await client.head()

        assert sorted(name for name, _ in head.lines) == [
            *("content-length", "content-type", "date", "server", "server-timing"),
            *("x-model", "x-model", "x-request-id"),
        ]
        assert head.headers["server"] == "dmap"
        assert head.headers["date"] != "yesterday"
        assert head.headers["x-request-id"] == "my-id"

    async def test_an_event_stream_is_marked_as_one(self, proxy, backend):
        """Proxies in front are told not to buffer or keep a stream, whatever the backend says of it."""
        head = SSE_HEAD + b"Cache-Control: max-age=9\r\nX-Accel-Buffering: yes\r\nContent-Length: 14\r\n\r\n"
        given = await relayed(proxy, backend, head, DONE)

        assert [value for name, value in given.head.lines if name == "cache-control"] == ["no-cache"]
        assert [value for name, value in given.head.lines if name == "x-accel-buffering"] == ["no"]
        assert given.head.headers["content-type"] == "text/event-stream"
        assert "content-length" not in given.head.headers

    @pytest.mark.parametrize("id", ["", "a b", "x" * 129, "a;b"])
    async def test_an_id_that_is_no_id_is_replaced(self, proxy, backend, id):
        """Each answer has an id; a client's own is kept only when it is a sane one."""
        backend.script = backend.finish
        client = await ask(proxy, post(chat(), headers=f"X-Request-Id: {id}\r\n"))

        given = await client.answer()

        assert re.fullmatch("req_[0-9a-f]{32}", given.head.headers["x-request-id"])
        assert backend.requests[0].headers["x-request-id"] == given.head.headers["x-request-id"]

    @pytest.mark.parametrize("stream", [True, False])
    async def test_where_the_time_went(self, proxy, backend, stream):
        """`Server-Timing` tells queue, switch and first byte in milliseconds."""
        pieces = (SSE, chunk(DONE), END) if stream else (answer(b"{}"),)
        given = await relayed(proxy, backend, *pieces, stream=stream)

        timing = given.head.headers["server-timing"]
        assert re.fullmatch(r"queue;dur=\d+\.\d, switch;dur=\d+\.\d, first_byte;dur=\d+\.\d", timing)


class TestHeartbeats:
    async def test_comments_go_down_while_nothing_comes(self, serve, backend):
        """A waiting stream gets a comment every `heartbeat_s`, and then its answer in the same body."""
        proxy = await serve(server="{heartbeat_s: 0.05}")
        client = await ask(proxy, post(chat()))
        exchange = await backend.next()

        head = await client.head()
        beats = await client.until(chunk(BEAT) * 2)
        await exchange.end(SSE, chunk(LF), END)
        rest = await client.until(END)

        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert (head.headers["cache-control"], head.headers["x-accel-buffering"]) == ("no-cache", "no")
        assert "server-timing" not in head.headers
        assert beats == chunk(BEAT) * 2
        assert rest.endswith(chunk(LF) + END)

    async def test_no_more_comments_than_that(self, serve, backend):
        """Between any two comments `heartbeat_s` goes by."""
        proxy, loop = await serve(server="{heartbeat_s: 0.05}"), asyncio.get_running_loop()
        client = await ask(proxy, post(chat()))
        exchange = await backend.next()
        began = loop.time()

        await client.until(chunk(BEAT) * 6)

        assert loop.time() - began > 0.2
        await exchange.end(SSE, chunk(LF), END)

    async def test_none_after_the_first_byte_of_a_body(self, serve, backend):
        """Once the backend has sent a byte, its silence is its own."""
        proxy = await serve(server="{heartbeat_s: 0.05}")
        client = await ask(proxy, post(chat()))
        exchange = await backend.next()
        await exchange.write(SSE, chunk(b":\n\n"))
        await client.until(b":\n\n\r\n")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.reader.read(1)

    async def test_a_head_alone_does_not_stop_them(self, serve, backend):
        """llama-server sends its head before it reads the prompt; that is no byte of a body."""
        proxy = await serve(server="{heartbeat_s: 0.05}")
        client = await ask(proxy, post(chat()))

        await (await backend.next()).write(SSE)

        assert await client.until(chunk(BEAT) * 2)

    async def test_a_queued_client_hears_its_place(self, serve, backend):
        """Who waits for a lease is told position and estimate."""
        proxy = await serve(server="{heartbeat_s: 0.05}", backend_options="parallel: 1")
        await ask(proxy, post(chat()))
        await backend.next()

        client = await ask(proxy, post(chat()))
        await client.head()

        beat = await client.until(b"\n\n\r\n")
        assert re.search(rb": dmap: position 1 in the queue, about \d+ s to go, p80 \d+ s\n\n", beat)

    @pytest.mark.parametrize(
        ("path", "fields"),
        [("/v1/chat/completions", {"stream": False}), ("/v1/audio/speech", {"input": "Hello"})],
    )
    async def test_only_event_streams_get_them(self, serve, backend, path, fields):
        """A request for anything but an event stream keeps its status until the answer is here."""
        proxy = await serve(server="{heartbeat_s: 0.02, first_byte_s: 0.2}")
        client = await ask(proxy, post(chat(**fields), path=path))
        await backend.next()

        assert (await client.answer()).status == 504

    async def test_an_http_1_0_client_gets_them_too(self, serve, backend):
        """Comments to HTTP/1.0 are not framed."""
        proxy = await serve(server="{heartbeat_s: 0.05}")
        client = await ask(proxy, post(chat(), version="1.0"))
        exchange = await backend.next()
        await client.head()

        beat = await client.until(BEAT)
        await exchange.end(SSE, chunk(DONE), END)

        assert beat == BEAT
        assert (await client.all()).endswith(DONE)


class TestReuse:
    """Connections to the backend are kept, and only those that nothing is left on."""

    @pytest.mark.parametrize(
        "pieces",
        [
            (SSE, chunk(DONE), END),
            (SSE_HEAD + b"Keep-Alive: timeout=5, max=100\r\nContent-Length: 14\r\n\r\n", DONE),
        ],
        ids=["chunked", "length"],
    )
    async def test_a_whole_answer_leaves_its_connection(self, proxy, backend, pieces):
        """The next request goes over the same connection."""
        await relayed(proxy, backend, *pieces)
        await relayed(proxy, backend, *pieces)

        first, second = backend.requests
        assert first.writer is second.writer

    @pytest.mark.parametrize(
        "pieces",
        [
            (SSE_HEAD + b"Connection: close\r\nContent-Length: 14\r\n\r\n", DONE),
            (SSE_HEAD.replace(b"1.1", b"1.0") + b"Content-Length: 14\r\n\r\n", DONE),
            (SSE_HEAD + b"Content-Length: 14\r\n\r\n", DONE + b"and more"),
            (SSE_HEAD + b"Content-Length: 14\r\n\r\n", DONE + answer(b'{"id": "smuggled"}')),
        ],
        ids=["close", "http-1.0", "bytes-left", "answer-left"],
    )
    async def test_a_connection_with_something_on_it_is_closed(self, proxy, backend, pieces):
        """After `Connection: close`, HTTP/1.0 or a byte too many a good answer's connection is not kept."""
        first = await relayed(proxy, backend, *pieces)
        await backend.requests[0].abandoned()
        second = await relayed(proxy, backend, SSE, chunk(DONE), END)

        assert (first.body, second.body) == (DONE, DONE)
        assert backend.requests[0].writer is not backend.requests[1].writer

    async def test_bytes_on_an_idle_connection_end_it(self, proxy, backend):
        """A backend that speaks without being asked is not listened to."""
        await relayed(proxy, backend, SSE, chunk(DONE), END)
        await backend.requests[0].write(answer(b'{"id": "smuggled"}'))
        await backend.requests[0].abandoned()

        given = await relayed(proxy, backend, SSE, chunk(DONE), END)

        assert given.body == DONE

    async def test_a_connection_that_closed_while_idle_is_not_used(self, proxy, backend):
        """A backend that closes an idle connection sees the next request on another one."""
        await relayed(proxy, backend, SSE, chunk(DONE), END)
        backend.requests[0].close()
        await backend.requests[0].abandoned()

        given = await relayed(proxy, backend, SSE, chunk(DONE), END)

        assert given.body == DONE
        assert len(backend.requests) == 2

    @pytest.mark.parametrize("how", ["cut", "close"])
    async def test_a_stale_connection_is_replaced_once(self, proxy, backend, how):
        """A reused connection that ends without a single byte gives the request a fresh one."""
        await relayed(proxy, backend, SSE, chunk(DONE), END)
        client = await ask(proxy, post(chat()))
        getattr(await backend.next(), how)()

        await (await backend.next()).end(SSE, chunk(LF), END)

        assert (await client.answer()).body == LF
        assert backend.requests[1].body == backend.requests[2].body

    async def test_the_replacement_is_fresh(self, proxy, backend):
        """Where one idle connection is stale others may be too: the second try opens one."""
        clients = [await ask(proxy, post(chat())), await ask(proxy, post(chat()))]
        first, second = await backend.next(), await backend.next()
        await first.end(SSE, chunk(DONE), END)
        await second.end(SSE, chunk(DONE), END)
        await proxy.settled()

        await clients[0].send(post(chat()))
        (await backend.next()).cut()

        assert (await backend.next()).writer not in (first.writer, second.writer)

    async def test_a_second_end_is_told(self, proxy, backend):
        """The fresh connection is the last try."""
        await relayed(proxy, backend, SSE, chunk(DONE), END)
        client = await ask(proxy, post(chat()))
        (await backend.next()).cut()

        (await backend.next()).cut()

        assert (await client.answer()).status == 502
        assert len(backend.requests) == 3

    async def test_nothing_is_sent_twice_after_a_byte_came(self, proxy, backend):
        """A single byte of an answer shows that the backend saw the request: it is not repeated."""
        await relayed(proxy, backend, SSE, chunk(DONE), END)
        client = await ask(proxy, post(chat()))
        exchange = await backend.next()
        await exchange.write(b"H")

        exchange.close()

        assert (await client.answer()).error["code"] == "backend_broke"
        assert len(backend.requests) == 2

    @pytest.mark.parametrize("how", ["cut", "close"])
    async def test_nothing_is_sent_twice_on_a_fresh_connection(self, proxy, backend, how):
        """A connection that was opened for the request is its only one."""
        client = await ask(proxy, post(chat()))

        getattr(await backend.next(), how)()

        assert (await client.answer()).error["code"] == "backend_broke"
        assert len(backend.requests) == 1
