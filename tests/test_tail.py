"""`dmap tail`: what is read from the stream, how an event looks, and how it goes on after a break."""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from dmap.remote.client import DaemonClient, Gone, Trouble
from dmap.remote.lines import line
from dmap.remote.pages import duration, table
from dmap.remote.tail import MOST_BYTES, follow, records
from tests.fakes import END, HERE_S, SSE, answer, chunk
from tests.ports import nobody

NOON = datetime(2026, 11, 20, 12, 0, 0, 123_456).timestamp()


def record(number: int) -> bytes:
    """One event as dmap sends it."""
    return b'id: %d\nevent: config.reloaded\ndata: {"number":%d}\n\n' % (number, number)


def shown(type: str, **fields: object) -> str:
    """The line of an event without its time and type."""
    text = line({"number": 1, "at": NOON, "type": type, **fields}, colour=False)
    return re.sub(r"^12:00:00\.123  \S+ +", "", text)


class TestLines:
    @pytest.mark.parametrize(
        ("type", "fields", "said"),
        [
            ("request.received", {"method": "POST", "path": "/v1/a"}, "POST /v1/a"),
            (
                "request.queued",
                {"model": "b/m", "backend": "b", "position": 2, "estimate_s": 8.04},
                "waits for b/m, position 2, about 8.0 s",
            ),
            ("request.granted", {"model": "m", "queue_s": 0.0001, "switch_s": 0.0}, "m at once"),
            (
                "request.queued",
                {"backend": "b", "position": 2, "estimate_s": 8.04},
                "waits for b, position 2, about 8.0 s",
            ),
            ("request.granted", {"queue_s": 0.0001, "switch_s": 0.0}, "at once"),
            (
                "request.granted",
                {"model": "m", "filled": ["top_p", "seed"], "stripped": ["user"]},
                "m at once, filled in top_p, seed, stripped user",
            ),
            ("request.first_byte", {"first_byte_s": 0.12}, "after 120 ms"),
            ("request.retried", {"model": "m", "reason": "it was gone"}, "m, it was gone"),
            (
                "request.granted",
                {"model": "m", "queue_s": 9.5, "switch_s": 8.0},
                "m after 9.5 s, 8.0 s of it for the switch",
            ),
            ("request.first_byte", {"model": "m", "first_byte_s": 0.12}, "m after 120 ms"),
            (
                "request.finished",
                {"model": "m", "status": 200, "outcome": "success", "total_s": 3.4, "queue_s": 0.5}
                | {"tokens_in": 34, "tokens_out": 60, "tokens_per_s": 48.31},
                "200 m, 3.4 s, 34 + 60 tokens, 48.3/s, 500 ms in the queue",
            ),
            ("request.finished", {"model": "m", "status": 200, "total_s": 3.4}, "200 m, 3.4 s"),
            (
                "request.failed",
                {"status": 404, "outcome": "model_not_found", "reason": "no 'x'", "total_s": 0.001},
                "404 model_not_found, 1 ms, no 'x'",
            ),
            ("request.cancelled", {"outcome": "client_left", "total_s": 2.0}, "- client_left, 2.0 s"),
            ("request.mismatch", {"model": "a", "answered": "b"}, "a was asked, b answered"),
        ],
    )
    def test_requests(self, type, fields, said) -> None:
        """What happens to a request is told with the end of its id and its client."""
        assert (
            shown(type, id="req_0123456789abcdef", client="webui", **fields) == f"89abcdef  webui     {said}"
        )

    @pytest.mark.parametrize(
        ("type", "fields", "said"),
        [
            (
                "switch.started",
                {"load": "b/m", "unload": ["b/n"], "reason": "patience"},
                "load b/m, unload b/n, patience",
            ),
            ("switch.started", {"load": None, "unload": ["b/n", "b/o"], "reason": ""}, "unload b/n b/o"),
            ("switch.drained", {"load": "b/m", "drain_s": 0.25}, "idle after 250 ms"),
            ("switch.unloaded", {"model": "b/n", "unload_s": 1.5}, "b/n in 1.5 s"),
            ("switch.loaded", {"model": "b/m", "load_s": 75.0}, "b/m in 1 min 15 s"),
            (
                "switch.loaded",
                {"model": "b/m", "load_s": 2.0, "context_length": 4096, "parallel": 4},
                "b/m in 2.0 s, context 4096, parallel 4",
            ),
            ("switch.failed", {"model": "b/m", "reason": "no memory"}, "b/m, no memory"),
            (
                "switch.cancelled",
                {"model": "b/m", "unload_s": 0.5, "load_s": 1.0},
                "b/m given up after 1.5 s",
            ),
            ("switch.cancelled", {"load": "b/m"}, "b/m given up"),
            ("switch.cancelled", {"load": None, "unload": ["b/n"], "drain_s": 2.0}, "given up after 2.0 s"),
            ("model.appeared", {"model": "b/m"}, "b/m"),
        ],
    )
    def test_devices(self, type, fields, said) -> None:
        """What happens on a device is told with its name."""
        assert shown(type, device="gpu0", **fields) == f"gpu0                {said}"

    @pytest.mark.parametrize(
        ("type", "fields", "said"),
        [
            ("model.activated", {"model": "b/m", "by": "owner"}, "b/m, by owner"),
            ("model.loaded", {"model": "m", "by": "webui", "reason": "room"}, "m, by webui, room"),
            ("model.unloaded", {"model": "m", "reason": "ttl"}, "m, ttl"),
            ("config.refused", {"problems": ["a: no", "b: no"]}, "a: no, b: no"),
            ("config.reloaded", {"by": "SIGHUP"}, "by=SIGHUP"),
            ("debug.missed", {"missed": 7}, "7 events lost: the reader was too slow, or too long away"),
            ("of.tomorrow", {"a": 1, "b": [2]}, "a=1, b=[2]"),
            ("request.finished", {"total_s": "soon"}, "total_s=soon"),
            ("switch.loaded", {}, ""),
        ],
    )
    def test_others(self, type, fields, said) -> None:
        """Everything else is told as well as it can be, also what another version of dmap tells."""
        assert shown(type, **fields).strip() == said

    def test_it_fits_the_terminal(self) -> None:
        """What is longer than the terminal is wide goes on below, where what there is to say begins."""
        event = {"number": 1, "at": NOON, "type": "request.failed", "id": "req_0123456789abcdef"}
        event |= {"client": "webui", "status": 404, "outcome": "model_not_found", "total_s": 0.001}
        event["reason"] = "it is not here, " * 2

        first, *rest = line(event, colour=False, width=80).splitlines()

        assert first == "12:00:00.123  failed           89abcdef  webui     404 model_not_found, 1 ms, it"
        assert all(each.startswith(" " * 31) and len(each) <= 80 for each in rest) and len(rest) == 1

    def test_it_fits_with_wide_characters(self) -> None:
        """Characters that take two columns count as two."""
        event = {"number": 1, "at": NOON, "type": "request.failed", "id": "req_0123456789abcdef"}
        event |= {"client": "webui", "status": 404, "outcome": "x", "reason": "没有这个模型 " * 9}

        lines = line(event, colour=False, width=80).splitlines()

        assert max(len(each) + len(re.findall("[没有这个模型]", each)) for each in lines) <= 80
        assert re.sub(r"\s", "", "".join(lines)).count("没有这个模型") == 9

    def test_colour(self) -> None:
        """Colour sets apart the time and what kind of event it is, and nothing else."""
        event = {"number": 1, "at": NOON, "type": "switch.failed", "model": "m", "reason": "x"}

        text = line(event, colour=True)

        assert text.startswith("\x1b[2m12:00:00.123\x1b[0m  \x1b[31mswitch.failed  \x1b[0m  ")
        assert re.sub(r"\x1b\[\d+m", "", text) == line(event, colour=False)

    def test_what_a_terminal_would_obey(self) -> None:
        """Nothing that a client sends can move the cursor, change colours or turn the text round."""
        text = shown("request.received", client="\x9b31m", method="POST", path="/\x1b[2J\r\n\u202e")

        assert text.isprintable()
        assert "\\u009b31m" in text and r"/\u001b[2J\r\n\u202e" in text


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0, "0 ms"),
            (0.0854, "85 ms"),
            (0.9996, "1.0 s"),
            (59.94, "59.9 s"),
            (59.96, "1 min 0 s"),
            (3599.6, "1 h 0 min"),
            (11_520, "3 h 12 min"),
            (90_000, "1 d 1 h"),
            (864_000, "10 d 0 h"),
        ],
    )
    def test_a_duration(self, seconds, text) -> None:
        """A duration is told in the units that matter."""
        assert duration(seconds) == text

    def test_a_table(self) -> None:
        """Words stand to the left, figures to the right, and no line ends in spaces."""
        assert table(("NAME", "COUNT", ""), [("a", "7", ""), ("long", "12345678", "x")]) == [
            "NAME     COUNT",
            "a            7",
            "long  12345678  x",
        ]


