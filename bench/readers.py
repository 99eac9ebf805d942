"""
Measure what readers of the debug stream cost those who ask for models.

Rounds without and with readers take turns against one `dmap serve`.  It has a core of its own where there
are two; the readers, the model server and the clients share the other, so a part of the difference is theirs.
"""

import argparse
import asyncio
import http.client
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from machine import confined_to, describe, free_port, memory_kib, split_cores

_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
_ANSWER = json.dumps(
    {"object": "chat.completion", "model": "m", "choices": [{"finish_reason": "stop"}]}
).encode()
_LISTING = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'
_CONFIG = "listen: {{port: {port}}}\nbackends: {{up: {{kind: openai, url: 'http://127.0.0.1:{up}'}}}}\n"
_STALLED_WINDOW = 4096
_BAR_MS = 10


@dataclass
class Tally:
    """What the rounds of one kind gave: milliseconds per request, KiB resident after each round."""

    ms: list[float] = field(default_factory=list)
    rss_kib: list[int] = field(default_factory=list)

    def quantile(self, percent: int) -> float:
        return statistics.quantiles(self.ms, n=100, method="inclusive")[percent - 1]

    def row(self, name: str) -> str:
        figures = [f"{value:.2f}" for value in (self.quantile(50), self.quantile(95), max(self.ms))]
        return f"| {name} | {len(self.ms)} | {' | '.join(figures)} | {max(self.rss_kib)} |"


def main() -> int:
    """Run the rounds, print a table; the exit code is 1 if the bar was missed."""
    options = _options()
    if options.act is not None:
        asyncio.run(_model_server(options.port) if options.act == "server" else _read(options))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        alone, beside = _measure(options, Path(folder))
    difference = beside.quantile(95) - alone.quantile(95)
    print(json.dumps(describe()))
    print("| | requests | p50 ms | p95 ms | longest ms | RSS KiB |\n|---|---|---|---|---|---|")
    print(alone.row("without readers"))
    print(beside.row(f"{options.readers} readers, {options.stalled} of them stalled"))
    print(f"\np95 is {difference:+.2f} ms; the bar is {_BAR_MS} ms")
    return int(difference > _BAR_MS)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what readers of the debug stream cost.")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10, help="of each round")
    parser.add_argument("--rate", type=float, default=5, help="requests per second")
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--stalled", type=int, default=20, help="how many of them do not read")
    parser.add_argument("--act", choices=["server", "readers"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(options: argparse.Namespace, folder: Path) -> tuple[Tally, Tally]:
    core, other = split_cores()
    port, up = free_port(), free_port()
    config = folder / "config.yaml"
    config.write_text(_CONFIG.format(port=port, up=up))
    alone, beside = Tally(), Tally()
    with (
        _running(other, [__file__, "--act", "server", "--port", str(up)]),
        _running(core, ["-m", "dmap", "serve", str(config)]) as dmap,
    ):
        _await(up), _await(port)
        _round(Tally(), dmap, port, options, seconds=2)
        for number in range(options.rounds):
            for tally in (alone, beside) if number % 2 else (beside, alone):
                readers = [
                    __file__,
                    "--act",
                    "readers",
                    "--port",
                    str(port),
                    "--readers",
                    str(options.readers),
                ]
                readers += ["--stalled", str(options.stalled)]
                with _running(other, readers if tally is beside else ["-c", "print(flush=True)"]) as child:
                    assert child.stdout is not None
                    child.stdout.readline()
                    _round(tally, dmap, port, options, seconds=options.seconds)
    return alone, beside


@contextmanager
def _running(core: int, arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=confined_to(core),
    )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def _await(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens at port {port}")


def _round(
    tally: Tally, dmap: "subprocess.Popen[str]", port: int, options: argparse.Namespace, *, seconds: float
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    began = time.monotonic()
    for number in range(int(seconds * options.rate)):
        # The stride is no multiple of anything, so that requests meet the wake-ups of readers anywhere.
        time.sleep(max(0.0, began + (number + 0.37 * (number % 3)) / options.rate - time.monotonic()))
        asked = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", _BODY, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.read() == _ANSWER and response.status == 200, response.status
        tally.ms.append(1000 * (time.perf_counter() - asked))
    connection.close()
    tally.rss_kib.append(memory_kib([dmap.pid])["rss"])


async def _model_server(port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(size[0].partition(b":")[2]) if size else 0)
                body = _LISTING if head.startswith(b"GET ") else _ANSWER
                kind = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                writer.write(kind % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        await server.serve_forever()


class _Reader(asyncio.Protocol):
    """Counts what it is sent, or does not read at all once the head is there."""

    def __init__(self, stalls: bool, is_open: asyncio.Future[None]) -> None:
        self._stalls = stalls
        self._is_open = is_open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"GET /debug/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        if not self._is_open.done():
            assert data.startswith(b"HTTP/1.1 200 "), data
            self._is_open.set_result(None)
            if self._stalls:
                self._transport.pause_reading()


async def _read(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    opened = [loop.create_future() for _ in range(options.readers)]
    for number, is_open in enumerate(opened):
        stalls, sock = number < options.stalled, socket.socket()
        if stalls:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STALLED_WINDOW)
        sock.connect(("127.0.0.1", options.port))
        sock.setblocking(False)
        await loop.create_connection(lambda a=stalls, b=is_open: _Reader(a, b), sock=sock)
    await asyncio.gather(*opened)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
