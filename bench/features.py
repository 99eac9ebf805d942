"""
Measure what keys, injection, the context guard, metrics and readers of the debug stream cost.

One dmap has all of them, another none, and both take turns at streams of 2,000 chunks each; at requests, Go's
ReverseProxy does too.  `README.md` says how the figures come about.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from contenders import Contender, Ground, start
from machine import describe, find_program, split_cores
from peer import Figures, Peer, build
from report import Result, cost_table, generator_line, objections, ratios
from run import RESULTS, alone, leave, progress

_STREAMERS = ("dmap", "dmap-traced", "dmap-all")
_ASKERS = ("dmap", "dmap-traced", "dmap-unwatched", "dmap-all", "go")
_OPENING_S = 1.2  # of a stream's life is outside the window; see peer/stream.go
_WINDOW, _WHOLE, _REQUESTS = "chunks of running streams", "chunks of whole streams", "requests"
_BARS = (
    (_WHOLE, "dmap-all", "dmap", 1.05),
    (_REQUESTS, "dmap-all", "go", 6.0),
    (_REQUESTS, "dmap", "go", 4.5),
    (_WHOLE, "dmap-traced", "dmap", 1.02),
    (_REQUESTS, "dmap-traced", "dmap", 1.08),
)
"""What one may cost at most, as a multiple of what another one does."""


def main() -> int:
    """Run the rounds and print tables; the exit code is 1 if a bar was missed or a measurement is void."""
    options = _options()
    go = find_program("go")
    if go is None:
        print("go not found: it builds the load generator (Debian: `apt-get install golang`)")
        return 2
    core, other_core = split_cores()
    with ExitStack() as stack:
        stack.enter_context(alone())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dmapbench-")))
        peer = Peer.start(build(go, folder), core=other_core, proxy_core=core)
        stack.callback(peer.stop)
        proxies = _start_all(Ground(core, peer, folder), stack)
        bodies = {name: _body_of(one, peer) for name, one in proxies.items()}
        results = list(_rounds(options, peer, proxies))
        readers = proxies["dmap-all"].dismiss()
    _print_report(results, bodies, readers)
    print(f"Raw figures: {_save(options, results, bodies, readers)}")
    return _verdict(results, readers)


def _start_all(ground: Ground, stack: ExitStack) -> dict[str, Contender]:
    proxies = {}
    for name in _ASKERS:
        proxies[name] = start(name, ground)
        stack.callback(proxies[name].stop)
    return proxies


def _verdict(results: list[Result], readers: list[Figures]) -> int:
    voids = [f"a reader of the debug stream: {one['reasons'][0]}" for one in readers if one["faults"]]
    voids += objections(results)
    for void in voids:
        print(f"Not counted: {void}")
    measured = {result.workload for result in results}
    met = [_is_met(results, *bar) for bar in _BARS if bar[0] in measured]
    return int(bool(voids) or not all(met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what all features together cost.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--streams", type=int, default=48)
    parser.add_argument("--chunks", type=int, default=2000, help="per stream")
    parser.add_argument("--rate", type=int, default=100, help="chunks per second and stream")
    parser.add_argument("--clients", type=int, default=16, help="clients that send requests")
    parser.add_argument("--requests", type=int, default=8000, help="per round; 0: none")
    parser.add_argument("--together", action="store_true", help="streams of both at once, not in turns")
    return parser.parse_args()


def _body_of(one: Contender, peer: Peer) -> Figures:
    """Return what the proxy made of the members of a request, the messages left out."""
    peer.request(one.door, one.pids(), clients=1, requests=1)
    return {name: value for name, value in peer.last_chat().items() if name != "messages"}


def _rounds(options: argparse.Namespace, peer: Peer, proxies: dict[str, Contender]) -> Iterator[Result]:
    for number in range(1, options.rounds + 1):
        with ThreadPoolExecutor(len(_STREAMERS) if options.together else 1) as pool:
            take = partial(_streamed, number, options, peer)
            for both in pool.map(take, [proxies[name] for name in _turned(_STREAMERS, number)]):
                yield from both
        for name in _turned(_ASKERS, number) if options.requests else ():
            yield _requested(number, options, peer, proxies[name])


def _turned(names: Sequence[str], number: int) -> Sequence[str]:
    turn = number % len(names)
    return (*names[turn:], *names[:turn])


def _streamed(number: int, options: argparse.Namespace, peer: Peer, one: Contender) -> list[Result]:
    window_s = round(options.chunks / options.rate - _OPENING_S, 3)
    figures = peer.stream(one.door, one.pids(), streams=options.streams, rate=options.rate, window_s=window_s)
    counts = {name: figures[f"all_{name}"] for name in ("chunks", "bytes", "reads")}
    whole = {**figures, **counts, "offered": figures["sent_chunks"], **figures["whole"]}
    both = [Result(number, _WINDOW, one.name, figures), Result(number, _WHOLE, one.name, whole)]
    for result in both:
        progress(result)
    return both


def _requested(number: int, options: argparse.Namespace, peer: Peer, one: Contender) -> Result:
    figures = peer.request(one.door, one.pids(), clients=options.clients, requests=options.requests)
    result = Result(number, _REQUESTS, one.name, figures)
    progress(result)
    return result


def _print_report(results: list[Result], bodies: dict[str, Figures], readers: list[Figures]) -> None:
    print("\n" + ", ".join(f"{key}: {value}" for key, value in describe().items()) + "\n")
    for workload in dict.fromkeys(result.workload for result in results):
        own = [result for result in results if result.workload == workload]
        proxies = _ASKERS if workload == _REQUESTS else _STREAMERS
        rivals = ("dmap", "go") if workload == _REQUESTS else ("dmap",)
        print(f"### {workload.capitalize()}\n")
        print("\n".join(cost_table(own, proxies, {}, rivals)) + "\n")
        print(generator_line(own))
        for rival in rivals:
            told = ", ".join(f"{ratio:.3f}" for ratio in ratios(own, "dmap-all", rival))
            print(f"dmap-all / {rival}, round by round: {told}.")
        print()
    for name, body in bodies.items():
        print(f"What {name} sent of a request: {json.dumps(body)}")
    for one in readers:
        print(f"A reader: {one['events']} events, {one['missed']} missed, {one['scrapes']} scrapes.")


def _is_met(results: list[Result], workload: str, name: str, rival: str, most: float) -> bool:
    """Hold the median over the rounds against a bar, aloud."""
    found = ratios([result for result in results if result.workload == workload], name, rival)
    reached = median(found) if found else float("inf")
    print(f"{workload}: {name} {reached:.3f} x {rival}; the bar is {most}")
    return reached <= most


def _save(
    options: argparse.Namespace, results: list[Result], bodies: dict[str, Any], readers: list[Figures]
) -> Path:
    path = RESULTS / time.strftime("features-%Y%m%d-%H%M%S.json")
    document = {
        "machine": describe(),
        "plan": vars(options),
        "bodies": bodies,
        "readers": readers,
        "results": [asdict(result) for result in results],
    }
    path.write_text(json.dumps(document, indent=1))
    return path


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    sys.exit(main())
