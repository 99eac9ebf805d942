"""
What a user compares, measured with real engines: `python -m bench.figures switch routing streams`.

`switch` is the time to the first word of a model that has to be loaded from the disk (*cold*), from the
system's memory (*warm*), or is there already (*pre-loaded*).  `routing` is one llama.cpp server, asked
directly and through dmap in turns.  `streams` is the same with many answers at once, both ways at the same
time.  Each figure is the median over the rounds, with the lowest and the highest; what is added, and ratios,
are taken within a round.
"""

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import xllamacpp

from dmap.demo import models as tiny_models
from dmap.demo.models import Spec
from dmap.demo.vocabulary import SEA
from tests.models import make
from tests.process import daemon

LARGE = Spec(SEA, 21, width=1536, layers=8, heads=12, kv_heads=6, inner=4096)
"""Some 420 MB, so that a load has something to read."""
BRIEF, SPOKEN = MODELS = ("tiny-brief", "tiny-sea")
"""For plain requests, and for streams: both answer in milliseconds, so what dmap adds shows."""
SLOTS = 16
PLAIN = 50
"""Requests of each sort and each way in a round."""
TOKENS = 200
STREAMS = (1, 4, 8)

Ways = dict[str, dict[str, str]]
"""By way, `directly` and `through dmap`, and model: the URL to ask."""


async def switch(folder: Path, rounds: int) -> None:
    """Print the time to the first word by where the model is."""
    (folder / "models").mkdir()
    large = tiny_models.make("large", LARGE, folder / "models")
    make("tiny-kitchen", folder / "models")
    config = f"""
devices: {{gpu0: {{max_models: 1, cooldown_s: 0}}}}
backends: {{engine: {{kind: gguf, path: {folder}/models, device: gpu0, context_length: 512, threads: 1}}}}
"""
    times: dict[str, list[float]] = {"cold": [], "warm": [], "pre-loaded": []}
    async with daemon(folder, config) as process, session() as asking:
        for where in list(times) * rounds:
            if where != "pre-loaded":
                await asked(asking, process.url, "tiny-kitchen", 1)
            if where == "cold":
                forget(large)
            times[where].append((await asked(asking, process.url, "large", 1))[0])
    print(f"A model of {large.stat().st_size / 1e6:,.0f} MB.\n")
    show(("the model is", "s to the first word"), [(where, span(each, 2)) for where, each in times.items()])


def forget(path: Path) -> None:
    """Have the kernel drop what it holds of the file at *path*."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def routing(folder: Path, rounds: int) -> None:
    """Print what a plain request and a first word take, directly and through dmap, request by request."""
    rows = []
    async with both(folder) as ways, session() as asking:
        for what, stream in (("whole answer of one token", False), ("first word of a stream", True)):
            found = [await pairs(asking, ways, stream=stream) for _ in range(rounds)]
            rows.append((what, *(span([each[column] for each in found], 2) for column in range(3))))
    show(("", *(f"ms {way}" for way in ways), "ms added"), rows)


async def pairs(asking: aiohttp.ClientSession, ways: Ways, *, stream: bool) -> tuple[float, float, float]:
    """Ask both ways `PLAIN` times in turns; return the medians in ms: of each, and of what one adds."""
    times = [
        [(await asked(asking, urls[BRIEF], BRIEF, 1, stream=stream))[0] * 1000 for urls in ways.values()]
        for _ in range(PLAIN)
    ]
    directly, through = zip(*times, strict=True)
    added = [b - a for a, b in times]
    return statistics.median(directly), statistics.median(through), statistics.median(added)


async def streams(folder: Path, rounds: int) -> None:
    """Print tokens per second and the latest first words of many streams, both ways at the same time."""
    rows = []
    async with both(folder) as ways, session() as asking:
        urls = [way[SPOKEN] for way in ways.values()]
        for count in STREAMS:
            await burst(asking, urls[0], 2 * count)  # every slot then knows the prompt
            found = [
                await asyncio.gather(*(burst(asking, url, count) for url in urls)) for _ in range(rounds)
            ]
            rates = [span([each[way][0] for each in found], 0) for way in range(len(urls))]
            ratio = span([through[0] / directly[0] for directly, through in found], 2)
            firsts = [span([each[way][1] for each in found], 3) for way in range(len(urls))]
            rows.append((str(count), *rates, ratio, *firsts))
    told = [f"{what} {way}" for what in ("tokens/s", "p95 s to the first word") for way in ways]
    show(("streams each", *told[:2], "ratio", *told[2:]), rows)


async def burst(asking: aiohttp.ClientSession, url: str, count: int) -> tuple[float, float]:
    """Return the tokens per second of *count* streams at once, and the p95 of their first words."""
    clock = asyncio.get_running_loop().time
    began = clock()
    times = await asyncio.gather(*(asked(asking, url, SPOKEN, TOKENS) for _ in range(count)))
    firsts = sorted(first for first, _ in times)
    return count * TOKENS / (clock() - began), firsts[int(0.95 * (count - 1))]


def session() -> aiohttp.ClientSession:
    """Make a session with a connection per request: llama.cpp's server ends a kept one at any time."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


