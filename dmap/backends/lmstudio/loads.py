"""
How a model gets into LM Studio and out of it again: one look, room, one load, and a look at what came of it.

Others load and unload too, at any moment, and LM Studio has no load with a condition.  So nothing is done
without a look before and one after it, and what does not come out as meant is tried again.  It remembers
nothing itself (`view` does), and is asked for one thing at a time (by `backend`).
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dmap.backends.base import Loaded
from dmap.backends.lmstudio.client import Fault, RestClient
from dmap.backends.lmstudio.commands import Commands
from dmap.backends.lmstudio.look import Look
from dmap.backends.lmstudio.models import Instance, Listed, objection
from dmap.backends.lmstudio.section import goes_by_lms
from dmap.backends.lmstudio.view import View
from dmap.errors import LoadFailed
from dmap.logfmt import logfmt

_log = logging.getLogger(__name__)

TRIES = 5
"""How often a load or unload is begun: others may displace it, or leave a second copy beside it."""


class Loads:
    """
    Loads and unloads through *commands*, by what *view* sees.

    *in_use* tells whether requests for a model are out; *load_s* bounds every wait, and *poll_s* is the pause
    between two looks while somebody else's load is under way.
    """

    def __init__(
        self,
        client: RestClient,
        view: View,
        commands: Commands,
        *,
        in_use: Callable[[str], bool],
        load_s: float,
        poll_s: float,
    ) -> None:
        self._client = client
        self._view = view
        self._commands = commands
        self._in_use = in_use
        self._load_s = load_s
        self._poll_s = poll_s

    async def settled(self, only: str | None = None) -> tuple[Look, frozenset[str]]:
        """
        Look until no load is under way, or none of *only*; return the look and what has become resident.

        A load over REST shows no progress and cannot be told from one that hangs, so `load_s` bounds it.
        """
        clock = asyncio.get_running_loop().time
        until, before, late = clock() + self._load_s, self._view.residents, set[str]()
        while True:
            look = await self._view.see()
            loading = {model.key for model, _ in look.loading()}
            late |= loading
            if not (loading if only is None else loading & {look.disk.canonical(only)}):
                return look, frozenset(late - before)
            if clock() > until:
                raise self._client.down(f"has been loading {sorted(loading)} for over {self._load_s:g} s")
            await asyncio.sleep(self._poll_s)

    async def unused(self, key: str) -> None:
        """Wait for the end of the requests for *key* that are out, `load_s` at most."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._load_s
        while True:
            if not self._in_use(key) or clock() > until:
                return
            await asyncio.sleep(self._poll_s)

    async def bring(self, model: str, wanted: Mapping[str, Any], left: int) -> Loaded | None:
        """Look, make room, and adopt or load; None to try again, which can be done *left* more times."""
        cleared = await self._cleared(model, wanted)
        if cleared is None:
            return None
        look, listed, kept = cleared
        if kept is not None:
            self._view.note_loaded(listed.key, kept.id)
            return Loaded(listed.size_bytes, kept.context_length, kept.parallel)
        self._check_identifier(look, listed.key, wanted)
        answer = await self._ask(listed.key, wanted, left)
        if answer is not None and goes_by_lms(wanted):
            answer = await self._traced(look, listed.key, wanted, answer)
        return await self._verified(listed.key, wanted, answer, left) if answer is not None else None

    async def _cleared(
        self, model: str, wanted: Mapping[str, Any]
    ) -> tuple[Look, Listed, Instance | None] | None:
        """
        Look and make room, until there is an instance to adopt, or nothing that has to go before a load.

        It looks anew after each unload: that takes a while, in which others may have begun to load the model.
        None if there is no end to it, or LM Studio refuses.
        """
        for _ in range(TRIES):
            look, late = await self.settled()
            listed = look.find(model)
            if listed is None:
                raise LoadFailed(f"cannot load model {model!r}: LM Studio does not list it")
            kept = self._view.adoptable(look, listed, wanted)
            going = list(self._going(look, listed, kept, late))
            for other, instance, reason in going:
                await self.unused(other.key)
                if not await self.take_out(other, instance, reason):
                    return None
            if kept is not None or not going:
                return look, listed, kept
        return None

    def _going(
        self, look: Look, wanted: Listed, kept: Instance | None, late: frozenset[str]
    ) -> Iterator[tuple[Listed, Instance, str]]:
        """Yield what has to go, and why; what is in use stays, unless it is in the way of the load itself."""
        for other, instance in look.disk.instances():
            reason = objection(wanted, kept, late, other, instance)
            may_wait = kept is not None or other is not wanted
            if reason and not (may_wait and self._in_use(other.key)):
                yield other, instance, reason

    def _check_identifier(self, look: Look, key: str, wanted: Mapping[str, Any]) -> None:
        """Refuse a name that is another model's: requests for that one would get this one."""
        identifier = wanted.get("identifier")
        owner = look.disk.canonical(identifier) if identifier else None
        if owner not in (None, key):
            raise LoadFailed(
                f"cannot load model {key!r}: its identifier {identifier!r} is a name of {owner!r}"
            )

    async def _ask(self, key: str, wanted: Mapping[str, Any], left: int) -> dict[str, Any] | None:
        """Have *key* loaded; raise what a refusal means, or return None if trying again may help."""
        try:
            return await self._commands.load(key, wanted)
        except TimeoutError as exc:
            reason = f"no answer in time (load_s is {self._load_s:g})"
            raise LoadFailed(f"cannot load model {key!r}: {reason}") from exc
        except Fault as fault:
            if goes_by_lms(wanted):
                await self._view.see()  # `BackendDown` if it is that: `lms` tells it in too many ways
            if not left or not (fault.canceled or fault.garbled):
                raise LoadFailed(f"cannot load model {key!r}: {self._client.reason(fault)}") from fault
            self._tell("load_repeated", key, reason=fault.words)
            return None

    async def _traced(
        self, before: Look, key: str, wanted: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> dict[str, Any]:
        """
        Find what `lms` has loaded, there having been no *key*; return *answer* with its `instance_id`.

        Another model, one that was not there *before*, is unloaded.  Raises `LoadFailed` then, and if there
        is nothing new.
        """
        look = await self._view.see()
        listed = look.disk.models.get(key)
        if listed is not None and (ids := [instance.id for instance in listed.instances]):
            expected = wanted.get("identifier") or key
            id = expected if expected in ids else ids[0]
            self._view.note_loaded(key, id)
            return {**answer, "instance_id": id}
        self._view.note_gone(key, key)
        known = {instance.id for _, instance in before.disk.instances()}
        strays = [
            one for one in look.disk.instances() if one[1].id not in known and not self._in_use(one[0].key)
        ]
        for model, instance in strays:
            await self.take_out(model, instance, f"lms loaded it instead of {key}")
        instead = " and ".join(repr(model.key) for model, _ in strays)
        outcome = f"it loaded {instead} instead, which was unloaded" if strays else "nothing came of it"
        raise LoadFailed(f"cannot load model {key!r} by lms: {outcome}; it said: {answer.get('words')}")

    async def _verified(
        self, key: str, wanted: Mapping[str, Any], answer: Mapping[str, Any], left: int
    ) -> Loaded | None:
        """Check in the list that the load gave one instance, and what it got."""
        listed = (await self._view.see()).disk.models.get(key)
        found = {instance.id: instance for instance in listed.instances} if listed else {}
        instance = found.get(str(answer.get("instance_id") or key))
        if listed is None or instance is None:
            if left < TRIES - 1:
                reason = "LM Studio says that it is loaded, but does not list it; its own log may tell why"
                raise LoadFailed(f"cannot load model {key!r}: {reason}")
            self._tell("load_repeated", key, reason="it was gone right after its load")
            return None
        if left and (len(found) > 1 or listed.is_copy(instance)):
            self._tell("load_repeated", key, reason=f"others load it too: there are {sorted(found)}")
            return None
        asked, config = wanted.get("context_length"), answer.get("load_config")
        echoed = config.get("context_length") if isinstance(config, dict) else None
        got = instance.context_length or (echoed if type(echoed) is int else None)
        if asked is not None and (got != asked or echoed not in (None, got)):
            self._tell("context_mismatch", key, asked=asked, echoed=echoed, got=got)
        slots = wanted.get("parallel")
        if None not in (slots, instance.parallel) and slots != instance.parallel:
            self._tell("parallel_mismatch", key, asked=slots, got=instance.parallel)
        self._view.note_given(instance, wanted)
        return Loaded(listed.size_bytes, got, instance.parallel)

    async def take_out(self, model: Listed, instance: Instance, reason: str) -> bool:
        """
        Unload one instance, telling the log why if there is a *reason*; gone already is no failure.

        Return False if LM Studio refuses, as it may when a load of the same name has just begun.
        """
        if reason:
            self._tell("instance_unloaded", model.key, instance=instance.id, reason=reason)
        try:
            await self._commands.unload(instance.id)
        except Fault as fault:
            if fault.barred:
                raise self._client.down(f"does not unload: {self._client.reason(fault)}") from fault
            again = await self._view.see()
            if any(one.id == instance.id for _, one in again.disk.instances()):
                words = self._client.reason(fault)
                self._tell("unload_refused", model.key, instance=instance.id, reason=words)
                return False
        self._view.note_gone(model.key, instance.id)
        return True

    def _tell(self, event: str, model: str, **fields: Any) -> None:
        _log.warning(logfmt(event, {"backend": self._client.name, "model": model, **fields}))
