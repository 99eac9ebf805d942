"""
Which routes the server of a model lacks, as its own answers have shown.

A kind of servers may be any program.  So nobody says beforehand what it answers to, and its first refusal of
a route costs the load of its model.  The next request is refused before that.  But some say the same of a
voice or a file that they lack, so a route that has answered before is there, whatever they say.
"""

import asyncio
import math

from dmap.errors import PathNotFound
from dmap.models import ModelKey

FORGET_S = 3600.0
"""What was found holds for so long, for a server may be replaced; a reload forgets it at once."""
MOST = 4096
"""Of routes that are remembered."""


class Lacking:
    """The routes that servers were found to lack."""

    def __init__(self) -> None:
        self._until: dict[tuple[ModelKey, str], float] = {}  # -inf: it has answered there

    def answered(self, model: ModelKey, path: str) -> None:
        """Remember that the server of *model* has *path*."""
        self._remember((model, path), -math.inf)

    def note(self, model: ModelKey, path: str) -> None:
        """Remember that the server of *model* says that it has no *path*, if it has never answered there."""
        if self._until.get((model, path)) != -math.inf:
            self._remember((model, path), asyncio.get_running_loop().time() + FORGET_S)

    def check(self, model: ModelKey, path: str) -> None:
        """Raise `PathNotFound` if the server of *model* said lately that it has no *path*."""
        if asyncio.get_running_loop().time() < self._until.get((model, path), 0.0):
            raise PathNotFound(
                f"the server of {model.model!r} has no {path}, as it said when it was last asked"
            )

    def clear(self) -> None:
        """Forget everything."""
        self._until.clear()

    def _remember(self, route: tuple[ModelKey, str], until: float) -> None:
        """Put *route* in, and forget the first of more than `MOST`."""
        self._until[route] = until
        if len(self._until) > MOST:
            del self._until[next(iter(self._until))]
