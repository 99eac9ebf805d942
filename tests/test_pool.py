"""Which connections to a backend are kept, how long, and what becomes of those that are not."""

import asyncio
import socket

import pytest

from dmap.backends import Target
from dmap.errors import BackendBroke, BackendDown, BackendSlow, Internal, ShuttingDown
from dmap.relay import Pool
from dmap.relay.at_node import AtNode
from dmap.relay.connection import STALE_S
from dmap.relay.exchange import HOLD_BYTES, Bounds, Stale
from dmap.relay.pool import MAX_IDLE, MAX_IDLE_S
from tests.fakes import DONE, END, HERE_S, SSE, answer, chunk, delta, soon
from tests.ports import deaf
from tests.test_standstill import stand_still

BOUNDS = Bounds(first_byte_s=30, idle_s=30, lease_s=120)


@pytest.fixture
async def pool():
    pool = Pool(connect_s=HERE_S)
    yield pool
    pool.stop(ShuttingDown("the test is over"))
    await pool.close()


@pytest.fixture
def ask(pool, backend):
    """Send a request; return what dmap and what the backend have of it."""
    backend.script = backend.by_hand

    async def ask(headers=()):
        exchange = await pool.send(target(backend), list(headers), b"{}", BOUNDS)
        return exchange, await backend.next()

    return ask


def target(backend):
    return Target(host="127.0.0.1", port=backend.port, tls=False, path="/v1/chat/completions", headers=())


async def finished(exchange, server, *pieces):
    """Have *server* answer, and wait until *exchange* has ended."""
    await server.end(*(pieces or (answer(b"{}"),)))
    await soon(lambda: exchange.ended, HERE_S)


async def test_a_node_that_takes_no_connection(pool, backend):
    """The request goes elsewhere soon: a node that is gone is out after 3 s only, by its views."""
    node = AtNode("n", True, lambda place: None, lambda: None, lambda queue_s, switch_s: None)
    await backend.shut()

    with deaf(backend.port), pytest.raises(BackendDown, match=r"no connection within 1\.5 s"):
        await pool.send(target(backend), [], b"{}", BOUNDS, node=node)


async def test_who_stood_still_blames_nobody(backend):
    """A connection that was there all the while counts, though the time for it went by."""
    pool = Pool(connect_s=0.2)
    sending = asyncio.create_task(pool.send(target(backend), [], b"{}", BOUNDS))
    await asyncio.sleep(0)

    stand_still(0.5)

    with await sending:
        await soon(lambda: backend.requests, HERE_S)
    await pool.close()


class TestKept:
    async def test_a_connection_serves_again(self, ask, backend):
        """The next request goes out on the connection that is idle."""
        await finished(*await ask())
        await finished(*await ask())

        assert backend.connections == 1

    async def test_the_address_of_a_server_that_ended(self, ask, pool, backend):
        """Nothing is kept of a server whose last connection ended."""
        await finished(*await ask())
        assert list(pool.idle) == [("127.0.0.1", backend.port, False)]

        exchange, server = await ask()
        server.cut()
        await soon(lambda: exchange.ended, 1)

        assert pool.idle == {}

    async def test_a_connection_that_ends_while_idle(self, ask, pool, backend):
        """A server that closes an idle connection is forgotten with it."""
        exchange, server = await ask()
        await finished(exchange, server)

        server.cut()

        await soon(lambda: not pool.idle, 1)

    async def test_not_too_many(self, ask, pool):
        """At most `MAX_IDLE` connections to one server are kept, and the others closed."""
        under_way = [await ask() for _ in range(MAX_IDLE + 1)]

        await asyncio.gather(*(finished(exchange, server) for exchange, server in under_way))

        assert [len(kept) for kept in pool.idle.values()] == [MAX_IDLE]
        await under_way[0][1].abandoned()

    async def test_a_paused_one_reads_again(self, ask, backend):
        """A connection that was paused when its answer ended serves the next one."""
        exchange, server = await ask()
        exchange.pause()
        exchange.resume()
        exchange.sink = lambda data: exchange.pause()
        await finished(exchange, server)

        again, server = await ask()
        await finished(again, server)

        assert (again.status, backend.connections) == (200, 1)

    async def test_a_long_answer_is_acknowledged_seldom(self, ask):
        """From `expect_much` on, the kernel sends no acknowledgement at each read."""
        exchange, _ = await ask()
        kernel = exchange.stream.transport.get_extra_info("socket")
        before = kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)

        exchange.expect_much()

        after = kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)
        assert (before, after) == (1, 0)

    async def test_after_the_end(self, ask, pool):
        """A connection whose answer ends after the pool was closed is closed too."""
        exchange, server = await ask()
        await pool.close()

        await finished(exchange, server)

        await server.abandoned()
        assert pool.idle == {}

    async def test_an_old_one(self, ask, pool, backend):
        """A connection that was idle for longer than servers keep one is not used again."""
        first, server = await ask()
        await finished(first, server)
        pool.idle[("127.0.0.1", backend.port, False)][0].idle_since -= MAX_IDLE_S

        await finished(*await ask())

        assert backend.connections == 2
        await server.abandoned()

    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
    async def test_after_an_answer_without_a_body(self, ask, backend, status):
        """An answer that can have no body ends with its head, and its connection is kept."""
        exchange, server = await ask()
        await finished(exchange, server, f"HTTP/1.1 {status}\r\n\r\n".encode())

        await finished(*await ask())

        assert (exchange.broken, exchange.by_eof, backend.connections) == (None, False, 1)


