"""
One question to a model server, outside the relay.

Everything that comes back has a bound: the body, the heads, the trailers, the interim answers (1xx), and all
bytes together, so that no server can keep the loop or the memory.  Nothing is unpacked: an answer in another
encoding than plain bytes is refused.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeGuard

import httptools

from dmap.backends.base import Target
from dmap.backends.trouble import trouble_of

MOST_VALUES = 200_000
"""Of an answer in JSON; LM Studio's entries have about 30 each, and decoding so many takes 40 ms."""
MOST_MODELS = 2_500
LONGEST_NAME = 512
"""In characters, of a model: file names with their folders are shorter."""
_HEAD_BYTES = 64 * 1024
_INTERIM = 32
_PIECE_BYTES = 64 * 1024


class Unheard(Exception):
    """There was no answer, or none that is HTTP within the bounds; its words are for clients too."""


@dataclass(slots=True)
class _Reading:
    """
    What has been heard so far; for httptools to call.

    *quiet_bytes* have come since its last call: it keeps what is not whole, and copies it with each piece.
    """

    most_bytes: int
    body: bytearray
    head_bytes: int = 0
    quiet_bytes: int = 0
    interim: int = 0
    status: int = 0
    framed: bool = False
    done: bool = False
    parser: Any = None

    def on_header(self, name: bytes, value: bytes) -> None:
        self.quiet_bytes, self.head_bytes = 0, self.head_bytes + len(name) + len(value)
        self.check()
        if name.lower() == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise Unheard("its answer is compressed, though it was asked for a plain one")
        self.framed |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.quiet_bytes = 0
        self.body += data
        if len(self.body) > self.most_bytes:
            raise Unheard(f"its answer is over {self.most_bytes} bytes")

    def check(self) -> None:
        """Raise `Unheard` if there is too much beside the body."""
        if max(self.head_bytes, self.quiet_bytes) > _HEAD_BYTES:
            raise Unheard(f"its head or trailer is over {_HEAD_BYTES} bytes")

    def on_message_complete(self) -> None:
        self.quiet_bytes = 0
        if self.status >= 200:
            self.done = True
            return
        self.interim, self.framed = self.interim + 1, False
        if self.interim > _INTERIM:
            raise Unheard(f"it sends more than {_INTERIM} interim answers")


async def ask(
    target: Target,
    *,
    method: str = "GET",
    body: bytes = b"",
    within_s: float,
    connect_s: float | None = None,
    most_bytes: int,
) -> tuple[int, bytes]:
    """
    Ask *target* once, over a connection of its own; return the status and the body.  No redirect is followed.

    Raises `Unheard`, and TimeoutError after *within_s*.
    """
    async with asyncio.timeout(within_s):
        try:
            async with asyncio.timeout(connect_s):
                reader, writer = await asyncio.open_connection(
                    target.host, target.port, ssl=_context() if target.tls else None
                )
        except TimeoutError as exc:
            raise Unheard(f"no connection within {connect_s:g} s") from exc
        except OSError as exc:
            raise Unheard(trouble_of(exc)) from exc
        try:
            writer.write(_request(target, method, body))
            return await _heard(reader, most_bytes)
        except OSError as exc:
            raise Unheard(trouble_of(exc)) from exc
        except httptools.HttpParserCallbackError as exc:
            raise exc.__context__ or exc from None  # it is `Unheard`, or a bug of our own
        except httptools.HttpParserError as exc:
            raise Unheard("what it says is not HTTP") from exc
        finally:
            writer.transport.abort()


async def _heard(reader: asyncio.StreamReader, most_bytes: int) -> tuple[int, bytes]:
    reading, left = _Reading(most_bytes, bytearray()), 2 * most_bytes + _HEAD_BYTES
    reading.parser = httptools.HttpResponseParser(reading)
    while not reading.done and (piece := await reader.read(_PIECE_BYTES)):
        left -= len(piece)
        if left < 0:
            raise Unheard("its answer has no end")
        reading.quiet_bytes += len(piece)
        reading.parser.feed_data(piece)
        reading.check()
    if not reading.done and (reading.status < 200 or reading.framed):
        raise Unheard("the connection broke")
    return reading.status, bytes(reading.body)


def _request(target: Target, method: str, body: bytes) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = [
        f"{method} {target.path} HTTP/1.1",
        f"Host: {host}:{target.port}",
        "Accept-Encoding: identity",
        "Connection: close",
        *([f"Content-Length: {len(body)}", "Content-Type: application/json"] if body else []),
        *(f"{name}: {value}" for name, value in target.headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@lru_cache(maxsize=1)
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


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
