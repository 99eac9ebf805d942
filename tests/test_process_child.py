"""A child process, whatever it runs: its first line, its last ones, and that nothing of it is left."""

import asyncio
import functools
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dmap.process import (
    Child,
    Log,
    clean_environment,
    launch,
    marks,
    run_once,
    secrets_in,
    short_environment,
)
from tests.fakes import within

LIMIT_S = 60
FOREVER = "import time; time.sleep(300)"
DEAF = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); signal.pause()"
LEAVER = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", {FOREVER!r}], {{%s}})
    os._exit(0)
os.wait()
print("left", flush=True)
"""
"""A program that starts another one in a session of its own, as a daemon does."""
STAYING = "import signal; signal.pause()"


def python(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


@pytest.fixture
async def start() -> AsyncGenerator[Callable[..., Child]]:
    """Start children; each has to have ended when the test is over."""
    children: list[Child] = []

    def run(command: list[str], **options: Any) -> Child:
        options.setdefault("gone", lambda: None)
        children.append(Child(command, options.pop("environment", clean_environment()), **options))
        return children[-1]

    async with asyncio.timeout(LIMIT_S):
        yield run
        assert [await child.end() for child in children] == [True] * len(children)


async def test_the_first_line_is_its_owners(start):
    """What a child says first is for its owner too; all that it says, on either stream, is kept."""
    gone = asyncio.Event()
    said = python("import sys", "print('here', flush=True)", "print('more')", "sys.stderr.write('worse')")
    child = start(said, gone=gone.set)

    first = await child.unless_ended(child.first_line())
    await gone.wait()

    assert (first, sorted(child.lines), child.status) == ("here", ["here", "more", "worse"], 0)


@pytest.mark.parametrize(
    ("command", "status", "last"),
    [
        (python("raise SystemExit(3)"), 3, []),
        (["/nonexistent/program"], 127, ["cannot start /nonexistent/program: No such file or directory"]),
        (["/tmp", "\udcff"], 127, ["cannot start /tmp: Permission denied"]),
    ],
)
async def test_a_child_that_says_nothing(start, command, status, last):
    """A child that ends without a word, or cannot be started at all, has no first line."""
    child = start(command)

    assert await child.unless_ended(child.first_line()) is None
    await child.ended()

    assert (child.status, child.lines) == (status, last)


async def test_one_that_heeds_no_sigterm_is_killed(start):
    """`end` returns when the process is reaped, and may be called again."""
    child = start(python(DEAF), stop_s=0.1)
    await child.first_line()

    ended = await child.end(), await child.end()

    assert (ended, child.status, psutil.pid_exists(child.pid or 0)) == ((True, True), -9, False)


async def test_one_that_is_killed_before_it_starts(start):
    """It is killed as soon as it is there, whatever it heeds."""
    child = start(python(DEAF))
    child.kill()

    await child.ended()

    assert child.status == -9


async def test_one_has_its_own_lines(start):
    """The log of a model goes on with its next child, which answers for its own lines only."""
    log = Log()
    await start(python("print('old')"), log=log).ended()
    child = start(python("print('new')"), log=log)
    await child.ended()

    assert (child.lines, log.since(0)) == (["new"], ["old", "new"])


async def started(child: Child) -> None:
    while child.pid is None:
        await asyncio.sleep(0.005)


# What the command starts


async def descendants(child: Child) -> list[psutil.Process]:
    """Wait for the sleeper that the child has started, wherever that is; return it."""
    while not (found := [each for each in psutil.process_iter() if is_sleeper(each, child)]):
        await asyncio.sleep(0.005)
    await started(child)
    return found


def to_thread(act: Callable[..., None], *args: Any) -> Callable[[], Awaitable[None]]:
    return functools.partial(asyncio.to_thread, act, *args)


def is_sleeper(process: psutil.Process, child: Child) -> bool:
    try:
        return FOREVER in process.cmdline() and marks.mark_of(process.pid) == child._mark
    except psutil.Error:
        return False


IN_GROUP = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {FOREVER!r}], env=%s)"


@pytest.mark.parametrize(
    "command",
    [
        python(IN_GROUP % "None"),
        python(IN_GROUP % "{}"),
        python(LEAVER % "**os.environ", STAYING),
        python(LEAVER % "", STAYING),
        ["sh", "-c", f"{sys.executable} -c '{FOREVER}'; true"],
    ],
    ids=["in its group", "without an environment", "in another session", "without either", "by a shell"],
)
@pytest.mark.parametrize("how", ["end", "kill", "crash"])
async def test_what_it_starts_ends_with_it(start, command, how):
    """Whether a child is ended or dies, what it started goes with it, out of its group or environment too."""
    child = start(command)
    left = await descendants(child)
    ways = {"end": child.end, "kill": to_thread(child.kill), "crash": to_thread(os.kill, child.pid, 9)}

    await ways[how]()
    await child.ended()

    assert [process for process in left if process.is_running() and process.status() != "zombie"] == []


@pytest.mark.parametrize("environment", ["**os.environ", ""])
async def test_one_that_forks_and_leaves_has_ended(start, environment):
    """A program that goes into the background is one that has ended, and what it left is killed."""
    child = start(python(LEAVER % environment))

    assert await child.unless_ended(asyncio.Event().wait()) is None

    assert (child.status, child.lines) == (0, ["left"])
    assert marks.left_of(child._mark) == []


async def test_what_is_left_has_the_time_that_its_parent_had(start, tmp_path):
    """A server under a shell that ends at once on SIGTERM can still do what it does at its end."""
    done = tmp_path / "done"
    slow = f"""
