"""How answers end: whole, broken at any point, as an error, or because the client left."""

import json
import random
import re

import pytest

from tests.fakes import DONE, END, SSE, answer, chat, chunk, delta, holding, post, served, told

LARGE = b'{"object": "list", "data": ["' + b"0123456789" * 20_000 + b'"]}'
JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
BEAT = b": dmap: waiting for the first token\n\n"
WHOLE = SSE + chunk(delta("a")) + chunk(delta("b")) + chunk(DONE) + END
NO_MARK = "the backend ended the stream before its end mark"
CUT = "the backend closed the connection in mid-answer"
UNANSWERED = "the backend closed the connection without an answer"

CHAT = ("/v1/chat/completions", chat())
COMPLETIONS = ("/v1/completions", {"model": "m", "stream": True, "prompt": "Hello"})
RESPONSES = ("/v1/responses", {"model": "m", "stream": True, "input": "Hello"})
MESSAGES = ("/v1/messages", chat(max_tokens=9))
IN_CHAT = (
    b'data: {"error": {"message": "%b", "type": "backend_error", "param": null, "code": "backend_broke"}}\n\n'
)
IN_RESPONSES = (
    b'event: error\ndata: {"type": "error", "code": "backend_broke", "message": "%b", "param": null}\n\n'
)
IN_MESSAGES = b'event: error\ndata: {"type": "error", "error": {"type": "api_error", "message": "%b"}}\n\n'
ROUTES = pytest.mark.parametrize(
    ("route", "form"),
    [(CHAT, IN_CHAT), (COMPLETIONS, IN_CHAT), (RESPONSES, IN_RESPONSES), (MESSAGES, IN_MESSAGES)],
    ids=["chat", "completions", "responses", "messages"],
)
"""Each route's request and how an error looks inside its stream."""

