"""
Background tasks, and whatever else runs with nobody there to catch its errors: timers, callbacks, listeners.

None of them dies unheard.  A bug in one is logged with its traceback.  Then either the task starts again, or,
where a bug leaves a state that cannot be trusted, the daemon stops and systemd starts another one.

The request to stop goes to the loop's exception handler, under the key `STOPS`.  `daemon` installs a handler
that heeds it; without a daemon, asyncio's own handler just logs it.
"""

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from dmap.logfmt import Line

_log = logging.getLogger(__name__)

STOPS = "dmap_stops"
"""In the context of a loop's exception handler: the daemon has to stop."""

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0
"""The pause before a task starts again doubles from the first to the longest; a long good run resets it."""

END_S = 10.0
"""How long a cancelled task may take to end."""

_Result = TypeVar("_Result")


def spawn(
    work: Callable[[], Coroutine[Any, Any, None]], name: str, *, vital: bool = False
) -> asyncio.Task[None]:
    """
    Run *work* in a task of its own until it returns.  The caller owns the task and ends it with `end`.

    If a bug ends *work* early, that is logged and *work* is called again after a pause.  If the task is
    *vital*, the daemon stops instead.
    """
    return asyncio.get_running_loop().create_task(_run(work, name, vital), name=name)


@asynccontextmanager
async def running(work: Callable[[], Coroutine[Any, Any, None]], name: str) -> AsyncGenerator[None]:
    """Have *work* run, as `spawn` does, as long as the context is open."""
    task = spawn(work, name)
    try:
        yield
    finally:
        await end(task)


def errand(
    work: Coroutine[Any, Any, _Result], name: str, *, expected: tuple[type[Exception], ...] = ()
) -> asyncio.Task[_Result]:
    """
    Run *work* once, in a task whose owner awaits the result.

    Every error reaches the owner.  One that is not *expected* is logged too, for the owner may have left.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(functools.partial(_look_back, expected))
    return task


async def end(*tasks: asyncio.Task[Any] | None, within_s: float = END_S) -> None:
    """
    Cancel *tasks* and wait for their ends, whatever those are.  None stands for a task never started.

    One that has not ended *within_s* is logged and left behind.
    """
    started = [task for task in tasks if task is not None]
    for task in started:
        task.cancel()
    if started:
        _, left = await asyncio.wait(started, timeout=within_s)
        for task in left:
            _log.error(Line("task_left", {"name": task.get_name(), "after_s": within_s}))


def attempt(name: str, act: Callable[..., object], *args: object, vital: bool = False) -> None:
    """Call *act*.  A bug in it is logged under *name* and goes no further; *vital* stops the daemon."""
    try:
        act(*args)
    except Exception as exc:
        report(name, exc, vital=vital)


def report(name: str, exc: BaseException, *, vital: bool = False) -> None:
    """Log that a bug in *name* raised *exc*; stop the daemon if *name* is *vital*."""
    fields = {"what": name, "error": type(exc).__name__, "then": "stop" if vital else None}
    _log.error(Line("bug", fields), exc_info=exc)
    if vital:
        context = {"message": f"dmap has to stop: a bug in {name}", "exception": exc, STOPS: True}
        asyncio.get_running_loop().call_exception_handler(context)


async def _run(work: Callable[[], Coroutine[Any, Any, None]], name: str, vital: bool) -> None:
    clock, pause_s = asyncio.get_running_loop().time, FIRST_PAUSE_S
    while True:
        began_at = clock()
        try:
            return await work()
        except (Exception, asyncio.CancelledError) as exc:
            if _is_cancelled(exc):
                raise
            report(f"task {name!r}", exc, vital=vital)
        if vital:
            return
        pause_s = FIRST_PAUSE_S if clock() - began_at > LONGEST_PAUSE_S else pause_s
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _look_back(expected: tuple[type[Exception], ...], task: asyncio.Task[Any]) -> None:
    """Log the bug that ended *task*, if one did; its owner need not come back for it."""
    exc = None if task.cancelled() else task.exception()
    if isinstance(exc, Exception) and not isinstance(exc, expected):
        report(f"task {task.get_name()!r}", exc)


def _is_cancelled(exc: BaseException) -> bool:
    """Tell a cancellation of this task from one that leaked out of something it awaited, which is a bug."""
    task = asyncio.current_task()
    return isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling() > 0
