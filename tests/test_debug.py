"""What whoever runs dmap may watch: the stream of events, and how it stands."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from dmap.events import Event
from dmap.web.debug import BUFFER_BYTES, READERS, wanted
from tests.conftest import Proxy
from tests.fakes import HERE_S, FakeBackend, RawClient, chat, narrow, post, soon, told
from tests.process import daemon

Watch = Callable[..., Awaitable["Watcher"]]


def get(path: str, **headers: str) -> bytes:
    """A request without a body."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode()


@dataclass
class Watcher:
    """One reader of the stream."""

    client: RawClient
    numbers: list[int] = field(default_factory=list)

    async def place(self) -> int:
        """Read the first record, which has an id only."""
        record = await self.client.until(b"\n\n")
        return int(re.search(rb"\nid: (\d+)\n\n", record)[1])  # type: ignore[index]

    async def next(self) -> dict[str, Any]:
        """Read one event, over heartbeats."""
        record = await self.client.until(b"\n\n")
        while b"data: " not in record:
            record = await self.client.until(b"\n\n")
        self.numbers.append(int(re.search(rb"(?m)^id: (\d+)$", record)[1]))  # type: ignore[index]
        return told(record)

    async def skip(self, count: int) -> None:
        """Read *count* events."""
        for _ in range(count):
            await self.next()

    async def until(self, type: str) -> list[dict[str, Any]]:
        """Read events up to and with the first of *type*."""
        events = [await self.next()]
        while events[-1]["type"] != type:
            events.append(await self.next())
        return events


@pytest.fixture
async def quick(start, backend: FakeBackend) -> AsyncGenerator[Proxy]:
    """Run a proxy that is impatient with its readers."""
    yield await start(
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n"
        "server: {heartbeat_s: 0.1, client_stall_s: 0.3}\ndebug: {ring: 50, capture: true}"
    )


async def watch(proxy: Proxy, query: str = "", **headers: str) -> Watcher:
    """Open the stream, and read its head."""
    client = await proxy.client()
    await client.send(get(f"/debug/stream{query}", **headers))
    assert (await client.head()).status == 200
    return Watcher(client)


async def asked(proxy: Proxy, path: str) -> Any:
    """Return the JSON at *path*."""
    client = await proxy.client()
    await client.send(get(path))
    return json.loads((await client.answer()).body)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    await soon(is_so, HERE_S)


def tell(proxy: Proxy, count: int, size: int = 0) -> None:
    """Let *count* events happen, each with *size* bytes more than it needs."""
    for _ in range(count):
        proxy.proxy.bus.tell("config.refused", {"problems": ["x" * size]})


