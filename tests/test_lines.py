"""Log lines that wait for each other."""

import asyncio
import io
import json
import logging
import math
import os
import re
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmap import lines
from dmap.lines import Lines
from dmap.logfmt import LONGEST, Line


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


@pytest.fixture
def root(stream):
    """Log to *stream* through the root logger, as the daemon does."""
    root, handler = logging.getLogger(), Lines(stream)
    level = root.level
    root.addHandler(handler)
    yield logging.getLogger("dmap.test")
    root.removeHandler(handler)
    root.setLevel(level)


STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
FIELDS = {"model": "a b", "queue_s": 1.23456, "status": 200, "reason": None, "size": math.inf}


@pytest.mark.parametrize(
    ("stamped", "start"), [(False, ""), (True, f"{STAMP} "), (None, f"{STAMP} ")], ids=["no", "yes", "auto"]
)
async def test_the_form_of_a_line(root, stream, stamped, start):
    """A line says when it was, unless that is not wanted, how grave it is, who says it, and what."""
    lines.write_as("info", "logfmt", stamped=stamped)

    root.warning(Line("switch", FIELDS))

    form = rf'{start}WARNING dmap\.test switch model="a b" queue_s=1\.235 status=200 size=inf\n'
    assert re.fullmatch(form, stream.getvalue())


async def test_json(root, stream):
    """A line of JSON is one object with the fields as they are; what has no place in JSON is null."""
    lines.write_as("info", "json", stamped=True)

    root.warning(Line("switch", FIELDS))
    root.warning("plain %s", "words")

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert re.fullmatch(STAMP, first.pop("time"))
    assert first == {
        "level": "WARNING",
        "logger": "dmap.test",
        "event": "switch",
        "model": "a b",
        "queue_s": 1.235,
        "status": 200,
        "size": None,
    }
    assert second["event"] == "plain words"


async def test_a_traceback_in_json(root, stream):
    """A traceback stays within its line, whose text nobody can forge, and the line is whole however long."""
    lines.write_as("info", "json", stamped=False)

    root.error(Line("bug", {"what": "x" * 1000}), exc_info=raised(FORGED[:-1] + "\U0001f600" * 10**5))

    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert (told["what"], len(told["traceback"])) == ("x" * 256, lines.TRACE)


async def test_a_long_text_in_json(root, stream):
    """What a library logs may be of any length: its record is whole JSON still, with a traceback too."""
    lines.write_as("info", "json", stamped=True)

    root.error("\U0001f600" * 10**5, exc_info=raised("\U0001f600" * 10**5))

    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert (len(told["event"]), len(told["traceback"])) == (lines.MESSAGE, lines.TRACE)


async def test_the_level_holds(root, stream):
    """What is below the level is not written."""
    lines.write_as("warning", "logfmt", stamped=False)

    root.info("one")
    root.warning("two")

    assert stream.getvalue() == "WARNING dmap.test two\n"


def test_what_goes_to_journald():
    """The journal is known by the file that systemd has named; another, or none, is not it."""
    with tempfile.TemporaryFile("w") as stream:
        status = os.fstat(stream.fileno())
        named = f"{status.st_dev}:{status.st_ino}"

        assert lines.is_journal(stream, {"JOURNAL_STREAM": named})
        assert not lines.is_journal(stream, {"JOURNAL_STREAM": f"{named}1"})
        assert not lines.is_journal(stream, {})
    assert not lines.is_journal(io.StringIO(), {"JOURNAL_STREAM": named})
