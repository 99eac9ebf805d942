"""What nobody can make the relay do: hold more than its buffers, or a model for longer than its bounds."""

import asyncio

import pytest

from dmap.relay import Exchange, Reply
from dmap.relay.connection import BackendConnection
from tests.fakes import (
    DONE,
    END,
    HERE_S,
    SSE,
    answer,
    chat,
    chunk,
    delta,
    held,
    holding,
    narrow,
    post,
    served,
    soon,
    told,
)

KIB = 1024
PIECE = delta("x" * 4000)
JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
READ = 256 * KIB
"""What one read of the loop brings at most: dmap learns that it has enough when it has it."""


@pytest.fixture
async def serve(start, backend, caplog):
    async with served(start, backend, caplog) as serve:
        yield serve


@pytest.fixture
async def behind():
    """Run coroutines behind the test, until its end."""
    tasks = []
    yield lambda work: tasks.append(asyncio.ensure_future(work))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def ask(proxy, backend, request=None, connect=None):
    """Send *request*; return the client and what the backend got."""
    client = await (connect(proxy) if connect else proxy.client())
    await client.send(request or post(chat()))
    return client, await backend.next()


async def pouring(proxy, backend, behind, request=None, head=SSE):
    """Pour into a client that does not read; return both ends."""
    client, exchange = await ask(proxy, backend, request, narrow)
    exchange.squeeze()
    await exchange.write(head)
    behind(exchange.pour(chunk(PIECE), 10_000))
    return client, exchange


async def jammed(proxy, backend, behind, request=None, head=SSE):
    """Do as `pouring` until nothing moves, which may take seconds; return what dmap holds, too."""
    client, exchange = await pouring(proxy, backend, behind, request, head)
    return client, exchange, await held(proxy, backend, exchange)


class TestMemory:
    @pytest.mark.parametrize("request_", [post(chat()), post(chat(), version="1.0")], ids=["1.1", "1.0"])
    async def test_a_stream_to_a_client_that_does_not_read(self, serve, backend, behind, request_):
        """A backend is read only as fast as the client reads."""
        proxy = await serve(server="{buffer: 64KiB}")

        _, _, has = await jammed(proxy, backend, behind, request_)

        assert has < 64 * KIB + READ

    async def test_a_plain_answer_to_a_client_that_does_not_read(self, serve, backend, behind):
        """A large plain answer is bounded like a stream."""
        proxy = await serve(server="{buffer: 64KiB}")
        head = JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

        _, _, has = await jammed(proxy, backend, behind, post(chat(stream=False)), head)

        assert has < 64 * KIB + READ

    async def test_the_bound_is_the_configured_one(self, serve, backend, behind):
        """`server.buffer` is what a stream may hold, give or take one read."""
        proxy = await serve(server="{buffer: 8MiB}")

        _, _, has = await jammed(proxy, backend, behind)

        assert 8192 * KIB - READ < has < 8192 * KIB + READ

    async def test_one_huge_record_to_a_client_that_does_not_read(self, serve, backend, behind):
        """Also within one record, and one chunk of the backend's, the client's pace holds."""
        proxy = await serve(server="{buffer: 64KiB}")
        client, exchange = await ask(proxy, backend, connect=narrow)
        exchange.squeeze()
        await exchange.write(SSE, b"4000000\r\n")

        behind(exchange.pour(b"x" * 4000, 10_000))

        assert await held(proxy, backend, exchange) < 64 * KIB + READ

    async def test_a_slow_reader_gets_every_byte(self, serve, backend):
        """A client that pauses and goes on gets the same bytes as any other."""
        proxy = await serve(server="{buffer: 64KiB}")
        client, exchange = await ask(proxy, backend, connect=narrow)
        sending = asyncio.ensure_future(exchange.pour(chunk(PIECE), 500))
        await exchange.write(SSE)
        await held(proxy, backend, exchange)

        client.resume()
        await sending
        await exchange.end(chunk(DONE), END)

        assert (await client.answer()).body == PIECE * 500 + DONE

    async def test_others_are_not_held_up(self, serve, backend, behind):
        """One client that does not read costs the others nothing."""
        proxy = await serve(server="{buffer: 64KiB}")
        await jammed(proxy, backend, behind)

        client, exchange = await ask(proxy, backend)
        await exchange.end(SSE, chunk(DONE), END)

        assert (await client.answer()).body == DONE

    @pytest.mark.parametrize("stream", [True, False])
    async def test_what_a_request_held(self, serve, backend, uncollected, stream):
        """What a request held is freed at its end, and not some day by the collector."""
        proxy = await serve()
        client, exchange = await ask(proxy, backend, post(chat(stream=stream)))
        await exchange.end(*(SSE, chunk(DONE), END) if stream else (answer(b'{"id": "x"}'),))
        await client.answer()

        client.close()
        await proxy.proxy.visits.gone()
        await asyncio.sleep(0)

        assert uncollected(Exchange, Reply) == []

    async def test_what_a_connection_held(self, serve, backend, uncollected):
        """A connection that ends is freed then, too."""
        proxy = await serve()
        client, exchange = await ask(proxy, backend, post(chat()))
        await exchange.end(answer(b'{"id": "x"}'))
        await client.answer()
        assert len(uncollected(BackendConnection)) == 1

        backend.cut_all()
        del exchange

        await soon(lambda: uncollected(BackendConnection) == [], HERE_S)


