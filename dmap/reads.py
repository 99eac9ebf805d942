"""
Reads that may hang, each in a thread of its own.

A network share that is gone may hold whoever touches it, for ever, and so may the driver of a sick GPU.
asyncio's pool of threads is for all of dmap: with its few threads held nothing else would go on, and the end
of the process would wait for them.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")


class Reads:
    """One read at a time.  Who comes meanwhile waits, and whoever waits may leave."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    @property
    def is_held(self) -> bool:
        """Whether a read is under way."""
        return self._turn.locked()

    async def read(self, what: Callable[[], _Result]) -> _Result:
        """Return what *what* returns, or raise what that raises.  Once begun it is seen to its end."""
        await self._turn.acquire()
        loop = asyncio.get_running_loop()
        found: Future[_Result] = Future()
        found.set_running_or_notify_cancel()  # who leaves does not cancel it

        def run() -> None:
            try:
                found.set_result(what())
            except BaseException as exc:
                found.set_exception(exc)
            with contextlib.suppress(RuntimeError):  # the loop may have ended
                loop.call_soon_threadsafe(self._turn.release)

        try:
            threading.Thread(target=run, name="read", daemon=True).start()
        except RuntimeError:  # there are too many threads on this host
            self._turn.release()
            raise
        return await asyncio.wrap_future(found)
