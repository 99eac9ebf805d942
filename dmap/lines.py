"""
Log lines, written together.

To write one line costs a request more than its whole time in the queue: what runs once per request finds the
caches cold, and each line is a system call.  So lines wait a moment for others, and are formatted then.
"""

import asyncio
import logging
from typing import TextIO

from dmap.logfmt import barred

WITHIN_S = 0.1
"""How long a line waits at most.  A process that is killed loses no more of its log."""
MOST = 256
"""So many lines wait at most."""


class Lines(logging.StreamHandler[TextIO]):
    """
    Writes records to *stream* in the order in which they came.

    A warning is written at once, with all lines that waited.  A line from outside a loop is, too.  What
    waits when the process ends is written by `logging.shutdown`.  A line that cannot be written is lost, and
    logging's `handleError` tells of it.  The code that logged it goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._held: list[logging.LogRecord] = []
        self._timed: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Take the next record; logging holds the handler's lock meanwhile."""
        self._held.append(record)
        loop = _loop()
        if loop is None or record.levelno >= logging.WARNING or len(self._held) >= MOST:
            self.flush()
        elif self._timed is not loop:
            self._timed = loop
            loop.call_later(WITHIN_S, self._on_time)

    def flush(self) -> None:
        """Write what waits."""
        self.acquire()
        try:
            held, self._held = self._held, []
            if held:
                self.stream.write("".join(map(self._words, held)))
            super().flush()
        except (OSError, ValueError):  # a full disk, a reader that left, or closed: nobody who logs may fail
            for record in held[-1:]:
                self.handleError(record)
        finally:
            self.release()

    def _words(self, record: logging.LogRecord) -> str:
        try:
            return f"{barred(self.format(record))}\n"
        except Exception:  # whatever a record's own words raise: as all handlers of logging do
            self.handleError(record)
            return ""

    def _on_time(self) -> None:
        self._timed = None
        self.flush()


def _loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