@asynccontextmanager
async def scripted(
    *answers: bytes, until: asyncio.Event | None = None
) -> AsyncGenerator[tuple[DaemonClient, list[bytes]]]:
    """
    Run a server that gives one of *answers* to each connection and closes it, and keeps their heads.

    It closes none before *until*: a client may see the end of a connection before it has read all of it.
    """
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        said = answers[min(len(heads), len(answers)) - 1]
        length = re.search(rb"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(said)
        if until is not None:
            await until.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield DaemonClient(f"http://127.0.0.1:{port}", "the-key"), heads
    finally:
        server.close()


async def read(*pieces: bytes, count: int, last_id: str | None = None) -> list[tuple[str | None, str]]:
    """The records of a stream that comes in *pieces*, and breaks when *count* of them were read."""
    enough = asyncio.Event()
    async with scripted(SSE + b"".join(map(chunk, pieces)), until=enough) as (daemon, _):
        found = []
        with pytest.raises(Gone):
            async for each in records(daemon, "/", last_id):
                found.append(each)
                if len(found) == count:
                    enough.set()
        return found


class TestRecords:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
    async def test_in_any_pieces(self, size) -> None:
        """Whole records are read the same in whatever pieces they come, over comments and both line ends."""
        stream = b"id: 4\n\n: ping\r\n\r\n" + record(5) + b"data: a\r\ndata: b\r\n\r\n" + record(6)[:-1]

        found = await read(*(stream[at : at + size] for at in range(0, len(stream), size)), count=4)

        assert found == [("4", ""), ("4", ""), ("5", '{"number":5}'), ("5", "a\nb")]

    async def test_where_it_goes_on(self) -> None:
        """Before the first whole record, the place to go on from is the one that was asked for."""
        assert await read(b": ping\r\n\r\nid: 9\nda", count=1, last_id="3") == [("3", "")]

    async def test_what_never_ends(self) -> None:
        """A line without an end is given up."""
        async with scripted(SSE + chunk(b"x" * (MOST_BYTES + 1))) as (daemon, _):
            with pytest.raises(Trouble):
                await anext(records(daemon, "/", None))


@dataclass
class Screen:
    """What a person would see: the events and what is said beside them, until enough is there."""

    enough: int
    events: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    full: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, event: str) -> None:
        self.events.append(event)
        self.begun.set()
        if len(self.events) == self.enough:
            self.full.set()

    async def watch(
        self, daemon: DaemonClient, wanted: Mapping[str, Sequence[str]], after: int | None
    ) -> None:
        """Follow until there are enough events."""
        following = asyncio.create_task(follow(daemon, wanted, after, self.show, self.said.append))
        async with asyncio.timeout(HERE_S):
            await self.full.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def last_id(head: bytes) -> bytes | None:
    """The event after which a request asks to go on."""
    found = re.search(rb"(?i)last-event-id: (.*)\r", head)
    return found and found[1]


