"""The orders to unload a model that are not done yet.  The counterpart is `gate`, which knows of the end."""

import asyncio
from collections.abc import Iterator

from dmap.errors import DmapError
from dmap.models import ModelKey


class PendingUnloads:
    """One future per order, by model; all orders for a model get the same answer."""

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
        """Forget one order; tell whether it was the last one for *key*."""
        futures = self._futures.get(key, set())
        futures.discard(future)
        if not futures:
            self._futures.pop(key, None)
        return not futures

    def answer(self, key: ModelKey, error: DmapError | None) -> None:
        """Answer all orders for *key*: it is gone, or *error* tells why not."""
        for future in self._futures.pop(key, ()):
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
