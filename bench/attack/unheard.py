"""
Bugs in the background: one call of one function of dmap's own raises, and none of it may die unheard.

A first run tells which functions run in tasks of dmap's own, in timers and in callbacks; then one of their
calls, drawn by a seed, raises in each further run.  The bug has to be in the log, and afterwards every backend
serves again, or the daemon has ended by itself with an exit code that has systemd start another one.
"""

import asyncio
import json
import random
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.attack import hostile as servers
from bench.attack.attack import CHAT
from bench.attack.house import Answer, House, ask, house, request
from tests.lmstudio_emulator import Emulator
from tests.lmstudio_world import SPECS, Knobs, World
from tests.models import make

FAULTS = Path(__file__).parent / "faults"
MARK = "injected by the campaign"
TOGETHER = 3
PATIENCE_S = 25.0
CONFIG = """
devices:
  gpu0: {{cooldown_s: 0, patience_s: 0.1, wait_s: 20}}
  gpu1: {{cooldown_s: 0, patience_s: 0.1, wait_s: 20}}
backends:
  engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 1, context_length: 256, threads: 1}}
  studio: {{kind: lmstudio, url: '{studio}', device: gpu1}}
  sink: {{kind: openai, url: 'http://127.0.0.1:{sink}/sink'}}
server: {{heartbeat_s: 0.2}}
"""
MODELS = ("tiny-sea", "tiny-kitchen", SPECS[0].key, SPECS[1].key, "msink")
ASKED = (*MODELS, "tiny-sea", SPECS[0].key)
TRIES, LATEST_S = 3, 5.0


@dataclass(frozen=True)
class Bug:
    """One bug that was put in, and what came of it."""

    place: str
    number: int
    error: str
    complaint: str
    outcome: str


async def unheard(seed: int, count: int) -> list[Bug]:
    """Put *count* bugs in, one in each run; return what came of each."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tiny-sea", "tiny-kitchen"):
            make(name, Path(folder))
        calls = await _record(Path(folder))
        rng, places = random.Random(seed), sorted(_suspects(calls))
        chosen = [
            (place, rng.randint(1, (calls[place] + 1) // 2), rng.choice(("KeyError", "RuntimeError")))
            for place in rng.sample(places, count)
        ]
        room = asyncio.Semaphore(TOGETHER)

        async def one(place: str, number: int, error: str) -> Bug:
            async with room:
                return await bug_at(Path(folder), place, number, error)

        return await asyncio.gather(*(one(*each) for each in chosen))


def _suspects(calls: Mapping[str, int]) -> Iterator[str]:
    """Yield the places worth a bug: not what runs once while it starts and stops, or only there."""
    for place in calls:
        if not place.startswith(
            ("dmap.config", "dmap.cli", "dmap.local", "dmap.demo", "dmap.web.proxy", "dmap.daemon")
        ):
            yield place


@asynccontextmanager
async def _scene(folder: Path, **environment: str) -> AsyncGenerator[House]:
    studio = Emulator(World(SPECS, None, Knobs(load_s=0.01, token_s=0.0005, v0_lag_s=0.0, idle_s=75.0)))
    await studio.start()
    try:
        async with servers.hostile() as sink:
            config = CONFIG.format(models=folder, studio=studio.url, sink=sink)
            async with house(config, PYTHONPATH=str(FAULTS), **environment) as found:
                yield found
    finally:
        await studio.stop()


async def _record(folder: Path) -> dict[str, int]:
    path = folder / "calls.json"
    async with _scene(folder, ATTACK_RECORD=str(path)) as found:
        await _use(found)
        found.child.terminate()
        await found.child.wait()
    calls: dict[str, int] = json.loads(path.read_text())
    return calls


async def _use(found: House) -> list[Answer]:
    """Use everything there is: each kind, switches, lists, figures, a client that leaves."""
    pages = [request("GET", path) for path in ("/v1/models", "/metrics", "/debug/status", "/ready")]
    await asyncio.gather(*(ask(found.port, page, within_s=PATIENCE_S) for page in pages), _leave(found))
    return [await _chat(found, model) for model in ASKED]


async def _leave(found: House) -> None:
    await ask(found.port, _body("tiny-sea"), within_s=0.05)


def _body(model: str) -> bytes:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "the"}],
        "max_tokens": 2,
        "stream": model != "msink",
    }
    return request("POST", CHAT, json.dumps(body).encode())


async def _chat(found: House, model: str) -> Answer:
    return await ask(found.port, _body(model), within_s=PATIENCE_S)


async def bug_at(folder: Path, place: str, number: int, error: str) -> Bug:
    """Put in one bug, the *number*-th call of *place*, while models of *folder* serve; return what came of it."""
    try:
        async with _scene(folder, ATTACK_FAULT=f"{place} {number} {error}") as found:
            await _use(found)
            complaint, outcome = await _afterwards(found)
    except TimeoutError:
        complaint, outcome = "", "did not start"  # which whoever starts it sees
    return Bug(place, number, error, complaint, outcome)


async def _afterwards(found: House) -> tuple[str, str]:
    """Tell what is wrong after the bug, if anything, and how it ended."""
    dead = [refusal for model in MODELS if (refusal := await _refusal(found, model))]
    code = found.child.returncode
    if code is None:
        found.child.terminate()  # the call may be one of those at the end
        await asyncio.wait_for(found.child.wait(), 30)
    if not _has(found, "a bug was put in"):
        return "", "never reached"
    is_logged = _has(found, MARK)
    if code is not None:
        return "" if code and is_logged else f"logged: {is_logged}", f"ended with {code}"
    return ", ".join(["never logged"] * (not is_logged) + dead), "served on"


def _has(found: House, words: str) -> bool:
    return any(words in line for line in found.log)


async def _refusal(found: House, model: str) -> str:
    """Ask for *model* until it is served, a few times and as late as asked for; return the last refusal."""
    for _ in range(TRIES):
        got = await _chat(found, model)
        if got.status == 200:
            return ""
        await asyncio.sleep(min(LATEST_S, float(got.headers.get("retry-after", 1))))
    return f"{model} is dead: {got.status} {got.payload.get('error')}"


def table(bugs: list[Bug]) -> Iterator[str]:
    """Yield the lines of a table of *bugs*."""
    yield "| place | call | error | came of it | finding |"
    yield "|---|---:|---|---|---|"
    for bug in bugs:
        yield f"| {bug.place} | {bug.number} | {bug.error} | {bug.outcome} | {bug.complaint} |"
