"""Models that are commands: real servers and hostile programs, and that nothing of any is left."""

import asyncio
import contextlib
import json
import os
import shlex
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from dmap.backends.base import Target
from dmap.backends.process.backend import ProcessBackend
from dmap.backends.process.ports import Ports, is_used
from dmap.backends.process.section import ProcessSection
from dmap.errors import BackendDown, LoadFailed
from dmap.process import marks
from dmap.sections import ModelSection
from tests.fakes import within
from tests.models import subjects
from tests.ports import free_port

LIMIT_S = 60
SEEN_S = 10
"""A bound of loads that only end by it, but not before each server has answered once."""
CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "what is new"}], "max_tokens": 40}
PORTS = f"{(first := 10_000 + 100 * (os.getpid() % 200))}-{first + 99}"
"""Not those of another worker."""
ROOT = Path(__file__).parent.parent
PYTHON = shlex.quote(sys.executable)
SERVE = f"{PYTHON} -m tests.llama_serve FILE --port {{port}} -c {{context_length}} -np {{parallel}}"


class Box:
    """A backend and how to give it commands."""

    def __init__(self, models: Path, health_s: float = 10.0, **section: Any) -> None:
        settings = {"parallel": 2, "load_s": LIMIT_S, "ports": PORTS, **section}
        self.section = ProcessSection(kind="process", device="gpu0", **settings)
        self.health_s = health_s
        self.models = models
        self.backend = self.made()

    def made(self) -> ProcessBackend:
        return ProcessBackend("box", self.section, LIMIT_S, health_s=self.health_s)

    def give(self, model: str, cmd: str, **fields: Any) -> None:
        """Have *model* be a command."""
        fields.setdefault("env", {"PYTHONPATH": str(ROOT)})
        section = ModelSection.model_validate({"cmd": cmd, "backend": "box", **fields})
        self.backend.commands = {**self.backend.commands, model: section}

    def serve(self, model: str, file: str = "", **fields: Any) -> None:
        """Have *model* be a real server of one of the small models."""
        self.give(model, SERVE.replace("FILE", f"{self.models}/{file or model}.gguf"), **fields)

    async def resident(self) -> list[str]:
        return [model.id for model in await self.backend.models() if model.resident]

    def children(self) -> list[psutil.Process]:
        """All that bears a mark of ours, dead or alive."""
        return [child for child in psutil.Process().children(recursive=True) if is_marked(child)]

    def pid(self, model: str) -> int:
        pid = self.backend._residents._residents[model].child.pid
        assert pid is not None
        return pid


def is_marked(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() == psutil.STATUS_ZOMBIE or marks.mark_of(process.pid) is not None
    return False


@pytest.fixture
async def make(models: Path) -> AsyncGenerator[Callable[..., Box]]:
    """Make backends; each is closed at the end, and then nothing of it is left."""
    boxes: list[Box] = []

    def made(**section: Any) -> Box:
        boxes.append(Box(models, **section))
        return boxes[-1]

    async with asyncio.timeout(LIMIT_S):
        yield made
        await asyncio.gather(*(box.backend.close() for box in boxes))
    assert [child for box in boxes for child in box.children()] == []
    assert [port for box in boxes for port in box.backend._ports._locks] == []


@pytest.fixture
def box(make: Callable[..., Box]) -> Box:
    return make()


@contextlib.asynccontextmanager
async def asking(target: Target, **body: Any) -> AsyncGenerator[aiohttp.ClientResponse]:
    url = f"http://{target.host}:{target.port}{target.path}"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        yield answer


async def said(box: Box, model: str) -> set[str]:
    """Ask *model*; return what its words are about."""
    async with asking(box.backend.target(model, CHAT), **ASK) as answer:
        assert answer.status == 200, await answer.text()
        return subjects((await answer.json())["choices"][0]["message"]["content"])


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.005)


# Real servers


async def test_a_command_serves(box):
    """A load runs the command; its server answers, each in its own words; an unload ends it."""
    box.serve("sea", "tiny-sea")
    box.serve("kitchen", "tiny-kitchen")
    for model in ("sea", "kitchen"):
        await box.backend.load(model, {})

    assert [await said(box, "sea"), await said(box, "kitchen")] == [{"sea"}, {"kitchen"}]
    assert await box.resident() == ["sea", "kitchen"]
    await box.backend.unload("sea")
    assert await box.resident() == ["kitchen"]
    with pytest.raises(BackendDown, match="not resident"):
        box.backend.target("sea", CHAT)