class TestStale:
    @pytest.fixture
    async def reused(self, ask):
        """A request on a connection that served another one before."""
        await finished(*await ask())
        return await ask()

    async def test_a_connection_that_had_been_closed(self, reused):
        """A reused connection that ends at once had been closed before: the request may be sent again."""
        exchange, server = reused
        exchange.sent_at += HERE_S  # this is at once, however long the machine stands still

        server.cut()

        with pytest.raises(Stale):
            await exchange.first

    async def test_after_a_long_silence(self, reused):
        """A server that had the time to work on a request may have: it is not sent again."""
        exchange, server = reused
        exchange.sent_at -= STALE_S

        server.cut()

        with pytest.raises(BackendBroke):
            await exchange.first

    async def test_after_a_byte(self, reused):
        """A server that began to answer has seen the request."""
        exchange, server = reused
        await server.write(b"\r\n")

        server.close()

        with pytest.raises(BackendBroke):
            await exchange.first

    async def test_a_new_connection(self, ask):
        """A connection that was opened for a request was open when it was written."""
        exchange, server = await ask()

        server.cut()

        with pytest.raises(BackendBroke):
            await exchange.first


class TestAnswer:
    async def test_what_an_interim_answer_says(self, ask):
        """Headers of a 1xx are not those of the answer."""
        exchange, server = await ask()

        await server.end(b"HTTP/1.1 103 Early Hints\r\nContent-Encoding: gzip\r\n\r\n", answer(b"{}"))
        await exchange.first

        assert "Content-Encoding" not in exchange.headers

    async def test_silence_counts_from_the_last_piece(self, ask):
        """Time for which the first byte was waited for is no silence after it."""
        exchange, server = await ask()
        await server.write(SSE, chunk(b"x"))
        await exchange.first
        after = exchange.sent_at + BOUNDS.first_byte_s + BOUNDS.idle_s / 2

        exchange.look(after)
        exchange.look(after + BOUNDS.idle_s - 1)
        before = exchange.broken
        exchange.look(after + BOUNDS.idle_s)

        assert before is None
        assert isinstance(exchange.broken, BackendSlow)

    async def test_what_is_held(self, ask):
        """Nobody takes the body yet: no more of it is read than is held, give or take one read."""
        exchange, server = await ask()
        body = b"x" * HOLD_BYTES

        await server.write(SSE, chunk(body))
        await soon(lambda: exchange.held_bytes == HOLD_BYTES, 1)
        before = exchange.is_paused
        await server.write(chunk(b"x"))
        await soon(lambda: exchange.held_bytes > HOLD_BYTES, 1)

        assert (before, exchange.is_paused) == (False, True)


class TestRequest:
    async def test_a_header_that_cannot_be_encoded(self, pool, backend):
        """A request that cannot be written is not under way, and has opened nothing."""
        with pytest.raises(UnicodeEncodeError):
            await pool.send(target(backend), [("X-Name", "\ud800")], b"{}", BOUNDS)

        assert (list(pool.under_way), backend.connections) == ([], 0)


class TestBugs:
    async def test_in_what_the_body_is_passed_on_to(self, ask, caplog):
        """An exception of dmap's own is logged with its traceback and told as such."""
        exchange, server = await ask()
        exchange.sink = broken

        await server.write(SSE, chunk(delta("a")))

        await soon(lambda: exchange.ended, 1)
        assert isinstance(exchange.broken, Internal)
        assert "ZeroDivisionError" in caplog.text
        await server.abandoned()

    async def test_in_what_the_parser_calls(self, ask, caplog):
        """So is one that goes through the parser, which else would tell it as the backend's fault."""
        exchange, server = await ask()
        exchange.headers = None

        await server.write(SSE, chunk(delta("a")))

        await soon(lambda: exchange.ended, 1)
        assert isinstance(exchange.broken, Internal)
        assert "AttributeError" in caplog.text
        await server.abandoned()

    async def test_after_the_end_of_the_answer(self, ask):
        """What follows a whole answer is no part of it, and ends the connection."""
        exchange, server = await ask()

        await server.write(SSE, chunk(DONE), END + answer(b"{}"))

        await server.abandoned()
        assert (exchange.broken, exchange.held) == (None, [DONE])


def broken(data):
    """Fail, as a bug would."""
    return 1 / 0
