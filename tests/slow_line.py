"""A line between dmap and a server that a test makes slow, or cuts."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.fakes import HERE_S


@dataclass
class Line:
    """What comes to *port* is passed on in *delay_s*, both ways together; one that *is_cut* takes nothing."""

    to: int
    port: int = 0
    delay_s: float = 0.0
    is_cut: bool = False
    connections: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _under_way: set["asyncio.Task[None]"] = field(default_factory=set)

    def cut(self) -> None:
        """End all connections, and those that will come."""
        self.is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    async def ended(self) -> None:
        """Wait until nobody is served any more."""
        await asyncio.wait_for(asyncio.gather(*self._under_way, return_exceptions=True), HERE_S)

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, and remember it."""
        self._under_way.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.is_cut:
            return writer.transport.abort()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
        except ConnectionError:
            return writer.transport.abort()
        both = (writer, far_writer)
        self._writers.update(both)
        if self.is_cut:  # meanwhile
            self.cut()
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            self._writers.difference_update(both)
            for each in both:
                each.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay_s / 2)
                writer.write(data)
        writer.close()


@asynccontextmanager
async def slow_line(to: int) -> AsyncGenerator[Line]:
    """Run a line to the port *to* of loopback."""
    line = Line(to)
    server = await asyncio.start_server(line.take, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        line.cut()
        await line.ended()
