"""The exhaustive walk: every interleaving of a few tickets and models, invariants on every transition."""

import copyreg
import gc
import importlib
import io
import operator
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass

import pytest

from dmap import arbiter
from dmap.arbiter import Cause, Limits, Needs, Outcome
from tests.arbiter_invariants import Request, Watch, watch

ONE = Needs(size_bytes=6, parallel=1)
TWO = Needs(size_bytes=4, parallel=2)
EMBEDDING = Needs(size_bytes=1, embedding=True)
PINNED = Needs(size_bytes=4, pinned=True)
SHORT_LIVED = Needs(size_bytes=4, parallel=1, ttl_s=2)


@dataclass(slots=True)
class Walk:
    """A state of the walk: the arbiter under watch, and what may still happen to it."""

    watch: Watch
    plan: tuple[tuple[int, int, Needs], ...]
    submitted: int = 0
    failures: int = 0
    surprises: int = 0
    steps: int = 0
    closings: int = 0
    wishes: int = 0
    returns: int = 0
    drains: int = 0


Move = Callable[[Walk], None]


def moves(walk: Walk) -> Iterator[Move]:
    """Yield all that may happen next."""
    watch = walk.watch
    if walk.submitted < len(walk.plan):
        yield submit
    for id, request in watch.requests.items():
        if request.state != "over":
            yield lambda walk, id=id: walk.watch.withdraw(id)
        if request.state == "leased" and walk.returns:
            yield lambda walk, id=id: come_back(walk, id)
    if watch.doubted:
        yield lambda walk: walk.watch.observe(dict(walk.watch.loaded), walk.watch.arbiter.epoch)
    if watch.switch is not None:
        yield from switch_moves(walk)
    if walk.surprises:
        yield from surprises(walk)
    if walk.steps and (deadline := watch.arbiter.next_deadline()) is not None:
        yield lambda walk: advance(walk, deadline)
    if walk.steps:
        yield lambda walk: advance(walk, walk.watch.now + 1)
    if walk.closings:
        yield close
    if walk.wishes:
        yield from (lambda walk, model=model: wish(walk, model) for model in watch.loaded)
    for model, causes in watch.wishes.items():
        if Cause.ASKED in causes:
            yield lambda walk, model=model: walk.watch.keep(model)
    if watch.drained:
        yield lambda walk: walk.watch.resume()
    elif walk.drains:
        yield lambda walk: drain(walk, unload=True)
        yield lambda walk: drain(walk, unload=False)


def switch_moves(walk: Walk) -> Iterator[Move]:
    """Yield what the gate may report about the switch under way."""
    watch = walk.watch
    if watch.switch.load is None:
        yield lambda walk: walk.watch.unload_next()
        yield lambda walk: walk.watch.refuse_to_go()
        return
    if watch.unloaded < len(watch.switch.unload):
        yield lambda walk: walk.watch.unload_next()
    elif not watch.cleared:
        yield lambda walk: walk.watch.clear()
    else:
        yield lambda walk: walk.watch.finish(Outcome())
        if watch.stopping:
            yield lambda walk: walk.watch.finish(Outcome(stopped=True))
    if walk.failures:
        yield fail


def surprises(walk: Walk) -> Iterator[Move]:
    """Yield what a look at the backends may find: one resident gone, one too many, an outdated view."""
    loaded, epoch = walk.watch.loaded, walk.watch.arbiter.epoch
    for model in loaded:
        left = {other: needs for other, needs in loaded.items() if other != model}
        yield lambda walk, left=left: surprise(walk, left, epoch)
    yield lambda walk: surprise(walk, {**walk.watch.loaded, 0: walk.plan[0][2]}, epoch)
    if walk.watch.switch is not None:
        yield lambda walk: surprise(walk, {}, epoch)


def submit(walk: Walk) -> None:
    """Submit the next ticket of the plan."""
    model, client, needs = walk.plan[walk.submitted]
    walk.submitted += 1
    walk.watch.submit(walk.submitted, model, client, needs)


def fail(walk: Walk) -> None:
    """Let the switch fail; a failed load may have been for want of memory."""
    walk.failures -= 1
    walk.watch.finish(Outcome(failed="no such file", crowded=walk.watch.cleared))


def surprise(walk: Walk, residents: dict[int, Needs], epoch: int) -> None:
    """Report something unexpected."""
    walk.surprises -= 1
    walk.watch.observe(residents, epoch)


def advance(walk: Walk, to: float) -> None:
    """Let time pass."""
    walk.steps -= 1
    walk.watch.advance(to)


def close(walk: Walk) -> None:
    """Close the arbiter."""
    walk.closings -= 1
    walk.watch.close()


def wish(walk: Walk, model: int) -> None:
    """Wish a model away: the last time because somebody asked, before that as one that is outdated."""
    walk.wishes -= 1
    walk.watch.unload(model, Cause.OUTDATED if walk.wishes else Cause.ASKED)


def come_back(walk: Walk, id: int) -> None:
    """Let a lease's resident not answer."""
    walk.returns -= 1
    walk.watch.come_back(id)


def drain(walk: Walk, *, unload: bool) -> None:
    """Stop the device."""
    walk.drains -= 1
    walk.watch.drain(unload)


def fields_of(value: object) -> tuple[type, tuple[object, ...]]:
    """Tell pickle how to copy a dataclass with slots; its own way takes twice as long."""
    return type(value), FIELDS[type(value)](value)