import pathlib, signal, time
def end(*_):
    time.sleep(0.3); pathlib.Path({str(done)!r}).touch(); raise SystemExit
signal.signal(15, end); print(1, flush=True)
while True: signal.pause()
"""
    child = start(["sh", "-c", f'{sys.executable} -c "$SLOW" & wait'], environment={"SLOW": slow}, stop_s=30)
    await child.first_line()

    await child.end()

    assert done.exists()


# How it is stopped


async def test_it_is_stopped_by_its_command(start, tmp_path):
    """With a command to stop it the child gets no SIGTERM; it ends by what the command does."""
    flag = tmp_path / "flag"
    server = python("import os, time", f"while not os.path.exists({str(flag)!r}): time.sleep(0.01)")
    child = start(server, stop=["touch", str(flag)], stop_s=30)
    await started(child)

    await child.end()

    assert child.status == 0


async def test_a_stop_that_came_too_early_is_run_again(start, tmp_path):
    """A container that is about to start cannot be stopped yet: the stop fails, and is tried again."""
    flag, early = tmp_path / "flag", tmp_path / "early"
    server = python("import os, time", f"while not os.path.exists({str(flag)!r}): time.sleep(0.01)")
    stop = ["sh", "-c", f"if test -e {early}; then touch {flag}; else touch {early}; exit 1; fi"]
    child = start(server, stop=stop, stop_s=30)
    await started(child)

    await child.end()

    assert child.status == 0


@pytest.mark.parametrize(("ends", "stop_s"), [("true", 30), ("false", 1)])
async def test_what_a_stop_has_to_end_is_left_to_it(start, tmp_path, ends, stop_s):
    """When the command has died, what it left has the time of its stop, and not more."""
    done, there = tmp_path / "done", tmp_path / "there"
    slow = f"trap 'touch {done}; exit' USR1; echo \\$\\$ > {there}; while true; do sleep 0.05; done"
    child = start(
        ["sh", "-c", f'setsid sh -c "{slow}" & until test -s {there}; do sleep 0.01; done; exit 1'],
        stop=["sh", "-c", f"sleep 0.3; if {ends}; then kill -USR1 $(cat {there}); fi"],
        stop_s=stop_s,
    )

    await child.ended()

    assert (child.status, done.exists()) == (1, ends == "true")


async def test_a_stop_is_run_for_one_that_died(start, tmp_path):
    """What a dead client of a container has left needs its command, too."""
    child = start(["false"], stop=["touch", str(tmp_path / "stopped")])

    await child.ended()

    assert (child.status, (tmp_path / "stopped").exists()) == (1, True)


async def test_a_stop_is_not_told_of_a_dead_process(start, tmp_path):
    """Once the command has ended by itself, its id may be another process's, so `stop` does not get it."""
    told = tmp_path / "told"
    child = start(["false"], stop=["sh", "-c", f"echo ${{MAINPID-none}} > {told}"])

    await child.ended()

    assert told.read_text() == "none\n"


