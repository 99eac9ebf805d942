"""
What the engine of one model says, whichever of its processes says it: the last lines, some in our own log.

Everything has a bound, for a child may write as fast as it can: the lines kept, their length, and how many a
second go into our log, where they would push out what dmap itself has to say.
"""

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable

from dmap.logfmt import logfmt

_PIECE_BYTES = 16 * 1024
_COLOUR = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")

_log = logging.getLogger(__name__)


class Log:
    """
    The last `LINES` that were said, each cut to `LINE_BYTES`; `last` is the number of the last one.

    Lines are numbered from 1.  With a *name* those that are *telling* go into our log too, `PER_S` a second
    and at first `BURST`; the others of these are counted there.
    """

    LINES = 400
    LINE_BYTES = 500
    PER_S = 10
    BURST = 100

    def __init__(
        self,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
        telling: Callable[[str], bool] = lambda line: True,
    ) -> None:
        self.name = name
        self.telling = telling
        self.last = 0
        self._lines: deque[str] = deque(maxlen=self.LINES)
        self._clock = clock
        self._may, self._seen_at, self._untold = float(self.BURST), self._clock(), 0

    def since(self, after: int) -> list[str]:
        """Return the lines after the one with the number *after*, oldest first, as far as they are kept."""
        count = max(0, min(self.last - after, len(self._lines)))
        return list(self._lines)[len(self._lines) - count :]

    async def follow(self, stream: asyncio.StreamReader) -> None:
        """Read *stream* to its end, because a full pipe would block the child.  Long lines are cut."""
        partial = b""
        while chunk := await stream.read(_PIECE_BYTES):
            *whole, partial = (partial + chunk).replace(b"\r", b"\n").split(b"\n")
            partial = partial[: self.LINE_BYTES]
            for line in filter(None, whole):
                self.add(line)
        if partial:
            self.add(partial)

    def add(self, line: bytes) -> None:
        """Keep one more line, cut to its bound and without colours."""
        text = _COLOUR.sub(b"", line[: self.LINE_BYTES]).decode(errors="replace").strip()
        if text:
            self.last += 1
            self._lines.append(text)
            if self.name and self.telling(text):
                self._tell(text)

    def _tell(self, text: str) -> None:
        now = self._clock()
        self._may = min(self.BURST, self._may + self.PER_S * (now - self._seen_at))
        self._seen_at = now
        if self._may < 1:
            self._untold += 1
            return
        self._may -= 1
        skipped, self._untold = self._untold or None, 0
        _log.info(logfmt("engine_says", {"model": self.name, "line": text, "skipped_before": skipped}))
