"""
How long anybody waits at the most: one formula, from what is asked of a device and what the device is.

Somebody waits for a model that is away, and loses patience.  From then on each other model has one turn
before it at the most, for `policy.order` goes by who has been without a turn for longest.  A turn is a
switch, the residency, the time for which an idle resident is kept for a client, and the last answer.  So the
waiter's model comes in once a cycle, the sum of these turns.  A visit serves at least those whom its slots
take at once, or within the least residency; of each client that waited before, one answer comes first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dmap.arbiter import policy
from dmap.arbiter.state import Limits


@dataclass(frozen=True, slots=True)
class Use:
    """
    What is asked of one model by so many *clients*, one request of each at a time.

    A client that is alone may have more requests *open*.  *cost_s* is what a load of the model takes,
    *answer_s* its longest answer.  A load that may fail beside others takes two *tries*: a turn is longer by
    that, but a visit serves no more, for residency goes by the load that worked.
    """

    cost_s: float
    answer_s: float
    clients: int
    parallel: int | None = 1
    open: int = 1
    tries: int = 1


def bound_s(
    limits: Limits,
    own: Use,
    others: Sequence[Use] = (),
    priority: int = 0,
    top: int = 0,
    extra_s: float = 0.0,
) -> float:
    """
    Return the longest wait for the model *own*, beside the *others* that compete with it for the device.

    The waiter has *priority*, and *top* is the highest there is.  The load adds *extra_s* to patience.  What
    comes out may be longer than `wait_s`: then the waiter may be refused by that time.
    """
    patience_s = max(
        limits.patience_s,
        policy.lift_s(limits, top - priority),
        policy.class_patience_s(limits, limits.patience_s, priority) + extra_s,
    )
    answers = own.clients * own.open
    slots = min(own.parallel or answers, answers)
    if not others:
        return patience_s + own.tries * own.cost_s + (math.ceil(answers / slots) + 1) * own.answer_s
    rounds = math.ceil(min(policy.LEAST_SHARE * limits.residency * own.cost_s / own.answer_s, answers))
    visits = math.ceil(answers / (slots * max(rounds, 1)))
    return patience_s + visits * sum(turn_s(limits, use) for use in (own, *others))


def turn_s(limits: Limits, use: Use) -> float:
    """Return how long a turn of a model takes at the most, once somebody else has lost patience."""
    residency_s = policy.MOST_SHARE * limits.residency * use.cost_s
    return use.tries * use.cost_s + residency_s + use.cost_s + use.answer_s
