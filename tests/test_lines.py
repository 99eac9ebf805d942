"""Log lines that wait for each other."""

import asyncio
import io
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmap import lines
from dmap.lines import Lines
from dmap.logfmt import LONGEST


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


async def test_a_stream_that_is_closed(log, stream, capsys):
    """Where the stream has been closed, what logs goes on, too."""
    stream.close()

    log.warning("one")

    assert "ValueError: I/O operation on closed file" in capsys.readouterr().err


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


FORGED = "no model\nERROR dmap.requests request client=admin\r\x1b[2J\x85\u2028<0>INFO \u202eon\udcff"


def raised(text):
    """Return an error with a traceback."""
    try:
        raise ValueError(text)
    except ValueError as exc:
        return exc


def written(log, **about):
    """Return the lines that one record becomes."""
    log.handlers[0].setStream(stream := io.StringIO())
    log.error("bug", **about)
    return stream.getvalue().split("\n")


def test_a_traceback_can_be_read(log):
    """A traceback follows its line, each line of it behind a bar."""
    first, second, *_, last, end = written(log, exc_info=raised("no model"))

    assert (first, second) == ("bug", "| Traceback (most recent call last):")
    assert (last, end) == ("| ValueError: no model", "")


def test_an_error_forges_no_line(log):
    """Whatever the text of an error has in it, no line but the first begins as a record does."""
    first, *rest, end = written(log, exc_info=raised(FORGED))

    assert (first, end) == ("bug", "")
    assert [line for line in rest if not line.startswith("| ")] == []
    assert rest[-2:] == [
        "| ValueError: no model",
        r"| ERROR dmap.requests request client=admin\r\x1b[2J\x85\u2028<0>INFO \u202eon\udcff",
    ]


@given(st.text())
def test_no_text_is_more_than_one_record(text):
    """A record is one line and those behind a bar, and none has a character that a terminal acts on."""
    log = logging.Logger("dmap.test", logging.DEBUG)
    log.addHandler(Lines(io.StringIO()))

    _, *rest, end = written(log, exc_info=raised(text), stack_info=True)

    assert {line[:2] for line in rest} == {"| "}
    assert all(map(str.isprintable, rest))
    assert end == ""


def test_a_record_is_bounded(log):
    """What an error drags along does not fill the disk."""
    assert sum(map(len, written(log, exc_info=raised("x" * 10**7)))) < 2 * LONGEST
