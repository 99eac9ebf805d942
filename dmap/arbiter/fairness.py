"""
Whose turn it is within one model: round by client, by what each has received of it while others waited.

After the Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024), with
seconds of lease for tokens.  What a client gets while nobody waits for the model takes nothing from
anybody, so the counters live as long as somebody waits, and start anew with the next who does.
"""

import math
from collections.abc import Container
from dataclasses import dataclass, field

from dmap.arbiter.effects import ClientId, TicketId
from dmap.arbiter.state import Ticket

LEAST_S = 0.001
"""The least that a grant counts for: without it, clients with answers in no time would never take turns."""
CLIENTS = 4096
"""Clients remembered per model, or an eighth more; who asks nothing is forgotten, longest gone first."""


@dataclass(slots=True)
class Account:
    """
    What one client has received: *settled_s* by leases now over, and since when others are *running*.

    The last one that is over *ended_at* that time.
    """

    settled_s: float = 0.0
    ended_at: float = -math.inf
    running: dict[TicketId, float] = field(default_factory=dict)

    def received_s(self, now: float, least_s: float = 0.0) -> float:
        """Return the seconds of lease up to *now*, with each running lease charged for *least_s* or more."""
        if not self.running:
            return self.settled_s
        return self.settled_s + sum(max(now - since, least_s) for since in self.running.values())


@dataclass(slots=True)
class Ledger:
    """
    The accounts of one model's clients.

    A client that begins to wait is lifted to what the one that was granted last had received then, so that
    nobody saves up turns.  Hence a client that has received no more than that is granted before any other
    client is granted twice.
    """

    _accounts: dict[ClientId, Account] = field(default_factory=dict)
    _floor_s: float = 0.0
    _room: int = CLIENTS

    def __len__(self) -> int:
        return len(self._accounts)

    def joins(self, now: float, client: ClientId) -> None:
        """Hear that *client* begins to wait."""
        account = self._accounts.setdefault(client, Account())
        account.settled_s += max(0.0, self._floor_s - account.received_s(now))

    def waits_since(self, ticket: Ticket) -> float:
        """Tell since when the client has had nothing while *ticket* waited; never, if it has a lease."""
        account = self._accounts[ticket.client]
        return math.inf if account.running else max(ticket.since, account.ended_at)

    def pass_turn(self, now: float, ticket: Ticket, patience_s: float) -> None:
        """
        Hear that *ticket* is next.

        What its client has received is what newcomers begin with, unless its turn came for its long wait.
        """
        if now - self.waits_since(ticket) < patience_s:
            self._floor_s = max(self._floor_s, self._accounts[ticket.client].received_s(now))

    def granted(self, now: float, ticket: Ticket) -> None:
        """Charge a lease."""
        account = self._accounts.pop(ticket.client)
        self._accounts[ticket.client] = account
        account.running[ticket.id] = now

    def ended(self, now: float, ticket: Ticket, *, served: bool) -> None:
        """
        Charge what a lease really took, if it was granted to a client that had to wait.

        One that *served* nobody is charged nothing.
        """
        account = self._accounts.get(ticket.client)
        since = account.running.pop(ticket.id, None) if account is not None else None
        if account is not None and since is not None and served:
            account.settled_s += max(now - since, LEAST_S)
            account.ended_at = now

    def level_s(self, now: float, client: ClientId, answer_s: float) -> float:
        """Return what a waiting *client* has received; a running lease counts for *answer_s* or more."""
        return self._accounts[client].received_s(now, max(answer_s, LEAST_S))

    def forget(self, waiting: Container[ClientId]) -> None:
        """Keep the accounts within `CLIENTS`, but drop none of a client that is *waiting* or served."""
        if len(self) <= self._room:
            return
        idle = (
            client
            for client, account in self._accounts.items()
            if client not in waiting and not account.running
        )
        for client in list(idle)[: len(self) - CLIENTS]:
            del self._accounts[client]
        self._room = len(self) + CLIENTS // 8  # not with each client that comes
