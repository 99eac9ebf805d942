"""A child process, whatever it runs: its first line, its last ones, and that nothing of it is left."""

import asyncio
import sys

import psutil
import pytest

from dmap.process import Child, LastLines, clean_environment

LIMIT_S = 60


async def fed(*chunks: bytes) -> LastLines:
    tail, stream = LastLines(), asyncio.StreamReader()
    for chunk in chunks:
        stream.feed_data(chunk)
    stream.feed_eof()
    await tail.follow(stream)
    return tail


async def test_the_tail_is_bounded():
    """However much a child writes, and however long its lines, little of it is kept."""
    tail = await fed(b"x" * 1_000_000, b"\n", *(b"line %d\n" % index for index in range(1000)), b"last")

    assert len(tail.lines) == 40
    assert tail.lines[-1] == "last"
    assert max(map(len, (await fed(b"x" * 1_000_000)).lines)) == 500


def python(*lines: str) -> list[str]:
    return [sys.executable, "-c", "; ".join(lines)]


async def test_the_first_line_is_its_owners():
    """What a child says first is for its owner; what it says then, on either stream, is kept."""
    gone = asyncio.Event()
    said = python("import sys", "print('here', flush=True)", "print('more')", "sys.stderr.write('worse')")
    child = Child(said, clean_environment(), gone.set)

    async with asyncio.timeout(LIMIT_S):
        first = await child.first_line()
        await gone.wait()

    assert (first, sorted(child.output.lines), child.status) == ("here", ["more", "worse"], 0)


@pytest.mark.parametrize(
    ("command", "status", "last"),
    [
        (python("raise SystemExit(3)"), 3, []),
        (["/nonexistent/program"], None, ["cannot start /nonexistent/program: No such file or directory"]),
    ],
)
async def test_a_child_that_says_nothing(command, status, last):
    """A child that ends without a word, or cannot be started at all, has no first line."""
    gone = asyncio.Event()
    child = Child(command, clean_environment(), gone.set)

    async with asyncio.timeout(LIMIT_S):
        assert await child.first_line() is None
        await gone.wait()

    assert (child.status, list(child.output.lines)) == (status, last)


async def test_one_that_heeds_no_sigterm_is_killed():
    """`end` returns when the process is reaped, and may be called again."""
    deaf = python(
        "import signal", "signal.signal(15, signal.SIG_IGN)", "print(1, flush=True)", "signal.pause()"
    )
    child = Child(deaf, clean_environment(), lambda: None)

    async with asyncio.timeout(LIMIT_S):
        await child.first_line()
        ended = await child.end(), await child.end()

    assert (ended, child.status, psutil.pid_exists(child.pid or 0)) == ((True, True), -9, False)


def test_the_environment_has_no_secrets(monkeypatch):
    """A child gets the environment without the variables whose names tell of a secret."""
    monkeypatch.setenv("MY_API_KEY", "x")
    monkeypatch.setenv("MY_PLACE", "y")

    made = clean_environment()

    assert ("MY_API_KEY" in made, made["MY_PLACE"]) == (False, "y")