@asynccontextmanager
async def both(folder: Path) -> AsyncGenerator[Ways]:
    """Run a llama.cpp server for each of two models, and a dmap in front of both."""
    async with serving(folder, BRIEF) as brief, serving(folder, SPOKEN) as spoken:
        backends = f"a: {{kind: openai, url: '{brief}'}}, b: {{kind: openai, url: '{spoken}'}}"
        async with daemon(folder, f"backends: {{{backends}}}") as process, session() as asking:
            ways = {
                "directly": {BRIEF: brief, SPOKEN: spoken},
                "through dmap": dict.fromkeys(MODELS, process.url),
            }
            for model in MODELS:
                for urls in ways.values():
                    await asked(asking, urls[model], model, 1)
            yield ways


@asynccontextmanager
async def serving(folder: Path, model: str) -> AsyncGenerator[str]:
    """Run llama.cpp's own server for *model*; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    size = ("-c", str(256 * SLOTS), "-np", str(SLOTS))
    options = (str(make(model, folder)), "--port", str(port), "--alias", model, *size)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.llama_serve", *options), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        while b"listening" not in (line := await child.stdout.readline()):
            assert line, f"the server of {model} has ended"
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        await child.wait()


async def asked(
    asking: aiohttp.ClientSession, url: str, model: str, tokens: int, *, stream: bool = True
) -> tuple[float, float]:
    """Ask for *tokens* tokens; return the seconds to the first word, and to the end."""
    clock = asyncio.get_running_loop().time
    hello = [{"role": "user", "content": "Hello"}]
    body = {"model": model, "messages": hello, "max_tokens": tokens, "stream": stream, "ignore_eos": True}
    began, first = clock(), None
    async with asking.post(f"{url}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if first is None and b'"content":"' in line:
                first = clock() - began
    assert first is not None, "an answer without a word"
    return first, clock() - began


def span(values: list[float], digits: int) -> str:
    """Return the median of *values*, then the lowest and the highest."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def show(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table."""
    print(f"| {' | '.join(head)} |\n|---{'|---:' * (len(head) - 1)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


BENCHES: dict[str, Callable[[Path, int], Coroutine[Any, Any, None]]] = {
    "switch": switch,
    "routing": routing,
    "streams": streams,
}


def main() -> None:
    """Read the command line and print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bench", choices=BENCHES, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    psutil.cpu_percent()
    for name in options.bench:
        print(f"\n{name}\n")
        with tempfile.TemporaryDirectory(prefix="figures") as folder:
            asyncio.run(BENCHES[name](Path(folder), options.rounds))
    busy = f"{psutil.cpu_percent():.0f} % of {os.cpu_count()} cores in use, load {os.getloadavg()[0]:.1f}"
    print(f"\nxllamacpp {xllamacpp.__version__}, {options.rounds} rounds, {busy}")


if __name__ == "__main__":
    main()
