"""
The watch over resident children: one that lives but answers no more is killed.

A crash needs no watch, for the kernel tells of it.  A child that is stopped or stuck keeps its connections
open and its memory, and every request to it would wait for ever.  llama.cpp answers /health from another
thread than the one that computes, so however long a prompt is, a child at work is not taken for a hung one.
"""

import asyncio
import logging
from collections.abc import Callable, Collection

from dmap.backends.ask import Unheard, ask
from dmap.backends.base import Target
from dmap.backends.gguf.engine import HOST
from dmap.backends.gguf.resident import Resident
from dmap.logfmt import logfmt

ANSWER_BYTES = 64 * 1024
MISSES = 3
"""So many questions in a row have to stay without an answer: one may be this process's own delay."""

_log = logging.getLogger(__name__)


async def watch(backend: str, residents: Callable[[], Collection[Resident]], health_s: float) -> None:
    """
    Ask each of the *residents* of *backend* every *health_s* how it is, and wait half as long; never return.

    A hung child is logged once and killed; its death is noticed like any other.
    """
    while True:
        turns = (_turn(backend, resident, health_s / 2) for resident in residents())
        await asyncio.gather(asyncio.sleep(health_s), *turns)


async def _turn(backend: str, resident: Resident, within_s: float) -> None:
    resident.misses = 0 if await _answers(resident.port, within_s) else resident.misses + 1
    child = resident.child
    if resident.misses == MISSES and not child.ending and child.status is None:
        fields = {"backend": backend, "model": resident.file.id, "pid": child.pid, "misses": MISSES}
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
