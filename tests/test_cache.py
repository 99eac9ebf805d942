"""Answers that are kept: for whom, which, and what becomes of requests when Redis or a setting changes."""

import asyncio
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from dmap.access import Client
from dmap.config import parse
from dmap.web.cache import who
from dmap.web.reload import reload
from dmap.wire.hop import granted
from tests.conftest import LONGEST_MS, Proxy
from tests.conftest import config_of as read
from tests.fakes import DONE, END, HERE_S, SSE, FakeBackend, answer, chunk, delta, soon, within
from tests.models import subjects
from tests.process import daemon
from tests.programs import why_not
from tests.redis_server import RedisServer
from tests.test_relay_nodes import view
from tests.test_shared import server as server

LACKS = why_not("redis-server")
pytestmark = pytest.mark.skipif(bool(LACKS), reason=LACKS)
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
MARK = "a-prompt-of-nobody"
ASKED = {"model": "m", "messages": [{"role": "user", "content": MARK}], "temperature": 0, "seed": 7}
ROOT = Path(__file__).parent.parent


def key_of(name: str, more: str = "") -> str:
    """Return a key called *name* whose secret is its name, in YAML."""
    return f"{{name: {name}, sha256: {hashlib.sha256(name.encode()).hexdigest()}{more}}}"


KEYED = f"backends: {{a: {{kind: openai, url: 'http://a'}}}}\naccess: {{keys: [{key_of('anna')}]}}"


def config_of(
    backend: FakeBackend, server: RedisServer, more: str = "", keys: str = "", timeout_ms: int = LONGEST_MS
) -> str:
    access = f"access: {{keys: [{keys}]}}\n" if keys else ""
    return (
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n{access}"
        f"redis: {{url: '{server.url}', timeout_ms: {timeout_ms}}}\ncache: {{max_entry: 128KiB}}\n{more}"
    )


@pytest.fixture
async def proxy(start: Any, backend: FakeBackend, server: RedisServer) -> Proxy:
    """Run a proxy that keeps answers, in front of a backend whose answers are numbered."""
    backend.script = lambda e: e.end(answer(b'{"number": %d}' % len(backend.requests)))
    proxy: Proxy = await start(config_of(backend, server))
    return proxy


class Got(NamedTuple):
    """What a client got."""

    status: int
    headers: Any
    body: bytes

    @property
    def is_hit(self) -> bool:
        return self.headers.get("Dmap-Cache") == "hit"