class TestStall:
    async def test_a_client_that_never_reads(self, serve, backend, behind):
        """A client that keeps its backend paused for `client_stall_s` loses it, and then is told."""
        proxy = await serve(server="{buffer: 64KiB, client_stall_s: 0.4}")
        client, exchange = await pouring(proxy, backend, behind)

        await exchange.abandoned(HERE_S)
        await holding(proxy, 0)
        client.resume()

        end = (await client.all()).rpartition(b"\n\ndata: ")[2]
        assert b'"code": "client_stalled"' in end
        assert not end.endswith(END)

    async def test_pauses_add_up(self, serve, backend, behind):
        """A client that reads a little now and then does not begin a new allowance each time."""
        proxy = await serve(server="{buffer: 16KiB, client_stall_s: 0.5}")
        client, exchange = await pouring(proxy, backend, behind)
        behind(sip(client))

        await exchange.abandoned(HERE_S)

    async def test_it_holds_its_connection_no_longer_than_that(self, serve, backend):
        """An answer that ended but is not read is cut off in time, without a second answer behind it."""
        proxy = await serve(server="{buffer: 64KiB, client_stall_s: 0.3}")
        client, exchange = await ask(proxy, backend, connect=narrow)
        await exchange.end(SSE, chunk(PIECE * 100 + DONE), END)

        await proxy.proxy.visits.gone()
        client.resume()

        assert (await client.all()).count(b"HTTP/1.1") == 1


async def sip(client):
    """Read a little again and again."""
    while True:
        client.writer.transport.resume_reading()
        await asyncio.sleep(0.05)
        client.writer.transport.pause_reading()
        await asyncio.sleep(0.05)


class TestLeaving:
    @pytest.mark.parametrize(("leave", "within_s"), [("close", 0.1), ("reset", 0.1), ("half_close", 6)])
    async def test_while_its_backend_is_paused(self, serve, backend, behind, leave, within_s):
        """A client that leaves without having read takes its request with it."""
        proxy = await serve(server="{buffer: 64KiB}")
        client, exchange, _ = await jammed(proxy, backend, behind)

        getattr(client, leave)()

        await exchange.abandoned(within_s)
        await proxy.settled()

    @pytest.mark.parametrize("leave", ["close", "reset"])
    async def test_before_it_has_read_the_end(self, serve, backend, leave):
        """A client that leaves while the last bytes of its answer wait leaves nothing behind."""
        proxy = await serve(server="{buffer: 1MiB}")
        client, exchange = await ask(proxy, backend, connect=narrow)
        await exchange.end(SSE, chunk(PIECE * 100 + DONE), END)
        await proxy.settled()

        getattr(client, leave)()

        async with asyncio.timeout(HERE_S):
            await proxy.proxy.visits.gone()


class TestLease:
    async def test_it_ends_with_the_backends_answer(self, serve, backend):
        """The next request goes up when the backend is done, though the first client has not read yet."""
        proxy = await serve(server="{buffer: 1MiB}", backend_options="parallel: 1")
        slow, exchange = await ask(proxy, backend, connect=narrow)
        await exchange.end(SSE, chunk(PIECE * 100 + DONE), END)

        quick, exchange = await ask(proxy, backend)
        await exchange.end(SSE, chunk(DONE), END)

        assert (await quick.answer()).body == DONE
        slow.resume()
        assert (await slow.answer()).body == PIECE * 100 + DONE

    async def test_it_ends_when_its_time_is_over(self, serve, backend, behind):
        """A model that does not come to an end is cut off after `lease_s`, and its client told."""
        proxy = await serve(backend_options="parallel: 1, lease_s: 0.5")
        client, exchange = await ask(proxy, backend)
        await exchange.write(SSE)
        behind(looping(exchange))

        await exchange.abandoned(5)

        end = (await client.all()).rpartition(b"\n\ndata: ")[2]
        assert b'"code": "lease_expired"' in end

    async def test_it_counts_from_the_grant(self, serve, backend):
        """The time in which a backend reads the prompt is time of the lease."""
        proxy = await serve(backend_options="parallel: 1, lease_s: 0.5")
        client, exchange = await ask(proxy, backend)

        given = await client.answer()

        assert (given.status, given.error["code"]) == (504, "lease_expired")
        await exchange.abandoned()

    async def test_it_ends_though_the_client_does_not_read(self, serve, backend, behind):
        """A client that does not read cannot hold a model beyond `lease_s`."""
        server = "{buffer: 64KiB, client_stall_s: 30}"
        proxy = await serve(server=server, backend_options="parallel: 1, lease_s: 0.8")
        await jammed(proxy, backend, behind)

        async with asyncio.timeout(HERE_S):
            await ask(proxy, backend)


async def looping(exchange):
    """Stream for ever."""
    while True:
        await exchange.write(chunk(delta("again")))
        await asyncio.sleep(0.01)


