"""
The watch over resident children: one that lives but answers no more is killed.

A crash needs no watch, for the kernel tells of it.  A child that is stopped or stuck keeps its connections
open and its memory, and every request to it would wait for ever.  llama.cpp answers /health from another
thread than the one that computes, so however long a prompt is, a child at work is not taken for a hung one.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from dmap.backends.ask import Unheard, ask
from dmap.backends.base import Target
from dmap.backends.gguf.engine import HOST
from dmap.backends.gguf.resident import Resident
from dmap.logfmt import logfmt
from dmap.process import Child
from dmap.tasks import end, spawn

ANSWER_BYTES = 64 * 1024
MISSES = 3
"""So many questions in a row have to stay without an answer: one may be this process's own delay."""

_log = logging.getLogger(__name__)


class HealthWatch:
    """
    Owns the task that asks, every *health_s*, each of the *residents* how it is, and waits half as long.

    A hung child is logged once and killed; its death is noticed like any other.
    """

    def __init__(self, name: str, residents: Callable[[], Mapping[str, Resident]], health_s: float) -> None:
        self._name = name
        self._residents = residents
        self._health_s = health_s
        self._misses: dict[Child, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch.  Idempotent; `close` ends it."""
        if self._task is None:
            self._task = spawn(self._run, f"watch {self._name}")

    async def close(self) -> None:
        """Stop watching.  Idempotent."""
        await end(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.gather(self._turn(), asyncio.sleep(self._health_s))

    async def _turn(self) -> None:
        residents = self._residents()
        answers = await asyncio.gather(
            *(_answers(each.port, self._health_s / 2) for each in residents.values())
        )
        before, self._misses = self._misses, {}
        for (model, resident), answered in zip(residents.items(), answers, strict=True):
            child = resident.child
            if answered or child.ending or child.status is not None:
                continue
            self._misses[child] = before.get(child, 0) + 1
            if self._misses[child] == MISSES:
                self._end(model, child)

    def _end(self, model: str, child: Child) -> None:
        fields = {"backend": self._name, "model": model, "pid": child.pid, "misses": MISSES}
        _log.error(logfmt("engine_hung", fields))
        child.kill()


async def _answers(port: int, within_s: float) -> bool:
    """Tell whether the child at *port* says anything: one that says that it is not well does not hang."""
    target = Target(HOST, port, False, "/health")
    try:
        await ask(target, within_s=within_s, most_bytes=ANSWER_BYTES)
    except (Unheard, TimeoutError):
        return False
    return True
