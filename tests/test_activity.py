"""The activity log of a running proxy."""

import asyncio
import hashlib
import re
import resource
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dmap.activity import Entries, Entry, Request, Switch
from dmap.daemon import listening
from tests.conftest import Connect, Proxy, config_of
from tests.fakes import DONE, END, HERE_S, SSE, FakeBackend, RawClient, answer, chat, chunk, delta, post, soon
from tests.process import Process, daemon

SECRET = hashlib.sha256(b"sk-SECRET").hexdigest()
KEYS = f"access: {{keys: [{{name: webui, sha256: {SECRET}, priority: 3}}]}}"


def in_front_of(backend: FakeBackend, rest: str = "") -> str:
    return f"backends: {{fake: {{kind: openai, url: '{backend.url}', parallel: 1}}}}\n{rest}"


@asynccontextmanager
async def running(folder: Path, text: str) -> AsyncGenerator[Proxy]:
    """Run a proxy with its state in *folder*; its log is whole when this is left."""
    config = config_of(f"listen: {{port: 0}}\nstate: {folder}/state.json\n{text}")
    async with listening(config) as run:
        proxy = Proxy(run)
        yield proxy
        await proxy.close()


def kept(folder: Path) -> list[Entry]:
    """Return what is kept in *folder*; all of it can be read."""
    log = Entries(folder / "activity")
    entries = list(log)
    assert log.skipped == 0
    return entries


def requests(folder: Path) -> list[Request]:
    return [entry for entry in kept(folder) if isinstance(entry, Request)]


def waiting(proxy: Proxy) -> int:
    return sum(gate.snapshot().waiting for gate in proxy.proxy.gates.values())


async def ask(client: RawClient, headers: str = "", **fields: Any) -> int:
    """Ask, and read the whole answer; return its status."""
    await client.send(post(chat(**fields), headers=headers))
    return (await client.answer()).head.status


def begun_ago(folder: Path, days: int) -> Path:
    """Make a file of the log, as one that was begun some *days* ago."""
    begun = datetime.now(UTC) - timedelta(days=days)
    path = folder / "activity" / f"{begun:%Y%m%dT%H%M%SZ}.jsonl"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(0o600)
    return path


def lines(folder: Path) -> int:
    """Count the lines that are kept so far in the state of a daemon."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("state/activity/*.jsonl"))


async def reloaded(process: Process, times: int) -> None:
    """Wait until the configuration has been read again so many times."""
    await soon(lambda: "".join(process.log).count(" reloaded\n") == times, HERE_S)


async def refuse(exchange: Any) -> None:
    """Answer as a backend that puts a client's words into its error."""
    await exchange.write(answer(b'{"error": {"code": "PRIVATE", "message": "PRIVATE"}}', status="418 Tea"))


async def test_a_request(tmp_path: Path, backend: FakeBackend) -> None:
    """A request leaves a line with what became of it."""
    async with running(tmp_path, in_front_of(backend)) as proxy:
        await ask(await proxy.client())

    (entry,) = requests(tmp_path)

    assert (entry.path, entry.model, entry.backend) == ("/v1/chat/completions", "m", "fake")
    assert (entry.device, entry.priority, entry.queue_s, entry.switch_s) == (None, 0, 0, 0)
    assert (entry.outcome, entry.status) == ("success", 200)
    assert entry.first_byte_s is not None
    assert 0 <= entry.first_byte_s <= entry.service_s <= entry.total_s < HERE_S


async def test_what_backends_fail(tmp_path: Path, backend: FakeBackend) -> None:
    """A request that its backend fails is kept, without the backend's words."""
    backend.script = refuse
    async with running(tmp_path, in_front_of(backend)) as proxy:
        await ask(await proxy.client(), stream=False)

    (entry,) = requests(tmp_path)

    assert (entry.outcome, entry.status) == ("backend_error", 418)


