"""
How a model gets into LM Studio and out of it again: one look, room, one load, and a look at what came of it.

Others load and unload too, at any moment, and LM Studio has no load with a condition.  So nothing is done
without a look before and one after it, and what does not come out as meant is tried again.  What
there is is for `server` to remember.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dmap.backends.base import Loaded
from dmap.backends.lmstudio.client import Fault
from dmap.backends.lmstudio.lms import Lms
from dmap.backends.lmstudio.models import Instance, Listed, Look
from dmap.backends.lmstudio.section import goes_by_lms
from dmap.backends.lmstudio.server import V1, Server
from dmap.errors import BackendDown, LoadFailed
from dmap.tasks import attempt, errand

UNLOAD_S = 60.0
TRIES = 5
"""How often a load or unload is begun: others may displace it, or leave a second copy beside it."""


class _Again(Exception):
    """It did not come out as meant, because of others; its words say how."""


@dataclass(slots=True)
class Loads:
    """
    Loads and unloads at *server*, one thing at a time; *lms* is its command, if there is one.

    *load_s* bounds a load and every wait, and *poll_s* is the pause between two looks while somebody else's
    load is under way.  The server's `changed` is called when the caller of a load leaves, and once more when
    that load ends.
    """

    server: Server
    lms: Lms | None
    load_s: float
    poll_s: float
    loading: asyncio.Task[dict[str, Any]] | None = None

    async def load(self, model: str, wanted: Mapping[str, Any]) -> Loaded:
        """Make *model* resident as *wanted*, once and under its key.  Raises `LoadFailed`, `BackendDown`."""
        async with self._turn():
            for left in reversed(range(TRIES)):
                try:
                    return await self._bring(model, wanted, left)
                except _Again as again:
                    self.server.warn("load_repeated", model, reason=again)
            raise _failed(model, "other apps load and unload models at the same time")

    async def unload(self, model: str) -> None:
        """Take all instances of *model* out, after those loads of it that are under way."""
        async with self._turn():
            for _ in range(TRIES):
                look, _late = await self._settled(model)
                listed = look.find(model)
                if listed is None or not listed.instances:
                    return
                for instance in listed.instances:
                    await self._take_out(instance, "" if self.server.is_ours(instance) else "surplus")
            raise self._down(f"still has model {model!r}, which it was asked {TRIES} times to unload")

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        """Wait for a turn to load or unload, and for the end of a load whose caller has left."""
        async with self.server.busy:
            if self.loading is not None:
                await asyncio.wait((self.loading,))
            yield

    async def _settled(self, only: str | None = None) -> tuple[Look, frozenset[str]]:
        """
        Look until no load is under way, or none of *only*; return the look and what has become resident.

        A load over REST shows no progress and cannot be told from one that hangs, so `load_s` bounds it.
        """
        clock = asyncio.get_running_loop().time
        until, before, late = clock() + self.load_s, self.server.residents, set[str]()
        while True:
            look = await self.server.see()
            loading = {instance.key for instance in look.instances() if not instance.answers}
            late |= loading
            if not (loading if only is None else loading & {look.canonical(only)}):
                return look, frozenset(late - before)
            if clock() > until:
                raise self._down(f"has been loading {sorted(loading)} for over {self.load_s:g} s")
            await asyncio.sleep(self.poll_s)

    async def _unused(self, key: str) -> None:
        """Wait for the end of the requests for *key* that are out, `load_s` at most."""
        for _ in range(math.ceil(self.load_s / self.poll_s)):
            if not self.server.in_use(key):
                return
            await asyncio.sleep(self.poll_s)

    async def _bring(self, model: str, wanted: Mapping[str, Any], left: int) -> Loaded:
        """Look, make room, and adopt or load.  Raises `_Again`, if it can be tried *left* more times."""
        look, listed, kept = await self._cleared(model, wanted)
        if kept is not None:
            self.server.note_loaded(listed.key, kept.id)
            return Loaded(listed.info.size_bytes, kept.context_length, kept.parallel)
        identifier = wanted.get("identifier")
        owner = look.canonical(identifier) if identifier else None
        if owner not in (None, listed.key):  # requests for that model would get this one
            raise _failed(listed.key, f"its identifier {identifier!r} is a name of {owner!r}")
        answer = await self._ask(listed.key, wanted, left)
        return await self._verified(look, listed.key, wanted, answer, left)

    async def _cleared(self, model: str, wanted: Mapping[str, Any]) -> tuple[Look, Listed, Instance | None]:
        """
        Look and make room, until there is an instance to adopt, or nothing that has to go before a load.

        It looks anew after each unload: that takes a while, in which others may have begun to load the model.
        Raises `_Again` if there is no end to it, or LM Studio refuses.
        """
        for _ in range(TRIES):
            look, late = await self._settled()
            listed = look.find(model)
            if listed is None:
                raise _failed(model, "LM Studio does not list it")
            kept = self.server.adoptable(listed, wanted)
            going = list(self._going(look, listed, kept, late))
            for instance, reason in going:
                if not await self._take_out(instance, reason):
                    raise _Again(f"LM Studio refuses to unload {instance.id!r}")
            if kept is not None or not going:
                return look, listed, kept
        raise _Again("whatever is unloaded, others load again")

    def _going(
        self, look: Look, wanted: Listed, kept: Instance | None, late: frozenset[str]
    ) -> Iterator[tuple[Instance, str]]:
        """Yield what has to go, and why; what is in use stays, unless it is in the way of the load itself."""
        for instance in look.instances():
            is_own = instance.key == wanted.key
            if instance is kept or ((kept is not None or not is_own) and self.server.in_use(instance.key)):
                continue
            if is_own:
                is_short = kept is None and instance.is_named
                yield instance, "too little context" if is_short else "surplus"
            elif instance.id.casefold() == wanted.key.casefold():
                yield instance, f"it bears the name of {wanted.key}"
            elif instance.key in late:
                yield instance, "loaded by others during a switch"

    async def _ask(self, key: str, wanted: Mapping[str, Any], left: int) -> dict[str, Any]:
        """
        Have *key* loaded; return LM Studio's answer, or raise what a refusal means.

        It loads on when the caller is cancelled; only a load by `lms` is called off then, which takes a
        moment too.  Raises `LoadFailed`, `BackendDown`, and `_Again` if trying again may help.
        """
        name, expected = f"load {self.server.client.name}/{key}", (Fault, BackendDown, TimeoutError)
        self.loading = task = errand(self._load(key, wanted), name, expected=expected)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                task.add_done_callback(lambda _: attempt("a look after a load", self.server.changed))
                if goes_by_lms(wanted):
                    task.cancel()
            self.server.changed()
            raise
        except TimeoutError as exc:
            raise _failed(key, f"no answer in time (load_s is {self.load_s:g})") from exc
        except Fault as fault:
            if goes_by_lms(wanted):
                await self.server.see()  # `BackendDown` if it is that: `lms` tells it in too many ways
            if not left or not (fault.canceled or fault.garbled):
                raise _failed(key, self.server.client.reason(fault)) from fault
            raise _Again(str(fault)) from fault

    async def _load(self, key: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        self.server.own = key
        try:
            if self.lms is not None and goes_by_lms(wanted):
                return await self.lms.load(key, wanted, self.load_s)
            body = {"model": key, **wanted, "echo_load_config": True}
            answer = await self.server.client.post(f"{V1}/load", body, self.load_s)
            self.server.note_loaded(key, str(answer.get("instance_id") or key))
            return answer
        finally:
            self.loading = self.server.own = None
            self.server.answers += 1

    async def _verified(
        self, before: Look, key: str, wanted: Mapping[str, Any], answer: Mapping[str, Any], left: int
    ) -> Loaded:
        """Check in the list that the load gave one instance, and what it got."""
        look, by_lms = await self.server.see(), goes_by_lms(wanted)
        listed = look.models.get(key)
        found = {instance.id: instance for instance in listed.instances} if listed else {}
        named = found.get(str(answer.get("instance_id") or wanted.get("identifier") or key))
        instance = named or (next(iter(found.values()), None) if by_lms else None)
        if listed is None or instance is None:
            if by_lms:
                raise await self._strayed(before, look, key, answer)
            if left < TRIES - 1:
                reason = "LM Studio says that it is loaded, but does not list it; its own log may tell why"
                raise _failed(key, reason)
            raise _Again("it was gone right after its load")
        if by_lms:
            self.server.note_loaded(key, instance.id)
            await self.server.see()  # it answers, which v0 may not say yet
        if left and (len(found) > 1 or instance.is_copy):
            raise _Again(f"others load it too: there are {sorted(found)}")
        asked, config = wanted.get("context_length"), answer.get("load_config")
        echoed = config.get("context_length") if isinstance(config, dict) else None
        got = instance.context_length or (echoed if type(echoed) is int else None)
        if asked is not None and (got != asked or echoed not in (None, got)):
            self.server.warn("context_mismatch", key, asked=asked, echoed=echoed, got=got)
        slots = wanted.get("parallel")
        if None not in (slots, instance.parallel) and slots != instance.parallel:
            self.server.warn("parallel_mismatch", key, asked=slots, got=instance.parallel)
        self.server.note_given(instance, wanted)
        return Loaded(listed.info.size_bytes, got, instance.parallel)

    async def _strayed(self, before: Look, look: Look, key: str, answer: Mapping[str, Any]) -> LoadFailed:
        """Unload what `lms` has loaded instead of *key*, which was not there *before*; return the error."""
        known = {instance.id for instance in before.instances()}
        strays = [one for one in look.instances() if one.id not in known and not self.server.in_use(one.key)]
        for stray in strays:
            await self._take_out(stray, f"lms loaded it instead of {key}")
        instead = " and ".join(repr(stray.key) for stray in strays)
        outcome = f"it loaded {instead} instead, which was unloaded" if strays else "nothing came of it"
        return LoadFailed(f"cannot load model {key!r} by lms: {outcome}; it said: {answer.get('words')}")

    async def _take_out(self, instance: Instance, reason: str) -> bool:
        """
        Unload one instance that no request uses any more, telling the log why if there is a *reason*.

        Gone already is no failure.  Return False if LM Studio refuses, as it may when a load of the same name
        has just begun.
        """
        await self._unused(instance.key)
        if reason:
            self.server.warn("instance_unloaded", instance.key, instance=instance.id, reason=reason)
        try:
            await self.server.client.post(f"{V1}/unload", {"instance_id": instance.id}, UNLOAD_S)
        except TimeoutError as exc:
            raise self._down(f"has not unloaded {instance.id!r} in {UNLOAD_S:g} s") from exc
        except Fault as fault:
            words = self.server.client.reason(fault)
            if fault.barred:
                raise self._down(f"does not unload: {words}") from fault
            again = await self.server.see()
            if any(one.id == instance.id for one in again.instances()):
                self.server.warn("unload_refused", instance.key, instance=instance.id, reason=words)
                return False
        finally:
            self.server.answers += 1
        self.server.note_gone(instance.key, instance.id)
        return True

    def _down(self, words: str) -> BackendDown:
        return self.server.client.down(words)


def _failed(model: str, reason: str) -> LoadFailed:
    return LoadFailed(f"cannot load model {model!r}: {reason}")
