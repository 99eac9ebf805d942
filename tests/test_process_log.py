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


async def test_what_a_terminal_would_obey_is_no_part_of_a_line():
    """Colours are taken out, and bytes that are no UTF-8 do no harm."""
    assert (await fed(b"\x1b[1;31mred\x1b[0m \xff")).since(0) == ["red \ufffd"]


async def test_our_log_gets_some(caplog: pytest.LogCaptureFixture):
    """A burst of lines goes into our log, the rest of a flood is counted there; no line is forged."""
    caplog.set_level(logging.INFO, "dmap")
    now = [0.0]
    log = Log("box/m", clock=lambda: now[0])
    await fed(b"ready\nlistening port=1\n", *[b"flood\n"] * 10_000, log=log)
    now[0] += 1
    log.add(b"later")

    told = [record.getMessage() for record in caplog.records]
    assert told[:2] == [
        "engine_says model=box/m line=ready",
        'engine_says model=box/m line="listening port=1"',
    ]
    assert (len(told), told[-1]) == (
        log.BURST + 1,
        "engine_says model=box/m line=later skipped_before=9902",
    )