async def test_who_waits_and_who_leaves(tmp_path: Path, backend: FakeBackend) -> None:
    """Who waits has time in the queue; who leaves meanwhile has no time of service and no status."""
    backend.script = backend.by_hand
    async with running(tmp_path, in_front_of(backend)) as proxy:
        first, second, third = await proxy.client(), await proxy.client(), await proxy.client()
        await first.send(post(chat()))
        exchange = await backend.next()
        await second.send(post(chat()))
        await third.send(post(chat()))
        await soon(lambda: waiting(proxy) == 2, HERE_S)
        third.reset()
        await soon(lambda: waiting(proxy) == 1, HERE_S)
        await exchange.end(SSE, chunk(delta("hi")), chunk(DONE), END)
        await first.answer()
        await (await backend.next()).end(SSE, chunk(delta("hi")), chunk(DONE), END)
        await second.answer()

    left, one, two = requests(tmp_path)

    assert (left.outcome, left.status, left.service_s) == ("client_left", None, 0)
    assert (one.outcome, one.queue_s) == (two.outcome, 0.0) == ("success", 0.0)


@pytest.mark.parametrize(
    ("status", "fields", "headers"),
    [
        (404, {"model": "no-such"}, "x-api-key: sk-SECRET\r\n"),
        (401, {}, "x-api-key: sk-WRONG\r\n"),
        (400, {"messages": [], "model": 3}, "x-api-key: sk-SECRET\r\n"),
    ],
)
async def test_who_named_no_model(
    tmp_path: Path, backend: FakeBackend, status: int, fields: dict[str, Any], headers: str
) -> None:
    """A request that did not get as far as a model that exists leaves no line."""
    async with running(tmp_path, in_front_of(backend, KEYS)) as proxy:
        assert await ask(await proxy.client(), headers, **fields) == status

    assert kept(tmp_path) == []


async def test_who_is_refused_later(tmp_path: Path, backend: FakeBackend) -> None:
    """A request that is refused when its model was known leaves a line."""
    async with running(tmp_path, in_front_of(backend)) as proxy:
        assert await ask(await proxy.client(), messages=None) == 400

    (entry,) = requests(tmp_path)

    assert (entry.outcome, entry.status, entry.service_s) == ("invalid_request", 400, 0)


async def test_real_engines(tmp_path: Path, models: Path) -> None:
    """On real engines a switch leaves a line too, and who waited for it has that in the queue."""
    config = (
        "devices: {gpu0: {cooldown_s: 0, patience_s: 0.1, residency: 0}}\n"
        f"backends: {{engine: {{kind: gguf, path: {models}, device: gpu0, threads: 1, parallel: 2}}}}\n{KEYS}"
    )
    key = "x-api-key: sk-SECRET\r\n"
    async with running(tmp_path, config) as proxy:
        client = await proxy.client()
        await ask(client, key, model="tiny-sea", max_tokens=2, stream=False)
        await ask(client, key, model="tiny-kitchen", max_tokens=2, stream=False)

    to_sea, sea, to_kitchen, kitchen = kept(tmp_path)

    assert isinstance(to_sea, Switch) and isinstance(to_kitchen, Switch)
    assert (to_sea.model, to_sea.unloaded, to_sea.cause, to_sea.outcome) == ("tiny-sea", (), "room", "ok")
    assert (to_kitchen.model, to_kitchen.backend, to_kitchen.device) == ("tiny-kitchen", "engine", "gpu0")
    assert (to_kitchen.unloaded, to_kitchen.cause, to_kitchen.parallel) == (("engine/tiny-sea",), "idle", 2)
    assert isinstance(sea, Request) and isinstance(kitchen, Request)
    assert (kitchen.client, kitchen.priority, kitchen.device) == ("webui", 3, "gpu0")
    assert 0 < to_kitchen.load_s <= kitchen.switch_s <= kitchen.queue_s < kitchen.total_s
    assert kitchen.at - 0.01 <= to_kitchen.at <= kitchen.at + kitchen.queue_s
    assert (kitchen.tokens_in, kitchen.tokens_out, sea.tokens_out) == (kitchen.tokens_in or -1, 2, 2)
    assert sea.at < to_kitchen.at < sea.at + HERE_S