class TestStream:
    async def test_a_request_is_told_step_by_step(self, proxy: Proxy) -> None:
        """A reader sees a request come, be served and end, under the same id as its client."""
        watcher, client = await watch(proxy), await proxy.client()
        await watcher.place()

        await client.send(post(chat()))
        id = (await client.head()).headers["x-request-id"]

        events = await watcher.until("request.finished")
        assert events[0]["type"] == "request.received"
        assert {event["id"] for event in events} == {id}
        assert watcher.numbers == list(range(1, len(events) + 1))
        assert [event["number"] for event in events] == watcher.numbers

    async def test_only_what_is_new(self, proxy: Proxy) -> None:
        """Who asks for nothing else gets what happens from now on, and where that is."""
        tell(proxy, 3)

        watcher = await watch(proxy)
        assert await watcher.place() == 3
        tell(proxy, 1)

        await watcher.next()
        assert watcher.numbers == [4]

    @pytest.mark.parametrize(
        ("query", "headers", "first"),
        [
            ("?after=0", {}, 1),
            ("?after=2", {}, 3),
            ("", {"Last_Event_ID": "2"}, 3),
            ("?after=0", {"Last_Event_ID": "2"}, 3),
            ("?after=99", {}, 1),
        ],
    )
    async def test_it_goes_on(self, proxy: Proxy, query, headers, first) -> None:
        """A reader goes on where it was; with a number of the process before this one, at the beginning."""
        tell(proxy, 3)

        watcher = await watch(proxy, query, **headers)

        await watcher.skip(4 - first)
        assert watcher.numbers == list(range(first, 4))

    async def test_it_comes_too_late(self, quick: Proxy) -> None:
        """What the ring has forgotten is counted, under an id to go on from."""
        tell(quick, 60)

        watcher = await watch(quick, "?after=4")

        event = await watcher.next()
        assert (event["type"], event["missed"]) == ("debug.missed", 6)
        await watcher.skip(50)
        assert watcher.numbers == list(range(10, 61))

    async def test_a_filter(self, proxy: Proxy) -> None:
        """What a reader does not want is not sent, nor counted as missed."""
        watcher = await watch(proxy, "?type=switch&model=a*")
        await watcher.place()
        bus = proxy.proxy.bus

        bus.tell("switch.cancelled", {"device": "gpu0", "load": "fake/b"})
        bus.tell("switch.cancelled", {"device": "gpu0", "load": "fake/a1"})

        assert (await watcher.next())["load"] == "fake/a1"
        assert watcher.numbers == [2]

    @pytest.mark.parametrize("spelling", ["m", "fake/m", "fake/*", "?", "*/m"])
    async def test_a_model_has_one_name(self, proxy: Proxy, spelling: str) -> None:
        """All events call a model by its backend and its id; a reader may ask for it without the backend."""
        watcher = await watch(proxy, f"?model={quote(spelling)}")
        await watcher.place()
        async with aiohttp.ClientSession(proxy.url) as session:
            for path, body in (("/admin/models/activate", {"model": "m"}), ("/v1/chat/completions", chat())):
                await (await session.post(path, json=body)).read()

        events = await watcher.until("request.finished")

        assert [event["type"] for event in events] == [
            "model.activated",
            "request.granted",
            "request.first_byte",
            "request.finished",
        ]
        assert {event["model"] for event in events} == {"m"}

    async def test_a_sign_of_life(self, quick: Proxy) -> None:
        """Every `server.heartbeat_s` there is a comment."""
        watcher = await watch(quick)
        await watcher.place()

        await watcher.client.until(b": ping\r\n\r\n")
        await watcher.client.until(b": ping\r\n\r\n")

    async def test_http_1_0(self, proxy: Proxy) -> None:
        """A client that knows no chunks gets the plain stream, which ends with the connection."""
        client = await proxy.client()
        await client.send(get("/debug/stream?after=0").replace(b"HTTP/1.1", b"HTTP/1.0"))
        head = await client.head()
        tell(proxy, 1)

        assert "transfer-encoding" not in head.headers
        assert await client.until(b"\n\n") == b"id: 0\n\n"
        assert (await client.until(b"\n\n")).startswith(b"id: 1\nevent: config.refused\ndata: {")
        proxy.proxy.bus.close()
        assert await client.all() == b""

    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ("?typ=switch", "typ"),
            ("?type=switched", "type"),
            ("?type=switch,nothing", "type"),
            ("?type=req", "type"),
            ("?after=-1", "after"),
            ("?after=x", "after"),
            ("?" + "&".join(["model=a"] * 65), None),
        ],
    )
    async def test_a_wrong_query(self, proxy: Proxy, query, param) -> None:
        """A parameter, type or number that means nothing is refused."""
        client = await proxy.client()
        await client.send(get(f"/debug/stream{query}"))

        answer = await client.answer()

        assert (answer.status, answer.error["param"]) == (400, param)