MARKS = pytest.mark.parametrize(
    ("route", "mark"),
    [
        (CHAT, DONE),
        (CHAT, b"data:[DONE]\r\n\r\n"),
        (COMPLETIONS, DONE),
        (RESPONSES, b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n'),
        (RESPONSES, b'event: response.failed\ndata: {"type":"response.failed","response":{}}\n\n'),
        (RESPONSES, b'data: {"type": "response.incomplete","response":{}}\n\n'),
        (MESSAGES, b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
        (MESSAGES, b'data: {"type": "message_stop"}\n\n'),
    ],
)
ANY = b'event: any\ndata: {"type":"any","text":"a"}\n\n'


@pytest.fixture
async def serve(start, backend, caplog):
    async with served(start, backend, caplog) as serve:
        yield serve


@pytest.fixture
async def proxy(serve):
    return await serve()


async def ask(proxy, backend, request=None):
    """Send *request*; return the client and what the backend got."""
    client = await proxy.client()
    await client.send(request or post(chat()))
    return client, await backend.next()


async def begun(proxy, backend):
    """Have the first record of a stream reach a client; return the client and what the backend got."""
    client, exchange = await ask(proxy, backend)
    await exchange.write(SSE, chunk(delta("a")))
    await client.until(chunk(delta("a")))
    return client, exchange


async def relayed(proxy, backend, *pieces, **fields):
    """Return what a client gets of an answer of *pieces*."""
    client, exchange = await ask(proxy, backend, post(chat(**fields)))
    await exchange.end(*pieces)
    return await client.answer()


def outcome(caplog):
    """Return the outcome in the line that the last request left."""
    line = [record.getMessage() for record in caplog.records if record.name == "dmap.requests"][-1]
    return line.rpartition("outcome=")[2]


def joined(chunks):
    """Return what is in *chunks*, of which dmap makes one for each of its reads."""
    return b"".join(re.split(rb"(?:^|\r\n)[0-9a-f]+\r\n", chunks))[:-2]


class TestCut:
    """An answer that breaks off is never taken for a whole one."""

    @pytest.mark.parametrize("how", ["cut", "close"])
    @pytest.mark.parametrize(
        "sent",
        [b"", b"HTTP/1.1 2", SSE[:-2], SSE, SSE + b"2", SSE + b"20\r\n"],
        ids=["nothing", "status", "head", "no-body", "size", "no-data"],
    )
    async def test_before_the_first_byte_of_the_body(self, proxy, backend, sent, how):
        """As long as no byte of a body came, it is a 502 of its own."""
        client, exchange = await ask(proxy, backend)
        await exchange.write(sent)

        getattr(exchange, how)()

        given = await client.answer()
        assert (given.status, given.error["code"]) == (502, "backend_broke")
        assert given.head.headers["x-should-retry"] == "false"

    @pytest.mark.parametrize(
        "rest",
        [b"", b"4", b"4\r\n", b"4\r\ndata", b"4\r\ndata\r"],
        ids=["chunk", "size", "line", "data", "end"],
    )
    async def test_in_a_stream(self, proxy, backend, rest):
        """After the first byte it is an error event, and then a body without an end."""
        client, exchange = await ask(proxy, backend)
        await exchange.write(SSE, chunk(delta("a")) + rest)
        await client.until(delta("a"))

        exchange.close()

        error = (await client.all()).rpartition(b"\n\ndata: ")[2]
        assert CUT.encode() in error
        assert error.endswith(b"}\n\n\r\n")

    @pytest.mark.parametrize("torn", [b'data: {"choices": [{"del', b"proxy error: Failed to read connection"])
    @ROUTES
    async def test_within_a_record(self, proxy, backend, route, form, torn):
        """The error is an event of its own even where the stream stops inside a record or inside a line."""
        client, exchange = await ask(proxy, backend, post(route[1], route[0]))
        await exchange.end(SSE, chunk(ANY), chunk(torn), END)

        end = await client.all()

        assert end.endswith(torn + b"\r\n" + chunk(b"\n\n" + form % NO_MARK.encode()))

    async def test_by_a_reset(self, proxy, backend):
        """A reset in a stream is told like an early end."""
        client, exchange = await begun(proxy, backend)

        exchange.cut()

        assert told(await client.all())["error"]["message"].startswith(CUT)

    async def test_to_an_http_1_0_client(self, proxy, backend):
        """To a client that knows no chunks a broken stream ends in a reset."""
        client, exchange = await ask(proxy, backend, post(chat(), version="1.0"))
        await exchange.write(SSE, chunk(delta("a")))
        await client.until(delta("a"))

        exchange.close()

        with pytest.raises(ConnectionResetError):
            await client.all()

    @pytest.mark.parametrize(
        "framed",
        [
            JSON_HEAD + b"Content-Length: 99\r\n\r\n" + b'{"id": "x"}',
            JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b'{"id": "x"}'),
            JSON_HEAD + b"\r\n" + b'{"id": ',
            JSON_HEAD + b"\r\n",
        ],
        ids=["length", "chunked", "unframed", "empty"],
    )
    async def test_a_small_answer(self, proxy, backend, framed):
        """A plain answer that is not whole, by its framing or by its JSON, is a 502."""
        client, exchange = await ask(proxy, backend, post(chat(stream=False)))
        await exchange.write(framed)

        exchange.close()

        assert (await client.answer()).status == 502

    async def test_a_large_answer_with_a_length(self, proxy, backend):
        """A large plain answer that breaks off is shorter than announced, and its connection closed."""
        client, exchange = await ask(proxy, backend, post(chat(stream=False)))
        await exchange.write(answer(LARGE)[:-1])

        exchange.close()

        head = await client.head()
        assert head.headers["content-length"] == str(len(LARGE))
        assert await client.all() == LARGE[:-1]

    async def test_a_large_answer_without_framing(self, proxy, backend):
        """Large JSON that ends with its connection has to look whole to be passed on as whole."""
        client, exchange = await ask(proxy, backend, post(chat(stream=False)))
        await exchange.write(JSON_HEAD + b"\r\n", LARGE[:-2])

        exchange.close()

        assert (await client.head()).status == 200
        assert not (await client.all()).endswith(END)

    async def test_a_large_answer_in_chunks(self, proxy, backend):
        """A large plain answer of unknown length that breaks off lacks its last chunk."""
        client, exchange = await ask(proxy, backend, post(chat(stream=False)))
        await exchange.write(JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk(LARGE))

        exchange.close()

        assert (await client.head()).status == 200
        assert (await client.all()).endswith(LARGE[-9:] + b"\r\n")

    @pytest.mark.parametrize("seed", range(10))
    async def test_anywhere(self, proxy, backend, seed):
        """Wherever a stream is cut, what the client gets is an error and no whole body."""
        client, exchange = await ask(proxy, backend)
        await exchange.write(WHOLE[: random.Random(seed).randrange(len(WHOLE) - len(END))])

        exchange.close()

        got = await client.until(b'"code": "backend_broke"}')
        assert END not in got.partition(b"\r\n\r\n")[2]

    @pytest.mark.parametrize("at", range(1, len(END)))
    async def test_within_its_last_chunk(self, proxy, backend, at):
        """An end mark without the end of the body is still an answer that broke off."""
        client, exchange = await ask(proxy, backend)
        await exchange.write(WHOLE[:-at])

        exchange.close()

        await client.head()
        assert END not in (end := await client.all())
        assert told(end.rpartition(b"[DONE]")[2])["error"]["message"] == CUT


class TestEndMarks:
    @ROUTES
    async def test_a_stream_without_its_mark(self, proxy, backend, route, form):
        """A clean end of the body without the route's end mark becomes an error in the route's form."""
        client, exchange = await ask(proxy, backend, post(route[1], route[0]))
        await exchange.end(SSE, chunk(ANY), END)

        await client.head()
        first = await client.until(chunk(ANY))
        rest = await client.all()

        assert first == chunk(ANY)
        assert rest == chunk(form % NO_MARK.encode())

    @MARKS
    async def test_a_stream_with_its_mark(self, proxy, backend, route, mark):
        """The route's end mark and a clean end of the body make a whole stream."""
        client, exchange = await ask(proxy, backend, post(route[1], route[0]))
        await exchange.end(SSE, chunk(ANY), chunk(mark), END)

        assert (await client.answer()).body == ANY + mark

    @pytest.mark.parametrize(
        ("route", "end"),
        [
            (CHAT, DONE + b": ping\n\n"),
            (RESPONSES, b'event: response.completed\ndata: {"type":"response.completed"}\n\n' + DONE),
            (MESSAGES, b'event: message_stop\ndata: {"type":"message_stop"}\n\n' + b":\n\n" + DONE),
        ],
        ids=["chat", "responses", "messages"],
    )
    async def test_what_may_follow_a_mark(self, proxy, backend, route, end):
        """A comment, or a `[DONE]` that the route does not need, does not spoil the end before it."""
        client, exchange = await ask(proxy, backend, post(route[1], route[0]))
        await exchange.end(SSE, chunk(ANY), chunk(end), END)

        assert (await client.answer()).body == ANY + end

    async def test_a_mark_inside_a_text_is_none(self, proxy, backend):
        """What a model says cannot end its stream."""
        client, exchange = await ask(proxy, backend)
        text = delta("data: [DONE]\n\n")
        await exchange.end(SSE, chunk(text), END)

        assert told((await client.all()).rpartition(text)[2])["error"]["message"] == NO_MARK

    async def test_a_finish_reason_will_do(self, proxy, backend):
        """A server of `kind: openai` may end a chat without `[DONE]`, but not without a finish_reason."""
        last = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
        usage = b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n'
        given = await relayed(proxy, backend, SSE, chunk(delta("a")), chunk(last), chunk(usage), END)

        assert given.body == delta("a") + last + usage

    async def test_an_empty_stream(self, proxy, backend):
        """A stream that ends without a single byte is a 502, for nothing was sent yet."""
        given = await relayed(proxy, backend, SSE, END)

        assert (given.status, given.error["message"]) == (502, NO_MARK)

    async def test_a_route_without_marks(self, proxy, backend):
        """What streams on other routes ends with its body."""
        client, exchange = await ask(proxy, backend, post({"model": "m", "input": "a"}, "/v1/audio/speech"))
        await exchange.end(SSE, chunk(ANY), END)

        assert (await client.answer()).body == ANY


class TestInBand:
    ERROR = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'

    async def test_as_the_first_record(self, proxy, backend):
        """A stream that begins with an error gets the status it should have had."""
        given = await relayed(proxy, backend, SSE, chunk(self.ERROR), END)

        assert (given.status, given.error["message"]) == (502, "out of memory")

    async def test_later(self, proxy, backend, caplog):
        """An error in mid-stream passes as it is and makes the request a failed one, end mark or not."""
        caplog.set_level("INFO", "dmap.requests")
        client, exchange = await begun(proxy, backend)
        await exchange.end(chunk(self.ERROR), chunk(DONE), END)

        assert joined(await client.until(END)) == self.ERROR + DONE
        await proxy.settled()
        assert outcome(caplog) == "backend_error"

    async def test_without_an_end(self, proxy, backend):
        """After an error that ends a stream the connection is cut, and no other error is told."""
        client, exchange = await begun(proxy, backend)
        await exchange.end(chunk(self.ERROR), END)

        rest = await client.all()
        assert rest == chunk(self.ERROR)

    @pytest.mark.parametrize("at", [1, 8, 30])
    async def test_in_pieces(self, proxy, backend, caplog, at):
        """An error is seen also where a chunk's border cuts it."""
        caplog.set_level("INFO", "dmap.requests")
        client, exchange = await begun(proxy, backend)
        await exchange.end(chunk(self.ERROR[:at]), chunk(self.ERROR[at:] + DONE), END)
        await client.until(END)
        await proxy.settled()

        assert outcome(caplog) == "backend_error"

    @pytest.mark.parametrize(
        "record",
        [b'data: {"response": {"error": null}, "error": null}\n\n', delta('{"error": "said the model"}')],
    )
    async def test_what_only_looks_like_one(self, proxy, backend, caplog, record):
        """A null error, or a model that speaks of errors, is none."""
        caplog.set_level("INFO", "dmap.requests")
        await relayed(proxy, backend, SSE, chunk(record), chunk(DONE), END)
        await proxy.settled()

        assert outcome(caplog) == "success"


class TestNoHTTP:
    @pytest.mark.parametrize(
        "sent",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nName: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"HTTP/1.1 099 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            SSE + b"zz\r\n",
            b"HTTP/1.1 200 OK\r\nName: " + b"x" * 70_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"Name: x\r\n" * 10_000,
            b"HTTP/1.1 200 " + b"x" * 70_000,
            b"HTTP/1.1 102 Processing\r\n\r\n" * 5_000,
        ],
        ids=[
            *(
                "ssh",
                "two-lengths",
                "length-and-chunked",
                "negative",
                "bad-name",
                "nul",
                "upgrade",
                "status-99",
                "bad-chunk",
            ),
            *("giant-header", "many-headers", "giant-reason", "endless-1xx"),
        ],
    )
    async def test_it_is_refused_and_its_connection_cut(self, proxy, backend, sent):
        """An answer that is not HTTP, or whose head has no end, is a 502; the backend is let go of."""
        client, exchange = await ask(proxy, backend)
        await exchange.write(sent)

        given = await client.answer()

        assert (given.status, given.error["code"]) == (502, "backend_broke")
        await exchange.abandoned()

    async def test_within_a_stream(self, proxy, backend):
        """Framing that goes wrong later becomes an error event."""
        client, exchange = await ask(proxy, backend)
        await exchange.write(SSE, chunk(delta("a")), b"zz\r\n")

        end = (await client.all()).rpartition(delta("a"))[2]

        assert "not HTTP" in told(end)["error"]["message"]
        await exchange.abandoned()


