"""
"Why did this request wait so long?", staged on a running daemon, and answered from what it tells.

Time is scaled to a tenth.  A device holds one model.  While that gives a long answer, a second model is asked
for, an order takes the first one away, and a request comes for it: it waits for all of that.
"""

import asyncio
import json
import re
import shlex
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.fakes import HERE_S
from tests.lmstudio_emulator import Emulator, Knobs, emulator
from tests.process import Process, daemon

LLAMA, QWEN = "llama-3.2-1b-instruct", "qwen/qwen3-8b"
AT_ONCE_S = 0.4
"""Between two things that follow from each other on a busy machine; each part of the wait is longer."""


def _key(name: str, scopes: str = "[inference]") -> str:
    return f"{{name: {name}, sha256: {sha256(name.encode()).hexdigest()}, scopes: {scopes}}}"


CONFIG = f"""
devices: {{gpu0: {{max_models: 1, cooldown_s: 0.1}}}}
backends: {{studio: {{kind: lmstudio, url: '%s', device: gpu0}}}}
access: {{keys: [{_key("batch")}, {_key("webui")}, {_key("phone")}, {_key("owner", "[admin, debug]")}]}}
log: {{timestamps: true}}
"""


class Asking:
    """Asks a daemon, each client by the key of its name; *ids* has what their last answers were called."""

    def __init__(self, process: Process, session: aiohttp.ClientSession, server: Emulator) -> None:
        self.process, self.session, self.server = process, session, server
        self.ids: dict[str, str] = {}

    async def post(self, name: str, path: str, **body: Any) -> None:
        headers = {"Authorization": f"Bearer {name}"}
        async with self.session.post(path, json=body, headers=headers) as answered:
            self.ids[name] = answered.headers["x-request-id"]
            assert answered.status == 200, await answered.text()
            await answered.read()

    async def chat(self, name: str, model: str, tokens: int) -> None:
        said: Any = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens}
        await self.post(name, "/v1/chat/completions", model=model, stream=True, **said)

    async def events(self, until: str, client: str) -> list[dict[str, Any]]:
        """Return all events so far, and wait for one of the type *until* about *client*."""
        found: list[dict[str, Any]] = []
        headers = {"Authorization": "Bearer owner"}
        async with self.session.get("/debug/stream?after=0", headers=headers) as stream:
            while (until, client) not in [
                (each["type"], each.get("client", each.get("by"))) for each in found[-1:]
            ]:
                line = await stream.content.readline()
                found += [json.loads(line.removeprefix(b"data: "))] if line.startswith(b"data: ") else []
        return found


@asynccontextmanager
async def asking(folder: Path) -> AsyncGenerator[Asking]:
    """Run a daemon before an LM Studio; a load takes a second there, and a token at first half of one."""
    async with (
        emulator(knobs=Knobs(load_s=1, token_s=0.5)) as server,
        daemon(folder, CONFIG % server.url) as process,
        aiohttp.ClientSession(process.url) as session,
    ):
        yield Asking(process, session, server)


