"""The waiting tickets in order of arrival, at large and by model, and by client within a model."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from operator import itemgetter

from dmap.arbiter.effects import ClientId, ModelId, TicketId
from dmap.arbiter.fairness import Ledger
from dmap.arbiter.peers import Peers, Queue, put
from dmap.arbiter.policy import class_patience_s, standing, weight
from dmap.arbiter.state import Limits, Ticket


@dataclass(slots=True)
class Line:
    """
    The tickets that wait for one model.  A line lives as long as it has one.

    *peers* has the same tickets as *tickets*, by priority, and *clients* how many each has.
    *weights* is the sum of what each ticket counts for, and *weighted_since* that of their arrivals.
    """

    tickets: Queue = field(default_factory=dict)
    peers: dict[int, Peers] = field(default_factory=dict)
    clients: dict[ClientId, int] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    weights: float = 0.0
    weighted_since: float = 0.0

    def add(self, now: float, ticket: Ticket) -> None:
        """Put *ticket* into its client's queue."""
        waiting = self.clients.get(ticket.client, 0)
        self.clients[ticket.client] = waiting + 1
        if not waiting:
            self.ledger.joins(now, ticket.client)
            self.ledger.forget(self.clients)
        put(self.tickets, ticket)
        peers = self.peers.get(ticket.priority)
        if peers is None:
            peers = self.peers[ticket.priority] = Peers(self.ledger)
        peers.add(ticket)
        share = weight(ticket.priority)
        self.weights += share
        self.weighted_since += share * ticket.since

    def take(self, ticket: Ticket) -> None:
        """Take *ticket* out, wherever it stands."""
        del self.tickets[ticket.id]
        self.clients[ticket.client] -= 1
        if not self.clients[ticket.client]:
            del self.clients[ticket.client]
        peers = self.peers[ticket.priority]
        peers.take(ticket)
        if not peers.tickets:
            del self.peers[ticket.priority]
        share = weight(ticket.priority)
        self.weights -= share
        self.weighted_since -= share * ticket.since

    def granted(self, now: float, ticket: Ticket) -> None:
        """Take *ticket* out to be served, and charge its client."""
        self.ledger.granted(now, ticket)
        self.take(ticket)
        self._place(ticket.client)

    def ended(self, now: float, ticket: Ticket, *, served: bool) -> None:
        """Hear that a granted ticket gave its lease back, which counts for nothing unless it was *served*."""
        self.ledger.ended(now, ticket, served=served)
        self._place(ticket.client)

    @property
    def oldest(self) -> Ticket:
        """The ticket that waits longest."""
        return next(iter(self.tickets.values()))

    def ahead_of(self, client: ClientId, priority: int) -> int:
        """
        Tell how many have their turn before one more of *client*, about: those of its class and above.

        Each other client has one turn before each of its own.
        """
        own = self.clients.get(client, 0)
        others = len(self.clients) - (own > 0)
        above = sum(len(peers.tickets) for class_, peers in self.peers.items() if class_ >= priority)
        return min(above, own + (own + 1) * others)

    def patience_ends(self, limits: Limits, patience_s: float) -> float:
        """Tell when the first ticket loses patience, which a waiter of priority 0 has for *patience_s*."""
        return min(
            next(iter(peers.tickets.values())).since + class_patience_s(limits, patience_s, priority)
            for priority, peers in self.peers.items()
        )

    def next(self, now: float, limits: Limits, answer_s: float) -> Ticket:
        """
        Return whose turn it is, and let the turns go on from there.

        Of lower priorities only those count that age has lifted by now; there is always one above the others.
        """
        top = max(self.peers)
        some = list(self.peers[top].next())

        def is_lifted(ticket: Ticket) -> bool:
            return standing(limits, now, ticket, top) == top

        for priority, peers in self.peers.items():
            if priority != top and is_lifted(next(iter(peers.tickets.values()))):
                some += peers.next(is_lifted)
        chosen = some[0] if len(some) == 1 else min(some, key=self._turn(now, limits, answer_s))
        self.ledger.pass_turn(now, chosen, limits.patience_s)
        return chosen

    def in_turn(self, now: float, limits: Limits, answer_s: float) -> list[Ticket]:
        """Lay out the turns to come, if each answer takes *answer_s* and nobody else comes."""
        if len(self.peers) == 1:
            return next(iter(self.peers.values())).in_turn(now, limits.patience_s, answer_s)
        turn = self._turn(now, limits, answer_s)
        queues = (queue for peers in self.peers.values() for queue in peers.queues.values())
        places = (place for queue in queues for place in enumerate(queue.values()))
        turns = [(turn(ticket, ahead), ticket) for ahead, ticket in places]
        return [ticket for _, ticket in sorted(turns, key=itemgetter(0))]

    def _turn(self, now: float, limits: Limits, answer_s: float) -> "Callable[..., tuple[float, ...]]":
        """
        Return what sorts a ticket, with so many *ahead* of it in its own queue.

        By standing; then those come first whose clients have had nothing for `patience_s`, by that time; then
        by what the client has received, and by age.
        """
        top = max(self.peers)
        ledger, patience_s = self.ledger, limits.patience_s

        def turn(ticket: Ticket, ahead: int = 0) -> tuple[float, ...]:
            class_ = top if ticket.priority == top else standing(limits, now, ticket, top)
            waits_since = ledger.waits_since(ticket)
            if now - waits_since >= patience_s and not ahead:
                return -class_, 0, waits_since, ticket.since
            level_s = ledger.level_s(now, ticket.client, answer_s) + ahead * answer_s
            return -class_, 1, level_s, ticket.since

        return turn

    def _place(self, client: ClientId) -> None:
        if client in self.clients:
            for peers in self.peers.values():
                peers.place(client)