@pytest.mark.parametrize("stop", [["sleep", "300"], ["false"], ["/nonexistent"]])
async def test_a_stop_that_does_nothing_is_bounded(start, stop):
    """Whatever its command to stop does, the child and the command are gone within the time to stop."""
    child = start(python(FOREVER), stop=stop, stop_s=0.5)
    await started(child)

    await within(10, child.end())

    assert child.status == -9


async def test_a_command_runs_once():
    """A command's status is returned, or None where it took too long and was killed."""
    commands = ((["true"], LIMIT_S), (["false"], LIMIT_S), (["/bin/sleep", "300"], 0.5))

    assert [await run_once(command, {}, Log(), within_s) for command, within_s in commands] == [0, 1, None]


# What it gets


def test_the_environment_has_no_secrets(monkeypatch):
    """A child gets the environment without the variables whose names tell of a secret, or a short list."""
    monkeypatch.setenv("MY_API_KEY", "x")
    monkeypatch.setenv("MY_PLACE", "y")

    made = clean_environment()

    assert ("MY_API_KEY" in made, made["MY_PLACE"]) == (False, "y")
    assert ("MY_PLACE" in short_environment(), short_environment()["PATH"]) == (False, os.environ["PATH"])


def test_common_values_are_no_secrets(monkeypatch):
    """Names that only look like those of secrets do not have every `false` and `4096` masked."""
    monkeypatch.setattr(os, "environ", {"TOKENIZERS_PARALLELISM": "false", "MAX_TOKENS": "4096"})
    variables = {"TOKENIZER_MODE": "auto", "KEEP_KEYS": "1", "API_KEY": "falsetto"}

    found = secrets_in(variables, ["serve", "--use-auth-token", "true", "--token", "--verbose"])

    assert found == ["falsetto"]


def test_secrets_are_known_by_their_names(monkeypatch):
    """Our own secrets, what a model's `env` holds, and options for keys are secret; paths and numbers not."""
    monkeypatch.setattr(os, "environ", {"OUR_TOKEN": "of-ours", "PLACE": "not-secret"})
    named = {"HF_TOKEN": "hf_1", "CUDA": "0", "PATH_TO": "/srv/x/models", "PEM_KEY": "line one\nline two\n"}
    url = {"DATABASE": "postgres://me:pass@host/db"}
    command = ["serve", "--api-key", "sk-1", "--tokenizer", "org/name", "--hf-token=hf_2", "--tokens", "9"]

    found = secrets_in({**named, **url}, [*command, "--key"])

    assert found == [
        *("of-ours", "hf_1", "line one", "line two", "postgres://me:pass@host/db"),
        *("sk-1", "hf_2"),
    ]


GLIBCS = 0b11 << 31
"""Signals 32 and 33, which glibc lets nobody set (signal(7)); who started the tests may have them ignored."""


async def test_it_gets_no_files_and_plain_signals(start, tmp_path):
    """A child has nothing that we have open but its three streams, and ignores no signal that we ignore."""
    with (tmp_path / "mine").open("w") as mine:
        os.set_inheritable(mine.fileno(), True)
        child = start(["sh", "-c", "ls -l /proc/$$/fd; grep SigIgn /proc/$$/status"])
        await child.ended()

    assert [line for line in child.lines if str(tmp_path) in line] == []
    name, ignored = child.lines[-1].split()
    assert (name, int(ignored, 16) & ~GLIBCS) == ("SigIgn:", 0)


PARENT = """
import asyncio, sys, uvloop
from dmap.process import Child, clean_environment

async def main():
    # Without the mark in its environment, so that no dmap that starts meanwhile takes it for an orphan.
    command = ["env", "-i", "sh", "-c", "echo up; exec sleep 300"]
    child = Child(command, clean_environment(), lambda: None)
    await child.first_line()
    print(child.pid, flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


async def test_an_orphan_does_not_start():
    """A child whose parent died before it could bind itself to it does not run its command."""
    command = (sys.executable, "-I", "-S", launch.__file__, "1", str(marks.LIMIT), "0", "echo", "hello")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)

    assert (await process.communicate())[0] == b""
    assert process.returncode == launch.NOT_STARTED


async def test_it_dies_with_its_parent():
    """A command that knows nothing of dmap ends at once when dmap is killed."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()

    async with asyncio.timeout(LIMIT_S):
        await gone(child)


async def gone(pid: int) -> None:
    while is_running(pid):
        await asyncio.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
