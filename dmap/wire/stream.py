"""
Tell a whole stream from a broken one.

A `StreamWatch` watches the records of one event stream go by, many at a time and without decoding them.  It
keeps the last few and looks closer only where a record may be an error.
Event streams are records separated by an empty line (WHATWG HTML, "Server-sent events").
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from dmap.wire.dialects import Dialect
from dmap.wire.values import json_of

_ENDS = (b"\n\n", b"\r\n\r\n")
_BREAK = re.compile(rb"\r?\n\r?\n")
_KEEP = 64 * 1024
"""Of a record that comes in pieces; the marks stand at its beginning, so a longer one may lose its end."""
BATCH_BYTES = 4 * 1024
"""Bytes that are looked at together: to search each chunk by itself would cost three times as much."""
_MOST_SUSPECTS = 1000
"""Records of one read that are decoded because they may be errors."""
_LONGEST = 2000
"""Characters of a server's error that are passed on, logged and kept."""
_LAST = 32
"""How many of the last records are searched for the end mark and the tokens when a stream has ended."""

_READ = (
    ("prompt_tokens",),
    ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    ("prompt_n", "cache_n"),
)
"""What servers call the tokens that they read: a count, and those of a cache if it leaves them out."""
_WRITTEN = ("completion_tokens", "output_tokens", "total_output_tokens", "predicted_n")
_FASTEST = 1e6
"""The most tokens per second that are believed; llama.cpp says this of an answer that took no time."""

_MODEL = re.compile(rb'"model(?:_instance_id)?"\s*:\s*("(?:[^"\\]|\\.)*")')
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_DONE = re.compile(rb"data: ?\[DONE\]")
_NAME = re.compile(rb"^event: ?([\w.]+)", re.MULTILINE)
_SUSPECT = re.compile(rb'"error"|^event: ?error', re.MULTILINE)


class Usage(NamedTuple):
    """What a server says of its answer: the tokens it read and wrote, and how many it wrote per second."""

    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_per_s: float | None = None


class StreamWatch:
    """
    The watch over one event stream: `keep` all its bytes in order, `look` now and then, and ask at the end.

    `keep` costs next to nothing, for the bytes are kept as they are.  `look` searches them, and lets go of
    all but the last; a look is due whenever `BATCH_BYTES` have come.
    """

    __slots__ = ("_before", "_cut", "_error", "_last", "_unseen", "keep")

    def __init__(self) -> None:
        self._unseen: list[bytes] = []
        self.keep = self._unseen.append
        self._cut = b""
        self._before = b""
        self._last = b""
        self._error: str | None = None

    def look(self) -> None:
        """Search what was kept since the last look."""
        if not self._unseen:
            return
        data = self._cut + b"".join(self._unseen)
        self._unseen.clear()
        cut = b""
        if not data.endswith(_ENDS):
            new = max(len(self._cut) - 3, 0)  # before that no record ends
            ends = [at + len(mark) for mark in _ENDS if (at := data.rfind(mark, new)) >= 0]
            end = max(ends, default=0)
            data, cut = data[:end], data[end:]
        self._cut = cut if len(cut) <= _KEEP else cut[: _KEEP - 4] + cut[-4:]
        if b"error" in data:
            self._error = self._error or next(_errors(data), None)
        if data:
            self._before, self._last = self._last, data

    @property
    def error(self) -> str | None:
        """The first in-band error, if one came; it counts even when an end mark follows."""
        self.look()
        return self._error

    @property
    def torn(self) -> bool:
        """Whether the bytes so far end inside a record."""
        self.look()
        return bool(self._cut)

    def ended(self, dialect: Dialect, *, by_finish: bool = False, by_eof: bool = False) -> bool:
        """
        Tell whether the stream came to its end mark.

        *by_finish* also takes a `finish_reason` for one, since some servers send no `[DONE]`.  With *by_eof*
        only the end of the connection tells of the end; where there is no mark, a record is whole by then.
        """
        records = self._tail()
        if not (dialect.done or dialect.last_events):
            return not (by_eof and self._cut)
        if dialect.done:
            is_marked = any(map(_DONE.match, (*records[-1:], self._cut.strip())))
            return is_marked or (by_finish and any(map(_FINISHED.search, records)))
        if records and _DONE.match(records[-1]):
            records.pop()  # some gateways end every stream with it
        return bool(records) and bool(_names(records[-1], _payload(records[-1])) & dialect.last_events)

    def usage(self) -> Usage:
        """Return what the last records tell of the answer's tokens; None where they do not."""
        usages = map(usage_of, map(_payload, reversed(self._tail())))
        return next((usage for usage in usages if usage[:2] != (None, None)), Usage())

    def _tail(self) -> list[bytes]:
        """Return the last records that are complete, without comments."""
        self.look()
        records = (self._before + self._last).replace(b"\r\n", b"\n").strip().rsplit(b"\n\n", _LAST)
        return [record for record in map(bytes.lstrip, records[-_LAST:]) if not record.startswith(b":")]


