"""The replay of an activity log: the same requests and costs, and what other settings make of them."""

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from dmap.activity import Entry, Request, Switch, line_of
from dmap.cli import main
from dmap.config import ConfigProblem, load
from dmap.daemon import listening
from dmap.simulate import Result, Workload, every, figures_of, run
from dmap.simulate.owner import Owner
from dmap.simulate.replay import read_log
from tests.conftest import Proxy, config_of
from tests.fakes import RawClient, chat, post

T = 1_700_000_000.0


def asked(at: float, queue_s: float, service_s: float, **more: object) -> Request:
    """Return the entry of a request that came *at* so many seconds after the begin of the log."""
    facts = {
        "client": "ann",
        "path": "/v1/chat/completions",
        "model": "A",
        "backend": "engine",
        "device": "gpu0",
    }
    facts |= {"v": 1, "priority": 0, "switch_s": 0.0, "total_s": queue_s + service_s, "outcome": "success"}
    return Request(at=T + at, queue_s=queue_s, service_s=service_s, **{**facts, **more})


def loaded(at: float, load_s: float, model: str = "A", **more: object) -> Switch:
    """Return the entry of a load that took *load_s*, after a second of unloading."""
    facts = {
        "device": "gpu0",
        "backend": "engine",
        "cause": "idle",
        "drain_s": 0.0,
        "parallel": 2,
        "outcome": "ok",
        "v": 1,
    }
    return Switch(at=T + at, model=model, unload_s=1.0, load_s=load_s - 1, **{**facts, **more})


def entries_of(workload: Workload, result: Result) -> Iterable[Entry]:
    """Return the log that the daemon would have written of a run."""
    for each in result.answers:
        yield asked(each.since, each.wait_s, each.answer_s, model=each.model, client=each.client)
    for stay in result.stays:
        load_s = workload.load_of(stay.model)
        yield loaded(stay.since, load_s, stay.model, parallel=workload.parallel)


@pytest.fixture
def written(tmp_path: Path):
    """Write a log; return its path."""

    def write(*entries: Entry) -> Path:
        path = tmp_path / "activity.jsonl"
        path.write_bytes(b"".join(map(line_of, entries)))
        return path

    return write


@pytest.mark.parametrize("name", ["closed 2A+1B", "crowds 12 agents", "open 80/15/5 at 0.7"])
def test_a_replay_under_the_same_settings_is_what_was(written, name: str) -> None:
    """A run, logged and replayed, has the same figures: who asks again, and who comes anyhow."""
    workload = every([name])[0].model_copy(update={"duration_s": 900})
    result = run(workload)
    (log,), _ = read_log(written(*entries_of(workload, result)))

    was, again = log.recorded(), figures_of(run(log.workload(None)))

    assert was.served == again.served == len(result.answers)
    assert again.mean_s == pytest.approx(was.mean_s, rel=0.05)
    assert again.p95_s == pytest.approx(was.p95_s, rel=0.05)
    assert again.switches == pytest.approx(was.switches, abs=2)


def test_a_name_does_not_act_on_a_terminal(written, capsys: pytest.CaptureFixture[str]) -> None:
    """Models are called by their servers, which may call them anything."""
    log = written(loaded(0, 5, "A\x1b[2J"), asked(0, 5, 1, model="A\x1b[2J"))

    main(["simulate", "--replay", str(log)])

    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "engine/A\\x1b[2J: a load 5 s" in said


def test_who_asks_again_waits_for_its_answer(written) -> None:
    """A request soon after an answer comes after the answer in the replay, too, however late that is."""
    entries = asked(0, 2, 10), asked(17, 0, 1), loaded(0, 30)
    (log,), _ = read_log(written(*entries))

    first, second = run(log.workload(None)).answers

    assert (first.wait_s, second.since, second.wait_s) == (30, 30 + 10 + 5, 0)


def test_who_comes_anyhow_comes_when_it_came(written) -> None:
    """Another client, or the same one after a long pause, comes at the time of the log."""
    entries = asked(0, 2, 10), asked(17, 0, 1, client="bob"), asked(72.5, 0, 1), loaded(0, 30)
    (log,), _ = read_log(written(*entries))

    answers = run(log.workload(None)).answers

    assert sorted(answer.since for answer in answers) == [0, 17, 72.5]


