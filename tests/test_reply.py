"""How long a client may leave its answer unread, all in all, and when its connection is cut."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from multidict import CIMultiDict

from dmap.aiohttp_insides import HttpServer
from dmap.config import Server
from dmap.errors import BackendBroke, ClientStalled
from dmap.record import RequestRecord
from dmap.relay import Reply
from dmap.wire.routes import Dialect
from tests.fakes import HERE_S, narrow_to, soon

MUCH = b"x" * 2**20
"""More than the kernel takes for a narrow client, and less than a client of ours keeps."""


@asynccontextmanager
async def replying(work, **bounds):
    """Have *work* write the reply to a client that does not read yet; yield the client and the server."""
    done = asyncio.get_running_loop().create_future()

    async def answer(request):
        record = RequestRecord("id", request.path, "client", 0.0)
        reply = Reply(request, record, Dialect.CHAT, Server(buffer=65536, **bounds))
        await reply.commit(200, CIMultiDict(), sse=True)
        done.set_result(await work(reply))
        return await reply.end()

    http = HttpServer(answer, lambda request, response: None)
    listener = await asyncio.get_running_loop().create_server(http, "127.0.0.1", 0)
    async with listener, narrow_to(listener.sockets[0].getsockname()) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            yield client, http, done
        finally:
            await http.shutdown(0)


class TestStall:
    async def test_pauses_add_up(self):
        """A client that has used up part of its allowance has only the rest of it for its next pause."""
        loop = asyncio.get_running_loop()
        jammed = asyncio.Event()

        async def work(reply):
            began = loop.time()
            with reply.when_full(jammed.set):
                await reply.write(MUCH)
                await reply.drain()
                await reply.write(MUCH * 8)
            with pytest.raises(ClientStalled):
                await reply.drain()
            return loop.time() - began

        async with replying(work, client_stall_s=5) as (client, _, waited_s):
            await jammed.wait()
            loop.call_later(2.5, client.resume)

            assert await asyncio.wait_for(waited_s, HERE_S) < 7.4


class TestCut:
    async def test_a_client_that_does_not_take_its_error(self):
        """A client that does not read gets a moment to take its error, and then its connection is cut."""

        async def work(reply):
            await reply.write(MUCH)
            await reply.fail(BackendBroke("it is the end"))

        async with replying(work) as (_, http, failed):
            await failed
            before = len(http.connections)
            await soon(lambda: not http.connections, HERE_S)

        assert before == 1
