"""
The commands that LM Studio gets: one load, one unload, and the load that nobody waits for any more.

Loads go over REST, except those with an option that only the `lms` program takes (`lms`).  Nothing here looks
at what is loaded; that is the business of `look`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from dmap.backends.lmstudio.client import Fault, RestClient
from dmap.backends.lmstudio.lms import Lms
from dmap.backends.lmstudio.look import V1
from dmap.backends.lmstudio.section import goes_by_lms
from dmap.errors import BackendDown
from dmap.tasks import end, errand

UNLOAD_S = 60.0


class Commands:
    """
    Sends loads and unloads, one at a time, each once.

    *loaded* is called with the key and the instance's id when a load has succeeded, also one whose caller
    has left; *changed* when such a caller leaves, and when its load ends.  *lms* is the command, if there is.
    """

    def __init__(
        self,
        client: RestClient,
        loaded: Callable[[str, str], None],
        changed: Callable[[], None],
        *,
        load_s: float,
        lms: Lms | None = None,
    ) -> None:
        self.answers = 0
        self._client = client
        self._loaded = loaded
        self._changed = changed
        self._load_s = load_s
        self._lms = lms
        self._loading: asyncio.Task[dict[str, Any]] | None = None

    async def free(self) -> None:
        """Wait for the end of a load whose caller has left."""
        if self._loading is not None:
            await asyncio.wait((self._loading,))

    async def load(self, key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """
        Have *key* loaded, and return LM Studio's answer.  It loads on when the caller is cancelled; only a
        load by `lms` is called off then, which takes a moment too.

        Raises `Fault`, `BackendDown`, and TimeoutError after `load_s`.
        """
        lms = self._lms if goes_by_lms(options) else None
        work = lms.load(key, options, self._load_s) if lms is not None else self._post(key, options)
        task = errand(work, f"load {self._client.name}/{key}", expected=(Fault, BackendDown, TimeoutError))
        self._loading = task
        task.add_done_callback(lambda task: self._note(key, task))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                task.add_done_callback(lambda _: self._changed())
                if lms is not None:
                    task.cancel()
            self._changed()
            raise

    async def unload(self, id: str) -> None:
        """Have the instance *id* unloaded.  Raises `Fault` and `BackendDown`."""
        try:
            await self._client.post(f"{V1}/unload", {"instance_id": id}, UNLOAD_S)
        except TimeoutError as exc:
            raise self._client.down(f"has not unloaded {id!r} in {UNLOAD_S:g} s") from exc
        finally:
            self.answers += 1

    async def close(self) -> None:
        """Leave a load under way to LM Studio."""
        await end(self._loading)

    def _post(self, key: str, options: Mapping[str, Any]) -> Coroutine[Any, Any, dict[str, Any]]:
        body = {"model": key, **options, "echo_load_config": True}
        return self._client.post(f"{V1}/load", body, self._load_s)

    def _note(self, key: str, task: asyncio.Task[dict[str, Any]]) -> None:
        self._loading = None
        self.answers += 1
        if not task.cancelled() and task.exception() is None:
            self._loaded(key, str(task.result().get("instance_id") or key))