async def ask(
    proxy: Any, fields: Any = ASKED, path: str = CHAT, key: str = "", address: str = "", **headers: str
) -> Got:
    """Ask once; return the answer, as far as it came."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given |= {"Authorization": f"Bearer {key}"} if key else {}
    own = aiohttp.TCPConnector(local_addr=(address, 0) if address else None)
    async with (
        aiohttp.ClientSession(proxy.url, connector=own) as session,
        session.post(path, json=fields, headers=given) as answered,
    ):
        return Got(answered.status, answered.headers, await answered.read())


async def kept(server: RedisServer, count: int = 1) -> None:
    """Wait until so many answers are kept."""
    await soon(lambda: len(server("KEYS", "dmap:cache:*")) == count, HERE_S)


async def both(proxy: Any, server: RedisServer, *args: Any, **options: Any) -> tuple[Got, Got]:
    """Ask twice the same, the second time when the first answer is kept."""
    first = await ask(proxy, *args, **options)
    await kept(server)
    return first, await ask(proxy, *args, **options)


async def hit(proxy: Any) -> Got:
    """Ask until there is a hit: Redis may not be up yet, or late where its bound is that of the file."""
    async with asyncio.timeout(HERE_S):
        while not (got := await ask(proxy)).is_hit:
            pass
    return got


async def asked(proxy: Any, count: int) -> list[Got]:
    """Ask for so many things, one after the other."""
    return [await ask(proxy, {**ASKED, "seed": seed}) for seed in range(count)]


def ends(proxy: Any) -> list[Any]:
    """Return what was told of the ends of requests."""
    types = ("request.finished", "request.failed", "request.cancelled")
    return [event.fields for event in proxy.proxy.bus.since(0, 999)[0] if event.type in types]


def counted(proxy: Any) -> dict[str, float]:
    """Return the counts of the metric."""
    samples = proxy.proxy.metrics.as_dict().get("dmap_cache_total", [])
    return {sample["result"]: sample["value"] for sample in samples}


def have(proxy: Any, text: str) -> None:
    """Have *proxy* go by another configuration from now on."""
    reload(proxy.proxy, read(text).model_copy(update={"listen": proxy.proxy.config.listen}))


# A hit


async def test_a_hit(proxy, backend, server):
    """Who asks the same again gets the same bytes at once, under an id of its own, and no model is asked."""
    assert counted(proxy) == {"hit": 0, "miss": 0, "away": 0}

    first, second = await both(proxy, server)

    assert (first.status, first.body, first.is_hit) == (200, b'{"number": 1}', False)
    assert (second.status, second.body, second.is_hit) == (200, b'{"number": 1}', True)
    assert second.headers["Content-Type"] == first.headers["Content-Type"]
    assert 0 <= int(second.headers["Age"]) < HERE_S
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(backend.requests) == 1
    await soon(lambda: len(ends(proxy)) == 2, HERE_S)
    miss, hit = ends(proxy)
    assert (miss["cache"], hit["cache"], hit["model"], hit["bytes"]) == ("miss", "hit", "m", 13)
    events = [event.type for event in proxy.proxy.bus.since(0, 999)[0]]
    assert (events.count("request.received"), events.count("request.granted")) == (2, 1)
    assert counted(proxy) == {"hit": 1, "miss": 1, "away": 0}
    waits = proxy.proxy.metrics.as_dict()["dmap_queue_wait_seconds_count"]
    assert [each["value"] for each in waits] == [1]


@pytest.mark.parametrize("path", [EMBEDDINGS, "/v1/completions", "/v1/responses", "/v1/messages"])
async def test_each_route(proxy, server, path):
    """Each route that may has answers of its own."""
    fields = {**ASKED, "input": "a", "prompt": "a", "max_tokens": 5, "store": False}

    first, second = await both(proxy, server, fields, path)

    assert (first.is_hit, second.is_hit, second.body) == (False, True, first.body)


async def test_a_stream(proxy, backend, server):
    """A stream is kept as a stream: its very bytes, without dmap's own comments."""
    backend.script = lambda e: e.end(
        SSE, chunk(delta("hel")), chunk(delta("lo") + DONE[:7]), chunk(DONE[7:]), END
    )
    streamed = {**ASKED, "stream": True}

    first, second = await both(proxy, server, streamed)

    assert first.body == second.body == delta("hel") + delta("lo") + DONE
    assert second.is_hit
    assert second.headers["Content-Type"] == "text/event-stream"
    backend.script = lambda e: e.end(answer(b"{}"))
    assert (await ask(proxy)).body == b"{}"  # never made of the other


@pytest.mark.parametrize(
    ("stream", "pieces"),
    [
        (True, (SSE, chunk(delta("a")), chunk(delta("b")), chunk(DONE), END)),
        (False, (answer(b"x" * 100_000)[:-100_000], b'{"a": "' + b"x" * 99_000, b"x" * 991, b'"}')),
    ],
)
async def test_what_comes_in_pieces(proxy, backend, server, stream, pieces):
    """An answer that comes bit by bit is kept whole."""

    async def write(exchange: Any) -> None:
        for piece in pieces:
            await exchange.write(piece)
            await asyncio.sleep(0.05)
        exchange.done.set()

    backend.script = write

    first, second = await both(proxy, server, {**ASKED, "stream": stream})

    assert (second.is_hit, second.body) == (True, first.body)


async def test_a_stream_after_comments(start, backend, server):
    """What dmap told its client of the wait is no part of what is kept."""
    backend.script = backend.by_hand
    proxy = await start(config_of(backend, server, "server: {heartbeat_s: 0.05}"))
    asking = asyncio.create_task(ask(proxy, {**ASKED, "stream": True}))
    exchange = await backend.next()
    await asyncio.sleep(0.2)
    await exchange.end(SSE, chunk(delta("a") + DONE), END)

    first = await asking
    await kept(server)
    second = await ask(proxy, {**ASKED, "stream": True})

    assert b": dmap: " in first.body
    assert second.body == delta("a") + DONE


@pytest.mark.parametrize("size", [60_000, 70_000, 120_000])
async def test_a_long_answer(proxy, backend, server, size):
    """An answer that is passed on as it comes is kept, too, if it is whole."""
    backend.script = lambda e: e.end(answer(b'{"a": "%b"}' % (b"x" * size)))

    first, second = await both(proxy, server)

    assert (second.is_hit, second.body) == (True, first.body)


