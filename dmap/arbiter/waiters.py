"""The waiting tickets in order of arrival, at large and by model.  It decides nothing."""

from collections.abc import Iterable, Iterator

from dmap.arbiter.effects import Model, TicketId
from dmap.arbiter.state import Ticket


class Waiters:
    """
    Lines of tickets, one per model.

    Adding, taking and looking at a head are O(1): dicts keep the order and forget from the middle.
    """

    __slots__ = ("_all", "_lines", "_sums")

    def __init__(self) -> None:
        self._all: dict[TicketId, Ticket] = {}
        self._lines: dict[Model, dict[TicketId, Ticket]] = {}
        self._sums: dict[Model, float] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, ticket: TicketId) -> bool:
        return ticket in self._all

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._all.values())

    def add(self, ticket: Ticket) -> None:
        """Put *ticket* at the end of its model's line."""
        self._all[ticket.id] = ticket
        self._lines.setdefault(ticket.model, {})[ticket.id] = ticket
        self._sums[ticket.model] = self._sums.get(ticket.model, 0) + ticket.since

    def take(self, id: TicketId) -> Ticket:
        """Take a ticket out, wherever it stands."""
        ticket = self._all.pop(id)
        line = self._lines[ticket.model]
        del line[id]
        self._sums[ticket.model] -= ticket.since
        if not line:
            del self._lines[ticket.model], self._sums[ticket.model]
        return ticket

    def models(self) -> Iterable[Model]:
        """Return the models somebody waits for."""
        return self._lines.keys()

    def line(self, model: Model) -> Iterable[Ticket]:
        """Return the tickets that wait for *model*, oldest first."""
        return self._lines.get(model, {}).values()

    def count(self, model: Model) -> int:
        """Return how many tickets wait for *model*."""
        return len(self._lines.get(model, ()))

    def head(self, model: Model) -> Ticket:
        """Return the ticket that waits longest for *model*."""
        return next(iter(self._lines[model].values()))

    def oldest(self) -> Ticket | None:
        """Return the ticket that waits longest."""
        return next(iter(self._all.values()), None)

    def age(self, model: Model, now: float) -> float:
        """Return the summed age of the tickets that wait for *model*."""
        return self.count(model) * now - self._sums[model]