class TestReaders:
    async def test_one_that_leaves(self, proxy: Proxy) -> None:
        """A reader that leaves is gone at once."""
        watcher = await watch(proxy)
        assert proxy.proxy.bus.readers == 1

        watcher.client.close()

        await until(lambda: proxy.proxy.bus.readers == 0)

    async def test_one_too_many(self, proxy: Proxy) -> None:
        """There is a bound to the readers; over it the next is told to come back."""
        for _ in range(READERS):
            await watch(proxy)
        client = await proxy.client()

        await client.send(get("/debug/stream"))

        answer = await client.answer()
        assert (answer.status, answer.head.headers["retry-after"]) == (429, "5")

    async def test_a_slow_one_is_told_what_it_missed(self, start, backend: FakeBackend) -> None:
        """A reader that falls behind loses the oldest events, and is told how many."""
        proxy = await start(
            f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\ndebug: {{ring: 50}}"
        )
        slow, quick = Watcher(await narrow(proxy)), await watch(proxy)
        await slow.client.send(get("/debug/stream"))
        await until(lambda: proxy.proxy.bus.readers == 2)

        tell(proxy, 50, size=BUFFER_BYTES // 10)
        await quick.skip(50)
        tell(proxy, 200)
        proxy.proxy.bus.tell("config.reloaded", {})
        slow.client.resume()
        await slow.client.head()
        *events, _ = await slow.until("config.reloaded")

        (missed,) = [at for at, event in enumerate(events) if event["type"] == "debug.missed"]
        assert 0 < missed < 50
        assert slow.numbers == [*range(1, missed + 1), *range(201, 252)]
        assert events[missed]["missed"] == 201 - missed

    async def test_a_stalled_one_is_cut(self, quick: Proxy) -> None:
        """A reader that does not read for `server.client_stall_s` is cut; others go on meanwhile."""
        stalled, watcher = await narrow(quick), await watch(quick, "?type=config.reloaded")
        await stalled.send(get("/debug/stream"))
        await until(lambda: quick.proxy.bus.readers == 2)

        tell(quick, 49, size=BUFFER_BYTES // 10)
        quick.proxy.bus.tell("config.reloaded", {})

        assert (await watcher.next())["type"] == "config.reloaded"
        await until(lambda: quick.proxy.bus.readers == 1)

    async def test_the_end(self, proxy: Proxy) -> None:
        """When dmap stops, the streams end at once and well, and that of a stalled reader is cut."""
        watcher, stalled = await watch(proxy), await narrow(proxy)
        await stalled.send(get("/debug/stream"))
        await until(lambda: proxy.proxy.bus.readers == 2)
        tell(proxy, 50, size=BUFFER_BYTES // 10)
        await watcher.skip(50)

        proxy.proxy.bus.close()

        assert (await watcher.client.until(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")
        async with asyncio.timeout(HERE_S):
            await proxy.proxy.visits.gone()
        client = await proxy.client()
        await client.send(get("/debug/stream"))
        assert (await client.answer()).status == 503


async def test_sigterm(tmp_path, backend: FakeBackend) -> None:
    """Readers do not hold up a stop, whether they read or not: their streams end at once."""
    config = f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}"
    async with daemon(tmp_path, config) as process:
        reader, writer = await asyncio.open_connection(*process.url.removeprefix("http://").split(":"))
        client = RawClient(reader, writer)
        await client.send(get("/debug/stream"))
        await client.until(b"id: 0\n\n")

        process.child.send_signal(signal.SIGTERM)

        assert (await client.all()).endswith(b"0\r\n\r\n")
        async with asyncio.timeout(HERE_S):
            assert await process.child.wait() == 0
        writer.close()


class TestFilter:
    @pytest.mark.parametrize(
        ("query", "type", "fields", "passes"),
        [
            ("", "request.received", {}, True),
            ("type=", "request.received", {}, True),
            ("type=request.received", "request.received", {}, True),
            ("type=request", "request.received", {}, True),
            ("type=*.failed", "switch.failed", {}, True),
            ("type=*.failed,access", "access.denied", {}, True),
            ("type=*.failed&type=access", "access.denied", {}, True),
            ("type=switch", "request.received", {}, False),
            ("client=web*", "request.received", {"client": "webui"}, True),
            ("client=web", "request.received", {"client": "webui"}, False),
            ("client=web*", "switch.started", {"load": "b/m"}, False),
            ("model=qwen/*", "request.granted", {"model": "qwen/qwen3", "backend": "b"}, True),
            ("model=qwen3", "request.granted", {"model": "qwen3", "backend": "studio"}, True),
            ("model=studio/*", "switch.started", {"load": "studio/qwen3"}, True),
            ("model=a", "switch.started", {"load": "s/b", "unload": ["s/c", "s/a"]}, True),
            ("model=a", "switch.started", {"load": "s/b", "unload": []}, False),
            ("model=a", "switch.started", {"load": None}, False),
            ("model=a&client=b", "request.granted", {"model": "a", "backend": "b", "client": "c"}, False),
            ("model=a%2Cb", "request.granted", {"model": "b", "backend": "s"}, True),
        ],
    )
    def test_it_passes(self, query, type, fields, passes) -> None:
        """An event passes when it meets all that is asked, each by any of the values given."""
        chosen = wanted(URL(f"/?{query}").query)

        assert chosen(Event(1, 0, type, fields)) is passes


class TestStatus:
    async def test_it_tells_how_dmap_stands(self, start, backend: FakeBackend) -> None:
        """`/debug/status` has each backend and device, and who waits for it in which place."""
        backend.script = backend.by_hand
        proxy = await start(f"backends: {{fake: {{kind: openai, url: '{backend.url}', parallel: 1}}}}")
        first, second = await proxy.client(), await proxy.client()
        await first.send(post(chat()))
        exchange = await backend.next()
        await second.send(post(chat(), headers="x-request-id: the-second\r\n"))
        await until(lambda: any(gate.view.first(9) for gate in proxy.proxy.gates.values()))

        status = await asked(proxy, "/debug/status")

        fake = status["backends"]["fake"]
        (waiting,) = fake.pop("waiting")
        assert fake.pop("oldest_wait_s") >= 0
        assert fake.pop("drained") is False
        assert fake == {"kind": "openai", "device": None, "answers": True, "leases": 1, "more_waiting": 0}
        assert [waiting[name] for name in ("id", "client", "position")] == ["the-second", "127.0.0.1", 1]
        assert (status["devices"], status["open"], status["readers"]) == ({}, 2, 0)
        (served,) = status["served"]
        assert (served["model"], served["waits"], status["more_served"]) == ("m", False, 0)
        first.close(), second.close()
        await exchange.abandoned()

    async def test_metrics(self, proxy: Proxy) -> None:
        """`/debug/metrics` has the figures as JSON."""
        told = await asked(proxy, "/debug/metrics")

        assert told.keys() == proxy.proxy.metrics.as_dict().keys() > set()

    @pytest.mark.parametrize("path", ["/debug", "/debug/", "/debug/stream/", "/debug/Status"])
    async def test_no_such_page(self, proxy: Proxy, path) -> None:
        """There is nothing else below /debug."""
        client = await proxy.client()
        await client.send(get(path))

        assert (await client.answer()).status == 404
