"""Request bodies, read whole and within bounds: of size, of time, and of all of them together."""

import asyncio
from types import TracebackType
from typing import Self

from aiohttp import web

from dmap.aiohttp_insides import BODY_ERRORS, ask_for_body
from dmap.config import Server
from dmap.errors import BadRequest, BodyTooLarge, Overloaded, UploadTimeout


class Bodies:
    """All the bodies that are in memory; together at most `server.bodies`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.held_bytes = 0

    def of(self, request: web.Request) -> "Body":
        """Return the body of *request*, for `with`: it counts as held until the end of that."""
        return Body(self, request)


class Body:
    """One request's body and its share of the memory for all."""

    def __init__(self, bodies: Bodies, request: web.Request) -> None:
        self._bodies = bodies
        self._request = request
        self._claimed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bodies.held_bytes -= self._claimed

    async def read(self) -> bytes:
        """
        Read it whole.

        Raises `BodyTooLarge`, `UploadTimeout`, `Overloaded`, or `BadRequest` when it does not arrive whole.
        """
        content, body_s = self._request.content, self._bodies.server.body_s
        try:
            if content.is_eof():  # most bodies come in one piece with their head
                return self._hold(content.read_nowait())
            async with asyncio.timeout(body_s):
                return await self._read()
        except TimeoutError as exc:
            raise UploadTimeout(f"the body did not arrive within {body_s:g} s (server.body_s)") from exc
        except BODY_ERRORS as exc:
            raise BadRequest(f"the body did not arrive whole: {exc}") from exc

    async def _read(self) -> bytes:
        """What cannot end well does not begin; but only what has arrived counts as held."""
        self._check(self._request.content_length or 0)
        await self._ask_for_it()
        chunks = [self._hold(chunk) async for chunk in self._request.content.iter_any()]
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _hold(self, chunk: bytes) -> bytes:
        self._check(len(chunk))
        self._claimed += len(chunk)
        self._bodies.held_bytes += len(chunk)
        return chunk

    async def _ask_for_it(self) -> None:
        """Send `100 Continue` to a client that waits for it (RFC 9110 section 10.1.1)."""
        expects = self._request.headers.get("Expect", "").lower() == "100-continue"
        if expects and self._request.version >= (1, 1):
            await ask_for_body(self._request)

    def _check(self, more: int) -> None:
        server = self._bodies.server
        if self._claimed + more > server.max_body:
            raise BodyTooLarge(f"the body is over {server.max_body} bytes (server.max_body)")
        if self._bodies.held_bytes + more > server.bodies:
            held = f"the bodies of waiting requests would take over {server.bodies} bytes (server.bodies)"
            raise Overloaded(held, retry_after_s=5)
