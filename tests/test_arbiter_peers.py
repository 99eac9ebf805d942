"""Turns found in sorted lists are those that a look at every ticket would find."""

import random
from collections import defaultdict

import pytest

from dmap.arbiter.policy import standing
from dmap.arbiter.state import Limits, Ticket
from dmap.arbiter.waiters import Line, Waiters

LIMITS = Limits(patience_s=4, wait_s=10)
ANSWER_S = 1.5


def plain(line: Line, now: float) -> dict[int, tuple[float, ...]]:
    """Return what sorts each ticket of *line*, found one by one."""
    top = max(ticket.priority for ticket in line.tickets.values())
    queues: dict[object, list[Ticket]] = defaultdict(list)
    for ticket in line.tickets.values():
        queues[ticket.client, ticket.priority].append(ticket)
    return {
        ticket.id: key(line, now, ticket, ahead, top)
        for queue in queues.values()
        for ahead, ticket in enumerate(queue)
    }


def key(line: Line, now: float, ticket: Ticket, ahead: int, top: int) -> tuple[float, ...]:
    """Say: by class, then who has had nothing for `patience_s`, then by what the client received, by age."""
    class_, waits_since = standing(LIMITS, now, ticket, top), line.ledger.waits_since(ticket)
    if now - waits_since >= LIMITS.patience_s and not ahead:
        return -class_, 0, waits_since, ticket.since
    level_s = line.ledger.level_s(now, ticket.client, ANSWER_S) + ahead * ANSWER_S
    return -class_, 1, level_s, ticket.since


class Walk:
    """Clients come, go, are granted, end and come back by chance, and time passes."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.waiters, self.now, self.count = Waiters(), 0.0, 0
        self.leases: list[Ticket] = []

    def step(self) -> None:
        """Let one thing happen, if it can, and compare the turns with those of the plain walk."""
        self.now += self.chance.choice([0, 0, 0.5, 1, 2])
        events = [self.comes, self.comes, self.comes]
        events += [self.leaves, self.is_granted, self.is_granted] if self.waiters.tickets else []
        events += [self.ends, self.ends, self.comes_back] if self.leases else []
        self.chance.choice(events)()
        for line in self.waiters.lines.values():
            self.compare(line)

    def compare(self, line: Line) -> None:
        """Each ticket has one place, and nobody stands before who comes earlier."""
        turns = plain(line, self.now)
        laid_out = [ticket.id for ticket in line.in_turn(self.now, LIMITS, ANSWER_S)]
        assert sorted(laid_out) == sorted(turns)
        assert [turns[id] for id in laid_out] == sorted(turns.values())

    def comes(self) -> None:
        """Let a client ask."""
        self.count += 1
        client, priority = self.chance.choice("abcdef"), self.chance.choice([0] * 12 + [1, 3])
        self.waiters.add(self.now, Ticket(self.count, "a", client, self.now, priority=priority))

    def leaves(self) -> None:
        """Let a client leave."""
        self.waiters.take(self.chance.choice(list(self.waiters.tickets)))

    def is_granted(self) -> None:
        """Let the next one have its lease: one that none comes before."""
        line = self.waiters.lines["a"]
        turns = plain(line, self.now)
        chosen = line.next(self.now, LIMITS, ANSWER_S)
        assert turns[chosen.id] == min(turns.values())
        self.waiters.grant(self.now, chosen)
        self.leases.append(chosen)

    def ends(self) -> None:
        """Let a lease end."""
        self.waiters.ended(self.now, self.one_lease(), served=True)

    def comes_back(self) -> None:
        """Let a request, whose lease was of no use, take its old place again."""
        lease = self.one_lease()
        self.waiters.ended(self.now, lease, served=False)
        self.waiters.add(self.now, lease)

    def one_lease(self) -> Ticket:
        """Take one of the leases."""
        return self.leases.pop(self.chance.randrange(len(self.leases)))


@pytest.mark.parametrize("seed", range(4))
def test_turns_are_those_of_the_plain_walk(seed: int) -> None:
    """Whatever happens, in whatever order."""
    walk = Walk(seed)

    for _ in range(700):
        walk.step()

    assert walk.count > 150


def test_age_lifts_one_who_stands_behind_others_of_its_class() -> None:
    """The first of a lower class are too young, but one behind them has waited long and received little."""
    limits, waiters = Limits(patience_s=60, wait_s=20), Waiters()
    boss, old, again = (Ticket(id, "a", client, 0) for id, client in enumerate(("boss", "old", "old")))
    boss.priority = 1
    for ticket in (boss, old, again):
        waiters.add(0, ticket)
    waiters.grant(0, boss)
    waiters.grant(10, old)
    waiters.add(11, Ticket(3, "a", "new", 11))
    for ticket in (boss, old):
        waiters.ended(12, ticket, served=True)
    waiters.add(12, Ticket(4, "a", "boss", 12, priority=1))

    assert waiters.lines["a"].next(13, limits, 1) is again
