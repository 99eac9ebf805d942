"""
A model that is resident, or on its way there, as a child process that serves it; whatever the program is.

One that lives but answers no more is killed.  A crash needs no look, for the kernel tells of it.  A child
that is stopped or stuck keeps its connections open and its memory, and every request to it would wait for
ever.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmap.backends.ask import Unheard, ask
from dmap.backends.base import Loaded, Target
from dmap.errors import LoadFailed
from dmap.logfmt import Line
from dmap.process import END_S, Child, Log

ANSWER_BYTES = 4 * 2**20
"""Of what a server tells of itself; llama.cpp's /props has the chat template."""

ANSWER_S = 5.0
"""How long a look waits for the answer of a server in doubt; it may be at work."""

HANGS_UP_S = 1.0
"""Whoever is killed hangs up first; so much later its end is known, too."""

MISSES = 3
"""So many questions in a row have to stay without an answer: one may be this process's own delay."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    How the server of one model is started, and how it is known.

    *command* runs in *environment*; *stop* and *stop_s* are as `Child` has them.  *come_up* waits until the
    server answers, and returns where it is and what it gives.  *health* is a path that a server answers if it
    does not hang, whatever it says; *patience* is how many times `MISSES` it may leave unanswered while it
    serves requests.  *reason* says why the server failed, by what was seen from outside and by its last
    lines, in which *secrets* are masked.  *freed* is called when nothing is left of it.
    """

    model: str
    command: Sequence[str]
    environment: Mapping[str, str]
    come_up: Callable[[Child], Coroutine[Any, Any, tuple[Target, Loaded]]]
    health: str
    reason: Callable[[str, Sequence[str]], str]
    place: str = ""
    patience: int = 1
    stop: Sequence[str] = ()
    stop_s: float = END_S
    secrets: Sequence[str] = ()
    freed: Callable[[], None] = lambda: None


class Resident:
    """
    A child that serves a model by *recipe*; what it says goes to *log*.

    *options* are those that it was loaded with, and *gone* is called at its end.  `loaded`, what it gives, is
    known once it answers.  `misses` counts the questions in a row whether it is well that it has left without
    an answer.  It is `doubted` when a request was not answered.
    """

    def __init__(
        self, recipe: Recipe, options: Mapping[str, Any], log: Log, gone: Callable[["Resident"], None]
    ) -> None:
        self.recipe = recipe
        self.options = dict(options)
        self.server: Target | None = None
        self.loaded: Loaded | None = None
        self.misses = 0
        self.doubted = False
        self._gone = gone
        self.child = Child(
            recipe.command,
            recipe.environment,
            self._ended,
            log=log,
            stop=recipe.stop,
            stop_s=recipe.stop_s,
        )

    @property
    def is_up(self) -> bool:
        """Whether it answers, nobody has asked it to end, and it has not ended by itself."""
        return self.loaded is not None and not self.child.ending and self.child.status is None

    def target(self, path: str) -> Target:
        """Return where *path* is on it."""
        assert self.server is not None, "it is up"
        return self.server.at(path)

    def reason(self, what: str) -> str:
        """Say what most likely went wrong; *what* is seen from outside."""
        return self.recipe.reason(what, self.child.lines)

    async def come_up(self, within_s: float) -> Loaded:
        """
        Wait until it answers; return what it really gives.

        Raises `LoadFailed`.  Unless it has come up, the child is ended before this returns.
        """
        try:
            answer = await self._answer(within_s)
            self.server, self.loaded = answer
        finally:
            if self.loaded is None:
                await self.child.end()
        return answer[1]

    async def _answer(self, within_s: float) -> tuple[Target, Loaded]:
        try:
            async with asyncio.timeout(within_s):
                answer = await self.child.unless_ended(self.recipe.come_up(self.child))
        except TimeoutError as exc:
            raise self._failure(f"no answer in time (load_s is {within_s:g})") from exc
        except Unheard as exc:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.child.ended(), HANGS_UP_S)
            raise self._failure(f"it does not answer: {exc}") from exc
        except (LookupError, TypeError, ValueError) as exc:
            raise self._failure(f"its answers make no sense: {exc!r}") from exc
        if answer is None or self.child.status is not None:
            raise self._failure("it ended")
        return answer

    async def check(self, backend: str, within_s: float, *, in_use: bool) -> None:
        """Kill the child if it hangs, which is logged; its death is noticed like any other."""
        self.misses = 0 if await self.says_anything(within_s) else self.misses + 1
        most = MISSES * (self.recipe.patience if in_use else 1)
        child = self.child
        if self.misses >= most and not (child.ending or child.killed) and child.status is None:
            fields = {"backend": backend, "model": self.recipe.model, "pid": child.pid, "misses": self.misses}
            _log.error(Line("engine_hung", fields))
            child.kill()

    async def make_sure(self) -> None:
        """Ask the child; if its connections break, it is ending: kill it, and wait until nothing is left."""
        self.doubted = False
        try:
            await self._ask(ANSWER_S)
        except Unheard:
            self.child.kill()
            await self.child.ended()
        except TimeoutError:
            pass  # it hangs, or has much to do; `check` finds out

    async def says_anything(self, within_s: float) -> bool:
        """Tell whether the child answers: one that says that it is not well does not hang."""
        try:
            await self._ask(within_s)
        except (Unheard, TimeoutError):
            return False
        return True

    async def _ask(self, within_s: float) -> None:
        await ask(self.target(self.recipe.health), within_s=within_s, most_bytes=ANSWER_BYTES)

    def _ended(self) -> None:
        self.recipe.freed()
        self._gone(self)

    def _failure(self, what: str) -> LoadFailed:
        recipe, status = self.recipe, self.child.status
        if status is not None:
            what = f"it ended with status {status}"
        reason = "it was unloaded meanwhile" if self.child.ending else self.reason(what)
        return LoadFailed(f"cannot load model {recipe.model!r}{recipe.place}: {reason}")
