"""Those who wait for a model to be unloaded.  The counterpart is `gate`, which knows when one is gone."""

import asyncio
from collections.abc import Iterator

from dmap.errors import DmapError
from dmap.models import ModelKey


class Partings:
    """Futures by model; whoever waits for the same one hears the same."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: dict[ModelKey, set[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._futures)

    def __iter__(self) -> Iterator[ModelKey]:
        return iter(tuple(self._futures))

    def add(self, key: ModelKey) -> "asyncio.Future[None]":
        """Return what is answered when *key* has gone."""
        future = asyncio.get_running_loop().create_future()
        self._futures.setdefault(key, set()).add(future)
        return future

    def leave(self, key: ModelKey, future: "asyncio.Future[None]") -> bool:
        """Forget one who waited; tell whether nobody waits for *key* to go any more."""
        futures = self._futures.get(key, set())
        futures.discard(future)
        if not futures:
            self._futures.pop(key, None)
        return not futures

    def answer(self, key: ModelKey, error: DmapError | None) -> None:
        """Let all who wait for *key* hear that it is gone, or why it is not."""
        for future in self._futures.pop(key, ()):
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
