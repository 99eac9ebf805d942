"""
What an LM Studio has in memory, simulated: models, instances, loads, evictions, generations.

Each trap names its source as `backends.md` section 1 does: [DOC], [OBS version date], [ISSUE], #number of
lmstudio-bug-tracker.  Everything that happens goes into `World.events`; the methods under "What went wrong"
read them.  The HTTP side is `lmstudio_emulator`.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes import soon

GB = 10**9


@dataclass(frozen=True)
class Spec:
    """One model on disk; a token of context takes *kv_bytes* on top of its size."""

    key: str
    size_bytes: int
    embedding: bool = False
    max_context: int = 131072
    kv_bytes: int = 50_000
    quant: str = "Q4_K_M"
    vision: bool = False

    @property
    def variant(self) -> str:
        return f"{self.key}@{self.quant.lower()}"


SPECS = (
    Spec("qwen/qwen3-8b", 5 * GB),
    Spec("google/gemma-3-12b", 8 * GB, vision=True),
    Spec("openai/gpt-oss-20b", 12 * GB),
    Spec("mistralai/mistral-small-3.2", 14 * GB),
    Spec("llama-3.2-1b-instruct", 1 * GB),
    Spec("ibm/granite-4-micro", 2 * GB),
    Spec("text-embedding-nomic-embed-text-v1.5", GB // 7, embedding=True, max_context=2048, kv_bytes=0),
)
"""Six chat models and one embedding model; of the big ones no two fit into the default memory."""


@dataclass(frozen=True)
class Traps:
    """What LM Studio does that one would not expect; each can be switched off, and what nobody saw is off."""

    listed_at_load_start: bool = True  # loaded_instances is filled 0.23 s into a 40 s load [OBS 0.4.23]
    closed_schema: bool = True  # unknown load keys: 400 unrecognized_keys [OBS 0.4.21, 0.4.25; #2024]
    stacking: bool = True  # a second load of a loaded key makes `key:2` [OBS 0.4.23]
    unknown_path_200: bool = True  # 200 with `error` as a string [#618, #1323, #2085; OBS 1.1.7]
    any_name: bool = True  # the one loaded chat model answers for any name [#366, #619; OBS 0.4.25]
    jit: bool = True  # a request loads what it names [DOC headless.md]
    auto_evict: bool = True  # a JIT load throws the JIT-loaded model out, mid-answer [#671, #1796]
    jit_race: bool = True  # N first requests make N instances [#1751]
    jit_cancels_load: bool = True  # "Operation canceled." when loads collide [2026-08-17]
    embedding_reloads: bool = True  # embeddings of a chat model load it again each time [#902]
    idle_close: bool = True  # `Keep-Alive: timeout=5`, and closed then [#618 headers; 2026-10-02]
    guardrails: bool = True  # a load that would not fit: 500 model_load_failed [verbatim 2026-07-19]
    load_goes_on: bool = True  # a load cannot be stopped by leaving [#573]
    v0_lags: bool = True  # v0 says not-loaded for a while after the load [third-party note]
    html_500_at_load: bool = True  # one HTML 500 from v0 when a load begins [OBS 0.4.23, 1 of 79]
    context_over_max: bool = True  # context above the maximum: 200, no clamp [OBS 0.4.25 M063]
    native: bool = True  # /api/v1 exists [DOC, 0.4.0]; off: an older LM Studio
    v0: bool = True  # /api/v0 exists, superseded [DOC; OBS 1.1.7]; off: a future one
    cut_resets: bool = False  # a chat that an unload cuts gets a reset, not an answer: seen as plausible, for
    # the form of that failure is UNCONFIRMED


@dataclass(frozen=True)
class Knobs:
    """How fast and how big; times in seconds."""

    load_s: float = 0.05  # in turns of the loop: one that stands still does not bring a load to its end
    load_gb_s: float = 0.0  # on top of that, for each 10^9 bytes
    token_s: float = 0.001
    tokens: int = 8
    idle_s: float = 5.0
    v0_lag_s: float = 0.02
    listed_s: float = 0.0  # into a load until v1 names it, and v0 alone tells, as it does to a look between
    # whose two lists the load begins: it did at 0.23 s [OBS 0.4.23]; a pause before is seen as plausible
    gone_lag_s: float = 0.0  # the lists name what was unloaded for so long: seen as plausible, not measured;
    # only that the memory is free when unload answers is [OBS 0.4.21]
    ttl_s: float = 3600.0
    memory_bytes: int = 16 * GB
    default_context: int = 4096
    fit_context: int | None = None  # "may auto-fit below the request" [get-based PR #1534]
    parallel: int = 4
    api_token: str | None = None


class Refusal(Exception):
    """An answer that says no; *kind* is `not_found`, `none_loaded`, `load_failed` or `busy`."""

    def __init__(self, kind: str, message: str, spec: Spec | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.spec = kind, message, spec


class Unloaded(Exception):
    """The model went away under a generation."""


@dataclass(eq=False)
class Instance:
    """One copy in memory; *why* it went and *by* whom are set when it goes."""

    id: str
    spec: Spec
    config: dict[str, Any]
    jit: bool
    slots: asyncio.Semaphore
    began_at: float
    loaded_at: float | None = None
    gone_at: float = 0.0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""
    by: str = ""
    running: int = 0
    ttl_s: float | None = None
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None

    @property
    def facts(self) -> dict[str, str]:
        return {"model": self.spec.key, "instance": self.id}

    @property
    def bytes(self) -> int:
        return self.spec.size_bytes + self.spec.kv_bytes * self.config["context_length"]

    @property
    def answers(self) -> bool:
        return self.loaded_at is not None and not self.gone.is_set()


class World:
    """
    The state of one LM Studio; make it inside the loop.

    An event is a dict of `at`, `event` and facts.  Of a load: `load_start` (`stacked` if the model was there
    already), then `load_end` or `load_failed`; `load_refused` alone; `load_abandoned` when its client left.
    Of an instance: `gone`.  Of a request: `wrong_model`, `generation_start`, then `_end`, `_left` (by its
    client), `_cut` or `_killed` (with the server).  `by` is `rest`, `jit`, `hand` or `itself`.
    """

    def __init__(
        self, specs: Iterable[Spec] = SPECS, traps: Traps | None = None, knobs: Knobs | None = None
    ) -> None:
        self.specs = {spec.key: spec for spec in specs}
        self.traps = traps or Traps()
        self.knobs = knobs or Knobs()
        self.instances: dict[str, Instance] = {}
        self.events: list[dict[str, Any]] = []
        self.html_due = False
        self.told: Callable[[dict[str, Any]], None] = lambda event: None
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone: dict[str, Instance] = {}

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def note(self, event: str, **facts: Any) -> None:
        """Add to the log of events, and tell; `at` is the loop's monotonic clock."""
        self.events.append({"at": self.now(), "event": event, **facts})
        self.told(self.events[-1])

    # What is there

    def spec_of(self, name: str) -> Spec | None:
        """Find a model by its key in any letter case, or one of its variants [OBS 0.4.25]."""
        folded = name.casefold()
        found = (s for s in self.specs.values() if folded in (s.key.casefold(), s.variant.casefold()))
        return next(found, None)

    def of(self, spec: Spec) -> list[Instance]:
        return [instance for instance in self.instances.values() if instance.spec is spec]

    def listed(self, spec: Spec) -> list[Instance]:
        """What v1 lists: also what is still loading, and what has just been unloaded."""
        since = self.now() - self.knobs.listed_s if self.traps.listed_at_load_start else 0
        there = [one for one in self.of(spec) if one.loaded_at is not None or one.began_at <= since]
        return there + self.lagging(spec)

    def lagging(self, spec: Spec) -> list[Instance]:
        """What the lists have not noticed to be gone."""
        since = self.now() - self.knobs.gone_lag_s
        gone = (one for one in self._gone.values() if one.spec is spec and one.gone_at > since)
        return [instance for instance in gone if instance.id not in self.instances]

    def v0_state(self, instance: Instance) -> str:
        if instance.loaded_at is None:
            return "loading"  # not documented; for the whole of a load [OBS 0.4.23]
        lag_s = self.knobs.v0_lag_s if self.traps.v0_lags else 0
        return "not-loaded" if self.now() - instance.loaded_at < lag_s else "loaded"

    def load_s(self, spec: Spec) -> float:
        return self.knobs.load_s + self.knobs.load_gb_s * spec.size_bytes / GB

    def used_bytes(self) -> int:
        return sum(instance.bytes for instance in self.instances.values())

    # Loads and unloads

    async def load(
        self,
        spec: Spec | str,
        config: dict[str, Any] | None = None,
        *,
        jit: bool = False,
        identifier: str | None = None,
        ttl_s: float | None = None,
        by: str = "hand",
    ) -> Instance:
        """Load as its owner would by hand; with *identifier* as `lms load --identifier` does."""
        spec = self.specs[spec] if isinstance(spec, str) else spec
        if not self.traps.stacking and (there := [one for one in self.of(spec) if one.answers]):
            return there[0]
        if jit:
            self._make_way(spec)
        instance = self._begin(spec, config or {}, jit, identifier)
        self.note(
            "load_start",
            **instance.facts,
            context_length=instance.config["context_length"],
            stacked=len(self.of(spec)) > 1,
            by="jit" if jit else by,
        )
        if jit:
            instance.ttl_s = ttl_s or self.knobs.ttl_s
        instance.task = asyncio.get_running_loop().create_task(self._load(instance))
        self._tasks.add(instance.task)
        instance.task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.shield(instance.task)
        except asyncio.CancelledError:
            self.note("load_abandoned", **instance.facts)
            if not self.traps.load_goes_on:
                self.drop(instance, "Operation canceled.")
            raise
        if not instance.answers:
            raise Refusal("load_failed", f"Error: {instance.why}", spec)
        self.touch(instance)
        return instance

    def unload(self, id: str, by: str = "hand") -> None:
        """Unload by the exact id; whoever it is generating for is cut off."""
        instance = self.instances.get(id)
        if instance is None:
            raise Refusal("not_found", f"Invalid model identifier {id!r}.")
        if instance.loaded_at is None:  # UNCONFIRMED; that a load cannot be stopped is #573
            raise Refusal("busy", f"The model {id!r} is still loading.")
        self.drop(instance, "Model unloaded", by)

    def crash(self, id: str) -> None:
        """Have the engine of *id* die."""
        words = "The model has crashed without additional information. (Exit code: null)"
        self.drop(self.instances[id], words)

    def drop(self, instance: Instance, why: str, by: str = "itself") -> None:
        if self.instances.pop(instance.id, None) is None:
            return
        instance.why, instance.by, instance.gone_at = why, by, self.now()
        instance.gone.set()
        self._gone[instance.id] = instance
        if instance.timer is not None:
            instance.timer.cancel()
        self.note("gone", **instance.facts, why=why, by=by)

    def doom(self) -> None:
        """Take note that the server is being killed, so that what ends now was not cut by anyone."""
        for instance in self.instances.values():
            instance.why = "the server was killed"

    async def reset(self) -> None:
        """Lose all memory, as a killed server does."""
        for instance in list(self.instances.values()):
            self.drop(instance, "the server was killed")
        self._gone.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, spec: Spec, config: dict[str, Any], jit: bool, identifier: str | None) -> Instance:
        context = min(
            config.get("context_length", self.knobs.default_context), self.knobs.fit_context or 10**9
        )
        if not self.traps.context_over_max:
            context = min(context, spec.max_context)
        slots = asyncio.Semaphore(self.knobs.parallel)
        instance = Instance(self._free_id(identifier or spec.key), spec, {}, jit, slots, self.now())
        instance.config = {**config, "context_length": context}
        self.html_due = self.traps.html_500_at_load
        if self.traps.guardrails and self.used_bytes() + instance.bytes > self.knobs.memory_bytes:
            self.note("load_refused", model=spec.key, beside=sorted(self.instances))
            raise Refusal("load_failed", f"Error: {GUARDRAILS}", spec)
        self.instances[instance.id] = instance
        return instance

    async def _load(self, instance: Instance) -> None:
        with contextlib.suppress(TimeoutError):
            await soon(instance.gone.is_set, self.load_s(instance.spec))
        if (
            self.used_bytes() > self.knobs.memory_bytes
        ):  # without guardrails the engine dies, cause lost [#2295]
            self.drop(instance, "Error loading model. (Exit code: null)")
        if instance.gone.is_set():
            self.note("load_failed", **instance.facts, why=instance.why)
            return
        instance.loaded_at = self.now()
        self.note("load_end", **instance.facts)

    def _free_id(self, base: str) -> str:
        names = itertools.chain((base,), (f"{base}:{n}" for n in itertools.count(2)))
        return next(name for name in names if name not in self.instances)

    def _make_way(self, spec: Spec) -> None:
        """What a JIT load does to others: it evicts what JIT loaded, and collides with loads under way."""
        for other in list(self.instances.values()):
            if other.spec is spec:
                continue
            if other.loaded_at is None and self.traps.jit_cancels_load:
                self.drop(other, "Operation canceled.")  # which of the two it hits is not told; an explicit
            elif other.jit and other.answers and self.traps.auto_evict:  # load is hit too: harsher than seen
                self.drop(other, "Model unloaded", "jit")  # explicit loads are spared [OBS 0.4.21]

    # Who answers

    async def find(self, name: str, *, embedding: bool = False, ttl_s: float | None = None) -> Instance:
        """Return who answers a request for *name*, loading it if need be [OBS 0.4.25, 1.1.7]."""
        exact = self.instances.get(name)
        if exact is not None and exact.answers and exact.spec.embedding == embedding:
            return self._chosen(name, exact)
        spec = self.spec_of(name)
        if spec is not None and (found := await self._own(spec, embedding, ttl_s)) is not None:
            return self._chosen(name, found)
        chats = [one for one in self.instances.values() if one.answers and not one.spec.embedding]
        if self.traps.any_name and len(chats) == 1 and not embedding:
            return self._chosen(name, chats[0])
        if not chats and not self.traps.jit:
            raise Refusal("none_loaded", NONE_LOADED)
        raise Refusal(
            "not_found", f'Invalid model identifier "{name}". Please specify a valid downloaded model.'
        )

    async def _own(self, spec: Spec, embedding: bool, ttl_s: float | None) -> Instance | None:
        there = self.of(spec)
        if embedding and not spec.embedding and self.traps.embedding_reloads:
            there = []
        for instance in there:
            if instance.answers:
                return instance
        if there and not self.traps.jit_race and there[0].task is not None:
            await asyncio.wait((there[0].task,))
            return there[0] if there[0].answers else None
        return await self.load(spec, jit=True, ttl_s=ttl_s) if self.traps.jit else None

    def _chosen(self, name: str, instance: Instance) -> Instance:
        asked = self.spec_of(name) or (self.instances[name].spec if name in self.instances else None)
        if asked is not instance.spec:
            self.note("wrong_model", **instance.facts, asked=name)
        self.touch(instance)
        return instance

    def touch(self, instance: Instance) -> None:
        """Begin the time to live anew; only what JIT loaded has one [DOC ttl-and-auto-evict.md]."""
        if instance.timer is not None:
            instance.timer.cancel()
        if instance.ttl_s is not None and instance.answers:
            instance.timer = asyncio.get_running_loop().call_later(instance.ttl_s, self._expire, instance)

    def _expire(self, instance: Instance) -> None:
        if instance.running:
            self.touch(instance)
        else:
            self.drop(instance, "its time to live is over")

    # Generations

    async def generate(self, instance: Instance, asked: str, tokens: int) -> AsyncGenerator[str]:
        """Yield tokens that name their model.  Raises `Unloaded`; it ends when its reader leaves."""
        facts = {**instance.facts, "asked": asked, "id": next(self._ids)}
        instance.running += 1
        self.note("generation_start", **facts)
        outcome = "generation_left"
        try:
            async with instance.slots:  # the rest queues inside LM Studio [DOC parallel-requests.md]
                for _ in range(tokens):
                    await asyncio.sleep(self.knobs.token_s)
                    if instance.gone.is_set():
                        outcome = "generation_cut"
                        raise Unloaded(instance.why)
                    yield f"{instance.spec.key} "
            outcome = "generation_end"
        finally:
            instance.running -= 1
            if instance.why == "the server was killed":
                outcome = "generation_killed"
            self.note(outcome, **facts, why=instance.why, by=instance.by)

    # What went wrong

    def happened(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]

    def cuts(self) -> list[dict[str, Any]]:
        """Generations that an unload, an eviction or a crash cut off."""
        return self.happened("generation_cut")

    def wrong(self) -> list[dict[str, Any]]:
        """Requests that a model answered which they did not name."""
        return self.happened("wrong_model")

    def stacks(self) -> list[dict[str, Any]]:
        """Loads that began while another instance of the same model was there."""
        return [one for one in self.happened("load_start") if one["stacked"]]

    def most(self, *, embedding: bool = False) -> int:
        """Count the instances that were in memory at once, at most, loading ones included."""
        return max(self._counts(embedding), default=0)

    def _counts(self, embedding: bool) -> Iterator[int]:
        alive: set[str] = set()
        for one in self.events:
            if one["event"] == "load_start" and self.specs[one["model"]].embedding == embedding:
                alive.add(one["instance"])
            elif one["event"] == "gone":
                alive.discard(one["instance"])
            yield len(alive)


GUARDRAILS = (
    "Model loading was stopped due to insufficient system resources. Continuing to load the model would "
    "likely overload your system and cause it to freeze. If you think this is incorrect, you can adjust the "
    "model loading guardrails in settings."
)
"""Verbatim, production body of 2026-07-19."""

NONE_LOADED = "No models loaded. Please load a model in the developer page or use the 'lms load' command."
"""#1730, 0.4.8."""