class Told(NamedTuple):
    """What the daemon told: its *events*, its *lines*, and which request was which client's."""

    events: list[dict[str, Any]]
    lines: list[dict[str, Any]]
    ids: dict[str, str]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What is told of the case, which is played once."""
    return asyncio.run(_played(tmp_path_factory.mktemp("why")))


async def _played(tmp_path: Path) -> Told:
    """Play the case: `phone` is the one that wonders why it waited."""
    async with asyncio.timeout(5 * HERE_S), asking(tmp_path) as clients:
        await clients.post("owner", "/admin/models/load", modelKey=LLAMA)
        long = asyncio.create_task(clients.chat("batch", LLAMA, 150))
        await clients.events("request.first_byte", "batch")
        other = asyncio.create_task(clients.chat("webui", QWEN, 60))
        await clients.events("request.queued", "webui")
        order = asyncio.create_task(clients.post("owner", "/admin/models/unload", modelKey=LLAMA))
        await clients.events("model.leaving", "owner")
        own = asyncio.create_task(clients.chat("phone", LLAMA, 5))
        await clients.events("request.queued", "phone")
        clients.server.world.knobs = Knobs(load_s=1, token_s=0.01)
        await asyncio.gather(long, other, order, own)
        events = await clients.events("request.finished", "phone")
    return Told(events, [_parsed(line) for line in clients.process.log], clients.ids)


def _parsed(line: str) -> dict[str, Any]:
    """Take a line of the log apart: when it was written, its event, and its fields as text."""
    at, _, _, event, *fields = shlex.split(line)
    pairs = (field.partition("=") for field in fields)
    return {"at": datetime.fromisoformat(at).timestamp(), "type": event, **{name: v for name, _, v in pairs}}


class Part(NamedTuple):
    """A part of a wait: *what* the request waited for, whose that was, and for how long."""

    what: str
    whose: tuple[str, ...]
    spent_s: float


class Switched(NamedTuple):
    """A switch: when it was decided, when what had to go was idle, and when it had ended."""

    decided_at: float
    out_at: float
    ended_at: float
    unload: str
    load: str
    by: str


Answer = tuple[float, str, str]
"""When an answer ended, of which model, and for whom."""


def story(since: float, until: float, switches: Iterable[Switched], answers: Iterable[Answer]) -> list[Part]:
    """Take the wait from *since* to *until* apart: answers of what was loaded, and switches, in turn."""
    parts: list[Part] = []
    for each in switches:
        served = max(since, each.out_at)
        clients = {
            whose
            for ended_at, model, whose in answers
            if model == each.unload and since <= ended_at <= each.ended_at
        }
        parts += [
            Part(f"answers of {each.unload}", tuple(sorted(clients)), served - since),
            Part(f"switch to {each.load}", (each.by,), min(until, each.ended_at) - served),
        ]
        since = each.ended_at
    return parts


def by_events(told: Told) -> list[Part]:
    """Tell why from the events alone."""
    (id,), events = {told.ids["phone"]}, told.events
    (queued,) = [each for each in events if each["type"] == "request.queued" and each["id"] == id]
    (granted,) = [each for each in events if each["type"] == "request.granted" and each["id"] == id]
    decided, out, ended = (
        [each for each in events if each["type"] == f"switch.{what}"]
        for what in ("started", "drained", "loaded")
    )
    switches = [
        Switched(first["at"], then["at"], last["at"], "".join(first["unload"]), first["load"], first["by"])
        for first, then, last in zip(decided, out, ended, strict=True)
        if last["at"] > queued["at"]
    ]
    answers = [
        (each["at"], f"{each['backend']}/{each['model']}", each["client"])
        for each in events
        if each["type"] == "request.finished"
    ]
    return story(queued["at"], granted["at"], switches, answers)


def by_lines(told: Told) -> list[Part]:
    """Tell why from the lines of the log alone."""
    (own,) = [each for each in told.lines if each["type"] == "request" and each["id"] == told.ids["phone"]]
    came_at = own["at"] - float(own["total_s"])
    begun, ended = (
        [each for each in told.lines if each["type"] == what] for what in ("switch_begun", "switch")
    )
    switches = [
        Switched(
            first["at"] - float(first["drain_s"]),
            first["at"],
            last["at"],
            first["unload"],
            first["load"],
            first["by"],
        )
        for first, last in zip(begun, ended, strict=True)
        if last["at"] > came_at
    ]
    answers = [
        (each["at"], f"{each.get('backend')}/{each.get('model')}", each["client"])
        for each in told.lines
        if each["type"] == "request"
    ]
    return story(came_at, came_at + float(own["queue_s"]), switches, answers)


def fields_of(told: Iterable[Mapping[str, Any]], type: str, *names: str) -> list[tuple[Any, ...]]:
    """Return what each event or line of this *type* says under *names*."""
    return [tuple(each.get(name) for name in names) for each in told if each["type"] == type]


@pytest.mark.parametrize("why", [by_events, by_lines])
def test_why_it_waited(told: Told, why: Callable[[Told], list[Part]]) -> None:
    """Events alone say what a request waited for, whose that was and how long; so do lines alone."""
    ends = fields_of(told.events, "request.finished", "id", "queue_s")

    parts = why(told)

    assert [part[:2] for part in parts] == [
        (f"answers of studio/{LLAMA}", ("batch",)),
        (f"switch to studio/{QWEN}", ("webui",)),
        (f"answers of studio/{QWEN}", ("webui",)),
        (f"switch to studio/{LLAMA}", ("phone",)),
    ]
    assert all(part.spent_s > least for part, least in zip(parts, (0.5, 0.9, 0.5, 0.9), strict=True))
    assert sum(part.spent_s for part in parts) == pytest.approx(dict(ends)[told.ids["phone"]], abs=AT_ONCE_S)


def test_why_its_model_took_nobody(told: Told) -> None:
    """Who has ordered a resident away is told when it stops to take requests, and what that came to."""
    order = told.ids["owner"]
    of_switches = "for", "by", "load"
    own, other = told.ids["phone"], told.ids["webui"]

    assert fields_of(told.events, "model.leaving", "model", "for", "by") == [(LLAMA, order, "owner")]
    assert fields_of(told.lines, "model_leaving", "model", "for", "by") == [(LLAMA, order, "owner")]
    assert fields_of(told.lines, "admin", "action", "model", "status")[1:] == [("unload", LLAMA, "unloaded")]
    assert fields_of(told.lines, "switch_begun", *of_switches)[1:] == [
        (other, "webui", f"studio/{QWEN}"),
        (own, "phone", f"studio/{LLAMA}"),
    ]
    assert [
        (model, by)
        for model, by, changed in fields_of(told.events, "model.unloaded", "model", "by", "changed")
        if changed
    ] == [(LLAMA, "webui"), (QWEN, "phone")]


def test_what_was_in_the_way_when_it_came(told: Told) -> None:
    """The first word of it stands with the request itself, in its event and in its line."""
    behind = {
        "webui": f"studio/{LLAMA}",
        "phone": f"switch to studio/{QWEN}",
    }

    assert dict(fields_of(told.events, "request.queued", "client", "behind")) == behind
    lines = [each for each in told.lines if re.fullmatch("webui|phone", each.get("client", ""))]
    assert dict(fields_of(lines, "request", "client", "behind")) == behind
