"""The format of the activity log: what is written is read, and nothing else is."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from dmap.activity import Entries, Entry, Request, Switch, line_of

REQUEST = Request(
    v=1,
    at=1_732_219_200.125,
    client="webui",
    path="/v1/chat/completions",
    model="qwen/qwen3-8b",
    backend="studio",
    device="gpu0",
    priority=-1,
    queue_s=4.5,
    switch_s=3.25,
    service_s=7.5,
    first_byte_s=0.25,
    total_s=12.125,
    tokens_in=12,
    tokens_out=345,
    outcome="success",
    status=200,
)
BARE = Request(
    v=1,
    at=1.0,
    client="@0011223344556677",
    path="/v1/embeddings",
    model="m",
    backend="b",
    priority=0,
    queue_s=0.0,
    switch_s=0.0,
    service_s=0.0,
    total_s=0.5,
    outcome="client_left",
)
SWITCH = Switch(
    v=1,
    at=2.0,
    device="gpu0",
    model="m",
    backend="b",
    unloaded=("b/n", "c/o"),
    cause="patience",
    drain_s=0.5,
    unload_s=1.5,
    load_s=8.0,
    parallel=4,
    outcome="ok",
)
UNLOAD = Switch(
    v=1,
    at=3.0,
    device="gpu0",
    unloaded=("b/m",),
    cause="ttl",
    drain_s=0.0,
    unload_s=1.0,
    load_s=0.0,
    outcome="ok",
)
ALL: list[Entry] = [REQUEST, BARE, SWITCH, UNLOAD]


def log_of(path: Path, *lines: bytes) -> Entries:
    """Return the log of one file with these *lines*."""
    path.write_bytes(b"".join(lines))
    return Entries(path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """All entries come back as they were, in the order of the lines."""
    log = log_of(tmp_path / "a.jsonl", *map(line_of, ALL))

    assert list(log) == ALL
    assert log.skipped == 0


def test_a_line_is_json_that_says_what_it_is() -> None:
    """A line has its kind, its version and what is known; None is left out."""
    assert line_of(BARE) == (
        b'{"kind":"request","v":1,"at":1.0,"client":"@0011223344556677","path":"/v1/embeddings","model":"m",'
        b'"backend":"b","priority":0,"queue_s":0.0,"switch_s":0.0,"service_s":0.0,"total_s":0.5,'
        b'"outcome":"client_left"}\n'
    )
    assert line_of(UNLOAD) == (
        b'{"kind":"switch","v":1,"at":3.0,"device":"gpu0","unloaded":["b/m"],"cause":"ttl","drain_s":0.0,'
        b'"unload_s":1.0,"load_s":0.0,"outcome":"ok"}\n'
    )


@pytest.mark.parametrize(
    "name", ["a\nb", "a\r\nb", "a\u2028b", "a\x9b2Jb", "é\U0001f600", 'a"},{"', "\0", "\x1b[2J"]
)
def test_no_name_makes_a_line(tmp_path: Path, name: str) -> None:
    """Whatever a model is called, its line is one line of printable ASCII, and is read again."""
    entry = structs.replace(REQUEST, model=name)

    line = line_of(entry)

    assert line.isascii() and line[:-1].decode().isprintable()
    assert list(log_of(tmp_path / "a.jsonl", line)) == [entry]


def test_half_a_character(tmp_path: Path) -> None:
    """A name with half a pair of UTF-16, which is no text, is written with a question mark and read again."""
    line = line_of(structs.replace(REQUEST, model="a\ud800b"))

    assert list(log_of(tmp_path / "a.jsonl", line)) == [structs.replace(REQUEST, model="a?b")]


@pytest.mark.parametrize(
    "line",
    [
        line_of(REQUEST)[:100] + b"\n",
        b"\n",
        b"\0" * 4096 + b"\n",
        b"[1]\n",
        line_of(REQUEST).replace(b'"v":1', b'"v":2'),
        line_of(REQUEST).replace(b'"v":1,', b""),
        line_of(REQUEST).replace(b'"request"', b'"rumour"'),
        line_of(REQUEST).replace(b'"queue_s":4.5', b'"queue_s":-1'),
        line_of(REQUEST).replace(b'"queue_s":4.5', b'"queue_s":NaN'),
        line_of(REQUEST).replace(b'"queue_s":4.5', b'"queue_s":1e300'),
        line_of(REQUEST).replace(b'"priority":-1', b'"priority":99'),
        line_of(SWITCH).replace(b'"parallel":', b'"parallel":-'),
        b'{"kind":"request","x":' + b"[" * 60_000 + b"\n",
        b"\xff\xfe\n",
        b"x" * 65_535 + b"\n",
        b"x" * 200_000 + b"\n",
        b"x" * 131_071 + b"\n",
    ],
)
def test_what_is_skipped(tmp_path: Path, line: bytes) -> None:
    """A line that is torn, foreign, of another version or too long is skipped and counted."""
    log = log_of(tmp_path / "a.jsonl", line_of(REQUEST), line, line_of(SWITCH))

    assert list(log) == [REQUEST, SWITCH]
    assert log.skipped == 1


@pytest.mark.parametrize("cut", [2, 50, 150])
def test_a_torn_end(tmp_path: Path, cut: int) -> None:
    """The last line of a process that was killed is skipped, and hides no other."""
    log = log_of(tmp_path / "a.jsonl", line_of(REQUEST), line_of(SWITCH)[:-cut])

    assert list(log) == [REQUEST]
    assert log.skipped == 1


def test_an_end_without_its_newline(tmp_path: Path) -> None:
    """A last line that lacks nothing but its end counts."""
    log = log_of(tmp_path / "a.jsonl", line_of(REQUEST), line_of(SWITCH)[:-1])

    assert list(log) == [REQUEST, SWITCH]
    assert log.skipped == 0


def test_what_a_later_version_adds(tmp_path: Path) -> None:
    """A field that this version does not know is passed over."""
    line = line_of(REQUEST).replace(b'"v":1', b'"v":1,"cached":{"tokens":[3]}')

    assert list(log_of(tmp_path / "a.jsonl", line)) == [REQUEST]


def test_a_folder(tmp_path: Path) -> None:
    """The files of a folder are read in the order of their names; others in it are none of the log's."""
    log_of(tmp_path / "20261122T000000Z.jsonl", line_of(SWITCH))
    log_of(tmp_path / "20261121T000000Z.jsonl", line_of(REQUEST), b"{\n")
    log_of(tmp_path / "salt", b"\xff" * 32)

    log = Entries(tmp_path)

    assert list(log) == [REQUEST, SWITCH]
    assert log.skipped == 1
    assert [*log, log.skipped] == [REQUEST, SWITCH, 1]


def test_a_file_that_goes(tmp_path: Path) -> None:
    """A file that the daemon deletes during the reading is none."""
    log_of(tmp_path / "1.jsonl", line_of(REQUEST))
    log_of(tmp_path / "2.jsonl", line_of(SWITCH))

    reading: Any = iter(Entries(tmp_path))
    first = next(reading)
    (tmp_path / "2.jsonl").unlink()

    assert [first, *reading] == [REQUEST]


def test_no_log(tmp_path: Path) -> None:
    """A path that is not there is an error."""
    with pytest.raises(FileNotFoundError):
        list(Entries(tmp_path / "activity"))