def freeze(walk: Walk) -> bytes:
    """Return the state as bytes, which are its copy and its identity."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, -1)
    pickler.dispatch_table = REDUCERS
    pickler.dump(walk)
    return buffer.getvalue()


def is_plain(kind: type) -> bool:
    """Tell whether a class is made of its slots, of two at least, in their order and of nothing else."""
    if not is_dataclass(kind) or "__slots__" not in vars(kind) or hasattr(kind, "__post_init__"):
        return False
    return len(fields(kind)) > 1 and [each.name for each in fields(kind) if each.init] == [*kind.__slots__]


MODULES = [
    importlib.import_module(f"dmap.arbiter.{each.name}") for each in pkgutil.iter_modules(arbiter.__path__)
]
CLASSES = [Request, Watch, Walk]
CLASSES += [
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and kind.__module__ == module.__name__
]
COPIED = [kind for kind in CLASSES if is_plain(kind)]
FIELDS = {kind: operator.attrgetter(*kind.__slots__) for kind in COPIED}
REDUCERS = dict.fromkeys(COPIED, fields_of)


@pytest.fixture(autouse=True)
def quick_copies() -> Iterator[None]:
    """Give the classes of a state short names, which halves the time of a copy; spare them the collector."""
    numbered = list(enumerate(CLASSES, 128))
    gc.disable()
    for code, kind in numbered:
        copyreg.add_extension(kind.__module__, kind.__name__, code)
    yield
    for code, kind in numbered:
        copyreg.remove_extension(kind.__module__, kind.__name__, code)
    gc.enable()


def explore(start: Walk) -> int:
    """Go everywhere that *start* leads to; return the number of transitions."""
    first = freeze(start)
    seen, ahead, transitions = {first}, [first], 0
    while ahead:
        state = ahead.pop()
        here = pickle.loads(state)
        all_moves = list(moves(here))
        for move in all_moves:
            walk = here if move is all_moves[-1] else pickle.loads(state)
            move(walk)
            transitions += 1
            after = freeze(walk)
            if after not in seen:
                seen.add(after)
                ahead.append(after)
    return transitions


SHORT = Limits(patience_s=3, residency=2, wait_s=9)
ROOMY = Limits(max_models=2, memory_bytes=10, patience_s=3, residency=2, wait_s=9)

STARTS = {
    "one slot, A B A": Walk(watch(SHORT), ((1, 1, ONE), (2, 2, ONE), (1, 1, ONE)), steps=2),
    "one slot, A B C": Walk(watch(SHORT), ((1, 1, ONE), (2, 2, ONE), (3, 3, ONE)), steps=2),
    "one slot, closed": Walk(
        watch(SHORT), ((1, 1, ONE), (2, 2, ONE)), failures=1, surprises=1, steps=1, closings=1
    ),
    "one slot, surprised": Walk(watch(SHORT), ((1, 1, ONE), (2, 2, ONE)), failures=1, surprises=1, steps=2),
    "room for two": Walk(watch(ROOMY), ((1, 1, ONE), (2, 2, TWO), (3, 3, ONE)), failures=1, steps=1),
    "embedding": Walk(watch(SHORT), ((1, 1, ONE), (3, 1, EMBEDDING), (2, 2, ONE)), failures=1, steps=1),
    "pinned": Walk(watch(ROOMY), ((1, 1, PINNED), (2, 2, TWO), (3, 3, ONE)), surprises=1, steps=1),
    "wished away": Walk(watch(SHORT), ((1, 1, ONE), (2, 2, ONE)), surprises=1, steps=1, wishes=1),
    "pinned, wished away": Walk(watch(ROOMY), ((1, 1, PINNED), (2, 2, ONE)), failures=1, steps=1, wishes=1),
    "drained": Walk(watch(ROOMY), ((1, 1, ONE), (2, 2, TWO)), failures=1, steps=1, drains=1),
    "short-lived": Walk(watch(ROOMY), ((1, 1, SHORT_LIVED), (2, 2, ONE)), steps=3),
    "came back": Walk(watch(SHORT), ((1, 1, ONE), (2, 2, ONE)), surprises=1, steps=1, returns=1),
    "came back, beside others": Walk(
        watch(ROOMY), ((2, 1, TWO), (1, 2, ONE), (2, 3, TWO)), steps=1, returns=1
    ),
    "came back, drained": Walk(watch(ROOMY), ((1, 1, ONE), (2, 2, TWO)), drains=1, returns=1),
    "wished away twice": Walk(watch(SHORT), ((1, 1, ONE), (2, 2, ONE)), wishes=2, drains=1),
    "one line": Walk(watch(SHORT), ((1, 1, ONE), (1, 1, ONE), (1, 1, ONE), (1, 2, ONE)), steps=1),
}


LONG = {
    "one step more": Walk(watch(SHORT), ((1, 1, ONE), (2, 2, ONE)), failures=1, surprises=1, steps=3),
    "one slot, A B A, a failure": Walk(
        watch(SHORT), ((1, 1, ONE), (2, 2, ONE), (1, 1, ONE)), failures=1, steps=2
    ),
}


@pytest.mark.parametrize("start", STARTS)
def test_every_interleaving_keeps_the_invariants(start: str) -> None:
    """Whatever happens in whatever order, no invariant breaks; each walk is as large as it claims to be."""
    assert explore(STARTS[start]) >= 5_000


@pytest.mark.soak
@pytest.mark.parametrize("start", LONG)
def test_a_longer_walk(start: str) -> None:
    """One step of time or one failure more makes many more states, and none of them breaks an invariant."""
    assert explore(LONG[start]) >= 45_000