async def test_a_client_that_does_not_read(start, backend, server):
    """A hit is given up like any answer when its client does not read, and holds no memory for it."""
    backend.script = lambda e: e.end(answer(b'{"a": "%b"}' % (b"x" * 1_000_000)))
    text = config_of(backend, server).replace("128KiB", "1MiB")
    proxy = await start(text)
    await both(proxy, server)
    have(proxy, f"{text}\nserver: {{client_stall_s: 1}}")
    body = json.dumps(ASKED).encode()
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(proxy.daemon.addresses[0])
    _, client = await asyncio.open_connection(sock=small)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)

    client.write((head + body) * 60)

    await soon(lambda: "client_stalled" in [each["outcome"] for each in ends(proxy)], HERE_S)
    client.transport.abort()


async def test_it_goes_after_its_time(start, backend, server):
    """What is kept goes after `ttl_s`."""
    backend.script = lambda e: e.end(answer(b"{}"))
    proxy = await start(config_of(backend, server).replace("max_entry: 128KiB", "ttl_s: 77"))
    await ask(proxy)
    await kept(server)

    (name,) = server("KEYS", "dmap:cache:*")

    assert 60_000 < server("PTTL", name) <= 77_000


async def test_the_activity_log_says_so(start, backend, server, tmp_path):
    """The log of an owner's requests tells hits from the others."""
    backend.script = lambda e: e.end(answer(b"{}"))
    async with daemon(tmp_path, config_of(backend, server)) as process:
        await hit(process)
        files = tmp_path / "state" / "activity"
        await soon(
            lambda: b'"cache":"hit"' in b"".join(f.read_bytes() for f in files.glob("*.jsonl")), HERE_S
        )


# For whom


async def test_two_keys(start, backend, server):
    """A client never gets what another one was answered."""
    backend.script = lambda e: e.end(answer(b'{"number": %d}' % len(backend.requests)))
    proxy = await start(config_of(backend, server, keys=f"{key_of('anna')}, {key_of('bert')}"))
    await both(proxy, server, key="anna")

    other = await ask(proxy, key="bert")

    assert (other.is_hit, other.body) == (False, b'{"number": 2}')


async def test_two_addresses(proxy, server):
    """Without keys, a client is its address."""
    await both(proxy, server)

    assert not (await ask(proxy, address="127.0.0.2")).is_hit


def test_this_host_of_another_host():
    """Loopback is another client on each host; any other address, and a key, is the same one."""
    keyed = Client("127.0.0.1", key=parse(KEYED, {}).access.keys[0])

    assert who(Client("127.0.0.1"), "", "a") != who(Client("127.0.0.1"), "", "b")
    assert who(Client("::1"), "", "a") != who(Client("::1"), "", "b")
    assert who(Client("10.0.0.5"), "", "a") == who(Client("10.0.0.5"), "", "b")
    assert who(keyed, "", "a") == who(keyed, "", "b")
    assert who(keyed, "", "a") != who(Client("127.0.0.1"), "", "a")


async def test_two_users(proxy, server):
    """Of an app that asks for many people, each has answers of its own."""
    await both(proxy, server, X_OpenWebUI_User_Id="anna")

    assert not (await ask(proxy, X_OpenWebUI_User_Id="bert")).is_hit


async def test_a_user_of_any_bytes(proxy):
    """Whatever bytes a client sends in its headers, it is answered; each of them counts."""
    body = json.dumps(ASKED).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nX-OpenWebUI-User-Id: ".encode()
    client = await proxy.client()

    answers = []
    for user in (b"\xff", b"\xfe"):
        await client.send(head + user + b"\r\n\r\n" + body)
        answers.append(await client.answer())

    assert [each.body for each in answers] == [b'{"number": 1}', b'{"number": 2}']


async def test_who_may_not_gets_nothing(start, backend, server):
    """A key that may no longer use the model, or has asked too much, gets no answer that was kept either."""
    backend.script = lambda e: e.end(answer(b"{}"))
    keys = key_of("anna", ", rate_per_min: 3")
    proxy = await start(config_of(backend, server, keys=keys))
    first, second = await both(proxy, server, key="anna")
    have(proxy, config_of(backend, server, keys=keys.replace("3}", "3, models: [other]}")))

    refused, too_many = await ask(proxy, key="anna"), await ask(proxy, key="anna")

    assert [each.status for each in (first, second, refused, too_many)] == [200, 200, 404, 429]


async def test_what_a_client_wants(proxy, backend, server):
    """`no-cache` asks for a new answer, which is kept; `no-store` for one of which nothing is."""
    await ask(proxy, Cache_Control="no-store")
    await both(proxy, server)
    (name,) = server("KEYS", "dmap:cache:*")
    older = await raw(server, name)
    newer = await ask(proxy, Cache_Control="no-cache")
    await replaced(server, name, older)

    last = await ask(proxy)

    assert (newer.body, last.body, last.is_hit) == (b'{"number": 3}', b'{"number": 3}', True)
    assert not (await ask(proxy, Cache_Control="no-store")).is_hit
    assert [each.get("cache") for each in ends(proxy)][0] is None