@dataclass(slots=True)
class Waiters:
    """
    The *tickets* that wait, oldest first, and their *lines*, one for each model that somebody waits for.
    *changed* are the models whose lines did; whoever heeds it empties it.

    Looking at the oldest is O(1), for dicts keep the order and forget from the middle.  Adding, taking and
    finding whose turn it is take a search in sorted lists, and a look at each client with a lease.
    """

    lines: dict[ModelId, Line] = field(default_factory=dict)
    tickets: Queue = field(default_factory=dict)
    changed: set[ModelId] = field(default_factory=set)

    def add(self, now: float, ticket: Ticket) -> None:
        """Put *ticket* into its model's line: at the end, or by its age if it came back."""
        self.changed.add(ticket.model)
        put(self.tickets, ticket)
        line = self.lines.get(ticket.model)
        if line is None:
            line = self.lines[ticket.model] = Line()
        line.add(now, ticket)

    def take(self, id: TicketId) -> Ticket:
        """Take a ticket out, wherever it stands."""
        ticket = self.tickets.pop(id)
        self.changed.add(ticket.model)
        line = self.lines[ticket.model]
        line.take(ticket)
        if not line.tickets:
            del self.lines[ticket.model]
        return ticket

    def grant(self, now: float, ticket: Ticket) -> None:
        """Take *ticket* out to be served, and charge its client."""
        del self.tickets[ticket.id]
        self.changed.add(ticket.model)
        line = self.lines[ticket.model]
        line.granted(now, ticket)
        if not line.tickets:
            del self.lines[ticket.model]

    def ended(self, now: float, ticket: Ticket, *, served: bool) -> None:
        """Hear that a granted ticket gave its lease back, which counts for nothing unless it was *served*."""
        line = self.lines.get(ticket.model)
        if line is not None:
            line.ended(now, ticket, served=served)

    def of(self, model: ModelId) -> Collection[Ticket]:
        """Return the tickets that wait for *model*, oldest first."""
        line = self.lines.get(model)
        return line.tickets.values() if line is not None else ()

    def count(self, model: ModelId) -> int:
        """Return how many tickets wait for *model*."""
        return len(self.of(model))

    def oldest(self) -> Ticket | None:
        """Return the ticket that waits longest."""
        return next(iter(self.tickets.values()), None)
