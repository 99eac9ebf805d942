"""
Work on bodies, beside the loop where it takes long.

A thread helps although it shares the interpreter's lock: the loop gets that back every 5 ms, or at the end of
the one call in C that holds it.  `wire/limits.py` sees to it that no such call takes long.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

SHORT_BYTES = 32 * 1024
"""Bodies that are worked on at once: most of them in 0.1 ms, and of the worst kind in 20 ms."""

_Found = TypeVar("_Found")
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bodies")
"""One, so that the loop never waits for the lock behind two others."""


async def beside(size: int, work: Callable[[], _Found]) -> _Found:
    """Return what *work* on a body of *size* bytes returns; it must not touch what the loop changes."""
    if size <= SHORT_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_thread, work)
