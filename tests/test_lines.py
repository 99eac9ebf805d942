"""Log lines that wait for each other."""

import asyncio
import io
import logging
import os

import pytest

from dmap import lines
from dmap.lines import Lines


class Heard(io.StringIO):
    """A stream that counts what is written to it; *written* is set by the first of that."""

    def __init__(self):
        super().__init__()
        self.writes = 0
        self.written = asyncio.Event()

    def write(self, text):
        self.writes += bool(text)
        self.written.set()
        return super().write(text)


@pytest.fixture
def stream():
    return Heard()


@pytest.fixture
def log(stream):
    log = logging.Logger("dmap.test", logging.DEBUG)
    log.addHandler(Lines(stream))
    return log


async def test_lines_are_written_together(log, stream):
    """Lines that come soon after each other are one write, in their order."""
    log.info("one")
    log.info("two %s", "and more")

    await stream.written.wait()

    assert (stream.getvalue(), stream.writes) == ("one\ntwo and more\n", 1)


async def test_a_line_that_cannot_be_written(capsys):
    """Where nobody takes the lines, what logs goes on, and so does the log itself."""
    reader, writer = os.pipe()
    os.close(reader)
    log = logging.Logger("dmap.test", logging.DEBUG)
    stream = os.fdopen(writer, "w", buffering=1)
    log.addHandler(Lines(stream))

    log.warning("one")
    log.warning("two")

    with pytest.raises(BrokenPipeError):
        stream.close()
    assert capsys.readouterr().err.count("BrokenPipeError") == 2


async def test_nothing_is_put_into_words_before(log, stream):
    """What a line says is asked for when it is written."""
    told = []
    log.info("%s", Told(told))

    asked_at_once = list(told)
    await stream.written.wait()

    assert (asked_at_once, told) == ([], ["asked"])


class Told:
    """Notes when somebody wants to read it."""

    def __init__(self, told):
        self._told = told

    def __str__(self):
        self._told.append("asked")
        return "told"


async def test_they_wait_again(log, stream):
    """After a write the next lines wait for each other too."""
    log.info("one")
    await stream.written.wait()
    stream.written.clear()

    log.info("two")
    await stream.written.wait()

    assert stream.getvalue() == "one\ntwo\n"


async def test_a_warning_does_not_wait(log, stream):
    """A warning is written at once, after what came before it."""
    log.info("one")

    log.warning("two")

    assert stream.getvalue() == "one\ntwo\n"


async def test_many_do_not_wait(log, stream, many):
    """What waits is bounded."""
    many(log.info)

    assert stream.getvalue() == "x\n" * lines.MOST


@pytest.fixture
def many():
    """Tell as many lines as may wait."""
    return lambda tell: [tell("x") for _ in range(lines.MOST)]


def test_outside_a_loop(log):
    """Where no loop runs nobody would write later."""
    log.handlers[0].setStream(stream := io.StringIO())

    log.info("one")

    assert stream.getvalue() == "one\n"


async def test_from_a_thread(log, stream):
    """A thread has no loop: its line is written at once, with what waits."""
    log.info("one")

    await asyncio.to_thread(log.info, "two")

    assert stream.getvalue() == "one\ntwo\n"


async def test_the_end_of_the_process(log, stream):
    """`logging.shutdown` flushes, and leaves no line behind."""
    log.info("one")

    log.handlers[0].flush()

    assert stream.getvalue() == "one\n"


async def test_a_record_that_cannot_be_told(log, stream, capsys):
    """A mistake in one line costs that line."""
    log.info("%d", "one")

    log.warning("two")

    assert "Logging error" in capsys.readouterr().err
    assert stream.getvalue() == "two\n"
