"""The bus: what is told is kept in order, within bounds, and costs its readers nothing."""

import asyncio
import json
from pathlib import Path

import pytest

from dmap.events import BATCH, Bus, Event


def bus_of(size: int = 3, told: int = 0) -> Bus:
    """Make a bus whose clock stands still, and tell it of some requests."""
    bus = Bus(size, lambda: 12.3456)
    for id in range(1, told + 1):
        bus.tell("request.received", {"id": id})
    return bus


def numbers(bus: Bus, after: int, most: int = 100) -> tuple[list[int], int]:
    """Return the numbers of what is kept after *after*, and how many before them are not."""
    events, missed = bus.since(after, most)
    return [event.number for event in events], missed


def data_of(frame: bytes) -> dict[str, object]:
    """Return the object that a record of an event stream carries."""
    (line,) = [line for line in frame.splitlines() if line.startswith(b"data: ")]
    return json.loads(line.removeprefix(b"data: "))


class TestRing:
    def test_a_reader_goes_on_where_it_was(self) -> None:
        """A reader gets what came after the number it saw last, in order."""
        bus = bus_of(told=3)

        assert numbers(bus, 1) == ([2, 3], 0)
        assert numbers(bus, 3) == ([], 0)

    def test_a_reader_gets_a_piece(self) -> None:
        """A reader gets no more at once than it asks for, the oldest first."""
        bus = bus_of(size=9, told=9)

        assert numbers(bus, 2, most=3) == ([3, 4, 5], 0)

    def test_the_oldest_go_first(self) -> None:
        """A reader who comes too late is told how many events it missed."""
        bus = bus_of(size=2, told=4)

        assert numbers(bus, 0) == ([3, 4], 2)
        assert numbers(bus, 1, most=1) == ([3], 1)
        assert bus.last == 4

    def test_an_empty_ring(self) -> None:
        """Before the first event there is nothing, and nothing was missed."""
        bus = bus_of()

        assert numbers(bus, 0) == ([], 0)
        assert bus.last == 0

    @pytest.mark.parametrize(("size", "kept"), [(1, [4]), (2, [3, 4]), (5, [2, 3, 4])])
    def test_another_size(self, size, kept) -> None:
        """A ring that shrinks keeps the latest, one that grows what it has."""
        bus = bus_of(size=3, told=4)

        bus.resize(size)

        assert numbers(bus, 0) == (kept, 4 - len(kept))

    def test_a_ring_that_grew_keeps_more(self) -> None:
        """A larger ring is filled before it forgets."""
        bus = bus_of(size=1, told=2)
        bus.resize(3)

        for _ in range(3):
            bus.tell("request.received", {})

        assert numbers(bus, 0) == ([3, 4, 5], 2)


class TestEvent:
    def test_it_is_encoded_once(self) -> None:
        """However many read an event, it is encoded once, as a record on lines of its own."""
        event = Event(7, 12.3456, "access.denied", {"reason": "no\nkey"})

        assert event.frame is event.frame
        assert event.frame == (
            b"id: 7\nevent: access.denied\n"
            b'data: {"number":7,"at":12.346,"type":"access.denied","reason":"no\\nkey"}\n\n'
        )

    @pytest.mark.parametrize(
        ("field", "told"), [("/\udcff\n", "/\udcff\n"), (1 << 70, 1 << 70), (Path("/a"), "/a")]
    )
    def test_what_cannot_be_encoded(self, field, told) -> None:
        """A field that is no JSON stops nobody's stream: it is told as well as can be, on one line."""
        event = Event(1, 0, "request.received", {"path": field})

        assert data_of(event.frame)["path"] == told
        assert event.frame.count(b"\n") == 4


class TestListeners:
    def test_they_hear_their_types(self) -> None:
        """A listener hears the types it asked for, and no others."""
        bus, heard = bus_of(), []
        bus.listen(lambda event: heard.append(event.number), "request.finished")

        bus.tell("request.received", {})
        bus.tell("request.finished", {})

        assert heard == [2]


class TestNews:
    async def test_it_wakes_all_who_wait(self) -> None:
        """One event wakes every reader; one that was cancelled meanwhile takes it from nobody."""
        bus = bus_of()
        readers = [asyncio.create_task(bus.news(0)) for _ in range(3 * BATCH)]
        await asyncio.sleep(0)
        readers[0].cancel()

        bus.tell("request.received", {})

        await asyncio.gather(*readers[1:])

    async def test_what_was_not_seen_is_news(self) -> None:
        """Who has not seen the latest event does not wait."""
        await bus_of(told=2).news(1)

    async def test_a_burst_wakes_once(self) -> None:
        """Events that come together are seen together."""
        bus = bus_of(size=9)
        reader = asyncio.create_task(bus.news(0))
        await asyncio.sleep(0)

        for _ in range(5):
            bus.tell("request.received", {})
            await asyncio.sleep(0)
        was_awake = reader.done()
        await reader

        assert (was_awake, bus.last) == (False, 5)

    async def test_closing_sends_them_away(self) -> None:
        """When the bus is closed nobody waits any more, nor begins to."""
        bus = bus_of()
        readers = [asyncio.create_task(bus.news(0)) for _ in range(3 * BATCH)]
        await asyncio.sleep(0)

        bus.close()

        await asyncio.gather(*readers, bus.news(0))
        assert bus.closed.is_set()
