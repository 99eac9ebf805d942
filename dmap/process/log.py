"""
What the engine of one model says, whichever of its processes says it: the last lines, some in our own log.

Everything has a bound, for a child may write as fast as it can: the lines kept, their length, and how many a
second go into our log, where they would push out what dmap itself has to say.  Secrets that the child was
given are masked before a line is kept, so whoever reads it reads none.
"""

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from dmap.logfmt import Line

MASK = "***"

_PIECE_BYTES = 16 * 1024
_LONGEST_SECRET = 8 * 1024
"""In bytes: so much more of a long line is read, so that a secret at its end is seen whole."""
_ACTS = re.compile(
    "\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|[PX^_][^\x1b]*(?:\x1b\\\\)?|[ -/]*[0-~]|$)"
)
"""What a terminal obeys and does not show: sequences of control, titles, strings (ECMA-48, 5.4 to 5.6)."""

_log = logging.getLogger(__name__)


class Log:
    """
    The last `LINES` that were said, each cut to `LINE_BYTES`; `last` is the number of the last one.

    Lines are numbered from 1.  With *whose*, the first fields of a log line, those that are *telling* go into
    our log too, `PER_S` a second and at first `BURST`; the others of these are counted there.
    """

    LINES = 400
    LINE_BYTES = 500
    PER_S = 10
    BURST = 100

    def __init__(
        self,
        whose: Mapping[str, str] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
        telling: Callable[[str], bool] = lambda line: True,
    ) -> None:
        self.whose = whose
        self.telling = telling
        self.last = 0
        self._lines: deque[str] = deque(maxlen=self.LINES)
        self._clock = clock
        self._may, self._seen_at, self._untold = float(self.BURST), self._clock(), 0
        self._secrets: Sequence[str] = ()

    def hide(self, secrets: Iterable[str]) -> None:
        """Mask *secrets*, and only these, in the lines from now on."""
        # No pattern: `re` would keep the last 512 of them, and with them the keys of children long gone.
        self._secrets = sorted(set(secrets), key=len, reverse=True)

    def since(self, after: int) -> list[str]:
        """Return the lines after the one with the number *after*, oldest first, as far as they are kept."""
        count = max(0, min(self.last - after, len(self._lines)))
        return list(self._lines)[len(self._lines) - count :]

    async def follow(self, stream: asyncio.StreamReader) -> None:
        """Read *stream* to its end, because a full pipe would block the child.  Long lines are cut."""
        partial = b""
        while chunk := await stream.read(_PIECE_BYTES):
            *whole, partial = (partial + chunk).replace(b"\r", b"\n").split(b"\n")
            partial = partial[: self.LINE_BYTES + _LONGEST_SECRET]
            for line in filter(None, whole):
                self.add(line)
        if partial:
            self.add(partial)

    def add(self, line: bytes) -> None:
        """Keep one more line, cut to its bound, without secrets and without what a terminal would obey."""
        text = self._shown(line[: self.LINE_BYTES + _LONGEST_SECRET])
        if text:
            self.last += 1
            self._lines.append(text)
            if self.whose and self.telling(text):
                self._tell(text)

    def _shown(self, line: bytes) -> str:
        text = line.decode(errors="replace").replace("\t", " ")
        if not text.isprintable():
            text = "".join(filter(str.isprintable, _ACTS.sub("", text)))
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text.encode()[: self.LINE_BYTES].decode(errors="ignore").strip()

    def _tell(self, text: str) -> None:
        now = self._clock()
        self._may = min(self.BURST, self._may + self.PER_S * (now - self._seen_at))
        self._seen_at = now
        if self._may < 1:
            self._untold += 1
            return
        self._may -= 1
        skipped, self._untold = self._untold or None, 0
        _log.info(Line("engine_says", {**self.whose, "line": text, "skipped_before": skipped}))
