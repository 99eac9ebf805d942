"""What takes a Redis's place and is none, or answers nonsense: no request fails, and no password is told."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.fakes import HERE_S, answer, chat, soon
from tests.programs import why_not
from tests.redis_server import redis_server
from tests.slow_line import Line, slow_line

LACKS = why_not("redis-server")
pytestmark = pytest.mark.skipif(bool(LACKS), reason=LACKS)
KEY = "dmap-key"
SHA = hashlib.sha256(KEY.encode()).hexdigest()
PASSWORD = "dmap-password"

LISTED = b"*2\r\n:1\r\n:0\r\n"
SAID = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "OK": b"+OK\r\n",
    "a number": b":5\r\n",
    "nil": b"$-1\r\n",
    "an empty list": b"*0\r\n",
    "a list of nils": b"*2\r\n*-1\r\n$-1\r\n",
    "words for numbers": b"*2\r\n$3\r\nabc\r\n$3\r\ndef\r\n",
    "numbers out of all bounds": b"*2\r\n:99999999999999999999999\r\n:-99999999999999999999999\r\n",
    "no number": b":abc\r\n",
    "bytes": b"\xff\xfe\x00\r\n",
    "no length": b"$x\r\n",
    "a negative length": b"$-7\r\n",
    "a length of its own": b"*-9\r\n",
    "deep": b"*1\r\n" * 5000,
    "much": b"*2000000000\r\n",
    "a long line": b"+" + b"x" * 1_000_000 + b"\r\n",
    "twice": 2 * LISTED,
    "moved": b"-MOVED 3999 10.0.0.5:6381\r\n",
    "cluster down": b"-CLUSTERDOWN The cluster is down\r\n",
    "read only": b"-READONLY You can't write against a read only replica.\r\n",
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "misconf": b"-MISCONF Errors writing to the AOF file\r\n",
    "busy": b"-BUSY Redis is busy running a script\r\n",
    "no auth": b"-NOAUTH Authentication required.\r\n",
    "wrong password": b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    "no permission": b"-NOPERM this user has no permissions to run the 'eval' command\r\n",
    "a bad error": b"-\xff\xfe\r\n",
    "clients": b"-ERR max number of clients reached\r\n",
    "no such command": b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `u`, `%b`, \r\n"
    % PASSWORD.encode(),
}


@dataclass
class Place:
    """A proxy with a Redis, and the line to it; a server in its place says *said* to whatever comes."""

    proxy: Any
    line: Line
    rubbish: int = 0
    said: bytes = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(self.said)
        writer.close()

    def replace(self) -> None:
        """Have the line lead there from now on."""
        self.line.cut()
        self.line.to, self.line.is_cut = self.rubbish, False

    async def ask(self) -> int:
        """Ask for one answer, with a key that has bounds; return the status."""
        async with (
            aiohttp.ClientSession(self.proxy.url) as session,
            session.post(
                "/v1/chat/completions", json=chat(stream=False), headers={"x-api-key": KEY}
            ) as answered,
        ):
            await answered.read()
            return answered.status


@pytest.fixture
async def place(start: Any, backend: Any, tmp_path: Any) -> AsyncGenerator[Place]:
    """Run all of them; nothing has been replaced yet."""
    backend.script = lambda e: e.end(answer(b"{}"))
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(tmp_path))
        redis("ACL", "SETUSER", "u", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        line = await stack.enter_async_context(slow_line(redis.port))
        proxy = await start(
            f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n"
            f"access: {{keys: [{{name: k, sha256: {SHA}, parallel: 99, rate_per_min: 9999}}]}}\n"
            f"redis: {{url: 'redis://u:{PASSWORD}@127.0.0.1:{line.port}/0'}}"
        )
        place = Place(proxy, line)
        server = await asyncio.start_server(place.serve, "127.0.0.1", 0)
        stack.callback(server.close)
        place.rubbish = server.sockets[0].getsockname()[1]
        await soon(lambda: proxy.proxy.shared.is_up, HERE_S)
        yield place
        await proxy.close()


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
async def test_what_is_no_redis(place: Place, caplog: pytest.LogCaptureFixture, said: bytes) -> None:
    """Every request is answered while something else is in its place, and Redis is used when it is back."""
    redis_port, place.said = place.line.to, said
    statuses = [await place.ask()]

    place.replace()
    statuses += [await place.ask() for _ in range(20)]
    await soon(lambda: not place.proxy.proxy.shared.is_up, HERE_S)
    statuses += [await place.ask() for _ in range(5)]
    place.line.cut()
    place.line.to, place.line.is_cut = redis_port, False
    await soon(lambda: place.proxy.proxy.shared.is_up, HERE_S)
    statuses += [await place.ask()]

    assert statuses == [200] * 27
    assert [line for line in caplog.messages if line.startswith("bug")] == []
    assert PASSWORD not in caplog.text
