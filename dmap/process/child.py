"""
One child process from its start until nothing of it is left.

A child is owned by one task that nobody cancels.  Whoever no longer wants the child calls `end`, and the task
sees it through even when that caller is cancelled too.  So no process is ever left over or left unreaped.

What the command starts belongs to the child: whatever bears its mark (`marks`).  The child has ended when the
command has, and all of that.  Once the command has ended by itself, the others are killed at once; after
`end` they have the time that the command has.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from dmap.process import launch, marks
from dmap.process.log import Log
from dmap.tasks import end, errand

END_S = 2.0
"""How long a child may take to end when it is asked to, before it gets a SIGKILL; for most."""

REAP_S = 30.0
"""How long the kernel may take to free a killed process: its GPU memory goes first."""

LAST_LINES = 40
"""So many lines tell why a child has failed."""

_LAST_WORDS_S = 0.5
"""How long is read on after the end; a process that cannot be killed may keep the pipes open."""
_STOP_AGAIN_S = 0.2
_LOOK_S, _LONGEST_LOOK_S, _SLOWER = 0.02, 0.5, 1.1
"""Between two looks at what is left, each pause so many times the one before: a look may read 1,000 files."""

_Result = TypeVar("_Result")


class Child:
    """
    A process that runs *command* in *environment*, in a session of its own.

    *gone* is called from the loop when nothing is left of it, whatever ended it.  `status` is then its exit
    status, negative for a signal.  Its standard input stays open until then.  What it writes goes to *log*,
    which may have lines of other children.  It is asked to end by the command *stop*, or by a SIGTERM if
    there is none, and killed after *stop_s*.  *stop* is run too if the command ends by itself; while that
    lives it finds its process id as `MAINPID` in its environment, as systemd's `ExecStop=` does.
    *killed* tells whether a SIGKILL has been sent, which takes a moment.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        gone: Callable[[], None],
        *,
        log: Log | None = None,
        stop: Sequence[str] = (),
        stop_s: float = END_S,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.log = log or Log()
        self.ending = False
        self.status: int | None = None
        self.killed = False
        self._stop_by = tuple(stop)
        self._stop_s = stop_s
        self._mark = marks.new()
        self._environment = environment
        self._before = self.log.last
        self._process: asyncio.subprocess.Process | None = None
        self._kill: asyncio.TimerHandle | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._first: asyncio.Future[str] = loop.create_future()
        # Its owner is end(): whoever makes a child must call that, unless `gone` was called before.
        self._life = errand(self._live(command, gone), f"child {command[0]}")

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return self._process.pid if self._process else None

    @property
    def said(self) -> list[str]:
        """The lines that it has said itself, oldest first, as far as they are kept."""
        return self.log.since(self._before)

    @property
    def lines(self) -> list[str]:
        """The last of them: they tell why it has failed."""
        return self.said[-LAST_LINES:]

    async def first_line(self) -> str:
        """Wait for the first line on its standard output; for ever if there is none, see `unless_ended`."""
        return await asyncio.shield(self._first)

    async def unless_ended(self, work: Coroutine[Any, Any, _Result]) -> _Result | None:
        """Return what *work* returns, or None if the child ends before that; *work* is then cancelled."""
        task = errand(work, "wait for a child", expected=(Exception,))
        try:
            await asyncio.wait((task, self._life), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            await end(task)

    async def end(self) -> bool:
        """
        End the child; return when nothing of it is left.  Idempotent.

        False: a process survives a SIGKILL, stuck in the kernel, and still has its memory.
        """
        self.ending = True
        self._stop()
        done, _ = await asyncio.wait([self._life], timeout=self._stop_s + REAP_S)
        return bool(done)

    def kill(self) -> None:
        """Send a SIGKILL at once, also to what is left.  It counts as an end that nobody asked for."""
        self.killed = True
        self._signal(signal.SIGKILL)

    async def ended(self) -> None:
        """Wait until nothing is left of it."""
        await asyncio.wait((self._life,))

    def _signal(self, number: int) -> None:
        """Send *number* to the process group, which has the command's id: it began its session."""
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _bound(self) -> None:
        """Have all of it killed after `stop_s`."""
        if self._kill is None and not self.killed:
            self._kill = asyncio.get_running_loop().call_later(self._stop_s, self.kill)

    def _stop(self) -> None:
        if self._process and self._process.returncode is None and not self._kill:
            self._bound()
            if self._stop_by:
                self._run_stop()
            else:
                self._signal(signal.SIGTERM)

    def _run_stop(self) -> None:
        """Begin with `stop`; it has all its time, also where the command has died by itself."""
        if self._stop_by and self._stopping is None:
            self._bound()
            self._stopping = errand(self._run_stops(), f"stop {self._stop_by[0]}")

    async def _run_stops(self) -> None:
        """Run `stop`; again while it fails and the command lives, which may be about to start a container."""
        pid = {"MAINPID": str(self.pid)} if self.status is None else {}  # of a dead one it may be another's
        clock, variables = asyncio.get_running_loop().time, {**self._environment, **pid}
        until = clock() + self._stop_s
        while await run_once(self._stop_by, variables, self.log, until - clock()) != 0:
            if self.status is not None or clock() >= until:
                return
            await asyncio.sleep(_STOP_AGAIN_S)

    async def _live(self, command: Sequence[str], gone: Callable[[], None]) -> None:
        try:
            with _standard_input() as stdin:
                await self._run(command, stdin)
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else exc
            self.log.add(f"cannot start {command[0]}: {reason}".encode(errors="replace"))
        finally:
            if self._kill:
                self._kill.cancel()
            gone()

    async def _run(self, command: Sequence[str], stdin: int) -> None:
        if any("\0" in text for text in (*command, *self._environment.values())):
            raise ValueError("a NUL in it would end it there")
        pipe = asyncio.subprocess.PIPE
        # -I -S: the launcher imports nothing but the standard library, from nowhere else.
        mark = (str(marks.LIMIT), str(self._mark.limit))
        launcher = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *mark)
        self._process = process = await asyncio.create_subprocess_exec(
            *(*launcher, *command),
            stdin=stdin,
            stdout=pipe,
            stderr=pipe,
            env=self._environment,
            start_new_session=True,
        )
        if self.killed:
            self.kill()
        elif self.ending:
            self._stop()
        assert process.stdout and process.stderr
        readers = [
            errand(self._listen(process.stdout), "stdout"),
            errand(self.log.follow(process.stderr), "stderr"),
        ]
        try:
            self.status = await process.wait()
            await self._clear()
            await asyncio.wait(readers, timeout=_LAST_WORDS_S)
        finally:
            await end(*readers)

    async def _clear(self) -> None:
        """Have what the command has left end, too; return when nothing is left."""
        self._run_stop()
        number, pause_s = self._last_word(0 if self._stop_by else signal.SIGTERM), _LOOK_S
        while await asyncio.to_thread(marks.end_left, self._mark, number):
            await asyncio.sleep(pause_s)
            number, pause_s = self._last_word(0), min(_SLOWER * pause_s, _LONGEST_LOOK_S)
        if self._stopping is not None:
            await self._stopping

    def _last_word(self, gentle: int) -> int:
        """Return the signal for what is left: *gentle* as long as there is time to end."""
        return gentle if self._kill is not None and not self.killed else signal.SIGKILL

    async def _listen(self, stdout: asyncio.StreamReader) -> None:
        try:
            first = await stdout.readline()
        except ValueError:  # longer than the reader's bound
            first = b""
        if first:
            self.log.add(first)
            self._first.set_result(first.decode(errors="replace").strip())
        await self.log.follow(stdout)


@contextlib.contextmanager
def _standard_input() -> Iterator[int]:
    """
    Yield what a child can read, which has no end before that of the context.

    asyncio's own pipe for writing holds its process and is held by it, so both would wait for the garbage
    collector.
    """
    ends = os.pipe()
    try:
        yield ends[0]
    finally:
        for each in ends:
            os.close(each)


async def run_once(
    command: Sequence[str], environment: Mapping[str, str], log: Log, within_s: float
) -> int | None:
    """Run *command* to its end; return its exit status, None if it was killed after *within_s*."""
    child = Child(command, environment, lambda: None, log=log)
    try:
        async with asyncio.timeout(within_s):
            await child.ended()
            return child.status
    except TimeoutError:
        return None
    finally:
        child.kill()
        await child.end()
