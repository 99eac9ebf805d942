"""
The format of the activity log: JSON Lines, one request or one switch each.

It is the one record that replays, history and usage read.  A line says its `kind` and its version, `v`.
What a later version adds to a line is ignored; lines of another version or of an unknown kind are skipped.
Lines are in the order in which they *ended*; sort by `at` for the order of arrival.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec

LONGEST = 2**16
"""Of a line, in bytes; what is longer is neither written nor read."""
SUFFIX = ".jsonl"
"""Of the files of a log."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e10)]
"""No length of time, and no time since 1970 before the year 2286, is more than that."""
Tokens = Annotated[int, msgspec.Meta(ge=0)]


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What all lines have; a value that is None is left out."""

    v: Literal[1]
    """The version of the format."""
    at: Seconds
    """When it began, in seconds since 1970: a request's arrival, a switch's decision."""


class Request(_Line, frozen=True, kw_only=True, omit_defaults=True, tag="request"):
    """
    One request that named a model which exists, whatever became of it.

    Those refused before that are not in the log.
    """

    client: str
    """Who asked: the name of the API key, else `@` and a hash of the address; no such name begins so."""
    path: str
    """The route, such as `/v1/chat/completions`."""
    model: str
    """The model's own id on its backend, whatever alias the client used."""
    backend: str
    """The name of the backend."""
    device: str | None = None
    """The device whose memory the model takes; None where the backend's requests pass without arbitration."""
    priority: Annotated[int, msgspec.Meta(ge=-10, le=10)]
    """Higher is served before lower."""
    queue_s: Seconds
    """Seconds for which it waited for its model, all together."""
    switch_s: Seconds
    """The part of `queue_s` in which the switch to its own model was carried out."""
    service_s: Seconds
    """Seconds for which it held its model; 0 for one that never got it."""
    first_byte_s: Seconds | None = None
    """Seconds from asking the backend to the first byte of its answer; None without an answer."""
    total_s: Seconds
    """Seconds from arrival to end; a slow client makes it longer than its parts."""
    tokens_in: Tokens | None = None
    """Tokens of the prompt, as the backend counted them; None where it did not tell."""
    tokens_out: Tokens | None = None
    """Tokens of the answer, as the backend counted them; None where it did not tell."""
    cache: Literal["hit", "miss", "away"] | None = None
    """What became of an answer that was looked for where answers are kept; None where none was."""
    outcome: str
    """`success`, or the code of what ended it, such as `client_left`, `wait_expired` or `backend_error`."""
    status: int | None = None
    """The HTTP status of the answer; None where none was sent."""


class Switch(_Line, frozen=True, kw_only=True, omit_defaults=True, tag="switch"):
    """One switch of a device that was carried out: unload zero or more models, then load one, or none."""

    device: str
    """The name of the device."""
    model: str | None = None
    """The id of the model that was loaded; None for a switch that only unloads."""
    backend: str | None = None
    """The backend of `model`."""
    unloaded: tuple[str, ...] = ()
    """The models that had to go, each as `backend/id`."""
    cause: str
    """Why: one of the values of `arbiter.Cause`, such as `room`, `idle` or `patience`."""
    drain_s: Seconds
    """Seconds from the decision until the models that had to go were idle."""
    unload_s: Seconds
    """Seconds that the unloading took, with the look before it and the pause after it."""
    load_s: Seconds
    """Seconds that the load took, up to the model that answers, or up to its failure."""
    parallel: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """The requests that the loaded model serves at once, as its server says; None where it does not."""
    outcome: str
    """`ok`, `failed`, or `given_up` where nobody waited for it any more."""


Entry = Request | Switch

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def line_of(entry: Entry) -> bytes:
    """
    Return *entry* as one line of ASCII, with its end.

    So no name in it, whatever its characters, makes a line of its own or acts on a terminal.
    """
    try:
        line = _encode(entry)
        return line + b"\n" if line.isascii() else _escaped(entry)
    except UnicodeEncodeError:  # half a pair of UTF-16, which Python's JSON lets through
        return _escaped(entry)


def _escaped(entry: Entry) -> bytes:
    plain = json.dumps(msgspec.to_builtins(entry), ensure_ascii=False).encode(errors="replace")
    return json.dumps(json.loads(plain), separators=(",", ":")).encode() + b"\n"


class Entries:
    """
    The entries of the log at *path*: a folder with its files in order, or one file.

    Iterating reads the files, line by line.  *skipped* counts the lines passed over so far: torn by a crash,
    too long, of another version or of an unknown kind.  Raises `OSError` if *path* cannot be read; a file of
    a folder that the daemon deletes meanwhile is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped = 0

    def __iter__(self) -> Iterator[Entry]:
        """Read from the beginning."""
        self.skipped = 0
        if not self.path.is_dir():
            return self._of(self.path)
        files = sorted(each for each in self.path.iterdir() if each.suffix == SUFFIX)
        return (entry for file in files for entry in self._kept(file))

    def _kept(self, path: Path) -> Iterator[Entry]:
        try:
            yield from self._of(path)
        except FileNotFoundError:
            return

    def _of(self, path: Path) -> Iterator[Entry]:
        with path.open("rb") as file:
            for line in _lines(file):
                try:
                    yield _decode(line)
                except (ValueError, RecursionError):  # msgspec's own errors are of the first kind
                    self.skipped += 1


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of *file*; one that is too long is yielded as nothing."""
    while line := file.readline(LONGEST):
        if len(line) < LONGEST or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST)
        yield b""