# Which


SSE_NO_STORE = SSE.replace(b"\r\n", b"\r\nCache-Control: no-store\r\n", 1)
FAILED = b'{"object": "response", "id": "r", "status": "failed", "error": {"message": "x"}}'
OTHERS = b'data: {"model": "zzz", "choices": []}\n\n'
ABORTED = b'data: {"choices": [{"delta": {}, "finish_reason": "error"}]}\n\n'
NOTHING = [
    ("an error", lambda e: e.end(answer(b'{"error": "x"}', status="500 Oops"))),
    ("an error that says 200", lambda e: e.end(answer(b'{"error": {"message": "x"}}'))),
    ("too long", lambda e: e.end(answer(b'{"a": "%b"}' % (b"x" * 140_000)))),
    ("no JSON", lambda e: e.end(answer(b"hello", kind="text/plain"))),
    ("half of it", lambda e: e.end(answer(b'{"a": '))),
    ("an error in an answer", lambda e: e.end(answer(FAILED))),
    ("given up", lambda e: e.end(answer(b'{"choices": [{"finish_reason": "abort"}]}'))),
    ("another model's", lambda e: e.end(answer(b'{"model": "zzz", "choices": []}'))),
]
NO_STREAM = [
    ("no end mark", lambda e: e.end(SSE, chunk(delta("a")), END)),
    ("an error inside", lambda e: e.end(SSE, chunk(delta("a") + b'data: {"error": "x"}\n\n' + DONE), END)),
    ("too long", lambda e: e.end(SSE, chunk(delta("a" * 140_000) + DONE), END)),
    ("cut", lambda e: cut(e)),
    ("given up", lambda e: e.end(SSE, chunk(ABORTED + DONE), END)),
    ("another model's", lambda e: e.end(SSE, chunk(OTHERS + DONE), END)),
    ("no-store", lambda e: e.end(SSE_NO_STORE, chunk(delta("a") + DONE), END)),
]


async def cut(exchange: Any) -> None:
    await exchange.write(SSE, chunk(delta("a")))
    await asyncio.sleep(0.05)
    exchange.cut()


async def outcome(proxy: Any, fields: Any) -> None:
    """Ask, whatever comes of it."""
    await asyncio.gather(ask(proxy, fields), return_exceptions=True)


@pytest.mark.parametrize(
    ("stream", "script"), [(False, s) for _, s in NOTHING] + [(True, s) for _, s in NO_STREAM]
)
async def test_what_is_not_kept(proxy, backend, server, stream, script):
    """Nothing is kept of an error, of what is not whole, and of what is too long; its memory is free."""
    backend.script = script
    await outcome(proxy, {**ASKED, "stream": stream})
    backend.script = lambda e: e.end(answer(b"{}"))
    await ask(proxy, {**ASKED, "seed": 8})
    await kept(server)

    backend.script = script
    await outcome(proxy, {**ASKED, "stream": stream})

    assert len(backend.requests) == 3
    await soon(lambda: proxy.proxy.cache._room.bytes == 0, HERE_S)


async def test_a_server_that_wants_nothing_kept(proxy, backend, server):
    """`no-store` of a server counts."""
    whole = answer(b"{}").replace(b"\r\n", b"\r\nCache-Control: no-store\r\n", 1)
    backend.script = lambda e: e.end(whole)
    await ask(proxy)
    backend.script = lambda e: e.end(answer(b"{}"))
    await ask(proxy, {**ASKED, "seed": 8})
    await kept(server)

    assert not (await ask(proxy)).is_hit


async def test_what_another_cache_had(proxy, backend, server):
    """An answer that has an `Age` is not kept for longer than it was, and only our own hits are called so."""
    old = answer(b"{}").replace(b"\r\n", b"\r\nAge: 300\r\nDmap-Cache: hit\r\n", 1)
    backend.script = lambda e: e.end(old)
    first = await ask(proxy)
    backend.script = lambda e: e.end(answer(b"{}"))
    await ask(proxy, {**ASKED, "seed": 8})
    await kept(server)
    again = await ask(proxy)

    assert (first.is_hit, first.headers["Age"]) == (False, "300")
    assert not again.is_hit


async def test_a_client_that_left(proxy, backend, server):
    """Nothing is kept of an answer whose client has left, and its memory is free."""
    backend.script = backend.by_hand
    asking = asyncio.create_task(ask(proxy, {**ASKED, "stream": True}))
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("a")))
    await soon(lambda: proxy.proxy.cache._room.bytes > 0, HERE_S)

    asking.cancel()

    await soon(lambda: proxy.proxy.cache._room.bytes == 0, HERE_S)
    await soon(lambda: [each["cache"] for each in ends(proxy)] == ["miss"], HERE_S)
    assert server("KEYS", "dmap:cache:*") == []


