"""A wire between two processes that can be delayed, frozen and cut, each direction by itself."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

PIECE_BYTES = 64 * 1024


@dataclass
class Direction:
    """One direction: what comes is passed on after *delay_s*, and not at all while it is not *open*."""

    delay_s: float = 0.0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes, to its end."""
        with suppress(ConnectionError):
            while piece := await reader.read(PIECE_BYTES):
                await asyncio.sleep(self.delay_s)
                await self.open.wait()
                writer.write(piece)
                await writer.drain()
        await self.open.wait()
        writer.close()


@dataclass
class Cutter:
    """
    The wire to *port*; *there* and *back* are its directions.  What is frozen is late and not lost.

    *connections* is how many it has had.
    """

    port: int
    there: Direction = field(default_factory=Direction)
    back: Direction = field(default_factory=Direction)
    url: str = ""
    connections: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _is_cut: bool = False

    def freeze(self) -> None:
        """Pass nothing on, and say nothing of it: as a cable that was pulled."""
        self.there.open.clear()
        self.back.open.clear()

    def thaw(self) -> None:
        """Pass on what waits, and what comes."""
        self.there.open.set()
        self.back.open.set()

    def cut(self) -> None:
        """Reset all that is open, and whatever comes, until `mend`: as a process that was killed."""
        self._is_cut = True
        for writer in list(self._writers):
            writer.transport.abort()

    def mend(self) -> None:
        """Take connections again."""
        self._is_cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(self.there.carry(reader, far_writer), self.back.carry(far_reader, writer))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()


@asynccontextmanager
async def cutter(url: str) -> AsyncGenerator[Cutter]:
    """Lay a wire to *url*, whose own `url` leads there."""
    wire = Cutter(int(url.rpartition(":")[2]))
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()
        wire.thaw()
        wire.cut()