async def test_what_it_gives_is_asked_of_it(box):
    """llama.cpp shares its context out among its slots; what is told is what one request gets."""
    box.serve("sea", "tiny-sea")

    loaded = await box.backend.load("sea", {"context_length": 1024})

    assert (loaded.context_length, loaded.parallel, loaded.size_bytes) == (512, 2, None)
    (info,) = await box.backend.models()
    assert (info.context_length, info.parallel) == (512, 2)


async def test_before_a_load_it_is_what_would_be_asked(box):
    """A model that is not resident has the context that its command would be told, if it is told any."""
    box.serve("sea", "tiny-sea")
    box.serve("more", "tiny-sea", load={"parallel": 8})
    box.give("fixed", "serve -c 512")
    box.backend.contexts = {"more": 1024}

    listed = {
        info.id: (info.context_length, info.parallel, info.resident) for info in await box.backend.models()
    }

    assert listed == {"sea": (4096, 2, False), "more": (1024, 8, False), "fixed": (None, 2, False)}


async def test_another_command_is_another_resident(box):
    """A resident satisfies as long as its command is the one that a load would run now."""
    box.serve("sea", "tiny-sea")
    await box.backend.load("sea", {})
    same = box.backend.satisfies("sea", {}), box.backend.satisfies("sea", {"context_length": 4096})
    other = box.backend.satisfies("sea", {"context_length": 512})

    box.serve("sea", "tiny-sea", env={"PYTHONPATH": str(ROOT), "A": "b"})

    assert (same, other, box.backend.satisfies("sea", {})) == ((True, True), False, False)
    box.backend.in_use = lambda model: True
    box.backend.commands = {}
    assert box.backend.satisfies("sea", {}) is False
    assert await box.resident() == ["sea"]
    with pytest.raises(LoadFailed, match="no cmd for it any more"):
        await box.backend.load("sea", {})


async def test_changed_commands_are_reported(box):
    """After the first look another set of commands is told at once."""
    told: list[list[str]] = []
    box.backend.report = lambda found: told.append([info.id for info in found])
    box.give("a", "serve")
    await box.backend.models()

    box.give("b", "serve")

    assert told == [["a", "b"]]


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_server_that_fails_is_noticed(make, how):
    """A crash is noticed at once, a hang by questions without an answer; the gate hears of either."""
    box = make(health_s=0.3 if how == "stopped" else 60)
    told, at_work = asyncio.Event(), [True]  # so that one that is only slow, as the machine is, is not hung
    box.backend.changed, box.backend.in_use = told.set, lambda model: at_work[0]
    box.serve("sea", "tiny-sea")
    await box.backend.load("sea", {})

    process = psutil.Process(box.pid("sea"))
    process.kill() if how == "killed" else process.suspend()
    at_work[0] = False

    await told.wait()
    at_work[0] = True
    assert await box.resident() == []
    await box.backend.load("sea", {})
    assert await said(box, "sea") == {"sea"}


async def test_a_server_at_work_has_more_patience(make):
    """A simple server answers nothing else while it works, and is not taken for a hung one so soon."""
    box = make(health_s=0.05)
    told, at_work = asyncio.Event(), [True]
    box.backend.changed, box.backend.in_use = told.set, lambda model: at_work[0]
    box.serve("sea", "tiny-sea")
    await box.backend.load("sea", {})
    resident = box.backend._residents._residents["sea"]
    psutil.Process(box.pid("sea")).suspend()

    await until(lambda: resident.misses > 6)
    assert not told.is_set()
    at_work[0] = False
    await told.wait()


async def test_a_file_that_cannot_be_served_is_told(box, tmp_path):
    """The server's own last lines are in the error, with its status; they stay in its log."""
    (tmp_path / "broken.gguf").write_bytes(b"<html>not found</html>")
    box.give("broken", f"{PYTHON} -m tests.llama_serve {tmp_path}/broken.gguf --port {{port}}")

    with pytest.raises(LoadFailed) as caught:
        await box.backend.load("broken", {})

    assert "it ended with status 1" in caught.value.message
    assert "invalid magic characters" in caught.value.message
    log = box.backend.log("broken")
    assert log is not None and any(line.startswith("serving ") for line in log.since(0))
    assert await box.resident() == []