def _errors(data: bytes) -> Iterator[str]:
    """Yield the message of each record in *data* that is an error."""
    for record in islice(filter(_SUSPECT.search, _BREAK.split(data)), _MOST_SUSPECTS):
        payload = _payload(record)
        message = error_of(payload)
        if message or "error" in _names(record, payload):
            yield message or "an error without a message"


def _names(record: bytes, payload: Any) -> set[str]:
    """Return what *record* calls itself: in its `event:` line, and in the `type` of its data, *payload*."""
    named = {name.decode("latin-1") for name in _NAME.findall(record)}
    kind = payload.get("type") if isinstance(payload, dict) else None
    return named | {kind} if isinstance(kind, str) else named


def _payload(record: bytes) -> Any:
    """Decode the `data:` of one record; None when it has none that is JSON."""
    return json_of(b"\n".join(line[5:].strip() for line in record.splitlines() if line.startswith(b"data:")))


def error_of(payload: Any) -> str | None:
    """
    Return the message when *payload* is an error body, in any server's form; a long one is cut.

    LM Studio sends `{"error": "text"}`, the others `{"error": {"message": ...}}`; OpenAI's responses carry
    `"error": null`, which is none, and its error events `{"type": "error", "message": ...}`.  Before 0.10,
    vLLM sent `{"object": "error", "message": ...}`.
    """
    if not isinstance(payload, dict):
        return None
    is_flat = "error" in (payload.get("type"), payload.get("object"))
    error = payload.get("error") or (payload if is_flat else None)
    if isinstance(error, dict):
        error = error.get("message") or error.get("type") or "no message"
    return text_of(error) if error else None


def text_of(said: Any) -> str:
    """Return what a server *said* as text, in bounded length; what is no text comes as JSON."""
    try:
        text = said if isinstance(said, str) else msgspec.json.encode(said).decode()
    except RecursionError:
        return "something nested too deep to be shown"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def usage_of(payload: Any) -> Usage:
    """Return what *payload* says in `usage`, in LM Studio's `stats` or in llama.cpp's `timings`."""
    if not isinstance(payload, dict):
        return Usage()
    inner = payload.get("response") or payload.get("message") or payload.get("result")
    said: dict[str, Any] = {}
    for whole in (inner, payload) if isinstance(inner, dict) else (payload,):
        for counts in (whole.get("timings"), whole.get("stats"), whole.get("usage")):
            said |= counts if isinstance(counts, dict) else {}
    read = next((sum(_counts(said, names)) for names in _READ if isinstance(said.get(names[0]), int)), None)
    written = next(iter(_counts(said, _WRITTEN)), None)
    rate: Any = said.get("predicted_per_second", said.get("tokens_per_second"))
    is_rate = isinstance(rate, int | float) and 0 < rate <= _FASTEST
    return Usage(read, written, float(rate) if is_rate else None)


def _counts(said: dict[str, Any], names: tuple[str, ...]) -> list[int]:
    return [said[name] for name in names if isinstance(said.get(name), int)]


def model_of(body: bytes) -> str | None:
    """Return the model that an answer, or the first records of one, says it comes from."""
    found = _MODEL.search(body)
    return json_of(found[1]) if found else None