async def test_what_may_not_is_not_looked_for(proxy, server):
    """A request that leaves something to chance costs nothing and leaves nothing."""
    await ask(proxy, {**ASKED, "temperature": 1})
    await ask(proxy, {**ASKED, "temperature": 1})

    assert counted(proxy) == {"hit": 0, "miss": 0, "away": 0}
    assert server("KEYS", "dmap:cache:*") == []


async def test_a_shorter_time(proxy, backend, server):
    """With a shorter `ttl_s` than it was kept with, an answer that is older than that is nobody's."""
    await both(proxy, server)
    (name,) = server("KEYS", "dmap:cache:*")
    server("PEXPIRE", name, "500000")

    still = await ask(proxy)
    have(proxy, config_of(backend, server).replace("max_entry: 128KiB", "ttl_s: 60"))

    assert (still.is_hit, (await ask(proxy)).is_hit) == (True, False)


# Under other settings


@pytest.mark.parametrize(
    "models",
    [
        "{backend: fake, defaults: {top_p: 0.5}}",
        "{backend: fake, force: {top_p: 0.5}}",
        "{backend: fake, strip: [user]}",
        "{backend: fake, served_model_name: n}",
        "{backend: fake, load: {context_length: 7777}}",
    ],
)
async def test_other_settings(proxy, backend, server, models):
    """What was answered under other settings is nobody's answer, until they are as they were."""
    await both(proxy, server)
    have(proxy, config_of(backend, server, f"models: {{m: {models}}}"))

    other = await ask(proxy)
    have(proxy, config_of(backend, server))
    again = await ask(proxy)

    assert (other.is_hit, other.body) == (False, b'{"number": 2}')
    assert (again.is_hit, again.body) == (True, b'{"number": 1}')


async def test_settings_that_change_meanwhile(start, backend, server):
    """An answer is not kept if something was set while its request waited."""
    backend.script = backend.by_hand
    text = config_of(backend, server).replace("kind: openai,", "kind: openai, parallel: 1,")
    proxy = await start(text)
    first = asyncio.create_task(ask(proxy, {**ASKED, "seed": 1}))
    under_way = await backend.next()
    second = asyncio.create_task(ask(proxy, {**ASKED, "seed": 2}))
    await soon(lambda: proxy.proxy.gates["backend fake"].snapshot().waiting == 1, HERE_S)
    have(proxy, text + "models: {m: {backend: fake, defaults: {top_p: 0.5}}}")

    await under_way.end(answer(b"{}"))
    await (await backend.next()).end(answer(b"{}"))
    await asyncio.gather(first, second)

    await kept(server)  # the first one, which had its model before


async def test_another_name_of_a_model(start, backend, server):
    """All names of a model have its answers, a variant with parameters of its own has not."""
    backend.script = lambda e: e.end(answer(b"{}"))
    models = "models: {m: {backend: fake, aliases: [n]}, v: {of: m, defaults: {top_p: 0.5}}}"
    proxy = await start(config_of(backend, server, models))
    await ask(proxy)
    await kept(server)

    assert (await ask(proxy, {**ASKED, "model": "n"})).is_hit
    assert not (await ask(proxy, {**ASKED, "model": "v"})).is_hit


async def test_off_and_on(proxy, backend, server):
    """A reload switches it off and on."""
    await both(proxy, server)
    have(proxy, config_of(backend, server).replace("cache:", "debug: {} #"))

    off = await ask(proxy)
    have(proxy, config_of(backend, server))

    assert (off.is_hit, (await ask(proxy)).is_hit) == (False, True)


def test_off_imports_nothing(tmp_path):
    """Where nothing is kept, nothing of it is imported, and there is no metric."""
    program = """
import asyncio, sys
from dmap.config import parse
from dmap.daemon import listening

async def main():
    config = parse("listen: {port: 0}\\nbackends: {a: {kind: openai, url: 'http://127.0.0.1:9'}}", {})
    async with listening(config) as daemon:
        assert "dmap_cache_total" not in daemon.proxy.metrics.as_dict()

asyncio.run(main())
parts = ("dmap.web.cache", "dmap.relay.copy", "dmap.wire.kept", "dmap.shared.answers", "redis")
sys.exit(" ".join(part for part in parts if part in sys.modules) or 0)
"""
    environment = {"STATE_DIRECTORY": str(tmp_path), "PATH": "/usr/bin:/bin"}

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)

    assert ended.returncode == 0, ended.stderr


