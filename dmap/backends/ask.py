"""
One question to a model server, outside the relay.

Everything that comes back has a bound, so that no server can keep the loop or the memory: the body, and all
that comes beside it, which are heads, trailers, interim answers (1xx) and the frames of chunks.  Nothing is
unpacked: an answer in another encoding than plain bytes is refused.
"""

import asyncio
import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import httptools

from dmap.backends.base import Target, ignore, trouble_of
from dmap.hosts import HOSTS

MOST_VALUES = 200_000
"""Of an answer in JSON; LM Studio's entries have about 30 each, and decoding so many takes 40 ms."""
MOST_MODELS = 2_500
LONGEST_NAME = 512
"""In characters, of a model: file names with their folders are shorter."""
MOST_COUNT = 2**50
"""Of bytes, tokens or slots: a petabyte.  What is beyond is no count; a larger integer may have no float."""
BESIDE_BYTES = 64 * 1024
"""So much may come beside the body, and as much again as the body has."""

_PIECE_BYTES = 64 * 1024
_PLAINLY = (("Accept-Encoding", "identity"), ("Connection", "close"))


class Unheard(Exception):
    """There was no answer, or none that is HTTP within the bounds; its words are for clients too."""


class _Reading:
    """What has been heard so far; for httptools to call."""

    def __init__(self, most_bytes: int, between: Callable[[], None]) -> None:
        self.body = bytearray()
        self.status = 0
        self.framed = False
        self.done = False
        self._most_bytes, self._between = most_bytes, between
        self._parser = httptools.HttpResponseParser(self)
        self._heard_bytes = 0

    def feed(self, piece: bytes) -> None:
        """Take the next *piece*.  Raises what httptools does, and `Unheard` beyond a bound."""
        self._heard_bytes += len(piece)
        self._parser.feed_data(piece)
        if self._heard_bytes - len(self.body) > BESIDE_BYTES + len(self.body):
            raise Unheard("too much comes beside its body: heads, trailers or frames of chunks")

    def close(self) -> None:
        """Let the parser go, which holds this: else both, and the body, wait for the garbage collector."""
        del self._parser

    def on_message_begin(self) -> None:
        self.framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise Unheard("its answer is compressed, though it was asked for a plain one")
        self.framed |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self._between()

    def on_body(self, data: bytes) -> None:
        self.body += data
        if len(self.body) > self._most_bytes:
            raise Unheard(f"its answer is over {self._most_bytes} bytes")

    def on_message_complete(self) -> None:
        self.done = self.status >= 200


async def ask(
    target: Target,
    *,
    body: bytes = b"",
    within_s: float,
    connect_s: float | None = None,
    most_bytes: int,
    between: Callable[[], None] = ignore,
) -> tuple[int, bytes]:
    """
    Ask *target* once, over a connection of its own; return the status and the body.  No redirect is followed.

    With a *body*, which is JSON, it is a POST.  *between* is called for each answer in between (1xx).  Raises
    `Unheard`, and TimeoutError after *within_s*.
    """
    typed = (("Content-Length", str(len(body))), ("Content-Type", "application/json")) if body else ()
    head = target.head("POST" if body else "GET", (*_PLAINLY, *typed))
    async with asyncio.timeout(within_s):
        try:
            async with asyncio.timeout(connect_s):
                reader, writer = await HOSTS.connect(target.host, functools.partial(_open, target))
            try:
                writer.write(head + body)
                return await _heard(reader, _Reading(most_bytes, between))
            finally:
                writer.transport.abort()
        except OSError as exc:
            raise Unheard(trouble_of(exc, connect_s)) from exc
        except httptools.HttpParserCallbackError as exc:
            raise exc.__context__ or exc from None  # it is `Unheard`, or a bug of our own
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            raise Unheard("what it says is not HTTP") from exc


async def _open(target: Target, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = target.context
    name = target.host if context is not None else None
    return await asyncio.open_connection(address, target.port, ssl=context, server_hostname=name)


async def _heard(reader: asyncio.StreamReader, reading: _Reading) -> tuple[int, bytes]:
    with contextlib.closing(reading):
        while not reading.done and (piece := await reader.read(_PIECE_BYTES)):
            reading.feed(piece)
    if not reading.done and (reading.status < 200 or reading.framed):
        raise Unheard("the connection broke")
    return reading.status, bytes(reading.body)


def decoded(body: bytes) -> Any:
    """Decode JSON of at most `MOST_VALUES` values.  Raises ValueError, and RecursionError."""
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"an answer of over {MOST_VALUES} values")
    return json.loads(body)


def entries(answer: Any, member: str) -> list[Mapping[str, Any]]:
    """Return the objects in the list that *answer* has as its *member*.  Raises ValueError."""
    items = answer.get(member) if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise ValueError("no list of models in the answer")
    if len(items) > MOST_MODELS:
        raise ValueError(f"a list of over {MOST_MODELS} models")
    return [item for item in items if isinstance(item, dict)]


def is_name(value: Any) -> TypeGuard[str]:
    """Tell whether *value* can be the name of a model; a longer one is no name that a client could use."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME


def count(value: Any) -> int | None:
    """Return *value* if so many bytes, tokens or slots can be, else None."""
    return value if type(value) is int and 0 < value <= MOST_COUNT else None
