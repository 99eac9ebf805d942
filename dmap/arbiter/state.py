"""The arbiter's records: what it hears, what it remembers, what it shows.  No decisions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from dmap.arbiter.effects import Cause, ClientId, ModelId, Switch, TicketId


class Needs(NamedTuple):
    """
    What a model takes of its device.

    *size_bytes* None takes the whole device, *parallel* None bounds nothing.  A resident that nobody used
    or waited for during *ttl_s* is unloaded, unless it is pinned.  *together* names the owner's lists that it
    is on: all that are on one list fit together, whatever they take.
    """

    size_bytes: int | None = None
    parallel: int | None = None
    embedding: bool = False
    pinned: bool = False
    ttl_s: float | None = None
    together: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What a device allows and how its queue is kept; the keys of `devices:` in the configuration.

    After *return_s* without anything asked, models that were preloaded come back; None is never.
    """

    max_models: int = 1
    memory_bytes: int | None = None
    embeddings: int = 1
    patience_s: float = 60
    residency: float = 4
    wait_s: float = 300
    queue: int = 1024
    return_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How a switch ended.

    *failed* is the reason of a failure, None when the model answers, or when its load was *stopped* and has
    left nothing behind.  *crowded* tells that the failure may
    be for want of memory, so that a load with the device to itself is worth a try.
    """

    failed: str | None = None
    size_bytes: int | None = None
    parallel: int | None = None
    crowded: bool = False
    stopped: bool = False


class Situation(Enum):
    """What a newcomer waits behind: the line of a resident, the load under way, or the turns of others."""

    LINE = "line"
    LOAD = "load"
    TURN = "turn"


class Reckoned(NamedTuple):
    """A wait by plain arithmetic: until the model is *ready*, and then for those ahead in its *line*."""

    situation: Situation
    ready_s: float
    line_s: float

    @property
    def wait_s(self) -> float:
        """The whole of it."""
        return self.ready_s + self.line_s


class Wait(NamedTuple):
    """A wait as it is told: half of them are no longer than *estimate_s*, four of five than *p80_s*."""

    estimate_s: float
    p80_s: float


@dataclass(slots=True)
class Ticket:
    """
    One request's place.  It must not evict anyone on its own before *held_until*.  *user* is who may come
    back after its answer.

    *reckoned* is the wait to be expected when it came, None if it had not to wait.  Nothing else changes; but
    that a frozen one is dear to make shows on every request.
    """

    id: TicketId
    model: ModelId
    client: ClientId
    since: float
    held_until: float = 0
    priority: int = 0
    user: ClientId | None = None
    reckoned: Reckoned | None = None


@dataclass(slots=True)
class Resident:
    """
    A loaded model.

    *since* is when it became resident and *cost_s* what its own switch took, 0 for one that was found.
    *expected* are users that may be about to ask it again.  It is *doubted* when it did not
    answer and nobody has seen it since.
    """

    model: ModelId
    needs: Needs
    since: float
    cost_s: float
    leases: int = 0
    used_at: float = 0
    expected: dict[ClientId, None] = field(default_factory=dict)
    doubted: bool = False

    @property
    def is_full(self) -> bool:
        """Whether another lease would exceed *parallel*."""
        return self.needs.parallel is not None and self.leases >= self.needs.parallel


@dataclass(slots=True)
class Holding:
    """A granted ticket, bound to the resident that serves it: a copy loaded later is another."""

    ticket: Ticket
    resident: Resident
    since: float


@dataclass(slots=True)
class Plan:
    """
    A decided switch: first its victims drain, then *switch* is out, then *loading* is set.

    *load* is None for one that only unloads.  It is *stopping* once its load was asked to end.
    *abandoned_by* is the client that left last while nobody else waited for the load.
    """

    load: ModelId | None
    victims: tuple[ModelId, ...]
    cause: Cause
    since: float
    started: float = 0
    switch: Switch | None = None
    loading: bool = False
    stopping: bool = False
    abandoned_by: ClientId | None = None

    @property
    def is_unasked(self) -> bool:
        """Whether it was not decided for anybody who waits."""
        return self.cause in (Cause.PRELOAD, Cause.RETURN)

    @property
    def phase(self) -> str:
        """What is being done: `drain`, `unload` or `load`."""
        if self.switch is None:
            return "drain"
        return "load" if self.loading else "unload"


class Place(NamedTuple):
    """
    A waiting ticket's *position*, from 1, and its wait from now on, as in `Wait`.

    On a drained device that is the time after which the ticket will be refused.
    """

    position: int
    estimate_s: float
    p80_s: float


@dataclass(frozen=True, slots=True)
class ResidentView:
    """A resident as others see it."""

    model: ModelId
    leases: int
    waiting: int
    since: float
    leaving: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    The arbiter at one moment; cheap, however many wait.

    *plan* is the switch decided on, the arbiter's own: to be looked at, and at once.  *leases* counts orphans
    too, whose model vanished under them.  *preload* has how those stand that are to be there before anybody
    asks: `resident`, `loading`, `due`, `failed`, `unloaded` by hand or for its `ttl_s`, or `away`.
    """

    residents: tuple[ResidentView, ...]
    plan: Plan | None
    waiting: int
    leases: int
    oldest_wait_s: float
    drained: bool = False
    preload: Mapping[ModelId, str] = field(default_factory=dict)