class TestFollow:
    async def test_it_goes_on_after_a_break(self) -> None:
        """After a break it asks for what follows the last event it saw, and says so once."""
        broken = SSE + chunk(b"id: 6\n\n" + record(7) + record(8)[:9])
        busy = answer(b'{"error": {"message": "too many"}}', status="429 Too Many Requests")
        screen = Screen(enough=3)
        answers = broken, busy, SSE + chunk(record(8)) + chunk(record(9)) + END

        async with scripted(*answers, until=screen.begun) as (daemon, heads):
            await screen.watch(daemon, {"type": ["config"], "model": [], "client": ["a b"]}, None)

        assert screen.events == ['{"number":7}', '{"number":8}', '{"number":9}']
        assert [last_id(head) for head in heads[:3]] == [None, b"7", b"7"]
        assert heads[0].startswith(b"GET /debug/stream?type=config&client=a+b HTTP/1.1")
        assert b"Authorization: Bearer the-key" in heads[0]
        assert [text.rpartition("; ")[2] for text in screen.said[:2]] == ["trying again", "connected again"]

    async def test_a_stream_that_ends_well(self) -> None:
        """When the daemon ends the stream, it has been stopped: it will be back."""
        screen = Screen(enough=2)

        async with scripted(SSE + chunk(record(1)) + END, SSE + chunk(record(2)) + END) as (daemon, heads):
            await screen.watch(daemon, {}, 0)

        assert [last_id(head) for head in heads[:2]] == [b"0", b"1"]
        assert "ended the stream; trying again" in screen.said[0]

    async def test_events_that_are_not_kept(self) -> None:
        """That what was asked for is not kept any more is no alarm; a gap later on is."""
        missed = b'id: %d\n\ndata: {"number":%d,"type":"debug.missed","missed":7}\n\n'
        begun = b"id: 0\n\n" + missed % (7, 7) + record(8) + missed % (9, 9)
        screen = Screen(enough=2)

        async with scripted(SSE + chunk(begun) + END) as (daemon, _):
            await screen.watch(daemon, {}, 0)

        assert screen.said[0] == "older events are not kept"
        assert screen.events == ['{"number":8}', '{"number":9,"type":"debug.missed","missed":7}']

    async def test_nobody_there(self) -> None:
        """A daemon that cannot be reached the first time is a mistake, and told at once."""
        with nobody() as port:
            daemon = DaemonClient(f"http://127.0.0.1:{port}", "the-key")

            with pytest.raises(Gone, match=f"no dmap answers at {daemon.url} .Connection refused.; --url"):
                await follow(daemon, {}, None, print, print)

    async def test_a_refusal(self) -> None:
        """A refusal ends it, with the daemon's own words."""
        refusal = answer(b'{"error": {"message": "no \\u001b key"}}', status="401 Unauthorized")

        async with scripted(refusal) as (daemon, _):
            with pytest.raises(Trouble) as caught:
                await follow(daemon, {}, None, print, print)

        assert str(caught.value) == f"{daemon.url} refused (401): no \\u001b key; DMAP_KEY holds the key"
