"""The loop of each test: that of production, and one whose end cannot hang, whatever a test left open."""

import faulthandler
import os
import warnings
from typing import Any

import pytest
import uvloop

CLOSE_S = 60.0
"""How long the close of a loop may take; only a machine that stands still takes a second."""

_stderr = 2


def keep_stderr() -> None:
    """Keep a way to what is standard error now, before pytest takes it."""
    global _stderr
    _stderr = os.dup(2)


class Loop(uvloop.Loop):
    """
    A uvloop that tells what was left open once it is closed.

    uvloop warns of a server, a transport or a process that nobody closed, and then closes it.  Where that
    is an error, as in our tests, it never comes to close it, and waits for its end for ever: in C, deaf to
    signals and so to time limits.  Here the warnings come when all is closed, and the test has failed.
    """

    def call_exception_handler(self, context: Any) -> None:
        """Stop for a test whose time is over, too: uvloop takes that for a bug of a callback, and goes on."""
        super().call_exception_handler(context)
        if isinstance(context.get("exception"), pytest.fail.Exception):
            self.stop()

    def close(self) -> None:
        faulthandler.dump_traceback_later(CLOSE_S, exit=True, file=_stderr)
        try:
            with warnings.catch_warnings(record=True) as left:
                warnings.simplefilter("always")
                super().close()
        finally:
            faulthandler.cancel_dump_traceback_later()
        for warning in left:
            warnings.warn(warning.message, stacklevel=2)