# Redis


async def test_no_prompt_is_kept(proxy, server, tmp_path):
    """Nothing of a request is in Redis, in whatever form."""
    server("CONFIG", "SET", "rdbcompression", "no")
    await both(proxy, server)
    await ask(proxy, {"model": "m", "input": MARK}, EMBEDDINGS)
    await kept(server, 2)
    await asyncio.sleep(0.3)  # the events of all dmaps go there, too

    server("SAVE")

    (file,) = tmp_path.glob("*.rdb")
    data = file.read_bytes()
    assert b'{"number": 1}' in data
    assert MARK.encode() not in data


async def test_rubbish(proxy, backend, server):
    """What somebody else has put under the name of an answer is as none, and is replaced."""
    await ask(proxy)
    await kept(server)
    (name,) = server("KEYS", "dmap:cache:*")
    value = await raw(server, name)
    wrong = [b"", b"x" * 16, value[:-1], value + b"x", b"\x00" * 200_000, value.replace(b"json", b"jsom")]

    answers = []
    for each in wrong:
        server("SET", name, each, "PX", 600_000)
        answers.append(await ask(proxy))
        await soon(lambda: server("STRLEN", name) == len(value), HERE_S)

    assert [each.status for each in answers] == [200] * len(wrong)
    assert [each.is_hit for each in answers] == [False] * len(wrong)
    server("DEL", name)
    server("RPUSH", name, "x")
    assert (await ask(proxy)).status == 200
    assert proxy.proxy.shared.is_up