@pytest.mark.parametrize("moment_s", [0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3])
async def test_a_load_can_be_cancelled_at_any_moment(box, moment_s):
    """A cancelled load leaves nothing behind, not even a port."""
    box.serve("slow")
    load = asyncio.ensure_future(box.backend.load("slow", {}))
    await asyncio.wait([load], timeout=moment_s)

    load.cancel()
    await asyncio.wait([load])

    assert (await box.resident() == ["slow"]) == (not load.cancelled())
    await box.backend.unload("slow")
    assert box.children() == []
    assert box.backend._ports._locks == {}


async def test_a_missing_program_is_told_before_a_load(make):
    """A command whose program is not there has no chance; one in the `PATH` of its `env` has."""
    box = make()
    box.give("tiny", "no-such-program {port}")
    box.give("found", "sh {port}", env={"PATH": "/bin"})

    with pytest.raises(LoadFailed, match="there is no program 'no-such-program'"):
        await box.backend.check("tiny")
    await box.backend.check("found")
    with pytest.raises(LoadFailed, match="no cmd for it any more"):
        await box.backend.check("never-heard-of")


async def test_loads_at_once_start_one_server(box):
    """Two loads of one model end with the same server."""
    box.serve("sea", "tiny-sea")

    one, two = await asyncio.gather(box.backend.load("sea", {}), box.backend.load("sea", {}))

    assert one == two
    assert len(box.children()) == 1


# Hostile ones

MARKS = """
import os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(os.environ.get("SAID", "") + "|".join(sys.argv[2:]))
"""


SERVER = """
import http.server, os, signal, sys, time
class Ready(http.server.BaseHTTPRequestHandler):
    says = {}
    def do_GET(self):
        status, head, body = self.says.get(self.path, (int(os.environ.get("STATUS", 200)), "X-A: b", b"ok"))
        self.send_response(status); self.send_header(*head.split(": ")); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
%s
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
DEAF = "signal.signal(15, signal.SIG_IGN)"
LOUD = """
import threading
def shout():
    while True:
        sys.stdout.write("x" * 2000 + "\\n"); sys.stderr.write("y\\n" * 500); time.sleep(0.02)
threading.Thread(target=shout, daemon=True).start()
"""
FORKS = """
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
"""
LEAVES = """
if "left" not in sys.argv:
    import time
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
    os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(300)", "left"], {})
"""
STOPS = "os.kill(os.getpid(), signal.SIGSTOP)"
CLOSES = "os.close(1); os.close(2)"
STOPS_LATER = """
import threading
answer = Ready.do_GET
def answer_and_stop(self):
    answer(self)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGSTOP)).start()
Ready.do_GET = answer_and_stop
"""
LEAVING_STOP = shlex.join(
    (
        sys.executable,
        "-c",
        "import os, signal, sys\nsignal.signal(15, signal.SIG_IGN)\nif not os.fork(): os.setsid()\n"
        "os.execve(sys.executable, [sys.executable, '-c', 'import time; time.sleep(300)'], {})",
    )
)
"""A stop that hangs, beside what it has left in another session; neither heeds a SIGTERM."""
EATS = """
files = []
try:
    while True: files.append(os.open("/dev/null", os.O_RDONLY))
except OSError: pass
print(len(files) > 100, flush=True)
"""
ENDLESS = """
import threading
def shout():
    while True: os.write(1, b"x" * 2**20)
threading.Thread(target=shout, daemon=True).start()
"""


@pytest.mark.parametrize(
    "name",
    [
        *("; touch x", "$(touch x)", "`touch x`", "two\nlines", "../../x", "-x y", "{port}", "", "*", "~"),
        *("a\x1b[2Jb", "\u202eabc", "\U0001f41f" * 1000, "| tee x", "'\"\\", "%s%n", "${HOME}"),
    ],
)
async def test_no_shell_sees_a_name(box, tmp_path, monkeypatch, name):
    """Whatever a model is called, its name is one argument of its program, and nothing else is run."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    box.give(
        name, f"{shlex.join((sys.executable, '-c', MARKS, str(out)))} a{{model}}b", env={"SAID": "<{model}>"}
    )

    with pytest.raises(LoadFailed, match="it ended with status 0"):
        await box.backend.load(name, {})

    assert out.read_text() == f"<{name}>a{name}b"
    assert os.listdir(tmp_path) == ["out"]


