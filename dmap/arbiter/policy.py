"""
The choices, as pure functions over plain records: what fits, who goes, when, and who comes next.

None of them changes anything.  Times are absolute, so that a deadline and the test for it are the same
number.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median_low

from dmap.arbiter.effects import ModelId
from dmap.arbiter.state import Limits, Needs, Resident, Ticket

FLOOR = 0.25
"""The least share of its residency that a load keeps: below it switching eats the time it should save."""
LEAST_SHARE, MOST_SHARE = 1 / 8, 5 / 4
"""
Bounds of the proportion between a resident's clients and those that wait for another model.

A load for a single client must not keep a crowd waiting for as long as one for a crowd would: with two
models of 24 clients and one of a single client, that costs a fifth of the answers.
"""


PATIENCE = 3.35
"""A waiter has patience for so many times what one switch to each model in use costs."""
DRAIN = 2.5
"""Idle slots before a switch count for so many times the time from the first answer's end to the last's."""
CYCLES = 5
"""By so many times may the service of a cycle exceed its mean before somebody loses patience."""
TENURE = 3 / 4
"""
What the load adds to patience ends after this share of `wait_s` as a resident.

Who began to wait when it came in is not refused yet by then.  Without this end, a model that never idles
would stay for ever, for whoever has waited for `wait_s` is gone, and the next one is patient anew.
"""


@dataclass(slots=True)
class Demand:
    """
    What waits for a model that is not resident.

    *weight* is the number of all its waiters and *weighted_since* the sum of their arrivals, weighed by
    priority.  The first of them to lose patience does so at *ends*; the model itself *left* at that time, if
    it was there.
    Nobody changes it; but a frozen one is dear to make, and there is one for each waiting model, each time.
    """

    model: ModelId
    needs: Needs
    oldest: float
    count: int
    weight: float
    weighted_since: float
    cost_s: float
    ends: float
    left: float = -math.inf


@dataclass(slots=True)
class Turn:
    """What waits for its switch: before it there are *ahead_s* of other switches and *rewards_s* of use."""

    demand: Demand
    ahead_s: float
    rewards_s: float


def fits(limits: Limits, needs: Sequence[Needs]) -> bool:
    """Tell whether models of these needs can be resident together: all are on one list, or there is room."""
    if needs and needs[0].together and shared_lists(needs):
        return True
    sizes = [need.size_bytes for need in needs]
    known = sum(size for size in sizes if size is not None)
    embeddings = sum(need.embedding for need in needs) if limits.embeddings else 0
    return (
        len(needs) - embeddings <= limits.max_models
        and embeddings <= limits.embeddings
        and (limits.memory_bytes is None or known <= limits.memory_bytes)
        and (None not in sizes or len(sizes) == 1)
    )


def usual(needs: Iterable[Needs]) -> Needs:
    """Return what a model of the usual size takes, the whole device where no size is known, and gives."""
    sizes, slots = [], []
    for need in needs:
        sizes += [need.size_bytes] if need.size_bytes is not None else []
        slots += [need.parallel] if need.parallel is not None else []
    return Needs(median_low(sizes) if sizes else None, median_low(slots) if slots else None)


def shared_lists(needs: Sequence[Needs]) -> frozenset[str]:
    """Return the lists that all of these are on: the device's owner has said that they fit together."""
    return frozenset.intersection(*(need.together for need in needs)) if needs else frozenset()


def patience_s(limits: Limits, costs_s: float) -> float:
    """Return how long a waiter has patience in a low load; *costs_s* is one switch to each model in use."""
    return min(limits.patience_s, PATIENCE * costs_s)


def idle_s(at_once: float, answer_s: float) -> float:
    """
    Return what a switch costs by slots that idle, of a model that gives so many answers *at_once*.

    Of answers of random length the last one ends about ln(n) means after the first one.  One slot alone never
    idles while it drains.
    """
    return DRAIN * math.log(at_once) * answer_s


def extra_s(limits: Limits, patience_s: float, costs_s: float, rho: float) -> float:
    """
    Return for how much longer the load needs it, *rho* of the time going into work that comes anyhow.

    All models, each served until it idles, make a cycle of *costs_s* / (1 - rho) on average, rho of it in use
    (Takagi, "Queuing analysis of polling models", 1988).  Whoever is patient for less than a few of these
    asks for more switches than there is time for, and everybody waits longer and longer.
    """
    service_s = costs_s * rho / (1 - rho) if rho < 1 else math.inf
    return max(0.0, min(CYCLES * service_s, limits.wait_s) - patience_s)


def class_patience_s(limits: Limits, patience_s: float, priority: int) -> float:
    """
    Return how long a waiter of *priority* has patience: at 0 for *patience_s*.

    At 1, 2, ... it is a half of that, a third, and so on.  At -1, -2, ... it is twice as long, three times,
    and so on, but half of `wait_s` at the most.
    """
    if priority >= 0:
        return patience_s / (1 + priority)
    return min(patience_s * (1 - priority), max(patience_s, limits.wait_s / 2))


def order(now: float, demands: Iterable[Demand]) -> list[Demand]:
    """
    Sort by whose turn it is: those out of patience in turn, then the others by summed age and cost.

    In turn means by when their patience ended, or when they were resident last: so nobody waits twice for one
    model.
    """

    def key(demand: Demand) -> tuple[float, float]:
        if now >= demand.ends:
            return 0, max(demand.ends, demand.left)
        summed_s = demand.weight * now - demand.weighted_since
        return 1, -(summed_s + demand.weight * demand.cost_s)

    return sorted(demands, key=key)


