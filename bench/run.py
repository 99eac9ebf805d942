"""
Measure the CPU time of dmap per relayed chunk and per request, beside nginx and Go's ReverseProxy.

All proxies are measured in the same run, one after the other in rounds, so that what disturbs the machine
disturbs them all. `bench/README.md` says what the figures mean and what they do not.
"""

import argparse
import fcntl
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from contenders import KINDS, Absent, Contender, Ground, start
from machine import describe, find_program, memory_kib, split_cores
from peer import Door, Peer, build
from report import Result, cost_table, generator_line, memory_table, objections

RESULTS = Path(__file__).parent / "results"
_STREAM_EXTRA_S = 1.5  # opening, settling and the streams' ends, beside the window
_REQUEST_S = 1.5
_BURST_S = 4
_MEMORY_S = 4
_CHECK_S = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asked for."""

    rounds: int
    seconds: float
    streams: list[int]
    in_step: list[int]
    rate: int
    clients: int
    requests: int
    burst: int
    idle: int
    only: list[str]

    def expected_s(self) -> float:
        """Return about how long the run will take."""
        each = (len(self.streams) + len(self.in_step)) * (self.seconds + _STREAM_EXTRA_S)
        each += (_REQUEST_S if self.requests else 0) + (_BURST_S if self.burst else 0)
        memory = _MEMORY_S * len(self.only) if self.idle else 0
        return self.rounds * len(self.only) * each + memory + len(self.streams) * (_CHECK_S + _STREAM_EXTRA_S)


def _parse(arguments: list[str]) -> Plan:
    parser = argparse.ArgumentParser(description="Measure the CPU time of dmap beside other proxies.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5, help="length of each streaming window")
    parser.add_argument("--streams", type=_numbers, default=[48, 200], help="such as 48,200")
    parser.add_argument("--in-step", type=_numbers, default=[48, 200], help="the same, written in one go")
    parser.add_argument("--rate", type=int, default=100, help="chunks per second and stream")
    parser.add_argument("--clients", type=int, default=16, help="clients that send requests")
    parser.add_argument("--requests", type=int, default=8000, help="per round; 0: none")
    parser.add_argument("--burst", type=int, default=200, help="streams that begin at once; 0: none")
    parser.add_argument("--idle", type=int, default=1000, help="streams for the memory table; 0: none")
    parser.add_argument("--only", type=_names, default=["dmap", "nginx", "go"], help=f"of {','.join(KINDS)}")
    return Plan(**vars(parser.parse_args(arguments)))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _names(text: str) -> list[str]:
    names = [part for part in text.split(",") if part]
    if unknown := [name for name in names if name not in KINDS]:
        raise argparse.ArgumentTypeError(f"unknown proxy {unknown[0]!r}; known are {', '.join(KINDS)}")
    return names


class Session:
    """One run: the proxies that are up, and what was measured so far."""

    def __init__(self, plan: Plan, ground: Ground) -> None:
        self.plan = plan
        self.ground = ground
        self.contenders: list[Contender] = []
        self.absent: dict[str, str] = {}
        self.rates: dict[int, int] = {}
        self.results: list[Result] = []
        self.memory: dict[str, dict[str, Any]] = {}

    def start_all(self, stack: ExitStack) -> None:
        """Start every proxy that can be; *stack* stops them."""
        for name in self.plan.only:
            try:
                contender = start(name, self.ground)
            except Absent as reason:
                self.absent[name] = str(reason)
                print(f"absent: {reason}", flush=True)
                continue
            stack.callback(contender.stop)
            self.contenders.append(contender)

    def check_generator(self) -> None:
        """Find for each number of streams a rate that the generator holds without any proxy."""
        for streams in {*self.plan.streams, *self.plan.in_step}:
            rate = self.plan.rate
            while rate > 1 and not self._holds(streams, rate):
                rate = rate * 3 // 4
                print(f"the generator cannot hold {streams} streams: going on with {rate} chunks/s each")
            self.rates[streams] = rate

    def _holds(self, streams: int, rate: int) -> bool:
        peer = self.ground.peer
        figures = peer.stream(Door(peer.port), [], streams=streams, rate=rate, window_s=_CHECK_S)
        result = Result(0, f"{streams} streams", "direct", figures)
        self.results.append(result)
        return not result.objection and figures["late_us"]["p99"] < 5000

    def measure_rounds(self) -> None:
        """Run all rounds. The order of the proxies turns by one each round."""
        for number in range(self.plan.rounds):
            turn = number % max(1, len(self.contenders))
            for result in self._round(number + 1, self.contenders[turn:] + self.contenders[:turn]):
                self.results.append(result)
                progress(result)

    def _round(self, number: int, order: list[Contender]) -> Iterator[Result]:
        peer, plan = self.ground.peer, self.plan
        for streams, in_step in [(n, False) for n in plan.streams] + [(n, True) for n in plan.in_step]:
            for one in order:
                figures = peer.stream(
                    one.door,
                    one.pids(),
                    streams=streams,
                    rate=self.rates[streams],
                    window_s=plan.seconds,
                    in_step=in_step,
                )
                yield Result(number, f"{streams} streams{' in step' * in_step}", one.name, figures)
        for one in order if plan.requests else []:
            figures = peer.request(one.door, one.pids(), clients=plan.clients, requests=plan.requests)
            yield Result(number, "requests", one.name, figures)
        for one in order if plan.burst else []:
            figures = peer.burst(one.door, one.pids(), streams=plan.burst)
            yield Result(number, "burst", one.name, figures)

    def measure_memory(self) -> None:
        """Sample the memory of fresh processes, before the rounds have warmed them."""
        for one in self.contenders if self.plan.idle else []:
            time.sleep(1)
            idle = memory_kib(one.pids())
            holder, opened = self.ground.peer.hold(one.door, self.plan.idle)
            try:
                time.sleep(1)
                held = memory_kib(one.pids())
            finally:
                holder.communicate()
            self.memory[one.name] = {"idle": idle, "held": held, "opened": opened}

    def document(self) -> dict[str, Any]:
        """Return all raw figures, for the JSON file."""
        return {
            "machine": describe(),
            "plan": asdict(self.plan),
            "rates": self.rates,
            "absent": self.absent,
            "memory_kib": self.memory,
            "results": [asdict(result) for result in self.results],
        }


def progress(result: Result) -> None:
    """Tell the cost of one measurement at once, on stderr."""
    note = f"  NOT COUNTED: {result.objection}" if result.objection else ""
    line = f"  round {result.round} {result.workload} {result.proxy}: {result.cost_us:.1f} us{note}"
    print(line, file=sys.stderr, flush=True)


def _print_report(session: Session) -> None:
    print("\n" + ", ".join(f"{key}: {value}" for key, value in describe().items()) + "\n")
    rounds = [result for result in session.results if result.round]
    for workload in dict.fromkeys(result.workload for result in rounds):
        own = [result for result in rounds if result.workload == workload]
        print(f"### {_title(session, workload)}\n")
        print("\n".join(cost_table(own, session.plan.only, session.absent)) + "\n")
        print(generator_line(own) + "\n")
    if session.memory:
        print("### Memory\n\n" + "\n".join(memory_table(session.memory, session.plan.idle)) + "\n")
    _print_notes(session)


def _title(session: Session, workload: str) -> str:
    if workload == "requests":
        return f"Requests: {session.plan.clients} clients, closed loop, about 1 KB each way"
    if workload == "burst":
        return f"First bytes: {session.plan.burst} streams that begin at once"
    rate = session.rates[int(workload.split()[0])]
    return f"Chunks: {workload} of {rate} chunks/s each"


def _print_notes(session: Session) -> None:
    for result in session.results:
        if not result.round:
            delay = result.figures["delay_us"]
            print(f"Without a proxy, {result.workload}: delay p50 {delay['p50']} us, p99 {delay['p99']} us.")
    for name, reason in session.absent.items():
        print(f"Absent: {name}: {reason}")
    for name, samples in session.memory.items():
        if samples["opened"]["faults"]:
            print(f"Memory of {name}: only {samples['opened']['streams']} streams opened.")
    for line in objections(session.results):
        print(f"Not counted: {line}")


def _save(document: dict[str, Any]) -> Path:
    path = RESULTS / time.strftime("%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps(document, indent=1))
    return path


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other run of the bench is under way: two would measure each other."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another run of the bench to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    """Run the bench; return 1 if any measurement had to be thrown away, 2 if nothing can be measured."""
    plan = _parse(arguments)
    go = find_program("go")
    if go is None:
        print("go not found: it builds the load generator, so nothing can be measured without it.")
        print("Debian: `apt-get install golang nginx-light`")
        return 2
    proxy_core, other_core = split_cores()
    if proxy_core == other_core:
        print("warning: one core only; proxy and generator share it, so delays and rates mean little")
    proxies = ", ".join(plan.only)
    print(f"about {plan.expected_s() / 60:.1f} minutes: {plan.rounds} rounds of {proxies}", flush=True)
    with ExitStack() as stack:
        stack.enter_context(alone())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dmapbench-")))
        peer = Peer.start(build(go, folder), core=other_core, proxy_core=proxy_core)
        stack.callback(peer.stop)
        session = Session(plan, Ground(proxy_core, peer, folder))
        session.start_all(stack)
        session.measure_memory()
        session.check_generator()
        session.measure_rounds()
    _print_report(session)
    print(f"Raw figures: {_save(session.document())}")
    return 1 if objections(session.results) else 0


def leave(number: int, _: FrameType | None) -> None:
    """End the program so that all that it started is stopped; for signals."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    raise SystemExit(main(sys.argv[1:]))