async def test_nobody_s_words(tmp_path: Path, backend: FakeBackend, connect: Connect) -> None:
    """Of bodies, users, keys, addresses and the words of backends nothing is in the folder of the log."""
    secrets = {"user": "PRIVATE", "prompt_cache_key": "PRIVATE", "metadata": {"PRIVATE": "PRIVATE"}}
    asked = {"messages": [{"role": "user", "content": "PRIVATE"}], **secrets}
    async with daemon(tmp_path, in_front_of(backend)) as process:
        client = await connect(process)
        statuses = [await ask(client, "User-Agent: PRIVATE\r\nX-Session-Id: PRIVATE\r\n", **asked)]
        backend.script = refuse
        statuses += [await ask(client, **asked, stream=False), await ask(client, model="PRIVATE")]
    async with daemon(tmp_path, in_front_of(backend, KEYS)) as process:
        client = await connect(process)
        statuses += [
            await ask(client, "x-api-key: sk-SECRET\r\n", **asked),
            await ask(client, "x-api-key: PRIVATE\r\n"),
        ]

    files = {path.name: path.read_bytes() for path in (tmp_path / "state" / "activity").iterdir()}
    text = b"".join(files.values())

    assert statuses == [200, 418, 404, 418, 401]
    assert [entry.outcome for entry in requests(tmp_path / "state")] == ["success", *["backend_error"] * 2]
    assert [
        word for word in (b"PRIVATE", b"SECRET", b"127.0.0.1", SECRET.encode(), b"hi") if word in text
    ] == []
    assert files["salt"] not in text.replace(files["salt"], b"", 1)
    assert files["salt"].hex().encode() not in text


async def test_the_end_of_dmap(tmp_path: Path, backend: FakeBackend) -> None:
    """Who is served or waits when dmap ends has a line, too, and the next dmap can go on at once."""
    backend.script = backend.by_hand
    async with running(tmp_path, in_front_of(backend)) as proxy:
        first, second = await proxy.client(), await proxy.client()
        await first.send(post(chat()))
        await backend.next()
        await second.send(post(chat()))
        await soon(lambda: waiting(proxy) == 1, HERE_S)
        hurry = asyncio.Event()
        hurry.set()
        await proxy.daemon.drain(hurry)
    async with running(tmp_path, in_front_of(backend)):
        pass

    assert sorted(entry.outcome for entry in requests(tmp_path)) == ["shutting_down"] * 2


async def test_names_across_restarts(tmp_path: Path, backend: FakeBackend) -> None:
    """An address has the same name after a restart; the log goes on where it was."""
    async with running(tmp_path, in_front_of(backend)) as proxy:
        await ask(await proxy.client())
    async with running(tmp_path, in_front_of(backend)) as proxy:
        await ask(await proxy.client())

    first, second = requests(tmp_path)

    assert re.fullmatch("@[0-9a-f]{16}", first.client)
    assert first.client == second.client
    assert first.at < second.at


async def test_an_idle_daemon(tmp_path: Path, backend: FakeBackend) -> None:
    """What is too old goes also where nobody asks, and files that are not too old stay."""
    day, six_days, eight_days = (begun_ago(tmp_path, days) for days in (1, 6, 8))

    async with running(tmp_path, in_front_of(backend)):
        await soon(lambda: not eight_days.exists(), HERE_S)

    assert sorted(tmp_path.glob("activity/*.jsonl")) == [six_days, day]


async def test_switched_off(tmp_path: Path, backend: FakeBackend) -> None:
    """With `activity: false` there is nothing, not even a folder."""
    async with running(tmp_path, in_front_of(backend, "activity: false")) as proxy:
        await ask(await proxy.client())

    assert list(tmp_path.iterdir()) == []


async def test_without_a_place_for_state(tmp_path: Path, backend: FakeBackend, proxy: Proxy) -> None:
    """A proxy without a state has no log, and no harm."""
    assert await ask(await proxy.client()) == 200
    assert proxy.proxy.activity.lost == 0


async def test_a_reload(tmp_path: Path, backend: FakeBackend, connect: Connect) -> None:
    """A reload switches the log off and on."""
    text = in_front_of(backend)
    async with daemon(tmp_path, text) as process:
        client = await connect(process)
        await ask(client)
        await soon(lambda: lines(tmp_path) == 1, HERE_S)
        (tmp_path / "config.yaml").write_text(f"listen: {{port: 0}}\n{text}activity: false\n")
        process.child.send_signal(signal.SIGHUP)
        await reloaded(process, 1)
        await ask(client)
        (tmp_path / "config.yaml").write_text(f"listen: {{port: 0}}\n{text}activity: {{days: 3}}\n")
        process.child.send_signal(signal.SIGHUP)
        await reloaded(process, 2)
        await ask(client)

    assert len(requests(tmp_path / "state")) == 2


