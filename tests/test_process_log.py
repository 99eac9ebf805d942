"""What engines say: the last lines are kept, all of it has a bound, and not all of it goes into our log."""

import asyncio
import logging

import pytest

from dmap.process import Log


async def fed(*chunks: bytes, log: Log | None = None) -> Log:
    log, stream = log or Log(), asyncio.StreamReader()
    for chunk in chunks:
        stream.feed_data(chunk)
    stream.feed_eof()
    await log.follow(stream)
    return log


async def test_what_is_kept_is_bounded():
    """However much is said, and however long its lines, little of it is kept: the last."""
    log = await fed(b"x" * 1_000_000, b"\n", *(b"line %d\n" % index for index in range(1000)), b"last")

    assert (log.last, len(log.since(0)), log.since(0)[-1]) == (1002, 400, "last")
    assert max(map(len, (await fed(b"x" * 1_000_000)).since(0))) == 500


async def test_one_goes_on_from_a_line():
    """Who has seen a line gets those after it, as far as they are kept, and none twice."""
    log = await fed(b"a\nb\r\n\nc\rd")

    assert (log.since(0), log.since(2), log.since(4), log.since(9)) == (list("abcd"), ["c", "d"], [], [])


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b"\x1b[1;31mred\x1b[0m \xff", "red \ufffd"),
        (b"a\x1b]0;title\x07b\x1b]52;c;aGk=\x1b\\c", "abc"),
        (b"\x1bPq#0\x1b\\\x1b[2J\x1b[Hup\x1b(B\x1bM\x1b[?1049h", "up"),
        (b"over\x08\x08\x08\x08\x7f\x00\x9b31m", "over\ufffd31m"),
        ("left \u202eto right\u2028 \x9b31m\x85end".encode(), "left to right 31mend"),
        (b"half \x1b[", "half"),
        (b"a\tb", "a b"),
    ],
)
async def test_what_a_terminal_would_obey_is_no_part_of_a_line(said, kept):
    """Colours, titles, the clipboard and moves are taken out; bytes that are no UTF-8 do no harm."""
    assert (await fed(said)).since(0) == [kept]


async def test_secrets_are_masked():
    """A secret is masked wherever it stands, in colours, at the end of a line or after what else was cut."""
    log = Log()
    log.hide(["sk-12345678", "sk-1234"])
    text = b"key sk-12345678, sk-1234\nsk-\x1b[1m1234\x1b[0m\n" + b"x" * 495 + b"sk-12345678 y\nsk-12345678"

    assert (await fed(text, log=log)).since(0) == ["key ***, ***", "***", "x" * 495 + "*** y", "***"]


async def test_a_line_is_cut_by_its_bytes():
    """However many bytes a letter has, a line has no more than its bound."""
    (line,) = (await fed(b"\xf0\x9f\x90\x9f" * 1000)).since(0)

    assert (len(line.encode()), set(line)) == (500, {"\U0001f41f"})


async def test_our_log_gets_some(caplog: pytest.LogCaptureFixture):
    """A burst of lines goes into our log, the rest of a flood is counted there; no line is forged."""
    caplog.set_level(logging.INFO, "dmap")
    now = [0.0]
    log = Log({"model": "m", "backend": "box"}, clock=lambda: now[0])
    await fed(b"ready\nlistening port=1\n", *[b"flood\n"] * 10_000, log=log)
    now[0] += 1
    log.add(b"later")

    told = [record.getMessage() for record in caplog.records]
    assert told[:2] == [
        "engine_says model=m backend=box line=ready",
        'engine_says model=m backend=box line="listening port=1"',
    ]
    assert (len(told), told[-1]) == (
        log.BURST + 1,
        "engine_says model=m backend=box line=later skipped_before=9902",
    )