async def raw(server: RedisServer, name: str) -> bytes:
    """Return the bytes under *name*."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {name}\r\n".encode())
    size = int((await reader.readline())[1:])
    data = await reader.readexactly(size)
    writer.close()
    return data


async def replaced(server: RedisServer, name: str, older: bytes) -> None:
    """Wait until something else than *older* is under *name*."""
    async with asyncio.timeout(HERE_S):
        while await raw(server, name) == older:
            pass


async def test_what_never_ends_is_not_believed(proxy, server):
    """What was made to stay for ever is as none: its age is not known."""
    await both(proxy, server)
    (name,) = server("KEYS", "dmap:cache:*")
    server("PERSIST", name)

    assert not (await ask(proxy)).is_hit


@pytest.mark.parametrize("how", ["kill", "stop", "fill"])
async def test_redis_goes_away(start, backend, server, how):
    """With Redis killed, hung or full no request fails, and a few of them wait for its bound, not all."""
    backend.script = lambda e: e.end(answer(b"{}"))
    proxy = await start(config_of(backend, server, timeout_ms=500))
    await hit(proxy)
    gone = getattr(server, how)()
    await (gone or asyncio.sleep(0))

    answers = await within(6, asked(proxy, 20))

    assert {each.status for each in answers} == {200}


async def test_away_is_counted(proxy, server):
    """While Redis is away, requests are answered at once and counted so."""
    await server.kill()
    await soon(lambda: not proxy.proxy.shared.is_up, HERE_S)

    answered = await ask(proxy)

    assert (answered.status, answered.is_hit) == (200, False)
    await soon(lambda: counted(proxy) == {"hit": 0, "miss": 0, "away": 1}, HERE_S)


async def test_the_rights_of_the_page_are_enough(start, backend, server):
    """The user that docs/redis.md makes may do all that this takes."""
    rights = re.search(r"`(ACL SETUSER dmap on >PASSWORD [^`]*)`", (ROOT / "docs/redis.md").read_text())
    assert rights is not None
    server(*rights[1].split())
    backend.script = lambda e: e.end(answer(b"{}"))
    text = config_of(backend, server).replace("redis://", "redis://dmap:PASSWORD@")
    proxy = await start(text)

    first, second = await both(proxy, server)

    assert (first.is_hit, second.is_hit) == (False, True)


# Several boxes


def node_of(backend: FakeBackend, models: str = "{}") -> str:
    """Return the configuration of a node with one place; it keeps nothing."""
    keys = key_of("fronts", ", scopes: [front]")
    fake = f"{{kind: openai, url: '{backend.url}', parallel: 1}}"
    return f"access: {{keys: [{keys}]}}\nbackends: {{fake: {fake}}}\nmodels: {models}"


@pytest.fixture
async def node(start: Any, backend: FakeBackend) -> Proxy:
    """Run a node whose server numbers its answers."""
    backend.script = lambda e: e.end(answer(b'{"number": %d}' % len(backend.requests)))
    proxy: Proxy = await start(node_of(backend))
    return proxy


def front_of(node: Any, server: RedisServer) -> str:
    nodes = f"nodes: {{box1: {{url: '{node.url}', api_key: fronts}}}}"
    return f"{nodes}\nredis: {{url: '{server.url}', timeout_ms: {LONGEST_MS}}}\ncache: {{}}"


async def test_a_front_keeps(start, node, backend, server):
    """A front keeps the answers of its nodes, and asks none for a hit; another front has them, too."""
    front, other = await start(front_of(node, server)), await start(front_of(node, server))

    first, second = await both(front, server)
    third = await ask(other)

    assert (first.is_hit, second.is_hit, third.is_hit) == (False, True, True)
    assert (second.body, len(backend.requests)) == (first.body, 1)
    routed = front.proxy.metrics.as_dict()["dmap_routed_total"]
    assert sum(each["value"] for each in routed) == 1


async def test_settings_of_a_node(start, node, backend, server):
    """A front knows from a node when answers may come out otherwise there."""
    front = await start(front_of(node, server))
    await both(front, server)
    told = front.proxy.backends["box1"].made_of("m")
    have(node, node_of(backend, "{m: {backend: fake, defaults: {top_p: 0.5}}}"))
    await soon(lambda: front.proxy.backends["box1"].made_of("m") != told, HERE_S)

    other = await ask(front)
    have(node, node_of(backend))
    await soon(lambda: front.proxy.backends["box1"].made_of("m") == told, HERE_S)

    assert (other.is_hit, (await ask(front)).is_hit) == (False, True)


async def test_settings_of_a_node_that_change_meanwhile(start, node, backend, server):
    """An answer is not kept if the node had it made with other settings than its last view told."""
    front = await start(front_of(node, server))
    backend.script = backend.by_hand
    first = asyncio.create_task(ask(front, {**ASKED, "seed": 1}))
    under_way = await backend.next()
    second = asyncio.create_task(ask(front, {**ASKED, "seed": 2}))
    await soon(lambda: node.proxy.gates["backend fake"].snapshot().waiting == 1, HERE_S)
    have(node, node_of(backend, "{m: {backend: fake, defaults: {top_p: 0.5}}}"))

    await under_way.end(answer(b"{}"))
    await (await backend.next()).end(answer(b"{}"))
    await asyncio.gather(first, second)

    await kept(server)


async def test_what_a_node_leaves_to_chance(start, node, backend, server):
    """A front keeps nothing that its node makes with a temperature of its own."""
    have(node, node_of(backend, "{m: {backend: fake, force: {temperature: 0.7}}}"))
    front = await start(front_of(node, server))
    await ask(front)
    await ask(front, {"model": "m", "input": "a"}, EMBEDDINGS)

    await kept(server)

    assert not (await ask(front)).is_hit


@pytest.mark.parametrize(
    "stream",
    [SSE_NO_STORE + chunk(delta("a") + DONE) + END, SSE + chunk(OTHERS + DONE) + END],
    ids=["no-store", "another model's"],
)
async def test_what_a_node_wants_nothing_kept_of(start, node, backend, server, stream):
    """What is not kept of a server's answer is not kept behind a node either."""
    front = await start(front_of(node, server))
    backend.script = lambda e: e.end(stream)
    first = await ask(front, {**ASKED, "stream": True})
    backend.script = lambda e: e.end(answer(b"{}"))
    await ask(front, {"model": "m", "input": "a"}, EMBEDDINGS)

    await kept(server)

    assert DONE in first.body
    assert "no-store" in first.headers["Cache-Control"]


async def test_a_second_grant(start, backend, server):
    """Where a node grants a request again, after its server was gone, it is the last grant that counts."""
    model = {"id": "m", "at": [["gpu0", "m", 1.0]], "made_with": "a"}
    backend.listing, backend.script = view(models=[model]), backend.by_hand
    front = await start(front_of(backend, server))
    await soon(lambda: front.proxy.backends["box1"].made_of("m") == "a", HERE_S)
    grants = [(granted("gpu0", "a"), granted("gpu0", "b")), (granted("gpu0", "b"), granted("gpu0", "a"))]
    for seed, said in enumerate(grants):
        asking = asyncio.create_task(ask(front, {**ASKED, "seed": seed}))
        await (await backend.next()).end(*said, answer(b"{}"))
        await asking

    await kept(server)
    backend.script = lambda e: e.end(answer(b"{}"))

    assert [(await ask(front, {**ASKED, "seed": seed})).is_hit for seed in (0, 1)] == [False, True]


