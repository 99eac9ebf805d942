"""What never reaches the application, or goes wrong behind a refusal: told in shape, no bug in the log."""

import gzip
import logging

import pytest

from tests.fakes import post, served

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def proxy(start, backend, caplog):
    """Run a proxy that has logged no error in the end."""
    caplog.set_level(logging.INFO)
    async with served(start, backend, caplog) as serve:
        yield await serve()


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/debug/stream", "/admin/queue", "/nowhere"])
async def test_an_expectation_that_nobody_knows(proxy, path):
    """Where no body is expected, what aiohttp says to an unknown `Expect` is told in OpenAI's shape."""
    client = await proxy.client()
    lines = "Expect: the best\r\nX-Request-Id: my-id\r\n"
    await client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode())

    given = await client.answer()

    assert (given.status, given.error["code"]) == (417, "invalid_request")
    assert given.head.headers["x-request-id"] == "my-id"
    assert await client.all() == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "packed",
    [b"none of it is packed", gzip.compress(b"{}" * 999)[:50] + b"\xff" * 50],
    ids=["not at all", "not to its end"],
)
async def test_a_refused_body_that_does_not_unpack(proxy, caplog, encoding, packed):
    """What is wrong with a body that nobody wants is one line, and not a traceback for whoever sends it."""
    client = await proxy.client()
    lines = f"Content-Encoding: {encoding}\r\nX-Forwarded-For: 10.0.0.1\r\n"
    head, _, body = post(packed, headers=lines).partition(b"\r\n\r\n")
    await client.send(head + b"\r\n\r\n")

    given = await client.answer()
    await client.send(body)

    assert given.status == 403
    assert await client.all() == b""
    assert [record.exc_info for record in caplog.records if record.exc_info] == []


async def test_a_client_that_leaves_before_its_stream_begins(proxy):
    """A reader of events that is gone before the head is out is no bug."""
    client = await proxy.client()
    client.writer.write(b"GET /debug/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    client.half_close()

    assert await client.all() == b""
    await proxy.proxy.presence.gone()
    assert proxy.proxy.bus.readers == 0