class TestErrors:
    async def test_an_error_in_openais_shape_passes_as_it_is(self, proxy, backend):
        """llama-server's own refusal goes down with its status and its very bytes."""
        body = b'{"error":{"code":400,"message":"no messages","type":"invalid_request_error"}}'
        given = await relayed(proxy, backend, answer(body, status="400 Bad Request"))

        assert (given.status, given.body) == (400, body)

    async def test_a_prompt_that_does_not_fit(self, proxy, backend):
        """What llama-server says of a prompt that is too long gets OpenAI's code for it, its numbers kept."""
        text = "request (4219 tokens) exceeds the available context size (1024 tokens)"
        body = {"error": {"code": 400, "message": text, "type": "exceed_context_size_error"}}
        given = await relayed(proxy, backend, answer(json.dumps(body).encode(), status="400 Bad Request"))

        assert (given.status, given.error["code"], given.error["type"], given.error["message"]) == (
            400,
            "context_length_exceeded",
            "invalid_request_error",
            text,
        )

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b'{"error": "Unexpected endpoint or method. (POST /v1/x). Returning 200 anyway"}', 404),
            (b'{"error": "something"}', 502),
            (b'{"error": {"message": "no such model", "code": "model_not_found"}}', 404),
            (b'{"error": {"message": "too long", "type": "invalid_request_error"}}', 400),
            (b'{"error": {"message": "busy", "code": 503}}', 503),
        ],
    )
    @pytest.mark.parametrize("stream", [True, False])
    async def test_an_error_in_a_200_gets_its_status(self, proxy, backend, body, status, stream):
        """A backend that says 200 to an error is corrected."""
        given = await relayed(proxy, backend, answer(body), stream=stream)

        assert given.status == status
        assert given.error["type"] == "backend_error"

    @pytest.mark.parametrize(
        "reply",
        [
            answer(b'{"id": "x", "choices": []}'),
            answer(LARGE),
            answer(b"<html>Welcome</html>", kind="text/html"),
            b"HTTP/1.1 204 No Content\r\n\r\n",
            answer(b""),
        ],
        ids=["json", "large", "html", "204", "empty"],
    )
    async def test_no_stream_where_one_was_asked_for(self, proxy, backend, reply):
        """A plain 200 to `stream: true` is refused: clients would read no event and take it for empty."""
        given = await relayed(proxy, backend, reply)

        assert (given.status, given.error["code"]) == (502, "backend_broke")

    @pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
    async def test_credentials_of_dmaps_own(self, serve, backend, status):
        """A backend that refuses dmap's token says nothing about the client's, and shows nothing of it."""
        proxy = await serve(backend_options="api_key: the-token")
        body = b'{"error": {"message": "Incorrect API key provided: the-token"}}'
        given = await relayed(proxy, backend, answer(body, status=status))

        assert (given.status, given.error["code"]) == (502, "backend_broke")
        assert b"the-token" not in given.head.raw + given.body

    @pytest.mark.parametrize(
        "status", ["301 Moved Permanently", "307 Temporary Redirect", "304 Not Modified"]
    )
    async def test_redirects_are_not_followed(self, proxy, backend, status):
        """A redirect is a mistake in the configuration: it is told, and the client not sent elsewhere."""
        redirect = f"HTTP/1.1 {status}\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n".encode()
        given = await relayed(proxy, backend, redirect)

        assert (given.status, given.error["code"]) == (502, "backend_broke")
        assert "location" not in given.head.headers
        assert len(backend.requests) == 1

    async def test_html_with_a_good_status(self, proxy, backend):
        """A web page is no answer, whatever its status."""
        given = await relayed(proxy, backend, answer(b"<html>Welcome</html>", kind="text/html"))

        assert (given.status, given.error["code"]) == (502, "backend_broke")

    async def test_html(self, proxy, backend):
        """An error page of a proxy in between becomes JSON with its text, at the same status."""
        page = b"<html><body>Bad   Gateway\n</body></html>"
        given = await relayed(proxy, backend, answer(page, status="502 Bad Gateway", kind="text/html"))

        assert given.head.headers["content-type"].startswith("application/json")
        assert (given.status, given.error["message"]) == (502, "<html><body>Bad Gateway </body></html>")

    @pytest.mark.parametrize(
        ("status", "told"),
        [("500 Internal Server Error", 500), ("302 Found", 502), ("401 Unauthorized", 502)],
    )
    async def test_one_that_is_large(self, proxy, backend, status, told):
        """What is too large to be judged whole is judged by its status."""
        client, exchange = await ask(proxy, backend)
        await exchange.write(answer(LARGE, status=status))

        assert (await client.answer()).status == told


