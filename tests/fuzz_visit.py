"""
One connection of a fuzzing campaign: what is sent, what comes, and what must not be so.

Answers are read by the book: an answer that is owed has to come, whole, in shape, and no dmap's own fault.
"""

import asyncio
import json
import socket
import struct
from typing import Any

from tests.fakes import Head
from tests.rubbish import Ask

__all__ = ["OWED_S", "Visit"]

OWED_S = 10.0
"""How long a request by the book may wait for its answer."""
IDLE_S = 0.2
"""How long what is no request is waited for: longer than `body_s`, for the 408."""


class Visit:
    """One connection: what is sent, what comes, and what is wrong with it."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.sent = b"".join(ask.pieces)
        self._heads = ask.heads or (self.sent.startswith(b"HEAD "),)
        self.seen: list[str] = []
        self.complaints: list[str] = []

    async def run(self, address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address, limit=2**20)
        try:
            for piece in self.ask.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if self.ask.leave == "wait":
                await self._answers(reader)
            elif self.ask.leave == "half_close":
                writer.write_eof()
                await asyncio.wait_for(reader.read(), 1)
            else:
                await asyncio.sleep(len(self.ask.pieces[0]) % 7 / 1000)
                if self.ask.leave == "reset":
                    sock: socket.socket = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            self.seen.append("cut")
        finally:
            writer.transport.abort()

    async def _answers(self, reader: asyncio.StreamReader) -> None:
        """Read answers until none is owed any more."""
        while True:
            owed = self.ask.sane and not self.seen
            try:
                async with asyncio.timeout(OWED_S if owed else IDLE_S):
                    head = Head(await reader.readuntil(b"\r\n\r\n"))
            except TimeoutError:
                if owed:
                    self.complaints.append("no answer")
                return
            except (asyncio.IncompleteReadError, ConnectionError) as exc:
                if owed or getattr(exc, "partial", b""):
                    self.complaints.append(f"no answer but {exc!r}")
                return
            if not head.raw.startswith(b"HTTP/"):
                self.complaints.append(f"not HTTP: {head.raw!r} after {self.seen}")
                return
            if head.status == 100:
                continue
            self.seen.append(str(head.status))
            if not await self._body(head, reader):
                return

    async def _body(self, head: Head, reader: asyncio.StreamReader) -> bool:
        """Read and judge the body of *head*; tell whether another answer may follow."""
        is_head = self._heads[min(len(self.seen), len(self._heads)) - 1]
        if head.raw.startswith(b"HTTP/1.0 400"):  # not read as HTTP, so not as a HEAD either
            is_head = False
        if is_head or head.status in (204, 304):
            self._judge(head, None)
            return True
        is_stream = "event-stream" in head.headers.get("content-type", "")
        if is_stream and b"/debug/stream" in self.sent:
            await reader.readuntil(b"\n\n")
            return False
        body, is_whole = await _read(head, reader)
        if is_stream and head.status == 200:
            self.seen[-1] += " stream" if is_whole else " stream cut"
            is_reset = head.raw.startswith(b"HTTP/1.0")  # which has no chunks, and no room for words
            if not is_whole and not is_reset and b'"error"' not in body:
                self.complaints.append(f"a stream cut without a word: {body[-300:]!r}")
        elif not is_whole:
            self.complaints.append(f"half an answer: {head.raw!r} {body[-300:]!r}")
        else:
            self._judge(head, body)
        return is_whole and head.headers.get("connection", "").lower() != "close"

    def _judge(self, head: Head, body: bytes | None) -> None:
        """Complain of what is out of shape, or is dmap's own fault."""
        if "x-request-id" not in head.headers:
            self.complaints.append(f"no id: {head.raw!r}")
        if head.status < 400:
            return
        if body is None:
            self.complaints += ["a 500"] * (head.status == 500)
            return
        told, error = _error(body)
        self.seen[-1] += f" {error.get('code')}"
        is_own, members = told.get("src") == "dmap", {"message", "type", "param", "code"}
        if not error.get("message") or not error.keys() >= (members if is_own else {"type"}):
            self.complaints.append(f"out of shape: {head.raw!r} {body[:500]!r}")
        if is_own and head.status == 500 and error["type"] != "backend_error":
            self.complaints.append(f"a 500 of its own: {body!r}")


def _error(body: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return *body* and its error, each empty if it is none."""
    try:
        told = json.loads(body)
        return told, told["error"] | {}
    except (ValueError, TypeError, KeyError):
        return {}, {}


async def _read(head: Head, reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """Return the body that *head* announces, and whether it came whole."""
    body, wanted = b"", head.headers.get("content-length")
    try:
        if wanted is not None:
            return await reader.readexactly(int(wanted)), True
        if "chunked" not in head.headers.get("transfer-encoding", ""):
            return await reader.read(), True
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return body, True
    except (asyncio.IncompleteReadError, ConnectionError) as exc:
        return body + getattr(exc, "partial", b""), False