def weight(priority: int) -> float:
    """Tell for how many waiters one of *priority* counts where the next model is chosen."""
    return 2.0**priority


def standing(limits: Limits, now: float, ticket: Ticket, top: int) -> float:
    """
    Tell the class of a waiting ticket: its priority, and one more for each full patience that it waited.

    Age lifts it to *top*, the highest priority that waits beside it, and no further: among equals it is not
    age that counts but what their clients have received.
    """
    if ticket.priority == top:
        return top
    step_s = lift_s(limits, top - ticket.priority) / (top - ticket.priority)
    aged = (now - ticket.since) // step_s if step_s else math.inf
    return min(ticket.priority + aged, top)


def lift_s(limits: Limits, classes: int) -> float:
    """Tell how old a waiter is when its age has lifted it by so many *classes*."""
    return min(classes * limits.patience_s, limits.wait_s / 2)


def turns(limits: Limits, demands: Iterable[Demand]) -> list[Turn]:
    """Lay the waiting models out one after the other, oldest first, to see who would wait too long."""
    found, ahead_s, rewards_s = [], 0.0, 0.0
    for demand in sorted(demands, key=lambda demand: demand.oldest):
        found.append(Turn(demand, ahead_s, rewards_s))
        ahead_s += demand.cost_s
        rewards_s += limits.residency * demand.cost_s
    return found


def patience_ends(
    limits: Limits, extra_s: float, resident: Resident, own: int, turns: Sequence[Turn], *, wanted: bool
) -> float:
    """
    Tell when all who wait, taken together, have lost patience, *extra_s* included.

    But what *extra_s* adds ends with the tenure of *resident*; and unless somebody waits for it (*wanted*),
    when the first of the others has waited for half of `wait_s`: slots that idle would cost their deadline.

    Each counts the switches before its own: three models must not wait three times as long as one.  What is
    left of its patience is shared by *resident* and all that serve before it, by their clients beside its
    *own* ones: the turns of equal crowds are equal.
    """
    begun = max(resident.since, turns[0].demand.oldest)
    ends, shares = math.inf, 1.0
    for turn in turns:
        left_s = turn.demand.ends - turn.ahead_s - begun
        ends = min(ends, begun + (left_s / shares if left_s > 0 else left_s))
        shares += proportion(turn.demand.count, max(own, 1))
    until = resident.since + TENURE * limits.wait_s
    if not wanted:
        until = min(until, turns[0].demand.oldest + limits.wait_s / 2)
    return max(ends, min(ends + extra_s, until))


def proportion(own: int, foreign: float) -> float:
    """Return the share of its residency for a model with *own* clients while *foreign* wait for others."""
    return min(max(own / foreign, LEAST_SHARE), MOST_SHARE) if foreign else MOST_SHARE


def earned_until(
    limits: Limits, resident: Resident, proportion: float, turns: Iterable[Turn], drain_s: float
) -> float:
    """
    Tell until when the resident keeps serving, whoever waits: for its cost, times residency and proportion.

    Where a waiter would miss its deadline, the residencies before it shrink by one common share, though
    not below `FLOOR`: a deadline that even this cannot meet shrinks nothing.
    """
    reward = limits.residency * resident.cost_s * proportion
    share = 1.0
    for turn in turns:
        latest = turn.demand.oldest + limits.wait_s - turn.ahead_s - turn.demand.cost_s
        room = latest - drain_s - resident.since
        if reward and FLOOR * (reward + turn.rewards_s) <= room:
            share = min(share, room / (reward + turn.rewards_s))
    return resident.since + share * reward


def released_at(
    resident: Resident, own: int, due: Sequence[float], foreign: int, earned: float, patience: float
) -> float:
    """
    Tell when *resident*, which serves *own* tickets, may go for the sake of *foreign* ones.

    *due* are the times until which its own clients are due back.  While it serves, it stays until its
    residency and their patience have ended.  An idle one waits for a client that is due if it was answered
    within the residency, or later if as many are due as wait elsewhere.
    """
    latest = max(earned, patience)
    if own:
        return latest
    last_first = sorted(due, reverse=True)
    if due and resident.used_at < earned:
        return last_first[0]
    if len(due) >= foreign and resident.used_at < latest:
        return last_first[foreign - 1]
    return resident.used_at


def victims(
    limits: Limits,
    residents: Iterable[Resident],
    needs: Needs,
    burden: Callable[[Resident], tuple[float, ...]],
    is_fixed: Callable[[Resident], bool],
) -> list[Resident] | None:
    """
    Choose what to unload so that *needs* fits, the least *burden* first; None if it never can.

    Nothing is unloaded in vain: what fits after all stays.
    """
    staying = list(residents)
    leaving: list[Resident] = []
    if fits(limits, [needs, *(resident.needs for resident in staying)]):
        return leaving
    for resident in sorted(staying, key=burden):
        if not is_fixed(resident):
            staying.remove(resident)
            leaving.append(resident)
        if fits(limits, [needs, *(resident.needs for resident in staying)]):
            return _spared(limits, staying, leaving, needs)
    return None


def _spared(limits: Limits, staying: list[Resident], leaving: list[Resident], needs: Needs) -> list[Resident]:
    for resident in reversed(leaving[:-1]):
        if fits(limits, [needs, resident.needs, *(other.needs for other in staying)]):
            leaving.remove(resident)
            staying.append(resident)
    return leaving