class TestAfterAHeartbeat:
    """Once a comment is out, there is no status any more."""

    @pytest.fixture
    async def waiting(self, serve, backend):
        proxy = await serve(server="{heartbeat_s: 0.05, first_byte_s: 2}")
        client, exchange = await ask(proxy, backend)
        await client.until(BEAT + b"\r\n")
        return client, exchange

    @pytest.mark.parametrize(
        ("reply", "message"),
        [
            (answer(b'{"error": {"message": "too long"}}', status="400 Bad Request"), "too long"),
            (answer(b'{"error": "too long"}'), "too long"),
            (answer(b"<html>no</html>", status="502 Bad Gateway", kind="text/html"), "<html>no</html>"),
            (answer(b'{"id": "x"}'), "the backend answered application/json to a request for a stream"),
            (answer(LARGE), "the backend answered application/json to a request for a stream"),
            (SSE + END, NO_MARK),
        ],
        ids=["400", "200-error", "html", "json", "large", "empty"],
    )
    async def test_an_answer_that_is_no_stream(self, waiting, reply, message):
        """An answer that is not 200 or no event stream becomes one error event and a cut."""
        client, exchange = waiting
        await exchange.end(reply)

        end = await client.all()

        assert told(end)["error"]["message"] == message
        assert end.count(b"data: ") == 1
        assert not end.endswith(END)

    async def test_a_large_error(self, waiting):
        """An error page too large to be kept is an error event all the same."""
        client, exchange = waiting
        await exchange.write(answer(LARGE, status="500 Internal Server Error"))

        assert told(await client.all())["error"]["message"] == LARGE[:300].decode()

    async def test_a_cut(self, waiting):
        """A backend that dies while the client hears comments becomes an error event."""
        client, exchange = waiting
        exchange.cut()

        assert told(await client.all())["error"]["message"].startswith(UNANSWERED)

    async def test_no_answer_at_all(self, waiting):
        """`first_byte_s` goes on counting; its end is an error event."""
        client, exchange = waiting

        assert told(await client.all())["error"]["code"] == "backend_slow"
        await exchange.abandoned()

    async def test_an_error_as_the_first_record(self, waiting):
        """The backend's own error event passes as it is."""
        client, exchange = waiting
        await exchange.end(SSE, chunk(TestInBand.ERROR), chunk(DONE), END)

        assert joined(await client.until(END)).endswith(TestInBand.ERROR + DONE)