async def test_a_node_keeps_nothing_for_a_front(start, backend, server):
    """Of what a front asks for others, only the front keeps the answer: it knows who asks."""
    backend.script = lambda e: e.end(answer(b"{}"))
    keys = f"{key_of('fronts', ', scopes: [front]')}, {key_of('anna')}"
    node = await start(config_of(backend, server, keys=keys))
    front = await start(front_of(node, server).replace("cache: {}", ""))
    await ask(front)
    await ask(front)
    await ask(node, key="anna")

    await kept(server)

    assert len(backend.requests) == 3


async def test_copies(start, backend, server):
    """The copies of a model are one model: the answer of one stands for all."""
    backend.script = lambda e: e.end(answer(b"{}"))
    copy = f"{{kind: openai, url: '{backend.url}'}}"
    text = config_of(backend, server).replace("backends: {", f"backends: {{other: {copy}, ")
    proxy = await start(text)
    await ask(proxy)
    await kept(server)

    answers = [await ask(proxy) for _ in range(4)]

    assert [each.is_hit for each in answers] == [True] * 4


# Real engines


async def test_a_hit_loads_nothing(start, models, server):
    """A hit needs no model in memory, and brings none there."""
    engine = f"{{kind: gguf, path: {models}, device: gpu0, parallel: 1, context_length: 256, threads: 1}}"
    proxy = await start(
        f"devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 0.1}}}}\n"
        f"backends: {{engine: {engine}}}\n"
        f"redis: {{url: '{server.url}', timeout_ms: {LONGEST_MS}}}\ncache: {{}}"
    )
    asked = [
        (CHAT, {**ASKED, "model": "tiny-sea", "max_tokens": 5}),
        (CHAT, {**ASKED, "model": "tiny-kitchen", "max_tokens": 5, "stream": True}),
        (EMBEDDINGS, {"model": "tiny-embed", "input": "the sea"}),
    ]
    first = [await ask(proxy, fields, path) for path, fields in asked]
    await kept(server, len(asked))

    second = [await ask(proxy, fields, path) for path, fields in asked]

    assert [each.status for each in first] == [200, 200, 200]
    assert [each.is_hit for each in first + second] == [False] * 3 + [True] * 3
    assert [each.body for each in second] == [each.body for each in first]
    assert json.loads(second[2].body)["data"][0]["embedding"]
    assert "tiny-sea" not in {each.model for each in proxy.proxy.residents()}


async def test_a_file_that_is_replaced(start, models, server, tmp_path):
    """The next request sees that a file is another one, though nobody has looked into the folder since."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(models / "tiny-sea.gguf", folder / "tiny.gguf")
    engine = f"{{kind: gguf, path: {folder}, device: gpu0, parallel: 1, context_length: 256, threads: 1}}"
    proxy = await start(
        f"devices: {{gpu0: {{}}}}\nbackends: {{engine: {engine}}}\n"
        f"redis: {{url: '{server.url}', timeout_ms: {LONGEST_MS}}}\ncache: {{}}"
    )
    asked = {**ASKED, "model": "tiny", "max_tokens": 5}
    first = await ask(proxy, asked)
    await kept(server)
    assert (await ask(proxy, {"model": "tiny"}, "/admin/models/unload")).status == 200

    shutil.copy(models / "tiny-kitchen.gguf", tmp_path / "new.gguf")
    os.replace(tmp_path / "new.gguf", folder / "tiny.gguf")
    second = await ask(proxy, asked)

    assert [(each.status, each.is_hit) for each in (first, second)] == [(200, False)] * 2
    said = [json.loads(each.body)["choices"][0]["message"]["content"] for each in (first, second)]
    assert [subjects(text) for text in said] == [{"sea"}, {"kitchen"}]


async def test_another_file(start, models, tmp_path):
    """What a model is made of changes with its file; what is loaded stays what it was."""
    folder = tmp_path / "models"
    folder.mkdir()
    file = folder / "tiny-embed.gguf"
    shutil.copy(models / file.name, file)
    engine = f"{{kind: gguf, path: {folder}, device: gpu0, parallel: 1, context_length: 256, threads: 1}}"
    proxy = await start(f"devices: {{gpu0: {{}}}}\nbackends: {{engine: {engine}}}")
    backend = proxy.proxy.backends["engine"]
    assert (await ask(proxy, {"model": "tiny-embed", "input": "a"}, EMBEDDINGS)).status == 200
    before = backend.made_of("tiny-embed")

    os.utime(file, (1, 1))
    await backend.models()
    loaded = backend.made_of("tiny-embed")
    await backend.unload("tiny-embed")

    assert (loaded, before in (None, backend.made_of("tiny-embed"))) == (before, False)
