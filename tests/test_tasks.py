"""Nothing that runs by itself dies unheard: it is logged, and starts again or stops the daemon."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from dmap import tasks
from dmap.config import Config, parse
from dmap.daemon import serve
from dmap.events import Bus, Event
from dmap.relay.sweep import Sweep
from dmap.web.listener import Listener
from tests.fakes import HERE_S, soon


class Work:
    """Work that does what *turns* say, one after the other, and then stays until it is cancelled."""

    def __init__(self, *turns: Callable[[], object]) -> None:
        self.turns = list(turns)
        self.runs = 0
        self.at_rest = asyncio.Event()

    async def __call__(self) -> None:
        self.runs += 1
        for turn in self.turns[:1]:
            self.turns.pop(0)
            turn()
            return
        self.at_rest.set()
        await asyncio.get_running_loop().create_future()


def bug() -> None:
    raise KeyError("a bug")


def leak() -> None:
    """Raise what awaiting a future raises that somebody else has cancelled."""
    raise asyncio.CancelledError


@pytest.fixture
async def stops() -> list[str]:
    """Collect what asks the daemon to stop."""
    found: list[str] = []

    def heed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        assert context[tasks.STOPS]
        found.append(context["message"])

    asyncio.get_running_loop().set_exception_handler(heed)
    return found


class TestSpawn:
    @pytest.mark.parametrize("fault", [bug, leak])
    async def test_a_bug_is_logged_and_the_task_starts_again(self, caplog, stops, fault) -> None:
        """A task that a bug has ended runs again; the log has the traceback."""
        work = Work(fault, fault)

        task = tasks.spawn(work, "look after it")
        await work.at_rest.wait()
        await tasks.end(task)

        assert work.runs == 3
        assert [record.getMessage().split()[0] for record in caplog.records] == ["bug", "bug"]
        assert "look after it" in caplog.text
        assert f"in {fault.__name__}" in caplog.text
        assert stops == []

    @pytest.mark.parametrize("fault", [bug, leak])
    async def test_a_vital_one_stops_the_daemon(self, caplog, stops, fault) -> None:
        """A bug in a vital task is logged, ends the task and asks for the end of the daemon."""
        work = Work(fault)

        await tasks.spawn(work, "switch", vital=True)

        assert work.runs == 1
        assert "Traceback" in caplog.text
        assert stops == ["dmap has to stop: a bug in task 'switch'"]

    async def test_a_cancellation_is_quiet(self, caplog, stops) -> None:
        """A task that its owner ends is no bug, and does not start again."""
        work = Work()
        task = tasks.spawn(work, "quiet", vital=True)
        await work.at_rest.wait()

        await tasks.end(task, None)

        assert task.cancelled()
        assert work.runs == 1
        assert not caplog.records
        assert stops == []

    async def test_a_return_is_the_end(self, caplog) -> None:
        """A task whose work is done does not start again."""
        work = Work(lambda: None)

        await tasks.spawn(work, "once")

        assert work.runs == 1
        assert not caplog.records


class TestEnd:
    async def test_is_bounded(self, caplog) -> None:
        """A task that does not heed its cancellation is named in the log and not waited for any longer."""
        free = asyncio.Event()

        async def stubborn() -> None:
            while not free.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await free.wait()

        task = tasks.errand(stubborn(), "stubborn")
        await asyncio.sleep(0)

        await tasks.end(task, within_s=0.01)

        assert not task.done()
        assert "task_left name=stubborn" in caplog.text
        free.set()
        await task

    async def test_of_nothing(self) -> None:
        """Tasks that were never started, or are over, need no wait."""
        task = tasks.errand(asyncio.sleep(0), "over")
        await task

        await tasks.end(None, task)


class TestErrand:
    async def test_a_result_reaches_the_owner(self) -> None:
        """The owner gets what the work returns."""
        assert await tasks.errand(asyncio.sleep(0, "done"), "errand") == "done"

    async def test_a_bug_is_logged_and_reaches_the_owner(self, caplog) -> None:
        """A bug is logged, whether or not the owner still waits for the result."""
        with pytest.raises(KeyError):
            await tasks.errand(failing(KeyError("a bug")), "errand")

        assert "task 'errand'" in caplog.text
        assert "Traceback" in caplog.text

    async def test_an_expected_error_is_the_owners(self, caplog) -> None:
        """An expected error is not logged, nor when the owner has left."""
        task = tasks.errand(failing(OSError("down")), "errand", expected=(OSError,))
        await asyncio.wait((task,))

        assert not caplog.records


async def failing(error: Exception) -> None:
    raise error


async def test_a_listener_that_raises_concerns_nobody_else(caplog) -> None:
    """The teller and the other listeners go on when a listener raises; the bug is logged."""
    bus, heard = Bus(3, lambda: 0.0), list[Event]()
    bus.listen(lambda event: bug(), "switch.started")
    bus.listen(heard.append, "switch.started")

    bus.tell("switch.started", {})

    assert [event.number for event in heard] == [1]
    assert "switch.started" in caplog.text
    assert "in bug" in caplog.text


class Watched:
    """Something that the sweep looks at."""

    look_s = 0.01

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.looks = 0

    def look(self, now: float) -> None:
        self.looks += 1
        self.act()


async def test_one_bad_time_limit_does_not_stop_the_sweep(caplog) -> None:
    """The sweep goes on for the others, and goes round again, when one of them raises."""
    sweep = Sweep[Watched](asyncio.get_running_loop())
    bad, good = Watched(bug), Watched(lambda: None)
    sweep.add(bad)
    sweep.add(good)

    await soon(lambda: good.looks >= 3, HERE_S)
    sweep.discard(bad)
    sweep.discard(good)

    assert bad.looks >= 2
    assert "in bug" in caplog.text


class NoServer:
    """A server with a bug in what takes a connection."""

    def __len__(self) -> int:
        raise KeyError("a bug")


async def test_a_bug_where_clients_come_in_stops_the_daemon(caplog, stops) -> None:
    """The kernel would wake a listener that raises again and again, and let nobody in."""
    sock = socket.create_server(("127.0.0.1", 0))
    listener = Listener(sock, cast(Any, NoServer()), None)
    listener.start()

    with socket.create_connection(listener.address):
        await soon(lambda: stops, HERE_S)
    listener.close()

    assert stops[0] == "dmap has to stop: a bug in taking connections"
    assert "in __len__" in caplog.text


def config_in(folder: Path) -> Config:
    """Return the configuration of a daemon whose only backend is down."""
    backends = "{nobody: {kind: openai, url: 'http://127.0.0.1:1'}}"
    return parse(f"listen: {{port: 0}}\nstate: {folder}/state\nbackends: {backends}", {})


async def test_a_vital_bug_ends_the_daemon_with_a_status_of_its_own(caplog, tmp_path) -> None:
    """The daemon stops in good order and tells by its status that a bug was the reason."""
    config = config_in(tmp_path)

    def on_ready(url: str) -> None:
        tasks.report("the test", KeyError("a bug"), vital=True)

    assert await serve(config, on_ready) == 1
    assert "the test" in caplog.text


async def test_a_bug_in_a_callback_is_logged_by_the_daemon(caplog, tmp_path) -> None:
    """What a bare callback of the loop raises is in the log, and does not stop the daemon."""
    config = config_in(tmp_path)
    loop = asyncio.get_running_loop()

    def on_ready(url: str) -> None:
        loop.call_soon(bug)
        loop.call_soon(os.kill, os.getpid(), signal.SIGTERM)

    assert await serve(config, on_ready) == 0
    assert "in bug" in caplog.text