class TestClientLeaves:
    """A client that is gone takes its request with it: only a cut makes a backend stop generating."""

    LEAVE = pytest.mark.parametrize("leave", ["close", "half_close", "reset"])

    @LEAVE
    async def test_while_the_head_is_awaited(self, proxy, backend, leave):
        """A client that leaves before the answer ends the backend's work."""
        client, exchange = await ask(proxy, backend)

        getattr(client, leave)()

        await exchange.abandoned()
        await proxy.settled()

    @LEAVE
    async def test_in_mid_stream(self, proxy, backend, leave):
        """A client that leaves a stream ends the backend's work."""
        client, exchange = await begun(proxy, backend)

        getattr(client, leave)()

        await exchange.abandoned()
        await proxy.settled()

    @LEAVE
    async def test_in_the_queue(self, serve, backend, leave):
        """A client that leaves the queue is never asked for at the backend."""
        proxy = await serve(backend_options="parallel: 1")
        first, exchange = await ask(proxy, backend)
        second = await proxy.client()
        await second.send(post(chat()))
        await holding(proxy, 2)

        getattr(second, leave)()
        await holding(proxy, 1)
        await exchange.end(SSE, chunk(DONE), END)

        assert (await first.answer()).body == DONE
        assert len(backend.requests) == 1

    @LEAVE
    async def test_between_heartbeats(self, serve, backend, leave):
        """A client that leaves while it hears comments ends the backend's work."""
        proxy = await serve(server="{heartbeat_s: 0.05}")
        client, exchange = await ask(proxy, backend)
        await client.until(BEAT)

        getattr(client, leave)()

        await exchange.abandoned()
        await proxy.settled()

    async def test_while_a_large_answer_is_judged(self, proxy, backend):
        """A client that leaves before a plain answer is whole ends the backend's work."""
        client, exchange = await ask(proxy, backend, post(chat(stream=False)))
        await exchange.write(answer(LARGE)[:1000])

        client.close()

        await exchange.abandoned()
        await proxy.settled()

    async def test_in_the_same_moment_as_the_backend(self, proxy, backend):
        """When both sides leave at once there is nobody to tell, and nothing to complain of."""
        client, exchange = await ask(proxy, backend)

        client.reset()
        exchange.cut()

        await proxy.settled()

    async def test_in_the_same_moment_as_the_answer_ends(self, proxy, backend):
        """A client that leaves with the last byte leaves nothing behind."""
        client, exchange = await begun(proxy, backend)

        client.reset()
        await exchange.end(chunk(DONE), END)

        await proxy.settled()

    async def test_when_it_is_told_of_an_error(self, proxy, backend):
        """A client that is gone when its error is due leaves nothing behind."""
        client, exchange = await begun(proxy, backend)

        client.reset()
        exchange.cut()

        await proxy.settled()