def test_one_answer_brings_about_one_request(written) -> None:
    """Of two requests after one answer, the second comes at its time: somebody else shares the name."""
    entries = asked(0, 0, 10), asked(15, 0, 1), asked(15.5, 0, 1), loaded(0, 30)
    (log,), _ = read_log(written(*entries))

    assert sorted(answer.since for answer in run(log.workload(None)).answers) == [0, 15.5, 45]


def test_the_refused_and_those_who_left(written) -> None:
    """They ask in the replay as well, for what is usual, and leave after as long as they had waited."""
    entries = (
        asked(0, 0, 100, outcome="lease_expired"),
        asked(1, 300, 0, client="bob", outcome="wait_expired"),
        asked(2, 40, 0, client="eve", outcome="client_left"),
        asked(3, 0, 0, client="joe", outcome="rate_limit_exceeded"),
        loaded(0, 8, parallel=1),
    )
    (log,), told = read_log(written(*entries))

    was, again = log.recorded(), run(log.workload(None))

    assert (was.served, was.refused, was.left) == (1, 2, 1)
    assert [(answer.client, answer.answer_s) for answer in again.answers] == [
        ("ann", 100),
        ("bob", 100),
        ("joe", 100),
    ]
    assert [(gone.client, gone.wait_s) for gone in again.left] == [("eve", 40)]
    assert told == []


def test_those_who_left_are_told(written, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has no column for them, so a line counts them."""
    left = asked(2, 40, 0, client="eve", outcome="client_left")

    main(["simulate", "--replay", str(written(asked(0, 0, 1), left))])

    assert "\n  1 request left while waiting\n" in capsys.readouterr().out


def test_what_is_left_out_is_told(written) -> None:
    """Requests that no queue of a device saw are not played."""
    entries = (
        asked(0, 0, 1),
        asked(1, 0, 1, device=None, backend="server"),
        asked(2, 0, 0, outcome="context_length_exceeded", status=400),
    )
    path = written(*entries)
    path.write_bytes(path.read_bytes() + b"torn")

    (log,), told = read_log(path)

    assert len(log.requests) == 1
    assert told == [
        "1 request for backends without a device: left out",
        "1 request refused before the queue: left out",
        "1 line that cannot be read: left out",
    ]


def test_costs_are_those_of_the_log(written) -> None:
    """A load and an answer take what is usual for the model; what the log does not tell is as with others."""
    entries = (
        asked(0, 9, 3),
        asked(50, 0, 5),
        asked(90, 0, 5, model="B"),
        asked(200, 0, 1, model="C"),
        loaded(0, 9),
        loaded(100, 11),
        loaded(200, 40, "B", parallel=None),
        loaded(300, 99, "A", outcome="failed"),
    )
    (log,), _ = read_log(written(*entries))

    workload = log.workload(None)

    assert workload.load_s == {"engine/A": 10, "engine/B": 40, "engine/C": 11}
    assert workload.needs_of("engine/A").parallel == 2
    assert workload.needs_of("engine/B").parallel == 1


def test_a_log_of_two_devices(written) -> None:
    """Each device is played by itself."""
    logs, _ = read_log(
        written(asked(0, 0, 1), asked(1, 0, 1, device="gpu1", path="/v1/embeddings", model="E"))
    )

    assert [log.title() for log in logs] == [
        "gpu0  (1 request of 1 client for 1 model in 1 s)",
        "gpu1  (1 request of 1 client for 1 model in 1 s)",
    ]
    assert logs[1].workload(None).needs_of("engine/E").embedding


def test_an_empty_log(written) -> None:
    """There is nothing to play."""
    with pytest.raises(ConfigProblem, match="no request for a model of a device is in it"):
        read_log(written(loaded(0, 8)))


CONFIG = """
access:
  keys: [{name: ann, sha256: %s, priority: 3}]
devices: {gpu0: {patience_s: 40, wait_s: 200}}
backends: {engine: {kind: gguf, path: ., device: gpu0, parallel: 3}}
models: {A: {ttl_s: 60, memory: 2GiB}}
""" % ("5e" * 32)


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    """A configuration that has the model A of the log."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return Owner("config.yaml", load(path))


def test_the_settings_of_the_owner(written, owner: Owner) -> None:
    """Limits, models and priorities are those of the configuration, also for models that it does not name."""
    (log,), _ = read_log(written(asked(0, 0, 1), asked(1, 0, 1, model="B"), loaded(0, 8)))

    workload = log.workload(owner)

    assert (workload.bounds().patience_s, workload.bounds().wait_s) == (40, 200)
    assert workload.needs_of("engine/A")[:5] == (2 * 2**30, 2, False, False, 60)
    assert workload.needs_of("engine/B").parallel == 3
    assert workload.priorities == {"ann": 3}


def test_a_device_that_the_owner_has_not(written, owner: Owner) -> None:
    """It is told which file lacks which device."""
    (log,), _ = read_log(written(asked(0, 0, 1, device="gpu7")))

    with pytest.raises(ConfigProblem, match="config.yaml: there is no device 'gpu7', which the log is of"):
        log.workload(owner)


def test_what_would_have_been(written, capsys: pytest.CaptureFixture[str]) -> None:
    """The command shows what was, and says in words what a change would have made of it."""
    workload = every(["closed 6x3"])[0].model_copy(update={"duration_s": 1200})
    path = written(*entries_of(workload, run(workload)))

    assert main(["simulate", "--replay", str(path), "--set", "residency=16,patience_s=120"]) == 0

    told = capsys.readouterr().out
    assert told.splitlines()[1] == "gpu0  (960 requests of 6 clients for 3 models in 20 min)"
    assert "\n  as recorded  " in told and "\n  dmap   " in told
    assert "\n  dmap residency=16,patience_s=120\n  " in told
    assert re.search(r"\n  residency=16,patience_s=120: [2-9][0-9] % fewer switches, ", told)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "patience=3",
            "--set patience=3: write KEY=VALUE; the keys are max_models, memory, embeddings, patience_s",
        ),
        ("cooldown_s=3", "--set cooldown_s=3: write KEY=VALUE; the keys are"),
        ("patience_s", "--set patience_s: write KEY=VALUE"),
        ("patience_s=0", "--set patience_s: must be more than 0"),
        ("memory=lots", "--set memory: not a size; write it like 64MiB or 22GiB"),
    ],
)
def test_a_change_that_is_none(written, capsys: pytest.CaptureFixture[str], words: str, said: str) -> None:
    """It is told which key is meant, and the exit code is that of a wrong configuration."""
    assert main(["simulate", "--replay", str(written(asked(0, 0, 1))), "--set", words]) == 78

    assert capsys.readouterr().err.startswith(f"dmap: {said}")


