"""
Log lines, written together.

A line by itself costs a request more than its whole queueing: what runs once per request finds the caches
cold, and each line is a system call.  So lines wait a moment for others and are put into words then.
"""

import asyncio
import logging
from typing import TextIO

WITHIN_S = 0.1
"""Written no later than this; a process that is killed loses no more of its log."""
MOST = 256
"""So many are written at once, however soon they came."""


class Lines(logging.StreamHandler[TextIO]):
    """
    Writes records to *stream* in the order in which they came.

    A warning is written at once, with all that waited, and so is what comes from outside a loop.  The rest
    is written when the process ends, by `logging.shutdown`.
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
        finally:
            self.release()

    def _words(self, record: logging.LogRecord) -> str:
        try:
            return f"{self.format(record)}\n"
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