async def test_a_name_that_no_program_can_be_given(make):
    """With a NUL in it the load fails, and tells why."""
    box = make()
    box.give("a\0b", "echo {model}")

    with pytest.raises(LoadFailed, match="its last lines: cannot start echo: a NUL in"):
        await box.backend.load("a\0b", {})


async def test_the_environment_is_short(make, tmp_path, monkeypatch):
    """A command gets what is named for it, and a short list of ours."""
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    monkeypatch.setenv("HARMLESS", "x")
    port, out = free_port(), tmp_path / "out"
    box = make(ports=f"{port}-{port}")
    text = f"import json, os; open({str(out)!r}, 'w').write(json.dumps(dict(os.environ)))"
    box.give("m", shlex.join((sys.executable, "-c", text)), env={"NAMED": "{port}"})

    with pytest.raises(LoadFailed):
        await box.backend.load("m", {})

    environment = json.loads(out.read_text())
    assert environment.keys() & {"SECRET_OF_OURS", "HARMLESS"} == set()
    assert (environment["NAMED"], environment["PATH"]) == (str(port), os.environ["PATH"])


async def test_it_may_be_ready_when_it_takes_connections(make):
    """A server that answers no path with 200 is ready once it takes connections, and does not hang."""
    box = make(load_s=LIMIT_S)
    box.give(
        "m",
        f"{shlex.join((sys.executable, '-c', SERVER % 'time.sleep(0.3)'))} {{port}}",
        ready="port",
        env={"STATUS": "503"},
    )

    await box.backend.load("m", {})

    async with asking(box.backend.target("m", "/")) as answer:
        assert answer.status == 501  # it takes no POST
    assert await box.resident() == ["m"]


async def test_stop_is_told_the_process(make, tmp_path):
    """The command that ends a server finds its process id in the environment."""
    box, out = make(stop_s=30), tmp_path / "out"
    box.give(
        "m",
        f"{shlex.join((sys.executable, '-c', SERVER % ''))} {{port}}",
        stop=f"sh -c 'echo $MAINPID > {out}; kill -INT $MAINPID'",
    )
    await box.backend.load("m", {})
    pid = box.pid("m")

    await box.backend.unload("m")

    assert out.read_text() == f"{pid}\n"
    assert box.children() == []


@pytest.mark.parametrize(
    ("load_s", "text", "status", "words"),
    [
        (1, SERVER % DEAF, 503, ("no answer in time",)),
        (LIMIT_S, SERVER % FORKS, 503, ("it ended with status 0",)),
        (LIMIT_S, SERVER % LEAVES, 503, ("it ended with status 0",)),
        (1, SERVER % EATS, 200, ("cannot load model 'm': ",)),
        (1, SERVER % ENDLESS, 503, ("no answer in time",)),
        (
            1,
            "import socket, sys, time; s = socket.create_server(('', int(sys.argv[1]))); time.sleep(300)",
            200,
            ("no answer in time",),
        ),
        (
            LIMIT_S,
            "import sys; sys.exit('no GPU here')",
            200,
            ("it ended with status 1", "its last lines: no GPU here"),
        ),
        (LIMIT_S, "import os; os.kill(os.getpid(), 11)", 200, ("it ended with status -11",)),
    ],
    ids=[
        "deaf",
        "forks and leaves",
        "leaves without environment",
        "eats all files",
        "a line without end",
        "never answers",
        "ends",
        "crashes",
    ],
)
async def test_one_that_does_not_come_up(make, load_s, text, status, words):
    """The load fails with what was seen and said; the device is free within stop_s and a second."""
    box = make(load_s=load_s, stop_s=0.5)
    box.give("m", f"{shlex.join((sys.executable, '-c', text))} {{port}}", env={"STATUS": str(status)})

    with pytest.raises(LoadFailed) as caught:
        await within(load_s + 0.5 + 1, box.backend.load("m", {}))

    assert [word for word in words if word not in caught.value.message] == []
    assert box.children() == []
    assert marked_pids() == []


