"""
What a hop costs: a front and its node beside one dmap, before the same fake server, in the same seconds.

    python -m bench.hop                    # 2,000 short answers each, then 48 streams of 100 chunks a second

Short answers go to the one dmap and to the front in turn, so that both see the same machine.  The CPU time
per chunk is user and system time of the front, and of a plain dmap at its place: that one takes the node for
any server, so it gets its chunks as far apart as the front does.
"""

import argparse
import asyncio
import hashlib
import os
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import uvloop

from tests.fakes import DONE, END, SSE, Exchange, answer, chunk, delta, fake_backend
from tests.process import Process, daemon

KEY = hashlib.sha256(b"front").hexdigest()
JSON = answer(b'{"object": "chat.completion", "model": "m", "choices": [{"message": {"content": "hi"}}]}')
PIECE = chunk(delta("x" * 150))
RATE = 100
WARM_UP = 200


def request(*, stream: bool) -> bytes:
    """Write a request for the model of the fake server."""
    body = b'{"model": "m", "stream": %b, "messages": [{"role": "user", "content": "%b"}]}'
    body %= b"true" if stream else b"false", b"a" * 800
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def served(seconds: float):  # type: ignore[no-untyped-def]
    """Return what answers: short answers at once, streams for so many *seconds*."""

    async def serve(exchange: Exchange) -> None:
        if b'"stream": true' not in exchange.body:
            await exchange.write(JSON)
            return
        await exchange.write(SSE)
        clock = asyncio.get_running_loop().time
        due = began = clock()
        while due < began + seconds:
            await exchange.write(PIECE)
            due += 1 / RATE
            await asyncio.sleep(max(0.0, due - clock()))
        await exchange.write(chunk(DONE), END)

    return serve


async def ask(address: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> float:
    """Ask once over a connection that is open; return the milliseconds to the end of the answer."""
    reader, writer = address
    began = time.perf_counter()
    writer.write(request(stream=False))
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return 1000 * (time.perf_counter() - began)


async def stream(process: Process) -> int:
    """Read one stream to its end; return how many bytes it had."""
    reader, writer = await connect(process)
    writer.write(request(stream=True))
    size = 0
    while piece := await reader.read(2**16):
        size += len(piece)
        if piece.endswith(END):
            break
    writer.close()
    return size


async def connect(process: Process) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a daemon."""
    host, port = process.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


def cpu_s(process: Process) -> float:
    """Return the CPU time that a daemon has taken; the kernel counts it in nanoseconds."""
    tasks = Path(f"/proc/{process.child.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def latencies(one: Process, front: Process, count: int) -> dict[str, list[float]]:
    """Ask both in turn."""
    lines = {"one": await connect(one), "front": await connect(front)}
    found: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(count + WARM_UP):
        for name, line in lines.items():
            found[name].append(await ask(line))
    return {name: values[WARM_UP:] for name, values in found.items()}


async def per_chunk_us(process: Process, streams: int) -> float:
    """Have so many streams relayed; return the CPU time of *process* per chunk."""
    before = cpu_s(process)
    sizes = await asyncio.gather(*(stream(process) for _ in range(streams)))
    return 1e6 * (cpu_s(process) - before) * len(PIECE) / sum(sizes)


async def main(options: argparse.Namespace) -> None:
    """Start all, and print what was."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(fake_backend())
        server.script = served(options.seconds)
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(4)]
        backend = f"backends: {{fake: {{kind: openai, url: '{server.url}'}}}}\nlog: {{level: warning}}"
        access = f"access: {{keys: [{{name: front, sha256: {KEY}, scopes: [front]}}]}}\n"
        one = await stack.enter_async_context(daemon(folders[0], backend.replace("warning", "info")))
        node = await stack.enter_async_context(
            daemon(folders[1], access + backend.replace("warning", "info"))
        )
        other = f"backends: {{box: {{kind: openai, url: '{node.url}', api_key: front}}}}"
        behind = await stack.enter_async_context(daemon(folders[3], other))
        nodes = f"nodes: {{box: {{url: '{node.url}', api_key: front}}}}"
        front = await stack.enter_async_context(daemon(folders[2], nodes))
        await asyncio.sleep(1)
        found = await latencies(one, front, options.requests)
        for name, values in found.items():
            p99 = statistics.quantiles(values, n=100)[98]
            print(f"{name}: median {statistics.median(values):.2f} ms, p99 {p99:.2f} ms")
        for _ in range(options.rounds):
            each_way = (front, behind, front)  # a machine that gets slower or faster favours neither
            before, plain, after = [await per_chunk_us(each, options.streams) for each in each_way]
            ratio = (before + after) / 2 / plain
            print(f"CPU per chunk: plain {plain:.1f} us, front {before:.1f} and {after:.1f} us ({ratio:.3f})")
        begun_s = cpu_s(front)
        await asyncio.sleep(options.seconds)
        print(f"CPU of an idle front: {1000 * (cpu_s(front) - begun_s) / options.seconds:.1f} ms a second")
        print(f"load average {os.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores")


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="a front and its node beside one dmap")
    parser.add_argument("--requests", type=int, default=2000, help="short answers by each way (2000)")
    parser.add_argument("--streams", type=int, default=48, help="at once (48)")
    parser.add_argument("--seconds", type=float, default=4.0, help="that a stream lasts (4)")
    parser.add_argument("--rounds", type=int, default=3, help="of streams (3)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(uvloop.run(main(options())))
