"""`dmap logs`: what a model's server has written, and what it writes."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from dmap.remote.client import DaemonClient, Gone, Trouble

PAUSE_S = 0.5
"""Between two questions for new lines."""


async def show_log(
    daemon: DaemonClient, model: str, show: Callable[[str], None], say: Callable[[str], None], *, follow: bool
) -> None:
    """
    Have *show* called with each line of *model*'s server that is kept; with *follow* also with those to come.

    *say* gets what happens to the connection.  Raises `Trouble` when the daemon refuses, or cannot be reached
    the first time.
    """
    after = await _show_after(daemon, model, 0, show)
    is_lost = False
    while follow:
        await asyncio.sleep(PAUSE_S)
        try:
            after = await _show_after(daemon, model, after, show)
            is_lost = False
        except Gone as exc:
            if not is_lost:
                say(f"{exc}; trying again")
            is_lost = True


async def _show_after(daemon: DaemonClient, model: str, after: int, show: Callable[[str], None]) -> int:
    """Show the lines after the one with the number *after*; return the number of the last one."""
    answer: Any = await daemon.ask(f"/debug/logs/{quote(model, safe='')}?after={after}")
    try:
        for line in answer["lines"]:
            show(line)
        return int(answer["last"])
    except (LookupError, TypeError, ValueError) as exc:
        raise Trouble(f"{daemon.url} is not dmap, or one of another version") from exc
