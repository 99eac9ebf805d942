"""
LM Studio, told over its native REST API (0.4.0 and later) what to load and unload.

Its loads are explicit, never on demand: a request that names a model on disk would load it without asking,
and evict another in mid-answer.  An explicit load has no time to live and is not evicted, but it is not
idempotent either: loading what is loaded stacks a second copy, `key:2`.  So one thing is done at a time, and
each begins with a look at what there is, by whomever.

A load cannot be stopped: LM Studio goes on when the one who asked leaves (bug-tracker #573).  So the
question stays open when a load is cancelled, its end is told to the gate, and whatever comes next waits for
it.  `lmstudio_look` are the eyes, `lmstudio_hands` the hands; `lmstudio_watch` notices what others do.

What REST cannot do, the `lms` command does where there is one.  It is not believed: what a call has loaded
is what is there after it and was not before, and if that is another model, it goes.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmap.backends import Loaded, ModelInfo, Target
from dmap.backends.lmstudio_client import Client, Fault
from dmap.backends.lmstudio_hands import Hands, checked, goes_by_lms
from dmap.backends.lmstudio_lms import Lms
from dmap.backends.lmstudio_look import Eyes, Look
from dmap.backends.lmstudio_models import PARALLEL, Disk, Instance, Listed, objection
from dmap.backends.lmstudio_watch import Watch
from dmap.errors import BackendDown, LoadFailed
from dmap.logfmt import logfmt

__all__ = ["LMStudioBackend"]

Asked = tuple[int | None, int | None, str | None]
"""What of a load's options shows in v1's list: context length, parallel, and identifier."""

_log = logging.getLogger(__name__)

TRIES = 5
"""How often a load or unload is begun: others may displace it, or leave a second copy beside it."""


class LMStudioBackend:
    """
    The `Switcher` over the LM Studio at *url* (with or without a closing `/v1`), asked with *api_key*.

    *load_s* bounds one load, *watch_s* is the pause between two looks of the watch, *disagree_s* how long
    its two lists may contradict each other, *poll_s* the pause between two looks while somebody else's load
    is under way.  *lms* is the path of LM Studio's command, for the options of a load that REST does not
    take.  Call `start` to have outside changes noticed; nothing is asked before the first call.

    *in_use* may be set by the gate, to tell whether requests for a model are out, be it for a copy that is
    gone: LM Studio may have loaded it again for them.  Such a model is not taken out under them.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        api_key: str | None = None,
        connect_s: float = 5.0,
        load_s: float = 600.0,
        watch_s: float = 2.0,
        disagree_s: float = 10.0,
        poll_s: float = 0.25,
        lms: Path | None = None,
    ) -> None:
        self.name = name
        self.changed: Callable[[], None] = _nothing
        self.in_use: Callable[[str], bool] = _nobody
        self._load_s = load_s
        self._poll_s = poll_s
        self._client = Client(name, url, api_key=api_key, connect_s=connect_s)
        self._eyes = Eyes(self._client, disagree_s=disagree_s)
        server = self._client.target("")
        self._lms = Lms(lms, server.host, server.port, api_key=api_key) if lms is not None else None
        self._hands = Hands(
            self._client, self._note_loaded, lambda: self.changed(), load_s=load_s, lms=self._lms
        )
        self._watch = Watch(self._client, self._watched, lambda: self.changed(), watch_s=watch_s)
        self._lock = asyncio.Lock()
        self._last = Look(Disk(()))
        self._residents: frozenset[str] = frozenset()
        self._given: dict[str, tuple[Asked, Asked]] = {}

    def start(self) -> None:
        """Begin to watch for what happens outside dmap.  Idempotent; `close` ends it."""
        self._watch.start()

    async def models(self) -> Sequence[ModelInfo]:
        """
        Ask what is on disk, and what of it answers; one whose load is under way is not resident yet.

        `size_bytes` is the size on disk: the weights, and so the least it takes.  The cache on top depends
        on layers and heads, which the API does not tell.  Raises `BackendDown`.
        """
        look = await self._see()
        return [_describe(look, model) for model in look.disk.models.values()]

    def canonical(self, name: str) -> str | None:
        """Return the key of the model called *name*, be it key, instance id or `@quant`, by the last look."""
        return self._last.disk.canonical(name)

    def names(self, model: str) -> tuple[str, ...]:
        """Return all other names of *model* at the last look: its variants and the ids of its instances."""
        listed = self._last.disk.models.get(model)
        return listed.other_names() if listed is not None else ()

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """
        Tell whether *model* is resident, answers to its key, and is as *options* ask, by the last look.

        So is one that this server gave less context for the same options before: asking again is no use.
        """
        listed = self._last.disk.models.get(model)
        return listed is not None and self._adoptable(self._last, listed, options) is not None

    async def load(self, model: str, options: Mapping[str, Any]) -> Loaded:
        """
        Make *model* resident, once and under its key; return when it answers, with what it really got.

        A copy that is there is adopted if its context is at least `context_length` of *options*, its slots
        `parallel`, its name `identifier` if there is one (`gpu` and `ttl_s` show nowhere), else it is
        replaced.  Whatever others loaded while this load waited for its turn is taken out.  When cancelled,
        LM Studio goes on with the load; `changed` is called then and at its end.
        """
        wanted = checked(self.name, model, options, lms=self._lms is not None)
        async with self._turn():
            for left in reversed(range(TRIES)):
                if (loaded := await self._bring(model, wanted, left)) is not None:
                    return loaded
        raise LoadFailed(f"cannot load model {model!r}: other apps load and unload models at the same time")

    async def unload(self, model: str) -> None:
        """
        Take all instances of *model* out, waiting first for those whose load is under way.

        LM Studio answers when the memory is free.  Raises `BackendDown`, also if the model keeps coming back,
        and `LoadFailed` if this LM Studio has no unload.
        """
        async with self._turn():
            for _ in range(TRIES):
                look, _late = await self._settled(model)
                listed = look.find(model)
                if listed is None or not listed.instances:
                    return
                await self._unused(listed.key)
                for instance in listed.instances:
                    ours = listed.is_named(instance) or instance.id in self._given
                    reason = "" if ours else "surplus"
                    await self._take_out(look, listed, instance, reason)
        raise self._client.down(f"still has model {model!r}, which it was asked {TRIES} times to unload")

    def target(self, model: str, path: str) -> Target:
        """Tell where a request for *model* goes; `BackendDown` if the last look did not find it resident."""
        if model not in self._residents:
            raise BackendDown(f"model {model!r} is not resident on backend {self.name!r}; load it first")
        return self._client.target(path)

    async def close(self) -> None:
        """Stop watching and asking.  What LM Studio has loaded stays, a load under way goes on there."""
        await self._watch.close()
        await self._hands.close()
        await self._client.close()

    # Looking

    async def _see(self) -> Look:
        """Look; what began before the answer to a load or unload of ours is out of date, and not kept."""
        answers = self._hands.answers
        look = await self._eyes.look()
        if answers == self._hands.answers:
            self._last, self._residents = look, look.residents()
            listed = {instance.id for _, instance in look.disk.instances()}
            self._given = {id: given for id, given in self._given.items() if id in listed}
        return look

    async def _watched(self) -> Look | None:
        """Look for the watch; None if something of ours was under way."""
        answers, busy = self._hands.answers, self._lock.locked()
        look = await self._see()
        return None if busy or self._lock.locked() or answers != self._hands.answers else look

    async def _settled(self, only: str | None = None) -> tuple[Look, frozenset[str]]:
        """
        Look until no load is under way, or none of *only*; return the look and what has become resident.

        A load over REST shows no progress and cannot be told from one that hangs, so `load_s` bounds it.
        """
        clock = asyncio.get_running_loop().time
        until, before, late = clock() + self._load_s, self._residents, set[str]()
        while True:
            look = await self._see()
            loading = {model.key for model, _ in look.loading()}
            late |= loading
            if not (loading if only is None else loading & {look.disk.canonical(only)}):
                return look, frozenset(late - before)
            if clock() > until:
                raise self._client.down(f"has been loading {sorted(loading)} for over {self._load_s:g} s")
            await asyncio.sleep(self._poll_s)

    async def _unused(self, key: str) -> None:
        """Wait for the end of the requests for *key* that are out, `load_s` at most."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._load_s
        while True:
            if not self.in_use(key) or clock() > until:
                return
            await asyncio.sleep(self._poll_s)

    # Loading

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        """Wait for one's turn, and for a load whose caller has left."""
        async with self._lock:
            await self._hands.free()
            yield

    async def _bring(self, model: str, wanted: Mapping[str, Any], left: int) -> Loaded | None:
        """Look, make room, and adopt or load; None to try again, which can be done *left* more times."""
        look, late = await self._settled()
        listed = look.find(model)
        if listed is None:
            raise LoadFailed(f"cannot load model {model!r}: LM Studio at {self._client.url} does not list it")
        kept = self._adoptable(look, listed, wanted)
        if kept is None and not look.native:
            raise self._too_old(model)
        for other, instance in look.disk.instances():
            reason = objection(listed, kept, late, other, instance)
            if not reason or (kept or other is not listed) and self.in_use(other.key):
                continue
            await self._unused(other.key)
            if not await self._take_out(look, other, instance, reason):
                return None
        if kept is not None:
            self._note_loaded(listed.key, kept.id)
            return Loaded(listed.size_bytes, kept.context_length, kept.parallel)
        self._check_identifier(look, listed.key, wanted)
        answer = await self._ask(listed.key, wanted, left)
        if answer is not None and goes_by_lms(wanted):
            answer = await self._traced(look, listed.key, wanted, answer)
        return await self._verified(listed.key, wanted, answer, left) if answer is not None else None

    def _adoptable(self, look: Look, model: Listed, wanted: Mapping[str, Any]) -> Instance | None:
        """Return the instance that answers to the key of *model*, as *wanted* or as near as it gets."""
        asked = _asked(wanted)
        for instance in look.ready_of(model)[:1]:
            given = self._given.get(instance.id)
            named = instance.id == asked[2] if asked[2] else model.is_named(instance) or given is not None
            if (named and _is_enough(instance, asked)) or given == (asked, _got(instance)):
                return instance
        return None

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
            return await self._hands.load(key, wanted)
        except TimeoutError as exc:
            reason = f"no answer in time (load_s is {self._load_s:g})"
            raise LoadFailed(f"cannot load model {key!r}: {reason}") from exc
        except Fault as fault:
            if fault.missing:
                raise self._too_old(key) from fault
            if goes_by_lms(wanted):
                await self._see()  # `BackendDown` if it is that: `lms` tells it in too many ways
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
        look = await self._see()
        listed = look.disk.models.get(key)
        if listed is not None and (ids := [instance.id for instance in listed.instances]):
            expected = wanted.get("identifier") or key
            id = expected if expected in ids else ids[0]
            self._note_loaded(key, id)
            return {**answer, "instance_id": id}
        self._eyes.forget(key)
        self._watch.expect(key, resident=False)
        known = {instance.id for _, instance in before.disk.instances()}
        strays = [
            one for one in look.disk.instances() if one[1].id not in known and not self.in_use(one[0].key)
        ]
        for model, instance in strays:
            await self._take_out(look, model, instance, f"lms loaded it instead of {key}")
        instead = " and ".join(repr(model.key) for model, _ in strays)
        told = f"it loaded {instead} instead, which was unloaded" if strays else "nothing came of it"
        raise LoadFailed(f"cannot load model {key!r} by lms: {told}; it said: {answer.get('words')}")

    async def _verified(
        self, key: str, wanted: Mapping[str, Any], answer: Mapping[str, Any], left: int
    ) -> Loaded | None:
        """Check in the list that the load gave one instance, and what it got."""
        listed = (await self._see()).disk.models.get(key)
        found = {instance.id: instance for instance in listed.instances} if listed else {}
        instance = found.get(str(answer.get("instance_id") or key))
        if listed is None or instance is None:
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
        self._given[instance.id] = _asked(wanted), _got(instance)
        return Loaded(listed.size_bytes, got, instance.parallel)

    def _note_loaded(self, key: str, id: str) -> None:
        self._eyes.prove(id)
        self._residents |= {key}
        self._watch.expect(key, resident=True)

    async def _take_out(self, look: Look, model: Listed, instance: Instance, reason: str) -> bool:
        """
        Unload one instance, telling the log why if there is a *reason*; gone already is no failure.

        Return False if LM Studio refuses, as it may when a load of the same name has just begun.
        """
        if not look.native:
            raise LoadFailed(f"cannot unload model {model.key!r}: {self._old()}")
        if reason:
            self._tell("instance_unloaded", model.key, instance=instance.id, reason=reason)
        try:
            await self._hands.unload(instance.id)
        except Fault as fault:
            if fault.barred:
                raise self._client.down(f"does not unload: {self._client.reason(fault)}") from fault
            again = await self._see()
            if any(one.id == instance.id for _, one in again.disk.instances()):
                words = self._client.reason(fault)
                self._tell("unload_refused", model.key, instance=instance.id, reason=words)
                return False
        self._eyes.forget(instance.id)
        self._given.pop(instance.id, None)
        self._residents -= {model.key}
        self._watch.expect(model.key, resident=False)
        return True

    # Words

    def _old(self) -> str:
        return f"the LM Studio at {self._client.url} is too old to switch over REST, which came with 0.4.0"

    def _too_old(self, model: str) -> LoadFailed:
        return LoadFailed(f"cannot load model {model!r}: {self._old()}; load it there by hand, or update it")

    def _tell(self, event: str, model: str, **fields: Any) -> None:
        _log.warning(logfmt(event, {"backend": self.name, "model": model, **fields}))


def _asked(wanted: Mapping[str, Any]) -> Asked:
    return wanted.get("context_length"), wanted.get("parallel"), wanted.get("identifier")


def _got(instance: Instance) -> Asked:
    return instance.context_length, instance.parallel, instance.id


def _is_enough(instance: Instance, asked: Asked) -> bool:
    """Tell whether *instance* has at least what was asked; what its entry does not tell is enough."""
    pairs = ((asked[0], instance.context_length), (asked[1], instance.parallel))
    return all(least is None or got is None or got >= least for least, got in pairs)


def _describe(look: Look, model: Listed) -> ModelInfo:
    ready = look.ready_of(model)
    instance = ready[0] if ready else None
    return ModelInfo(
        id=model.key,
        resident=instance is not None,
        size_bytes=model.size_bytes,
        context_length=instance.context_length if instance else None,
        parallel=instance.parallel if instance else (None if model.embedding else PARALLEL),
        embedding=model.embedding,
        names=model.other_names(),
    )


def _nothing() -> None:
    """Stand in for the gate until there is one."""


def _nobody(model: str) -> bool:
    """Stand in for the gate: no requests are out."""
    return False
