"""Loads by the `lms` command, an emulated one, against an emulated LM Studio with all its traps."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from dmap import config as settings
from dmap.backends import Loaded, Target
from dmap.backends.lmstudio.backend import LMStudioBackend
from dmap.backends.lmstudio.lms import Lms
from dmap.errors import BackendDown, LoadFailed
from dmap.web.proxy import Proxy
from tests.lmstudio_emulator import Emulator, Knobs, Traps, section
from tests.lmstudio_world import SPECS, Instance, Refusal, World

LMS = Path(__file__).parent / "lms_emulator.py"
SMALL, OTHER, BIG, VAST = (
    "llama-3.2-1b-instruct",
    "ibm/granite-4-micro",
    "openai/gpt-oss-20b",
    "mistralai/mistral-small-3.2",
)
TOKEN = "sk-lm-abcdefgh:12345678901234567890"
LIMIT_S = 60.0
"""Only a machine that stands still takes that long."""
V1_LOAD = "/api/v1/models/load"


class Studio(Emulator):
    """An emulated LM Studio that also serves its own command; `asked` is what that wanted loaded."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.asked: list[dict[str, Any]] = []

    @web.middleware
    async def _door(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Greet anyone: the real command sends no token with that question."""
        greeting = request.path == "/lmstudio-greeting"
        return await (handler(request) if greeting else super()._door(request, handler))

    def _route(self, request: web.Request) -> Any:
        if not request.path.startswith("/emulated-ws/"):
            return super()._route(request)
        return getattr(self, "_ws_" + request.path.rpartition("/")[2])

    def _config(self, instance: Instance) -> dict[str, Any]:
        shown = {"context_length", "parallel"}
        return {**super()._config(instance), **{k: v for k, v in instance.config.items() if k in shown}}

    async def _ws_ls(self, request: web.Request, body: Any) -> web.Response:
        return web.json_response([{"modelKey": spec.key, "path": _path(spec.key)} for spec in SPECS])

    async def _ws_ps(self, request: web.Request, body: Any) -> web.Response:
        loaded = self.world.instances.values()
        return web.json_response([{"identifier": one.id, "modelKey": one.spec.key} for one in loaded])

    async def _ws_load(self, request: web.Request, body: Any) -> web.Response:
        self.asked.append({name: value for name, value in body.items() if value is not None})
        try:
            instance = await self.world.load(
                body["key"], body["config"], identifier=body["identifier"], by="lms"
            )
        except Refusal as refusal:
            return web.Response(status=500, text=refusal.message)
        return web.json_response({"identifier": instance.id})

    async def _ws_unload(self, request: web.Request, body: Any) -> web.Response:
        self.world.unload(body["identifier"], "lms")
        return web.json_response({})

    async def _ws_cancel(self, request: web.Request, body: Any) -> web.Response:
        for instance in self.world.of(self.world.specs[body["key"]]):
            if not instance.answers:
                self.world.drop(instance, "Operation canceled.", "lms")
        return web.json_response({})


def _path(key: str) -> str:
    return f"lmstudio-community/{key.rpartition('/')[2]}-GGUF/{key.rpartition('/')[2]}-Q4_K_M.gguf"


class Bench:
    """A backend with `lms`, the emulator behind both, and the home of the command."""

    def __init__(self, lm: Studio, backend: LMStudioBackend, home: Path) -> None:
        self.lm, self.world, self.backend, self.home = lm, lm.world, backend, home / ".lmstudio"

    def quirks(self, *names: str) -> None:
        """Have the command behave oddly from now on."""
        (self.home / "emulated.json").write_text(json.dumps(names))

    def calls(self) -> list[dict[str, Any]]:
        """Return the calls of the command so far."""
        path = self.home / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    async def until(self, event: str) -> None:
        while not self.world.happened(event):
            await asyncio.sleep(0.002)

    async def is_over(self) -> None:
        """Return when no process of the command is left."""
        while any(psutil.pid_exists(call["pid"]) for call in self.calls()):
            await asyncio.sleep(0.002)


@asynccontextmanager
async def running(
    home: Path, *, lms: Path | None = LMS, load_s: float = LIMIT_S, api_key: str | None = None, **knobs: Any
) -> AsyncGenerator[Bench]:
    """Run a backend before an emulator with *knobs*; `slow_s` is how long one of its loads takes."""
    (home / ".lmstudio").mkdir()
    knobs = {"load_s": knobs.pop("slow_s", 0.02), "v0_lag_s": 0.0, **knobs}
    given = replace(Knobs(), api_token=api_key, **knobs)
    async with asyncio.timeout(LIMIT_S):
        lm = Studio(World(SPECS, Traps(), given))
        await lm.start()
        described = section(lm.url, lms=lms, load_s=load_s, api_key=api_key)
        backend = LMStudioBackend("studio", described, poll_s=0.005)
        try:
            yield Bench(lm, backend, home)
        finally:
            await backend.close()
            await lm.stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home for the command, where it keeps what it is told and what it did."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # past slow shims
    return tmp_path


@pytest.fixture
async def bench(home: Path) -> AsyncGenerator[Bench]:
    """A backend with `lms` before an emulator with every trap on."""
    async with running(home) as bench:
        yield bench


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith(f"{event} ")]


# Loads


async def test_what_rest_cannot_do_goes_by_lms(bench):
    """GPU share, parallel, TTL and identifier reach LM Studio, and the model is resident under its key."""
    options = {"context_length": 8192, "gpu": 0.5, "parallel": 8, "ttl_s": 600, "identifier": "small"}

    loaded = await bench.backend.load(SMALL, options)

    assert loaded == Loaded(size_bytes=10**9, context_length=8192, parallel=8)
    config = {"context_length": 8192, "gpu": "0.5", "parallel": 8}
    assert bench.lm.asked == [{"key": SMALL, "identifier": "small", "ttl_s": 600, "config": config}]
    assert [model.id for model in await bench.backend.models() if model.resident] == [SMALL]
    assert bench.backend.canonical("small") == SMALL


async def test_what_rest_can_do_goes_over_rest(bench):
    """A load without such an option runs no process."""
    await bench.backend.load(SMALL, {"context_length": 8192, "flash_attention": True})

    assert bench.calls() == []
    assert [body["model"] for _, path, body in bench.lm.requests if path == V1_LOAD] == [SMALL]


async def test_every_call_names_its_server(bench):
    """Each call has host and port of the server, so that none looks for another LM Studio or starts one."""
    await bench.backend.load(SMALL, {"gpu": "max"})

    server = ["--host", "127.0.0.1", "--port", str(bench.lm.port)]
    assert [call["argv"][-4:] for call in bench.calls()] == [server, server]
    assert not (bench.home / "started").exists()


async def test_the_model_is_named_by_its_exact_path(bench):
    """`--exact` wants a path, so the path of the key is asked first; nothing is matched fuzzily."""
    await bench.backend.load(SMALL, {"gpu": "off"})

    ls, load = (call["argv"] for call in bench.calls())
    assert ls[:2] == ["ls", "--json"]
    assert load[:5] == ["load", _path(SMALL), "--exact", "--yes", "--gpu=off"]


async def test_what_is_there_already_is_adopted(bench):
    """A second load with the same options runs nothing; one with more slots loads anew, and only then."""
    first = await bench.backend.load(SMALL, {"gpu": "max", "parallel": 6})

    assert await bench.backend.load(SMALL, {"gpu": "max", "parallel": 6}) == first
    assert not bench.backend.satisfies(SMALL, {"gpu": "max", "parallel": 8})
    assert (await bench.backend.load(SMALL, {"gpu": "max", "parallel": 8})).parallel == 8
    assert bench.world.stacks() == []
    assert len(bench.lm.asked) == 2


async def test_what_was_loaded_is_there_though_v0_lags(home):
    """Right after its load a model is as its options ask, so that nobody has it loaded once more."""
    async with running(home, v0_lag_s=60.0) as bench:
        await bench.backend.load(SMALL, {"identifier": "small"})

        assert bench.backend.satisfies(SMALL, {"identifier": "small"})


async def test_a_model_under_its_identifier_is_adopted(home):
    """What bears the identifier asked for, loaded by hand or before a restart of dmap, is taken as it is."""
    async with running(home) as bench:
        await bench.world.load(SMALL, identifier="small")

        await bench.backend.load(SMALL, {"identifier": "small"})
        assert bench.calls() == []
        await bench.backend.load(SMALL, {"identifier": "tiny"})

        assert list(bench.world.instances) == ["tiny"]


async def test_an_identifier_that_means_another_model_is_refused(bench):
    """No model gets a name under which another one is asked for."""
    with pytest.raises(LoadFailed, match=f"'{OTHER}' is a name of '{OTHER}'"):
        await bench.backend.load(SMALL, {"identifier": OTHER})

    assert bench.calls() == []


async def test_fewer_slots_than_asked_are_told(bench, caplog):
    """If LM Studio gives less than asked, log and `Loaded` say so, and it is not asked again."""
    load = bench.world.load
    bench.world.load = lambda key, config, **kw: load(key, {**config, "parallel": 2}, **kw)

    loaded = await bench.backend.load(SMALL, {"parallel": 8})

    assert loaded.parallel == 2
    assert bench.backend.satisfies(SMALL, {"parallel": 8})
    assert lines(caplog, "parallel_mismatch") == [
        f"parallel_mismatch backend=studio model={SMALL} asked=8 got=2"
    ]


# What goes wrong


async def test_a_wrong_model_is_taken_out(bench, caplog):
    """Where the first fuzzy hit is another model, that one goes, and the load has failed."""
    bench.world.specs = {**bench.world.specs, "ibm": replace(bench.world.specs[OTHER], key="ibm")}
    bench.lm._ws_ls = _with(bench.lm._ws_ls, {"modelKey": "ibm", "path": "ibm.gguf"})
    bench.quirks("no_exact", "misses")

    with pytest.raises(LoadFailed, match=f"'ibm' by lms: it loaded '{OTHER}' instead, which was unloaded"):
        await bench.backend.load("ibm", {"gpu": "max"})

    assert bench.world.instances == {}
    assert "lms loaded it instead of ibm" in lines(caplog, "instance_unloaded")[0]


def _with(listing, *more: dict[str, str]):
    async def listed(request: web.Request, body: Any) -> web.Response:
        return web.json_response([*json.loads((await listing(request, body)).text), *more])

    return listed


async def test_without_exact_the_key_is_taken(bench):
    """An `lms` that has no `--exact` is asked by key, and checked like any other."""
    bench.quirks("no_exact")

    await bench.backend.load(OTHER, {"gpu": "max"})

    assert list(bench.world.instances) == [OTHER]
    assert bench.calls()[-1]["argv"][:3] == ["load", OTHER, "--yes"]


async def test_a_call_that_did_nothing_has_failed(bench):
    """An exit status of 0 proves nothing: what is not there afterwards was not loaded."""
    bench.quirks("idle")

    with pytest.raises(LoadFailed, match="nothing came of it"):
        await bench.backend.load(SMALL, {"gpu": "max"})

    assert not bench.backend.satisfies(SMALL, {})


async def test_a_refused_load_tells_its_words(bench):
    """LM Studio's reason comes through without spinner and colours."""
    await bench.backend.load(BIG, {})

    with pytest.raises(LoadFailed) as failed:
        await bench.backend.load(VAST, {"gpu": "max"})

    words = f"cannot load model '{VAST}': lms: Error: Error: Model loading was stopped due to insufficient"
    assert str(failed.value).startswith(words)
    assert bench.world.stacks() == []


async def test_a_list_that_is_no_list_is_told(bench):
    """What `lms ls --json` writes is checked."""
    bench.quirks("garbled")

    with pytest.raises(LoadFailed, match="ls --json wrote no JSON"):
        await bench.backend.load(SMALL, {"gpu": "max"})


async def test_a_model_that_lms_does_not_list_is_not_asked_for(bench):
    """A key without a path would be matched fuzzily, so it is refused."""
    bench.world.specs = {**bench.world.specs, "gpt": replace(bench.world.specs[BIG], key="gpt")}

    with pytest.raises(LoadFailed, match="lms does not list it"):
        await bench.backend.load("gpt", {"gpu": "max"})


async def test_a_command_that_is_gone_is_told(home):
    """A command that was there at the start, and is gone, fails the load with its name."""
    command = home / "nothing"
    command.touch(0o755)
    async with running(home, lms=command) as bench:
        command.unlink()
        with pytest.raises(LoadFailed, match="nothing cannot be run: No such file"):
            await bench.backend.load(SMALL, {"gpu": "max"})


async def test_a_server_that_is_down_is_no_matter_for_lms(bench):
    """REST is asked first: when the server does not answer, no process is run that could start another."""
    await bench.lm.kill()

    with pytest.raises(BackendDown, match="does not answer"):
        await bench.backend.load(SMALL, {"gpu": "max"})

    assert bench.calls() == []


async def test_a_server_that_dies_meanwhile_is_down(home):
    """When the server goes during a load by lms, the backend is down, not the model at fault."""
    async with running(home, slow_s=5.0) as bench:
        load = asyncio.ensure_future(bench.backend.load(SMALL, {"gpu": "max"}))
        await bench.until("load_start")
        await bench.lm.kill()

        with pytest.raises(BackendDown, match="does not answer"):
            await load
        await bench.is_over()


async def test_much_output_is_no_matter(bench):
    """A spinner that writes more than a pipe holds does not block the command."""
    bench.quirks("noisy")

    await bench.backend.load(SMALL, {"gpu": "max"})

    assert list(bench.world.instances) == [SMALL]


# Its life


async def test_a_cancelled_load_is_called_off(home):
    """Cancelled, the command is told to cancel; its caller is free at once, and nothing is left of it."""
    async with running(home, slow_s=5.0) as bench:
        load = asyncio.ensure_future(bench.backend.load(SMALL, {"gpu": "max"}))
        await bench.until("load_start")
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load

        await bench.backend.unload(SMALL)

        assert bench.world.instances == {}
        assert [one["why"] for one in bench.world.happened("load_failed")] == ["Operation canceled."]
        await bench.is_over()


async def test_a_stubborn_command_is_killed(home):
    """A command that does not end when asked is killed, and what LM Studio goes on loading is adopted."""
    async with running(home, slow_s=0.5) as bench:
        bench.quirks("stubborn")
        lms = Lms(LMS, Target("127.0.0.1", bench.lm.port, False, ""), None, grace_s=0.05)
        load = asyncio.ensure_future(lms.load(SMALL, {"gpu": "max"}, 8))
        await bench.until("load_start")
        load.cancel()

        with pytest.raises(asyncio.CancelledError):
            await load

        assert not any(psutil.pid_exists(call["pid"]) for call in bench.calls())
        await bench.backend.load(SMALL, {"gpu": "max"})
        assert bench.world.stacks() == []


async def test_a_load_that_takes_too_long_is_called_off(home):
    """`load_s` bounds a load by lms, which ends with it."""
    async with running(home, slow_s=60.0, load_s=0.6) as bench:
        with pytest.raises(LoadFailed, match=r"load_s is 0\.6"):
            await bench.backend.load(SMALL, {"gpu": "max"})

        await bench.is_over()


async def test_close_leaves_no_process(home):
    """Closing the backend ends a command under way."""
    async with running(home, slow_s=5.0) as bench:
        load = asyncio.ensure_future(bench.backend.load(SMALL, {"gpu": "max"}))
        await bench.until("load_start")

        await bench.backend.close()

        await bench.is_over()
        with pytest.raises(asyncio.CancelledError):
            await load


async def test_the_token_is_not_for_others_to_see(home, monkeypatch):
    """The command gets the token in its environment, and of dmap's other secrets nothing."""
    monkeypatch.setenv("WEBUI_KEY", "secret")
    async with running(home, api_key=TOKEN) as bench:
        await bench.backend.load(SMALL, {"gpu": "max"})

        assert {call["env"]["LM_API_TOKEN"] for call in bench.calls()} == {TOKEN}
        assert not any(TOKEN in " ".join(call["argv"]) for call in bench.calls())
        assert not any("WEBUI_KEY" in call["env"] for call in bench.calls())


# Options and configuration


def parsed(load: str, lms: str = "lms", url: str = "http://localhost:1234", base: Path = Path()) -> Any:
    text = f"""
        devices: {{gpu0: {{}}}}
        backends: {{studio: {{kind: lmstudio, url: '{url}', device: gpu0{lms and f", lms: '{lms}'"}}}}}
        models: {{m: {{load: {{{load}}}}}}}
    """
    return settings.parse(text, {}, base=base)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a program, `lms`, and a file that is none, `text`."""
    (tmp_path / "lms").touch(mode=0o755)
    (tmp_path / "text").touch(mode=0o644)
    return tmp_path


async def test_a_configuration_reaches_the_command(bench, folder):
    """What the file says under `lms` and `load` is what the command is run with."""
    (folder / "lms").unlink()
    (folder / "lms").symlink_to(LMS)
    config = parsed("gpu: off, ttl_s: 60", url=bench.lm.url, base=folder)
    backend = Proxy(config).backends["studio"]

    await backend.load(SMALL, config.models["m"].load.given())

    assert bench.lm.asked == [{"key": SMALL, "ttl_s": 60, "config": {"gpu": "off"}}]
    await backend.close()


@pytest.mark.parametrize(
    ("written", "read"), [("off", "off"), ("'off'", "off"), ("max", "max"), ("0.5", 0.5), ("1", 1.0)]
)
def test_a_share_of_the_gpu(folder, written, read):
    """`gpu` is off, max or a share; YAML's false for a bare `off` is understood."""
    config = parsed(f"gpu: {written}", base=folder)

    assert config.models["m"].load.given() == {"gpu": read}
    assert config.backends["studio"].lms == folder / "lms"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"lms": "missing"}, "backends.studio.lms: .*missing is not a file that can be run"),
        ({"lms": "text"}, "backends.studio.lms: .*text is not a file that can be run"),
        ({"url": "https://box:1234"}, "backends.studio.lms: lms reaches only http://HOST:PORT"),
        ({"url": "http://[::1]:1234"}, "backends.studio.lms: lms reaches only http://HOST:PORT"),
        ({"url": "http://box/studio/v1"}, "backends.studio.lms: lms reaches only http://HOST:PORT"),
        (
            {"load": "gpu: 1", "lms": ""},
            "models.m.load.gpu: LM Studio's REST API has no such option; its lms command has, so set lms",
        ),
        (
            {"load": "ttl_s: 9, num_experts: 2"},
            "models.m.load.num_experts: LM Studio takes this over REST only, and not beside",
        ),
        ({"load": "gpu: on"}, "models.m.load.gpu: write off, max, or a share from 0 to 1"),
        ({"load": "gpu: 2"}, "models.m.load.gpu: write off, max, or a share from 0 to 1"),
    ],
)
def test_a_configuration_that_cannot_work(folder, options, problem):
    """What would fail at the first load is a problem of the configuration, told with its path."""
    with pytest.raises(settings.ConfigProblem) as told:
        parsed(**{"load": "", **options}, base=folder)

    assert len(told.value.problems) == 1
    assert re.match(problem, told.value.problems[0])


# The emulated command itself


async def _lms(*arguments: str, stdin: int = subprocess.DEVNULL) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(LMS, *arguments), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_emulated_command_has_the_traps(bench):
    """It matches fuzzily, forgives an unknown unload, and starts another LM Studio without a port."""
    server = ("--host", "127.0.0.1", "--port", str(bench.lm.port))

    assert (await _lms("load", "gpt20", "--yes", *server))[0] == 0
    assert list(bench.world.instances) == [BIG]
    assert json.loads((await _lms("ps", "--json", *server))[1])[0]["identifier"] == BIG
    status, _, err = await _lms("unload", "gpt20", *server)
    assert (status, "Model Not Found" in err) == (0, True)
    assert (await _lms("load", "a", *server))[0] == 1
    assert json.loads((await _lms("server", "status", "--json", *server))[1])["port"] == bench.lm.port
    assert not (bench.home / "started").exists()
    assert (await _lms("ps", "--host", "127.0.0.1"))[0] == 1
    assert (bench.home / "started").exists()
