"""
What gets past dmap: attempts sent to it, and what the servers behind it have read of those that came through.

Nothing may come through that any of their parsers reads as the forbidden model, as a guarded field, as
something else than the next parser, or without what the owner forces.  Nothing innocent may be refused.
"""

import asyncio
import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.attack.attack import Attack
from bench.attack.bodies import bodies
from bench.attack.forms import forms
from bench.attack.house import Answer, House, answer, ask, house, key, request

CLIENTS = 24
HERE = Path(__file__).parent
FORCED = "{force: {temperature: 0.25}, strip: [logit_bias], backend: %s}"
Seen = dict[str, Any]


@dataclass
class Result:
    """What came of one group of attempts: counts by outcome, and what should not have been."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Street:
    """The daemon and, by their suffix, the ports of the servers behind it."""

    house: House
    victims: dict[str, int]


@asynccontextmanager
async def street() -> AsyncGenerator[Street]:
    """Run the daemon in front of all servers that this machine has the programs for."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        victims = dict(_victims(Path(folder), stack))
        await asyncio.gather(*(_up(port) for port in victims.values()))
        async with house(config(victims)) as found:
            yield Street(found, victims)


def config(victims: dict[str, int]) -> str:
    """Return the daemon's configuration in front of *victims*."""
    lines = [
        f"  {site}: {{kind: openai, url: 'http://127.0.0.1:{port}'}}\n" for site, port in victims.items()
    ]
    held = [f"  held-{site}: {FORCED % site}\n" for site in victims]
    keys = key("small", "inference", ", models: ['small-*', 'held-*']") + key("lister", "debug")
    return (
        f"access:\n  failures_per_min: 1000000\n  keys:\n{keys}{key('admin', 'inference, debug, admin')}"
        f"backends:\n{''.join(lines)}models:\n{''.join(held)}"
    )


def _victims(folder: Path, stack: contextlib.ExitStack) -> Iterator[tuple[str, int]]:
    commands = {"py": [sys.executable, "-m", "bench.attack.victim"]}
    if go := shutil.which("go"):
        binary = str(folder / "victim")
        subprocess.run([go, "build", "-o", binary, "."], cwd=HERE / "gobackend", check=True)
        commands["go"] = [binary]
    if node := shutil.which("node"):
        commands["js"] = [node, str(HERE / "node.js")]
    for site, command in commands.items():
        port = free_port()
        child = stack.enter_context(subprocess.Popen([*command, str(port)]))
        stack.callback(child.kill)
        yield site, port


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def _up(port: int) -> None:
    async with asyncio.timeout(30):
        while not await _answers(port):
            await asyncio.sleep(0.05)


async def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return (await ask(port, request("GET", "/v1/models"))).status == 200
    return False


async def seen(street: Street) -> list[Seen]:
    """Return what all servers have read since the last time."""
    answers = [await ask(port, request("GET", "/seen"), within_s=60) for port in street.victims.values()]
    return [each for one in answers for each in json.loads(one.body)]


async def bypass(seed: int, fuzzed: int) -> dict[str, Result]:
    """Send every attempt to every server; return what came of each group."""
    results: dict[str, Result] = {}
    async with street() as place:
        both = itertools.chain(bodies(seed, fuzzed), forms(seed, fuzzed))
        attempts = [each.dressed(at).aimed(site) for at, each in enumerate(both) for site in place.victims]
        for start in range(0, len(attempts), 4000):
            await _round(place, attempts[start : start + 4000], results)
        log = results.setdefault("its log", Result())
        log.findings += place.house.bugs()[:20]
    return results


async def _round(place: Street, attempts: list[Attack], results: dict[str, Result]) -> None:
    answers = await _send_all(place.house.port, attempts)
    read = {entry["id"]: entry for entry in await seen(place)}
    for number, (attempt, got) in enumerate(zip(attempts, answers, strict=True)):
        result = results.setdefault(attempt.group, Result())
        complaint = judge(attempt, got, read.pop(f"a-{number}", None))
        result.outcomes["finding" if complaint else _outcome(got)] += 1
        if complaint:
            result.findings.append(f"{complaint}: {attempt.path} {attempt.headers} {attempt.body[:400]!r}")
    results.setdefault("smuggled", Result()).findings += [
        f"nobody's request: {each}" for each in read.values()
    ]


def _outcome(got: Answer) -> str:
    return "passed, as checked" if got.status == 200 else "refused"


def judge(attempt: Attack, got: Answer, entry: Seen | None) -> str:
    """Tell what is wrong about one attempt; nothing if all is well."""
    if attempt.innocent:
        return "" if got.status == 200 else f"innocent, but {got.status} {got.body[:200]!r}"
    if entry is None:
        return (
            ""
            if 400 <= got.status < 500 and got.status != 408
            else f"not passed, but {got.status} {got.body[:200]!r}"
        )
    wrongs = [f"{way} reads {view}" for way, view in entry["views"].items() if wrong(view, attempt.group)]
    return "; ".join(wrongs)


def wrong(view: Any, group: str) -> bool:
    """Tell whether a server would act on what nobody has checked; what it cannot read it does not act on."""
    if not isinstance(view, dict):
        return False
    forced = group == "forced" and (view.get("temperature") != 0.25 or view.get("logit_bias"))
    allowed = str(view["model"]).startswith(("small-", "held-")) and "," not in str(view["model"])
    return bool(not allowed or view["guarded"] or view["stream"] or forced)


async def _send_all(port: int, attempts: list[Attack]) -> list[Answer]:
    answers: list[Answer] = [Answer(0)] * len(attempts)
    todo = iter(enumerate(attempts))

    async def client() -> None:
        line = Line(port)
        for number, attempt in todo:
            answers[number] = await line.ask(_raw(number, attempt))
        line.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return answers


def _raw(number: int, attempt: Attack) -> bytes:
    headers = (*attempt.headers, f"x-request-id: a-{number}")
    return request("POST", attempt.path, attempt.body, bearer="sk-small", headers=headers)


class Line:
    """A connection that is used again as long as it can be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, raw: bytes) -> Answer:
        """Send one request; once more on a new connection if the old one was closed."""
        for is_last in (self._streams is None, True):
            try:
                return await self._ask(raw)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                if is_last:
                    break
        return Answer(0)

    async def _ask(self, raw: bytes) -> Answer:
        self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(raw)
        async with asyncio.timeout(20):
            got = await answer(reader)
        if got.headers.get("connection") == "close":
            self.close()
        return got

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
        self._streams = None


def table(results: dict[str, Result]) -> Iterable[str]:
    """Yield the lines of a table of *results*."""
    yield "| attempts | sent | refused | passed, as checked | findings |"
    yield "|---|---:|---:|---:|---:|"
    for group, result in results.items():
        counts = result.outcomes
        yield f"| {group} | {counts.total()} | {counts['refused']} | {counts['passed, as checked']} | {len(result.findings)} |"
