"""
Whose turn it is within one model: round by client, by what each has received of it while others waited.

After the Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024), with
seconds of lease for tokens.  What a client gets while nobody waits for the model takes nothing from
anybody, so the counters live as long as somebody waits, and start anew with the next who does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from dmap.arbiter.effects import ClientId, TicketId
from dmap.arbiter.state import Ticket

LEAST_S = 0.001
"""The least that a grant counts for: without it, clients with answers in no time would never take turns."""
CLIENTS = 4096
"""Clients remembered per model; of those that ask nothing more the longest gone are forgotten first."""


@dataclass(slots=True)
class Account:
    """What one client has received: *settled_s* by leases now over, and since when others are *running*."""

    settled_s: float = 0.0
    running: dict[TicketId, float] = field(default_factory=dict)

    def received_s(self, now: float) -> float:
        """Return the seconds of lease up to *now*; it never falls."""
        if not self.running:
            return self.settled_s
        return self.settled_s + sum(now - since for since in self.running.values())

    def level_s(self, now: float, answer_s: float) -> float:
        """Return what counts for the next turn: a running lease is charged for *answer_s* at the least."""
        if not self.running:
            return self.settled_s
        least_s = max(answer_s, LEAST_S)
        return self.settled_s + sum(max(now - since, least_s) for since in self.running.values())


class Ledger:
    """
    The accounts of one model's clients.

    A client that begins to wait is lifted to the least that any waiting one has received, so that nobody
    saves up turns.  Hence a client that has received no more than that is granted before any other client
    is granted twice.
    """

    __slots__ = ("_accounts", "_floor_s")

    def __init__(self) -> None:
        self._accounts: dict[ClientId, Account] = {}
        self._floor_s = 0.0

    def __len__(self) -> int:
        return len(self._accounts)

    def joins(self, now: float, client: ClientId, waiting: Iterable[ClientId]) -> None:
        """Hear that *client* begins to wait beside those *waiting*."""
        levels = [self._accounts[other].received_s(now) for other in waiting]
        self._floor_s = max(self._floor_s, min(levels, default=0.0))
        account = self._accounts.setdefault(client, Account())
        account.settled_s += max(0.0, self._floor_s - account.received_s(now))

    def granted(self, now: float, ticket: Ticket) -> None:
        """Charge a lease."""
        account = self._accounts.pop(ticket.client)
        self._accounts[ticket.client] = account
        account.running[ticket.id] = now

    def handed_back(self, now: float, ticket: Ticket) -> None:
        """Charge what a lease really took, if it was granted to one who had to wait."""
        account = self._accounts.get(ticket.client)
        if account is not None and ticket.id in account.running:
            account.settled_s += max(now - account.running.pop(ticket.id), LEAST_S)

    def taken_back(self, ticket: Ticket) -> None:
        """Charge nothing for a lease that was of no use."""
        account = self._accounts.get(ticket.client)
        if account is not None:
            account.running.pop(ticket.id, None)

    def level_s(self, now: float, client: ClientId, answer_s: float) -> float:
        """Return what *client*, who waits, has received, running leases charged for *answer_s* or more."""
        return self._accounts[client].level_s(now, answer_s)

    def forget(self, waiting: Iterable[ClientId]) -> None:
        """Keep the accounts within `CLIENTS`, sparing those who are *waiting* or served."""
        excess = len(self) - CLIENTS
        if excess > 0:
            present = set(waiting)
            idle = (
                client
                for client, account in self._accounts.items()
                if client not in present and not account.running
            )
            for client in list(idle)[:excess]:
                del self._accounts[client]
