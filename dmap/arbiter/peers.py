"""
The turns among the waiting tickets of one model and one priority, without a look at each client.

What a client has received grows while it has a lease, and stands still otherwise.  So the heads of the queues
of those without a lease are kept sorted, and only clients with leases are looked at: they are as few as the
model has slots.  The counterpart is `waiters.Line`, which says when a client's account changes.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile

from dmap.arbiter.effects import ClientId, TicketId
from dmap.arbiter.fairness import Ledger
from dmap.arbiter.state import Ticket

Queue = dict[TicketId, Ticket]
Row = tuple[float, float, int, int, Ticket]
"""What sorts a ticket: a time, its age, the order of the queues, how many are before it in its own queue."""


def put(queue: Queue, ticket: Ticket) -> None:
    """Put *ticket* behind all that are as old: almost always at the end."""
    last = next(reversed(queue.values()), ticket)
    queue[ticket.id] = ticket
    if last.since > ticket.since:
        younger = takewhile(
            lambda other: other is ticket or other.since > ticket.since, reversed(queue.values())
        )
        for other in list(younger)[:0:-1]:
            queue[other.id] = queue.pop(other.id)


@dataclass(slots=True)
class Peers:
    """
    The *tickets* of one priority, and a queue of them for each client.

    Clients with leases are *busy*.  The heads of the others have rows in two lists: by since when their
    client has had nothing, and by what it has received.
    """

    ledger: Ledger
    tickets: Queue = field(default_factory=dict)
    queues: dict[ClientId, Queue] = field(default_factory=dict)
    _order: dict[ClientId, int] = field(default_factory=dict)
    _queued: int = 0
    _busy: dict[ClientId, None] = field(default_factory=dict)
    _rows: dict[ClientId, tuple[Row, Row]] = field(default_factory=dict)
    _by_wait: list[Row] = field(default_factory=list)
    _by_level: list[Row] = field(default_factory=list)

    def add(self, ticket: Ticket) -> None:
        """Put *ticket* into its client's queue."""
        put(self.tickets, ticket)
        queue = self.queues.get(ticket.client)
        if queue is None:
            queue = self.queues[ticket.client] = {}
            self._queued += 1
            self._order[ticket.client] = self._queued
        put(queue, ticket)
        if _head(queue) is ticket:
            self.place(ticket.client)

    def take(self, ticket: Ticket) -> None:
        """Take *ticket* out, wherever it stands."""
        client, queue = ticket.client, self.queues[ticket.client]
        was_head = _head(queue) is ticket
        del self.tickets[ticket.id], queue[ticket.id]
        if not queue:
            del self.queues[client], self._order[client]
        if was_head:
            self.place(client)

    def place(self, client: ClientId) -> None:
        """Have the head of *client*'s queue, if there is one, stand where its account puts it."""
        self._busy.pop(client, None)
        if client in self._rows:
            by_wait, by_level = self._rows.pop(client)
            del self._by_wait[bisect_left(self._by_wait, by_wait)]
            del self._by_level[bisect_left(self._by_level, by_level)]
        if client not in self.queues:
            return
        head, order = _head(self.queues[client]), self._order[client]
        waits_since = self.ledger.waits_since(head)
        if waits_since == math.inf:
            self._busy[client] = None
            return
        level_s = self.ledger.level_s(waits_since, client, 0.0)
        by_wait, by_level = (waits_since, head.since, order, 0, head), (level_s, head.since, order, 0, head)
        self._rows[client] = by_wait, by_level
        insort(self._by_wait, by_wait)
        insort(self._by_level, by_level)

    def next(self, may: Callable[[Ticket], bool] = lambda ticket: True) -> Iterator[Ticket]:
        """
        Yield those one of whom is next: the first of either list, and the heads of busy clients.

        Only those count that *may* be; for a client whose head may not, none does.
        """
        for rows in (self._by_wait, self._by_level):
            yield from islice((row[-1] for row in rows if may(row[-1])), 1)
        yield from filter(may, (_head(self.queues[client]) for client in self._busy))

    def in_turn(self, now: float, patience_s: float, answer_s: float) -> list[Ticket]:
        """Lay out the turns to come, as `Line.in_turn` does, for a line in which no others wait."""
        late = self._by_wait[: bisect_left(self._by_wait, True, key=lambda row: now - row[0] < patience_s)]
        ahead = {order for _, _, order, _, _ in late}
        rows = [row for row in self._by_level if row[2] not in ahead]
        rows += self._behind(now, answer_s)
        rows.sort()  # two sorted runs at the best
        return [row[-1] for row in (*late, *rows)]

    def _behind(self, now: float, answer_s: float) -> Iterator[Row]:
        """Yield the rows of those that are in neither list."""
        for client, queue in self.queues.items():
            is_busy = client in self._busy
            if not is_busy and len(queue) == 1:
                continue
            level_s, order = self.ledger.level_s(now, client, answer_s), self._order[client]
            for ahead, ticket in enumerate(queue.values()):
                if ahead or is_busy:
                    yield level_s + ahead * answer_s, ticket.since, order, ahead, ticket


def _head(queue: Queue) -> Ticket:
    return next(iter(queue.values()))