SEEN = {
    "never listens": ("import time; time.sleep(300)", 200, "(/health: connection refused)"),
    "never ready": (SERVER % "", 503, "(/health: status 503)"),
    "no such path": (
        SERVER % "print('hello', flush=True)",
        404,
        "(/health: status 404); its last lines: hello",
    ),
    "stops itself": (SERVER % STOPS, 503, "(/health: connection refused)"),
    "closes its output": (SERVER % CLOSES, 503, "(/health: status 503)"),
}


async def test_what_was_seen_last_is_told(make):
    """A load that ends by its bound tells the last answer; all that came of several is gone in time."""
    box = make(load_s=SEEN_S, stop_s=0.5)
    for name, (text, status, _) in SEEN.items():
        box.give(name, f"{shlex.join((sys.executable, '-c', text))} {{port}}", env={"STATUS": str(status)})

    loads = asyncio.gather(*(box.backend.load(name, {}) for name in SEEN), return_exceptions=True)
    failed = await within(SEEN_S + 0.5 + 1, loads)

    assert [str(each).partition(": ")[2] for each in failed] == [
        f"no answer in time (load_s is {SEEN_S}) {seen}" for _, _, seen in SEEN.values()
    ]
    assert box.children() == []
    assert marked_pids() == []


DEAF_CHILD = """
if not os.fork():
    os.setsid(); signal.signal(15, signal.SIG_IGN)
    os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(300)"], {})
"""


@pytest.mark.parametrize("does", [DEAF, "print(1)\n" + DEAF_CHILD, CLOSES + "\n" + DEAF, STOPS_LATER])
@pytest.mark.parametrize("stop", [None, "sleep 300", "false", "/nonexistent", LEAVING_STOP])
async def test_the_device_is_free_in_time(make, does, stop):
    """Whatever a server heeds, and whatever its stop does, all is gone within stop_s and a second."""
    box = make(stop_s=0.5)
    fields = {} if stop is None else {"stop": stop}
    box.give("m", f"{shlex.join((sys.executable, '-c', SERVER % does))} {{port}}", **fields)
    await box.backend.load("m", {})

    await within(0.5 + 1, box.backend.unload("m"))

    assert marked_pids() == []


@pytest.mark.parametrize(
    "said",
    [
        "(200, 'X-A: b', b'x' * 100_000_000)",
        "(200, 'X-A: b', b'[' * 1_000_000)",
        "(200, 'Content-Type: application/json', b'{\"default_generation_settings\": [1], \"data\": {}}')",
        "(200, 'X-A: b', bytes(range(256)) * 100)",
        "(302, 'Location: http://127.0.0.1:1/', b'')",
        "(200, 'Content-Encoding: gzip', b'abc')",
        "(200, 'Content-Length: 99', b'abc')",
        "(500, 'X-A: b', b'{}')",
    ],
    ids=["100 MB", "deep", "other JSON", "nonsense", "redirect", "compressed", "cut", "error"],
)
async def test_what_it_says_of_itself_may_be_nonsense(make, said):
    """A server that tells nothing of use serves all the same, and nothing that it says has to be kept."""
    box = make()
    does = f"Ready.says = dict.fromkeys(('/props', '/v1/models'), {said})"
    box.give("m", f"{shlex.join((sys.executable, '-c', SERVER % does))} {{port}}")

    loaded = await box.backend.load("m", {})

    assert (loaded.context_length, loaded.parallel) == (None, None)


async def test_one_at_the_port_of_another(box):
    """A server that listens where another one does fails, and the other one stays what it was."""
    box.serve("sea", "tiny-sea")
    await box.backend.load("sea", {})
    port = box.backend.target("sea", CHAT).port
    box.give("thief", f"{shlex.join((sys.executable, '-c', SERVER % ''))} {port}")

    with pytest.raises(LoadFailed, match="Address already in use"):
        await box.backend.load("thief", {})

    assert await said(box, "sea") == {"sea"}