class TestSilence:
    async def test_before_the_first_byte(self, serve, backend):
        """No byte of a body within `first_byte_s` is a 504, and the backend is let go of."""
        proxy = await serve(server="{first_byte_s: 0.2}")
        client, exchange = await ask(proxy, backend)
        await exchange.write(SSE)

        given = await client.answer()

        assert (given.status, given.error["code"]) == (504, "backend_slow")
        await exchange.abandoned()

    async def test_in_a_stream(self, serve, backend):
        """Silence longer than `idle_s` becomes an error event."""
        proxy = await serve(server="{idle_s: 0.2}")
        client, exchange = await ask(proxy, backend)
        await exchange.write(SSE, chunk(delta("a")))
        await client.until(chunk(delta("a")))

        assert told(await client.all())["error"]["code"] == "backend_slow"
        await exchange.abandoned()

    async def test_in_a_small_answer(self, serve, backend):
        """A plain answer that stops before anything of it went down is a 504."""
        proxy = await serve(server="{idle_s: 0.2}")
        client, exchange = await ask(proxy, backend, post(chat(stream=False)))
        await exchange.write(answer(b'{"id": "x"}')[:-1])

        assert (await client.answer()).status == 504

    async def test_in_a_large_answer(self, serve, backend):
        """A plain answer that stops later is cut short of its length."""
        proxy = await serve(server="{idle_s: 0.5}")
        client, exchange = await ask(proxy, backend, post(chat(stream=False)))
        await exchange.write(answer(b"x" * 200_000, kind="audio/mpeg")[:-1])

        await client.head()

        assert len(await client.all()) == 199_999

    async def test_a_slow_reader_is_not_a_silent_backend(self, serve, backend, behind):
        """While a backend is paused for its client it cannot be too slow."""
        proxy = await serve(server="{buffer: 64KiB, idle_s: 0.5, client_stall_s: 30}")
        client, exchange, _ = await jammed(proxy, backend, behind)

        with pytest.raises(TimeoutError):
            await exchange.abandoned(1)

    async def test_no_limit_for_the_whole(self, serve, backend, behind):
        """A stream may take any time as long as it goes on, be it with comments."""
        proxy = await serve(server="{idle_s: 3, first_byte_s: 3, body_s: 3, client_stall_s: 3}")
        client, exchange = await ask(proxy, backend)
        await exchange.write(SSE)

        await pinging(exchange, 33)
        await exchange.end(chunk(DONE), END)

        assert (await client.answer()).body == b":\n\n" * 33 + DONE


async def pinging(exchange, times):
    """Send comments, a tenth of a second apart."""
    for _ in range(times):
        await exchange.write(chunk(b":\n\n"))
        await asyncio.sleep(0.1)


class TestConnect:
    async def test_a_backend_that_is_gone(self, serve, backend):
        """A refused connection is a 503 that may be tried again."""
        proxy = await serve()
        await backend.shut()
        client = await proxy.client()

        await client.send(post(chat()))

        given = await client.answer()
        assert (given.status, given.error["code"]) == (503, "backend_down")
        assert given.head.headers["retry-after"] == "2"

    async def test_a_backend_that_does_not_accept(self, serve, backend):
        """A connection that does not come about within `connect_s` is a 503."""
        proxy = await serve(server="{connect_s: 0.2}")
        await backend.shut()
        backend.stuff()
        client = await proxy.client()

        await client.send(post(chat()))

        given = await client.answer()
        assert given.status == 503
        assert "no connection within 0.2 s" in given.error["message"]


class TestEarlyAnswer:
    async def test_a_backend_that_answers_before_it_has_read_all(self, serve, backend):
        """An early refusal goes down; what is left of the request is not kept for who may never read it."""
        proxy = await serve()
        backend.on_head = refuse_early
        client = await proxy.client()
        await client.send(post({"model": "m", "messages": [{"role": "user", "content": "x" * 8_000_000}]}))

        given = await client.answer()
        backend.requests[0].writer.transport.resume_reading()

        assert given.status == 413
        assert len(await backend.requests[0].reader.read()) < 8_000_000

    async def test_a_client_that_leaves_before_its_request_is_up(self, serve, backend):
        """What a backend has not taken yet of a request is not kept for it when the client is gone."""
        proxy = await serve()
        backend.on_head = read_nothing
        client = await proxy.client()
        await client.send(post({"model": "m", "messages": [{"role": "user", "content": "x" * 8_000_000}]}))
        await soon(lambda: backend.requests, HERE_S)

        client.close()
        await proxy.proxy.visits.gone()
        backend.requests[0].writer.transport.resume_reading()

        assert len(await backend.requests[0].reader.read()) < 8_000_000


async def read_nothing(exchange):
    """Leave the body where it is."""
    exchange.writer.transport.pause_reading()
    await exchange.done.wait()


async def refuse_early(exchange):
    """Answer without reading the body, and keep the connection."""
    exchange.writer.transport.pause_reading()
    await exchange.write(answer(b'{"error": {"message": "too large"}}', status="413 Too Large"))
    await exchange.done.wait()
