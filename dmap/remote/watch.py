"""A page of a running daemon, again and again."""

import asyncio
from collections.abc import Callable
from typing import Any

from dmap.remote.client import DaemonClient, Gone, Trouble

EVERY_S = 1.0
CLEAR = "\x1b[H\x1b[2J"
"""Home, and erase all that is shown (ECMA-48: CUP, ED)."""


async def watch(
    daemon: DaemonClient,
    path: str,
    show: Callable[[Any], str],
    write: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """
    Have *write* called every second, for ever, with what *show* makes of what is at *path*.

    *say* gets what happens to the connection.  Raises `Trouble` when the daemon refuses, or cannot be reached
    the first time.
    """
    is_lost: bool | None = None
    while True:
        try:
            page = shown(daemon, await daemon.ask(path), show)
            is_lost = False
            write(CLEAR + page)
        except Gone as exc:
            if is_lost is None:
                raise
            if not is_lost:
                say(f"{exc}; trying again")
            is_lost = True
        await asyncio.sleep(EVERY_S)


def shown(daemon: DaemonClient, told: Any, show: Callable[[Any], str]) -> str:
    """Return what *show* makes of *told*; `Trouble` if that was not told by dmap."""
    try:
        return show(told)
    except (AttributeError, KeyError, TypeError) as exc:
        raise Trouble(f"{daemon.url} is not dmap, or one of another version") from exc
