"""The requests that wait for a model or are answered by one: to be looked at, and to be ended."""

import asyncio
from types import TracebackType
from typing import Any, Self

from dmap.errors import DmapError
from dmap.record import RequestRecord


class OpenRequest:
    """
    One request, in *all* from entering the context to leaving it.

    After `cancel` the context is left with the error given there instead of a `CancelledError`.
    """

    __slots__ = ("_all", "_error", "_task", "record")

    def __init__(self, all: "set[OpenRequest]", record: RequestRecord) -> None:
        self.record = record
        self._all = all
        self._error: DmapError | None = None
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._all.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.discard(self)
        if self._error is None or self._task is None:
            return
        # A client that left at the same time has cancelled the task once more.
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._error from exc

    def cancel(self, error: DmapError) -> None:
        """End it, with *error* for its client: once, the first error counts."""
        if self._error is None and self._task is not None:
            self._error = error
            self._task.cancel()

    def told(self, now: float) -> dict[str, Any]:
        """Return what others may know of it, *now* being the loop's time."""
        record = self.record
        return {
            "id": record.id,
            "client": record.client,
            "path": record.path,
            "model": record.model,
            "backend": record.backend,
            "stream": record.stream,
            "for_s": round(now - record.arrived_at, 3),
            "answering": record.first_byte_s is not None,
            "bytes": record.bytes_out,
        }