async def test_two_models_at_one_url(make):
    """The second one is not started while the first is there; after that it is."""
    box, port = make(), free_port()
    for model in ("a", "b"):
        command = f"{shlex.join((sys.executable, '-c', SERVER % ''))} {port}"
        box.give(model, command, url=f"http://127.0.0.1:{port}")
    await box.backend.load("a", {})
    with pytest.raises(LoadFailed, match="somebody listens at"):
        await box.backend.load("b", {})
    await box.backend.unload("a")

    await box.backend.load("b", {})

    assert await box.resident() == ["b"]


async def test_a_range_of_one_port(make):
    """One port serves one model after the other, and a second one beside the first is told why it cannot."""
    port = free_port()
    box = make(ports=f"{port}-{port}")
    for model in ("a", "b"):
        box.give(model, f"{shlex.join((sys.executable, '-c', SERVER % ''))} {{port}}")
    await box.backend.load("a", {})
    with pytest.raises(LoadFailed, match=f"no port from {port} to {port} is free"):
        await box.backend.load("b", {})
    await box.backend.unload("a")

    await box.backend.load("b", {})

    assert await box.resident() == ["b"]


@pytest.mark.parametrize("moment_s", [0, 0.01, 0.05, 0.2, 0.5])
async def test_a_close_during_a_load(make, moment_s):
    """The load fails, and nothing of it is left, not even its port."""
    box = make()
    box.serve("slow")
    load = asyncio.ensure_future(box.backend.load("slow", {}))
    await asyncio.wait([load], timeout=moment_s)

    await box.backend.close()

    with pytest.raises((LoadFailed, BackendDown)):
        await load
        box.backend.target("slow", CHAT)
    assert (marked_pids(), box.backend._ports._locks) == ([], {})


async def test_another_command_during_a_load(box):
    """The load goes on with the command that it began with, and does not satisfy the new one."""
    box.serve("m", "tiny-sea")
    load = asyncio.ensure_future(box.backend.load("m", {}))
    await until(lambda: bool(box.children()))

    box.serve("m", "tiny-kitchen")
    await load

    assert box.backend.satisfies("m", {}) is False
    assert await said(box, "m") == {"sea"}
    await box.backend.unload("m")
    await box.backend.load("m", {})
    assert await said(box, "m") == {"kitchen"}


async def test_no_command_any_more_during_a_load(box):
    """The load fails at its end, and nothing of it is left, for nobody could ask for its model."""
    box.serve("m", "tiny-sea")
    load = asyncio.ensure_future(box.backend.load("m", {}))
    await until(lambda: bool(box.children()))

    box.backend.commands = {}

    with pytest.raises(LoadFailed, match="no cmd for it any more"):
        await load
    assert (box.children(), await box.resident(), box.backend._ports._locks) == ([], [], {})


async def test_one_that_forks_and_serves_on_is_ended(make):
    """A server that goes into the background is none that can be kept; what it left is not left."""
    box = make(load_s=5)
    told = asyncio.Event()
    box.backend.changed = told.set
    box.give("m", f"{shlex.join((sys.executable, '-c', SERVER % FORKS))} {{port}}")
    with contextlib.suppress(LoadFailed):  # unless the server that was left answered before
        await box.backend.load("m", {})
        await told.wait()

    assert await box.resident() == []
    assert marked_pids() == []


def marked_pids() -> list[int]:
    """What bears a mark of ours, whoever is its parent."""
    found = {pid: marks.mark_of(pid) for pid in psutil.pids()}
    return [pid for pid, mark in found.items() if mark is not None and mark.owner == os.getpid()]


async def test_a_loud_one_is_bounded(box):
    """A server that writes 25,000 lines a second serves all the same, and little of it is kept."""
    box.give("m", f"{shlex.join((sys.executable, '-c', SERVER % LOUD))} {{port}}")
    await box.backend.load("m", {})
    log = box.backend.log("m")
    assert log is not None

    await until(lambda: log.last > 20_000)

    assert len(log.since(0)) == log.LINES
    assert max(map(len, log.since(0))) <= log.LINE_BYTES
    assert (await box.resident(), box.backend.target("m", CHAT).host) == (["m"], "127.0.0.1")


# Ports and addresses


