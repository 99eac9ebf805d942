"""
The activity log of a running daemon: it hears of each end, and a thread of its own writes it down.

A request costs the loop an append to a list, nothing else.  What goes wrong with the disk is logged when it
begins and when it is over, is counted, and concerns no request.
"""

import asyncio
import contextlib
import functools
import logging
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dmap import tasks
from dmap.activity.entry import line_of
from dmap.activity.facts import REQUESTS, SWITCHES, entry_of
from dmap.activity.files import Bounds, Files
from dmap.config import Activity
from dmap.events import Bus, Event
from dmap.logfmt import Line

PAUSE_S = 1.0
"""Between two writes: what a process that is killed loses of its log."""
LOOK_S = 60.0
"""How often old lines are looked for where there is nothing to write."""
BATCH = 128
"""Lines written in one go, for a millisecond: so long the thread may keep the interpreter from the loop."""
MOST = 16_384
"""Ends that wait to be written; with a disk that does not answer, further ones are lost."""

_log = logging.getLogger(__name__)


class ActivityLog:
    """
    The log in the folder *path*; with None there is none.

    It listens to *bus* from the start and writes while it is `running`.  *section* is that of the
    configuration; with None nothing is written, and what there is stays.  *lost* counts the ends that could
    not be written.
    """

    def __init__(self, path: Path | None, bus: Bus, section: Activity | None) -> None:
        self.lost = 0
        self._path = path
        self._files = Files(path) if path is not None else None
        self._clock = bus.clock
        self._held = deque[Event]()
        self._lost_before: int | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="activity")
        self.configure(section)
        bus.listen(self._hear, *REQUESTS, *SWITCHES)

    def configure(self, section: Activity | None) -> None:
        """Go by *section* from now on."""
        self._bounds = None if section is None else Bounds(section.size, section.days * 86_400.0)
        if self._bounds is None:
            self._held.clear()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Write what is heard, as long as the context is open; in the end all of it, within `tasks.END_S`."""
        try:
            async with tasks.running(self._write_on, "activity"):
                yield
        finally:
            last = tasks.errand(self._finish(), "activity's end")
            await asyncio.wait((last,), timeout=tasks.END_S)
            await tasks.end(last)
            self._thread.shutdown(wait=False)

    def _hear(self, event: Event) -> None:
        if self._files is None or self._bounds is None:
            return
        if len(self._held) < MOST:
            self._held.append(event)
        else:
            self._lose(1, "the disk does not answer")

    async def _write_on(self) -> None:
        """Write now and then, for ever."""
        clock, looked_at = asyncio.get_running_loop().time, float("-inf")
        while True:
            await asyncio.sleep(PAUSE_S)
            if self._held or clock() - looked_at >= LOOK_S:
                looked_at = clock()
                await self._write()

    async def _finish(self) -> None:
        """Write the rest, and let another daemon have the folder."""
        await self._write()
        if self._files is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._files.close)

    async def _write(self) -> None:
        """Write all that waits, in order, and delete what is too old."""
        while self._files is not None and self._bounds is not None:
            batch = [self._held.popleft() for _ in range(min(BATCH, len(self._held)))]
            work = functools.partial(_add, self._files, batch, self._clock(), self._bounds)
            try:
                # Whoever waits for it may be cancelled, the thread not.
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))
            except OSError as exc:
                self._lose(len(batch), exc.strerror or str(exc))
            else:
                self._recover()
            if not self._held:
                return

    def _lose(self, count: int, reason: str) -> None:
        """Count what is lost, and log why, the first time."""
        if self._lost_before is None:
            self._lost_before = self.lost
            _log.error(Line("activity_not_written", {"path": self._path, "reason": reason}))
        self.lost += count

    def _recover(self) -> None:
        if self._lost_before is not None:
            fields = {"path": self._path, "lost": self.lost - self._lost_before}
            self._lost_before = None
            _log.warning(Line("activity_written_again", fields))


def _add(files: Files, batch: Sequence[Event], now: float, bounds: Bounds) -> None:
    """Write down what *batch* says; in the thread."""
    salt = files.salt()
    entries = (entry_of(event, salt) for event in batch)
    files.add((line_of(entry) for entry in entries if entry is not None), now, bounds)