async def test_a_kill(tmp_path: Path, backend: FakeBackend, connect: Connect) -> None:
    """What was written stays when the daemon is killed, and the next daemon goes on after a torn line."""
    async with daemon(tmp_path, in_front_of(backend)) as process:
        await ask(await connect(process))
        await soon(lambda: lines(tmp_path) == 1, HERE_S)
        process.child.kill()
        process.ends_with = -signal.SIGKILL
    (path,) = tmp_path.glob("state/activity/*.jsonl")
    path.write_bytes(path.read_bytes() + b'{"kind":"requ')

    async with daemon(tmp_path, in_front_of(backend)) as process:
        await ask(await connect(process))

    log = Entries(tmp_path / "state" / "activity")
    assert (len(list(log)), log.skipped) == (2, 1)


async def test_two_daemons(tmp_path: Path, backend: FakeBackend, connect: Connect) -> None:
    """Of two daemons with one state the second says once that it keeps no log, and serves all the same."""
    text = in_front_of(backend)
    async with daemon(tmp_path, text) as first:
        client = await connect(first)
        await ask(client)
        await soon(lambda: lines(tmp_path) == 1, HERE_S)
        async with daemon(tmp_path, text) as second:
            other = await connect(second)
            assert await ask(other) == 200
            await soon(lambda: "another dmap writes there" in "".join(second.log), HERE_S)
            assert await ask(other) == 200
        await ask(client)

    assert "".join(second.log).count("activity_not_written") == 1
    assert len(requests(tmp_path / "state")) == 2


async def test_a_full_disk(tmp_path: Path, backend: FakeBackend, connect: Connect) -> None:
    """A disk that fills up is told once, and that there is room again; lost lines are counted."""
    async with daemon(tmp_path, in_front_of(backend)) as process:
        client = await connect(process)
        await ask(client)
        await soon(lambda: lines(tmp_path) == 1, HERE_S)
        limit = resource.prlimit(process.child.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        assert [await ask(client), await ask(client)] == [200, 200]
        await soon(lambda: "activity_not_written" in "".join(process.log), HERE_S)
        resource.prlimit(process.child.pid, resource.RLIMIT_FSIZE, limit)
        await ask(client)
        await soon(lambda: "activity_written_again" in "".join(process.log), HERE_S)
        await client.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        page = (await client.answer()).body.decode()

    lost = re.search(r"(?m)^dmap_activity_lost_total (\S+)$", page)
    assert lost is not None and float(lost[1]) == 4 - len(requests(tmp_path / "state")) >= 1
    assert "".join(process.log).count("activity_not_written") == 1


async def test_a_burst(tmp_path: Path, backend: FakeBackend) -> None:
    """Of many ends at once none is lost, and they stay in order."""
    async with running(tmp_path, in_front_of(backend)) as proxy:
        await ask(await proxy.client())
        event = proxy.proxy.bus.since(0, 100)[0][-1]
        numbers = range(10_000)
        told = [{**event.fields, "tokens_out": number} for number in numbers]
        list(map(proxy.proxy.bus.tell, ["request.finished"] * len(told), told))

    assert [entry.tokens_out for entry in requests(tmp_path)[1:]] == list(numbers)


async def test_a_disk_that_does_not_answer(
    tmp_path: Path, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """With more ends than may wait, the others are lost, are counted, and are told once."""
    async with running(tmp_path, in_front_of(backend)) as proxy:
        await ask(await proxy.client())
        event = proxy.proxy.bus.since(0, 100)[0][-1]
        list(map(proxy.proxy.bus.tell, ["request.finished"] * 20_000, [event.fields] * 20_000))
        lost = proxy.proxy.activity.lost

    assert 3_000 < lost < 4_000
    assert len(requests(tmp_path)) == 20_001 - lost
    assert [record.message.split()[0] for record in caplog.records if "activity" in record.message] == [
        "activity_not_written",
        "activity_written_again",
    ]
