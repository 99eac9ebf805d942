"""The waiting tickets in order of arrival, at large and by model, and by client within a model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dmap.arbiter.effects import ClientId, ModelId, TicketId
from dmap.arbiter.fairness import Ledger
from dmap.arbiter.policy import standing, weight
from dmap.arbiter.state import Limits, Ticket

Queue = dict[TicketId, Ticket]


@dataclass(slots=True)
class Line:
    """
    The tickets that wait for one model.  A line lives as long as it has one.

    *queues* has the same tickets as *tickets*, by client and priority.  *weights* is the sum of what each
    counts for, and *weighted_since* that of their arrivals.
    """

    tickets: Queue = field(default_factory=dict)
    queues: dict[tuple[ClientId, int], Queue] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    weights: float = 0.0
    weighted_since: float = 0.0

    def add(self, now: float, ticket: Ticket) -> None:
        """Put *ticket* into its client's queue."""
        if not any(client == ticket.client for client, _ in self.queues):
            self.ledger.joins(now, ticket.client, self.clients())
            self.ledger.forget((ticket.client, *self.clients()))
        _put(self.tickets, ticket)
        _put(self.queues.setdefault((ticket.client, ticket.priority), {}), ticket)
        share = weight(ticket.priority)
        self.weights += share
        self.weighted_since += share * ticket.since

    def take(self, ticket: Ticket) -> None:
        """Take *ticket* out, wherever it stands."""
        del self.tickets[ticket.id]
        queue = self.queues[ticket.client, ticket.priority]
        del queue[ticket.id]
        if not queue:
            del self.queues[ticket.client, ticket.priority]
        share = weight(ticket.priority)
        self.weights -= share
        self.weighted_since -= share * ticket.since

    def clients(self) -> Iterator[ClientId]:
        """Iterate over those who wait; one who does so with two priorities comes twice."""
        return (client for client, _ in self.queues)

    def next(self, now: float, limits: Limits, answer_s: float) -> Ticket:
        """Return whose turn it is: by standing, then by what the client has received, then by age."""
        heads = [next(iter(queue.values())) for queue in self.queues.values()]
        if len(heads) == 1:
            return heads[0]
        top = self._top()

        def turn(ticket: Ticket) -> tuple[float, float, float]:
            level_s = self.ledger.level_s(now, ticket.client, answer_s)
            return -standing(limits, now, ticket, top), level_s, ticket.since

        return min(heads, key=turn)

    def in_turn(self, now: float, limits: Limits, answer_s: float) -> list[Ticket]:
        """Lay out the turns to come, if each answer takes *answer_s* and nobody else comes."""
        top = self._top()
        turns: list[tuple[tuple[float, float, float], int, Ticket]] = []
        for (client, _), queue in self.queues.items():
            level_s = self.ledger.level_s(now, client, answer_s)
            for ahead, ticket in enumerate(queue.values()):
                key = -standing(limits, now, ticket, top), level_s + ahead * answer_s, ticket.since
                turns.append((key, len(turns), ticket))
        return [ticket for _, _, ticket in sorted(turns)]

    def _top(self) -> int:
        return max([priority for _, priority in self.queues])


def _put(queue: Queue, ticket: Ticket) -> None:
    """Put *ticket* behind all that are as old: almost always at the end."""
    last = next(reversed(queue.values()), ticket)
    queue[ticket.id] = ticket
    if last.since > ticket.since:
        for id in [id for id, other in queue.items() if other.since > ticket.since]:
            queue[id] = queue.pop(id)


class Waiters:
    """
    Lines of tickets, one per model.

    Adding, taking and looking at a head are O(1) for a client that waits already: dicts keep the order and
    forget from the middle.  Finding whose turn it is takes a look at each waiting client.
    """

    __slots__ = ("_all", "_lines")

    def __init__(self) -> None:
        self._all: Queue = {}
        self._lines: dict[ModelId, Line] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, ticket: TicketId) -> bool:
        return ticket in self._all

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._all.values())

    def add(self, now: float, ticket: Ticket) -> None:
        """Put *ticket* into its model's line: at the end, or by its age if it came back."""
        _put(self._all, ticket)
        line = self._lines.get(ticket.model)
        if line is None:
            line = self._lines[ticket.model] = Line()
        line.add(now, ticket)

    def take(self, id: TicketId) -> Ticket:
        """Take a ticket out, wherever it stands."""
        ticket = self._all.pop(id)
        line = self._lines[ticket.model]
        line.take(ticket)
        if not line.tickets:
            del self._lines[ticket.model]
        return ticket

    def grant(self, now: float, ticket: Ticket) -> None:
        """Take *ticket* out to be served, and charge its client."""
        self._lines[ticket.model].ledger.granted(now, ticket)
        self.take(ticket.id)

    def served(self, now: float, ticket: Ticket) -> None:
        """Hear that a granted ticket was served."""
        line = self._lines.get(ticket.model)
        if line is not None:
            line.ledger.handed_back(now, ticket)

    def spared(self, ticket: Ticket) -> None:
        """Hear that a granted ticket was not served: its client has received nothing."""
        line = self._lines.get(ticket.model)
        if line is not None:
            line.ledger.taken_back(ticket)

    def models(self) -> Iterable[ModelId]:
        """Return the models somebody waits for."""
        return self._lines.keys()

    def line(self, model: ModelId) -> Iterable[Ticket]:
        """Return the tickets that wait for *model*, oldest first."""
        line = self._lines.get(model)
        return line.tickets.values() if line is not None else ()

    def in_turn(self, now: float, model: ModelId, limits: Limits, answer_s: float) -> list[Ticket]:
        """Return the tickets that wait for *model* in the order of their turns, as far as can be told now."""
        line = self._lines.get(model)
        return line.in_turn(now, limits, answer_s) if line is not None else []

    def next(self, now: float, model: ModelId, limits: Limits, answer_s: float) -> Ticket:
        """Return the ticket for *model* whose turn it is."""
        return self._lines[model].next(now, limits, answer_s)

    def count(self, model: ModelId) -> int:
        """Return how many tickets wait for *model*."""
        line = self._lines.get(model)
        return len(line.tickets) if line is not None else 0

    def head(self, model: ModelId) -> Ticket:
        """Return the ticket that waits longest for *model*."""
        return next(iter(self._lines[model].tickets.values()))

    def oldest(self) -> Ticket | None:
        """Return the ticket that waits longest."""
        return next(iter(self._all.values()), None)

    def weight(self, model: ModelId) -> float:
        """Return what the tickets that wait for *model* count for together, by priority."""
        return self._lines[model].weights

    def age(self, model: ModelId, now: float) -> float:
        """Return the summed age of the tickets that wait for *model*, each weighed by priority."""
        line = self._lines[model]
        return line.weights * now - line.weighted_since