def test_ports_are_given_in_turn_and_once():
    """No port is given twice, none on which somebody listens, and when all are out that is told."""
    first = free_port(4)
    with socket.create_server(("127.0.0.1", first + 1)), socket.create_server(("", first + 2)):
        ports, others = Ports(first, first + 3), Ports(first, first + 3)
        given = [ports.take(), others.take()]
        with pytest.raises(LoadFailed, match=f"no port from {first} to {first + 3} is free"):
            ports.take()
        ports.free(first)
        again = ports.take()
        ports.free(again)
        others.free(first + 3)

    assert (given, again) == ([first, first + 3], first)


def test_a_port_whose_connections_linger_is_free():
    """Only somebody who listens keeps a port from being used."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            connection, _ = listener.accept()
            assert is_used(port)
            connection.close()  # first, so that it lingers here
    assert not is_used(port)


async def test_another_server_at_its_url_is_no_server_of_ours(box, tmp_path):
    """A fixed address where somebody answers already is told; nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        box.give("m", f"touch {tmp_path}/started", url=url)

        with pytest.raises(LoadFailed, match="somebody listens at 127.0.0.1:[0-9]+ already"):
            await box.backend.load("m", {})

    assert os.listdir(tmp_path) == []


async def test_it_may_answer_elsewhere(box):
    """A server whose command says where it listens is asked there, below the path of its url."""
    port = free_port()
    box.give(
        "m",
        f"{shlex.join((sys.executable, '-c', SERVER % ''))} {port}",
        url=f"http://localhost:{port}/api/v1",
    )

    await box.backend.load("m", {})

    assert box.backend.target("m", CHAT) == Target("localhost", port, False, f"/api{CHAT}")
    assert box.backend._ports._locks == {}


# Containers, or what behaves like one

DOCKER = """
import os, pathlib, select, signal, subprocess, sys
verb, folder, name, *command = sys.argv[1:]
pid = pathlib.Path(folder) / name
if verb == "run":  # the client: what it runs is the daemon's child, with the daemon's environment
    process = subprocess.Popen(command, env={"PATH": os.environ["PATH"]}, start_new_session=True)
    pid.write_text(str(process.pid))
    sys.exit(process.wait())
elif pid.exists():
    process = os.pidfd_open(int(pid.read_text()))
    signal.pidfd_send_signal(process, 9)
    select.select([process], [], [])  # until it has ended
    pid.unlink()
else:
    sys.exit(f"no such container: {name}")
"""


@pytest.fixture
def docker(tmp_path: Path) -> Callable[[str], str]:
    """A program that behaves as `docker run` and `docker stop` do: what it runs is no child of ours."""
    (tmp_path / "docker.py").write_text(DOCKER)
    (tmp_path / "containers").mkdir()

    def command(verb: str) -> str:
        return f"{PYTHON} {tmp_path}/docker.py {verb} {tmp_path}/containers m"

    return command


async def contained(tmp_path: Path) -> psutil.Process:
    """Return the process in the container."""
    pid = tmp_path / "containers" / "m"
    await until(lambda: pid.exists() and pid.read_text() != "")
    return psutil.Process(int(pid.read_text()))


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("how", ["unload", "crash of the client"])
async def test_a_container_is_stopped(box, docker, tmp_path, how):
    """What runs in a container is ended by its stop, when it is unloaded and when the client has died."""
    told = asyncio.Event()
    box.backend.changed = told.set
    server = shlex.join((sys.executable, "-c", SERVER % ""))
    box.give("m", f"{docker('run')} {server} {{port}}", stop=docker("stop"))
    await box.backend.load("m", {})
    inside = await contained(tmp_path)

    if how == "unload":
        await box.backend.unload("m")
    else:
        os.kill(box.pid("m"), 9)
        await told.wait()

    assert is_gone(inside)
    assert await box.resident() == []


async def test_a_container_that_a_killed_dmap_left_is_stopped(make, docker, tmp_path):
    """The first look runs each stop, once, before anything can be loaded."""
    box = make()
    left = await asyncio.create_subprocess_exec(*shlex.split(docker("run")), "sleep", "300")
    inside = await contained(tmp_path)
    box.give("m", "serve", stop=docker("stop"))
    box.give("n", "serve", stop=f"touch {tmp_path}/{{port}}")

    await box.backend.models()
    await box.backend.models()

    assert is_gone(inside)
    assert await left.wait() != 0
    assert sorted(os.listdir(tmp_path)) == ["containers", "docker.py"]
