"""
Log lines, written together.

To write one line costs a request more than its whole time in the queue: what runs once per request finds the
caches cold, and each line is a system call.  So lines wait a moment for others, and are formatted then.
"""

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TextIO

from dmap.logfmt import Line, barred

WITHIN_S = 0.1
"""How long a line waits at most.  A process that is killed loses no more of its log."""
MOST = 256
"""So many lines wait at most."""
TRACE, MESSAGE = 2**12, 2**10
"""
Characters of a record of JSON: of its traceback those at the end, of a text that others wrote the first.

JSON may take 12 for one of them, and a record that is cut at `logfmt.LONGEST` would be none.
"""


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


def write_as(level: str, form: str, *, stamped: bool | None) -> None:
    """
    Have the root logger's lines be `logfmt` or `json`, and leave out those below *level*.

    They are *stamped* with the time, or not; None means that they are unless journald does so.
    """
    root = logging.getLogger()
    for lines in (handler for handler in root.handlers if isinstance(handler, Lines)):
        root.setLevel(level.upper())
        has_time = not is_journal(lines.stream, os.environ) if stamped is None else stamped
        lines.setFormatter(_Json(has_time) if form == "json" else _Logfmt(has_time))


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether journald reads *stream* and stamps each line itself (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Logfmt(logging.Formatter):
    def __init__(self, stamped: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s"[0 if stamped else 12 :])

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return _stamp(record)


class _Json(logging.Formatter):
    """One object in each line, in ASCII; a traceback is a member of it."""

    def __init__(self, stamped: bool) -> None:
        super().__init__()
        self._stamped = stamped

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {"time": _stamp(record)} if self._stamped else {}
        said |= {"level": record.levelname, "logger": record.name}
        line = record.msg
        said |= line.plain() if isinstance(line, Line) else {"event": record.getMessage()[:MESSAGE]}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)[-TRACE:]
        return json.dumps(said)


def _stamp(record: logging.LogRecord) -> str:
    """Return when it was made, in local time with its offset (ISO 8601)."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
