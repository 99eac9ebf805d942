"""The bus: what is told is kept in order, within bounds, and costs its readers nothing."""

import asyncio
import json

from dmap.events import Bus, Event


def bus_of(size: int = 3) -> Bus:
    """Make a bus whose clock stands still."""
    return Bus(size, lambda: 12.3456)


def numbers(bus: Bus, after: int) -> tuple[list[int], int]:
    """Return the numbers of what is kept after *after*, and how many are not."""
    events, missed = bus.since(after)
    return [event.number for event in events], missed


class TestRing:
    def test_a_reader_goes_on_where_it_was(self) -> None:
        """A reader gets what came after the number it saw last, in order."""
        bus = bus_of()

        for id in ("a", "b", "c"):
            bus.tell("request.received", {"id": id})

        assert numbers(bus, 1) == ([2, 3], 0)
        assert numbers(bus, 3) == ([], 0)

    def test_the_oldest_go_first(self) -> None:
        """A reader who comes too late is told how many events it missed."""
        bus = bus_of(2)

        for id in ("a", "b", "c", "d"):
            bus.tell("request.received", {"id": id})

        assert numbers(bus, 0) == ([3, 4], 2)
        assert bus.last == 4

    def test_an_empty_ring(self) -> None:
        """Before the first event there is nothing, and nothing was missed."""
        bus = bus_of()

        assert numbers(bus, 0) == ([], 0)
        assert bus.last == 0

    def test_a_number_from_before_a_restart(self) -> None:
        """A number that is yet to come means that dmap began anew: there is nothing after it."""
        bus = bus_of()

        bus.tell("request.received", {})

        assert numbers(bus, 99) == ([], 0)

    def test_a_smaller_ring(self) -> None:
        """A ring that shrinks keeps the latest."""
        bus = bus_of(3)
        for _ in range(3):
            bus.tell("request.received", {})

        bus.resize(1)

        assert numbers(bus, 0) == ([3], 2)


class TestEvent:
    def test_it_is_encoded_once(self) -> None:
        """However many read an event, it is encoded once."""
        event = Event(7, 12.3456, "access.denied", {"reason": "no\nkey"})

        assert event.encoded is event.encoded
        assert json.loads(event.encoded) == {
            "number": 7,
            "at": 12.346,
            "type": "access.denied",
            "reason": "no\nkey",
        }


class TestListeners:
    def test_they_hear_their_types(self) -> None:
        """A listener hears the types it asked for, and no others."""
        bus, heard = bus_of(), []
        bus.listen(lambda event: heard.append(event.number), "request.finished")

        bus.tell("request.received", {})
        bus.tell("request.finished", {})

        assert heard == [2]


async def test_news_wakes_all_who_wait() -> None:
    """One event wakes every reader; one that was cancelled meanwhile takes it from nobody."""
    bus = bus_of()
    readers = [asyncio.create_task(bus.news()) for _ in range(3)]
    await asyncio.sleep(0)
    readers[0].cancel()

    bus.tell("request.received", {})

    await asyncio.gather(*readers[1:])
    assert bus.last == 1
