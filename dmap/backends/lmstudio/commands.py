"""
The commands that LM Studio gets: one load, one unload, and the load that nobody waits for any more.

Loads go over REST, except those with an option that only the `lms` program takes (`lms`).  Nothing here looks
at what is loaded; that is the business of `look`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from dmap.backends.lmstudio.client import Fault, RestClient
from dmap.backends.lmstudio.lms import FLAGS, ONLY, Lms
from dmap.backends.lmstudio.look import V1
from dmap.errors import BackendDown, LoadFailed
from dmap.tasks import end, errand

UNLOAD_S = 60.0

OPTIONS: Mapping[str, type] = {
    "context_length": int,
    "eval_batch_size": int,
    "flash_attention": bool,
    "num_experts": int,
    "offload_kv_cache_to_gpu": bool,
}
"""All that a load takes over REST; any other key is refused with 400 (bug-tracker #2024)."""

TYPES: Mapping[str, tuple[type, ...]] = {
    **{option: (kind,) for option, kind in OPTIONS.items()},
    "gpu": (str, float, int),
    "parallel": (int,),
    "ttl_s": (int,),
    "identifier": (str,),
}


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


def goes_by_lms(options: Mapping[str, Any]) -> bool:
    """Tell whether one of *options* is beyond REST."""
    return not ONLY.isdisjoint(options)


def taken(options: Mapping[str, Any], *, lms: bool) -> dict[str, Any]:
    """Return those of *options* that one load can be given: over REST, or by `lms` if some need it."""
    known = FLAGS if lms and goes_by_lms(options) else OPTIONS
    return {name: value for name, value in options.items() if name in known and _is_possible(name, value)}


def checked(backend: str, model: str, options: Mapping[str, Any], *, lms: bool) -> Mapping[str, Any]:
    """Return *options*; raise `LoadFailed` for what the LM Studio of *backend* cannot be told."""
    if complaint := _complaint(backend, options, lms):
        raise LoadFailed(f"cannot load model {model!r}: {complaint}")
    for option, value in options.items():
        if not _is_possible(option, value):
            raise LoadFailed(f"cannot load model {model!r}: {option} may not be {value!r}")
    return options


def _complaint(backend: str, options: Mapping[str, Any], lms: bool) -> str:
    """Tell which options cannot be told, and what to do; nothing if all can."""
    by_lms = lms and goes_by_lms(options)
    known = FLAGS if by_lms else OPTIONS
    unknown = ", ".join(repr(option) for option in options if option not in known)
    if not unknown:
        return ""
    if by_lms:
        why = ", ".join(sorted(ONLY & options.keys()))
        return f"the lms command, which is needed for {why}, takes no {unknown}; it takes {', '.join(known)}"
    more = "" if lms else f"; with backends.{backend}.lms set also {', '.join(sorted(ONLY))}"
    return f"LM Studio takes no {unknown} over REST; it takes {', '.join(known)}{more}"


def _is_possible(option: str, value: Any) -> bool:
    if type(value) not in TYPES[option]:
        return False
    if option == "gpu":
        return value in ("off", "max") if isinstance(value, str) else 0 <= value <= 1
    return (
        not value.startswith("-") and bool(value) if isinstance(value, str) else value is False or value >= 1
    )