async def ask(client: RawClient, model: str) -> int:
    """Ask a running daemon for two tokens of *model*; return the status of the answer."""
    await client.send(post(chat(model=model, max_tokens=2, stream=False)))
    return (await client.answer()).status


async def test_the_log_of_a_real_daemon(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Requests to real engines, as the daemon wrote them down, are played with its own configuration."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "devices: {gpu0: {cooldown_s: 0}}\n"
        f"backends: {{engine: {{kind: gguf, path: {models}, device: gpu0, threads: 1, parallel: 2}}}}\n"
    )
    listen = f"listen: {{port: 0}}\nstate: {tmp_path}/state.json\n"
    async with listening(config_of(listen + config.read_text())) as run:
        proxy = Proxy(run)
        client = await proxy.client()
        first = await ask(client, "tiny-sea")
        second = await ask(client, "tiny-kitchen")
        third = await ask(client, "tiny-sea")
        await proxy.close()

    words = ["--config", str(config), "--set", "patience_s=1"]
    code = await asyncio.to_thread(main, ["simulate", "--replay", str(tmp_path / "activity"), *words])

    told = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in told if line.startswith(("  as recorded ", "  dmap  "))]
    assert (first, second, third, code) == (200, 200, 200, 0)
    assert told[1].startswith("gpu0  (3 requests of 1 client for 2 models in ")
    assert [row[-6:-3] for row in rows] == [["3", "0", "100.00"], ["3", "0", "100.00"]]
    assert float(rows[1][-1]) == pytest.approx(float(rows[0][-1]), abs=0.5)
