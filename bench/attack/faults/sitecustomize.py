"""
Makes one call inside `dmap serve` raise, without a line of dmap's own being other than it is.

Python imports this file at its start when its folder is on PYTHONPATH.  `ATTACK_FAULT` is `NAME NTH ERROR`:
the NTH call of the function NAME (`module:qualified.name`) that is not made for a request raises ERROR.
With `ATTACK_RECORD` the names of all such functions are written to that file, each with its calls, at the end.
"""

import asyncio
import atexit
import inspect
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

_REQUEST = re.compile(r"Task-\d+")
"""asyncio's own names are those of aiohttp's connections; dmap names the tasks that it spawns."""
_LAZY = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
MARK = "injected by the campaign"


class _Calls:
    """Counts calls in the background, and has one of them fail."""

    def __init__(self, fault: str) -> None:
        name, number, error = fault.split() if fault else ("", "0", "KeyError")
        self.counts: Counter[str] = Counter()
        self._name, self._number = name, int(number)
        self._error: type[Exception] = {"KeyError": KeyError, "RuntimeError": RuntimeError}[error]

    def trace(self, frame: FrameType, event: str, _: Any) -> None:
        """Be told of each call (`sys.settrace`); what is raised here is raised by that call."""
        module = frame.f_globals.get("__name__", "")
        if event != "call" or not module.startswith("dmap.") or not _is_background(frame):
            return
        name = f"{module}:{frame.f_code.co_qualname}"
        self.counts[name] += 1
        if name == self._name and self.counts[name] == self._number:
            print("a bug was put in", file=sys.stderr, flush=True)
            raise self._error(MARK)

    def save(self, path: str) -> None:
        """Write what was counted."""
        Path(path).write_text(json.dumps(self.counts))


def _is_background(frame: FrameType) -> bool:
    """Tell whether this is the beginning of a call, and made by a task of dmap's own or by the loop."""
    if frame.f_code.co_flags & _LAZY and frame.f_lasti > 8:
        return False  # a coroutine that goes on
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False  # not serving yet
    return task is None or not _REQUEST.fullmatch(task.get_name())


if "serve" in sys.orig_argv:
    _calls = _Calls(os.environ.get("ATTACK_FAULT", ""))
    if "ATTACK_RECORD" in os.environ:
        atexit.register(_calls.save, os.environ["ATTACK_RECORD"])
    sys.settrace(_calls.trace)
