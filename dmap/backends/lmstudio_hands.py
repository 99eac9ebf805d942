"""
What dmap does to LM Studio: one load, one unload, and the load that nobody waits for any more.

It does as it is told, whatever is there; the counterpart that knows is `lmstudio_look`.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from dmap.backends.lmstudio_client import Client
from dmap.backends.lmstudio_look import V1
from dmap.errors import LoadFailed

__all__ = ["Hands", "checked"]

UNLOAD_S = 60.0

OPTIONS: Mapping[str, type] = {
    "context_length": int,
    "eval_batch_size": int,
    "flash_attention": bool,
    "num_experts": int,
    "offload_kv_cache_to_gpu": bool,
}
"""All that a load takes; any other key is refused with 400 (bug-tracker #2024)."""


class Hands:
    """
    Sends loads and unloads, one at a time, each once.

    *loaded* is called with the key and the instance's id when a load has succeeded, also one whose caller
    has left; *changed* when such a caller leaves, and when its load ends.
    """

    def __init__(
        self,
        client: Client,
        loaded: Callable[[str, str], None],
        changed: Callable[[], None],
        *,
        load_s: float,
    ) -> None:
        self.answers = 0
        self._client = client
        self._loaded = loaded
        self._changed = changed
        self._load_s = load_s
        self._loading: asyncio.Task[dict[str, Any]] | None = None

    async def free(self) -> None:
        """Wait for the end of a load whose caller has left."""
        if self._loading is not None:
            await asyncio.wait((self._loading,))

    async def load(self, key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """
        Have *key* loaded, and return LM Studio's answer.  It loads on when the caller is cancelled.

        Raises `Fault`, `BackendDown`, and TimeoutError after `load_s`.
        """
        body = {"model": key, **options, "echo_load_config": True}
        work = self._client.post(f"{V1}/load", body, self._load_s)
        task = asyncio.get_running_loop().create_task(work, name=f"load {self._client.name}/{key}")
        self._loading = task
        task.add_done_callback(lambda task: self._note(key, task))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                task.add_done_callback(lambda _: self._changed())
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
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait((self._loading,))

    def _note(self, key: str, task: asyncio.Task[dict[str, Any]]) -> None:
        self._loading = None
        self.answers += 1
        if not task.cancelled() and task.exception() is None:
            self._loaded(key, str(task.result().get("instance_id") or key))


def checked(model: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return *options*; raise `LoadFailed` for what LM Studio cannot be told over REST."""
    if unknown := [option for option in options if option not in OPTIONS]:
        told, known = ", ".join(map(repr, unknown)), ", ".join(OPTIONS)
        raise LoadFailed(
            f"cannot load model {model!r}: LM Studio takes no {told} over REST; it takes {known}"
        )
    for option, value in options.items():
        if type(value) is not OPTIONS[option] or (type(value) is int and value < 1):
            raise LoadFailed(f"cannot load model {model!r}: {option} may not be {value!r}")
    return options
