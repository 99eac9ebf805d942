"""Longer lives of an arbiter than the walk can follow, drawn by Hypothesis; the same each time."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dmap.arbiter import Cause, Limits, Needs, Outcome
from tests.arbiter_invariants import Watch, watch

MODELS = {
    1: Needs(size_bytes=6, parallel=1),
    2: Needs(size_bytes=4, parallel=2),
    3: Needs(size_bytes=5),
    4: Needs(parallel=2),
    5: Needs(size_bytes=1, embedding=True),
    6: Needs(size_bytes=3, parallel=1, pinned=True),
    7: Needs(size_bytes=4, parallel=1, ttl_s=7),
}

LISTS = st.lists(st.sets(st.sampled_from(list(MODELS)), min_size=2), max_size=3)
LIMITS = st.builds(
    Limits,
    max_models=st.integers(1, 3),
    memory_bytes=st.sampled_from([None, 6, 10]),
    embeddings=st.integers(0, 1),
    patience_s=st.integers(0, 20),
    residency=st.integers(0, 4),
    wait_s=st.integers(1, 100),
    queue=st.integers(1, 8),
    return_s=st.sampled_from([None, 3, 30]),
)


def on_lists(lists: list[set[int]], model: int) -> frozenset[str]:
    """Return those of *lists* that *model* is on."""
    return frozenset(str(sorted(models)) for models in lists if model in models)


class Life(RuleBasedStateMachine):
    """One device's life: tickets, switches, failures, surprises and time, in any order."""

    watch: Watch

    @initialize(limits=LIMITS, models=st.sampled_from([list(MODELS), [1], [1, 2]]), lists=LISTS)
    def begin(self, limits: Limits, models: list[int], lists: list[set[int]]) -> None:
        """Start with nothing resident; or with the only model there is, so that lines get long."""
        self.watch = watch(limits)
        self.models = models
        self.declare(lists)
        if len(models) == 1:
            self.watch.observe({model: self.needs[model] for model in models}, 0)
        self.epochs = [0]

    @rule(lists=LISTS)
    def declare(self, lists: list[set[int]]) -> None:
        """The owner says anew which models fit together."""
        self.needs = {
            model: needs._replace(together=on_lists(lists, model)) for model, needs in MODELS.items()
        }

    @rule(models=st.lists(st.sampled_from(list(MODELS)), max_size=4, unique=True))
    def preload(self, models: list[int]) -> None:
        """The owner says anew which models are to be there before anybody asks."""
        self.watch.preload({model: self.needs[model] for model in models})

    @rule(number=st.integers(0, 6), client=st.integers(1, 4), raised=st.integers(-1, 1))
    def submit(self, number: int, client: int, raised: int) -> None:
        """A client asks for a model; the fourth one with a priority."""
        model, priority = self.models[number % len(self.models)], raised if client == 4 else 0
        self.watch.submit(len(self.watch.requests) + 1, model, client, self.needs[model], priority)

    @precondition(lambda self: any(self.watch.leases.values()))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """A resident does not answer the one it was granted to."""
        leases = [id for ids in self.watch.leases.values() for id in sorted(ids)]
        self.watch.come_back(data.draw(st.sampled_from(leases)))

    @precondition(lambda self: self.watch.requests)
    @rule(data=st.data())
    def come_back_late(self, data: st.DataObject) -> None:
        """The same is told of a ticket in whatever state, whose model may have gone."""
        over = [id for id, request in self.watch.requests.items() if request.state != "waiting"]
        if over:
            self.watch.come_back(data.draw(st.sampled_from(over)))

    @rule()
    def look(self) -> None:
        """Somebody looks, and finds everything as it was thought to be."""
        self.watch.observe(dict(self.watch.loaded), self.watch.arbiter.epoch)

    @rule(model=st.sampled_from(list(MODELS)), cause=st.sampled_from([Cause.ASKED, Cause.OUTDATED]))
    def unload(self, model: int, cause: Cause) -> None:
        """Somebody wants a model to go, or it is outdated."""
        self.watch.unload(model, cause)

    @precondition(lambda self: self.watch.wishes)
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        """Somebody wants it no more."""
        self.watch.keep(data.draw(st.sampled_from(list(self.watch.wishes))))

    @precondition(lambda self: not self.watch.drained)
    @rule(unload=st.booleans())
    def drain(self, unload: bool) -> None:
        """Somebody stops the device."""
        self.watch.drain(unload)

    @precondition(lambda self: self.watch.drained)
    @rule()
    def resume(self) -> None:
        """Somebody lets it go on."""
        self.watch.resume()

    @precondition(lambda self: self.watch.requests)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """A ticket ends, in whatever state it is."""
        self.watch.withdraw(data.draw(st.sampled_from(list(self.watch.requests))))

    @precondition(lambda self: any(self.watch.leases.values()))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """An answer ends."""
        leases = [id for ids in self.watch.leases.values() for id in sorted(ids)]
        self.watch.withdraw(data.draw(st.sampled_from(leases)))

    @precondition(lambda self: self.watch.switch is not None)
    @rule()
    def go_on(self) -> None:
        """The switch under way takes its next step."""
        watch = self.watch
        if watch.unloaded < len(watch.switch.unload):
            watch.unload_next()
        elif not watch.cleared:
            watch.clear()
        else:
            watch.finish(Outcome())

    @precondition(lambda self: self.watch.switch is not None and self.watch.stopping)
    @rule()
    def stop(self) -> None:
        """The load under way is stopped, as the arbiter has asked."""
        self.watch.finish(Outcome(stopped=True))

    @precondition(lambda self: self.watch.switch is not None)
    @rule(crowded=st.booleans())
    def fail(self, crowded: bool) -> None:
        """The switch under way fails, at whatever step it is."""
        if self.watch.switch.load is None:
            return self.watch.refuse_to_go()
        self.watch.finish(Outcome(failed="no", crowded=crowded and self.watch.cleared))

    @rule(models=st.sets(st.sampled_from(list(MODELS))), age=st.integers(0, 3), by_hand=st.booleans())
    def observe(self, models: set[int], age: int, by_hand: bool) -> None:
        """Somebody looks at the backends, perhaps before the last switch."""
        self.epochs.append(self.watch.arbiter.epoch)
        found = {model: self.needs[model] for model in models}
        taken = frozenset(MODELS if by_hand else ())
        self.watch.observe(found, self.epochs[-1 - age % len(self.epochs)], taken)

    @rule(seconds=st.integers(1, 30) | st.floats(0.001, 30))
    def wait(self, seconds: float) -> None:
        """Time passes, with a late tick at its end."""
        self.watch.advance(self.watch.now + seconds)

    @precondition(lambda self: self.watch.arbiter.next_deadline() is not None)
    @rule()
    def wait_for_the_deadline(self) -> None:
        """Time passes up to the next deadline."""
        self.watch.advance(self.watch.arbiter.next_deadline())

    @invariant()
    def tells_the_truth(self) -> None:
        """The snapshot agrees with the account."""
        self.watch.check_snapshot()


Life.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    suppress_health_check=list(HealthCheck),
)


class TestLife(Life.TestCase):
    """No life breaks an invariant."""
