"""
Which routes the server of a model lacks, as its own answers have shown.

A kind of servers may be any program.  So nobody says beforehand what it answers to, and its first refusal of
a route costs the load of its model.  The next request is refused before that.  But some say the same of a
voice or a file that they lack, so a route that has answered before is there, whatever they say.
"""

import asyncio
from typing import Any

from dmap.errors import PathNotFound
from dmap.models import ModelKey

FORGET_S = 3600.0
"""What was found holds for so long, for a server may be replaced; a reload forgets it at once."""
MOST = 4096
"""Of routes that are remembered."""


class Lacking:
    """The routes that servers were found to lack."""

    def __init__(self) -> None:
        self._until: dict[tuple[ModelKey, str], float] = {}
        self._answered: dict[tuple[ModelKey, str], None] = {}

    def answered(self, model: ModelKey, path: str) -> None:
        """Remember that the server of *model* has *path*."""
        _remember(self._answered, (model, path), None)

    def note(self, model: ModelKey, path: str) -> None:
        """Remember that the server of *model* says that it has no *path*, if it has never answered there."""
        if (model, path) not in self._answered:
            _remember(self._until, (model, path), asyncio.get_running_loop().time() + FORGET_S)

    def check(self, model: ModelKey, path: str) -> None:
        """Raise `PathNotFound` if the server of *model* said lately that it has no *path*."""
        if asyncio.get_running_loop().time() < self._until.get((model, path), 0.0):
            raise PathNotFound(
                f"the server of {model.model!r} has no {path}, as it said when it was last asked"
            )

    def clear(self) -> None:
        """Forget everything."""
        self._until.clear()
        self._answered.clear()


def _remember(found: dict[tuple[ModelKey, str], Any], key: tuple[ModelKey, str], value: Any) -> None:
    """Put *key* in, and forget the first of more than `MOST`."""
    found[key] = value
    if len(found) > MOST:
        del found[next(iter(found))]
