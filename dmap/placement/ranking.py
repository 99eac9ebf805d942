"""
The rule by which a place is chosen: the shortest wait, and among equals always the same one.

Each place says itself how long a request would wait there, with the load that it may take.  So a model gets
a second copy when its queue is longer than a load elsewhere, and nobody has to decide about copies.  Among
places whose waits are about equal, rendezvous hashing decides (Thaler and Ravishankar, "Using name-based
mappings to increase hit rates", 1998): all who choose come to the same place without a word to each other,
and a place that goes takes only its own requests along.

Where nobody knows a wait, rendezvous hashing alone would pile a hot model up in one place.  So a place that
has more than its share is passed over (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded
loads", 2018).
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b

TICK_S = 0.5
"""Waits are compared in steps of this: what is finer is noise, and would undo the hash."""
AFFINITY_S = 2.0
"""So much longer a wait is worth a prompt that the engine has seen: about the prefill of a long chat."""
SHARE = 1.25
"""More than this times its share of requests is too much for a place."""
NEVER_S = 1e9
"""A longer wait is not told from this one."""


class Standing(IntEnum):
    """How far a place is to be trusted; of a worse standing comes later, whatever it says."""

    SOUND = 0
    DOUBTFUL = 1
    """Its estimate is old."""
    LAST = 2
    """It is drained, or full."""


@dataclass(slots=True, eq=False)
class Place:
    """
    A place where a model may be asked for, by its *name*, which no other place has.  Nothing of it changes;
    but each choice makes one for each place, and frozen ones are three times as dear to make.

    *wait_s* is the seconds until an answer would begin there, a load included, as the place says itself; None
    if nobody knows.  We have *sent* so many requests for the model there since it said so; each takes
    *answer_s*, and *parallel* of them are answered at once, None for any number.  The model may be *resident*
    there.  *in_flight* are our requests there now, for any model.
    """

    name: str
    wait_s: float | None
    resident: bool = False
    sent: int = 0
    answer_s: float = 0.0
    parallel: int | None = None
    in_flight: int = 0
    standing: Standing = Standing.SOUND

    @property
    def score_s(self) -> float:
        """The wait to be expected: what the place said, and what we have sent there since."""
        rounds = self.sent // self.parallel if self.parallel else 0
        said_s = NEVER_S if self.wait_s is None else self.wait_s
        return max(0.0, min(NEVER_S, said_s + rounds * self.answer_s))


def first(model: str, affinity: str, places: Collection[Place]) -> Place:
    """
    Return the best one of *places* for a request for *model*; there has to be one.

    *affinity* names what the request has in common with others, such as a conversation: of several places
    that have the model, and where the wait is about the same, requests of one affinity prefer the same one.
    Where the model is not, it goes by the model alone: else each conversation would load a copy of its own.
    It depends on nothing else, so whoever knows the same of the places chooses the same one.
    """
    best = min([place.standing for place in places])
    sound = [place for place in places if place.standing == best]
    waits = [(place.score_s, place) for place in sound if place.wait_s is not None]
    if not waits:
        most = math.ceil(SHARE * (sum(place.in_flight for place in places) + 1) / len(places))
        free = [place for place in sound if place.in_flight < most]
        return max(free or sound, key=_rendezvous(model))
    best_s = min([score_s for score_s, _ in waits])
    warm = [place for score_s, place in waits if place.resident and score_s <= best_s + AFFINITY_S]
    if warm:
        return max(warm, key=_rendezvous(model, affinity))
    tick = round(best_s / TICK_S)
    return max([place for score_s, place in waits if round(score_s / TICK_S) == tick], key=_rendezvous(model))


def _rendezvous(*asked: str) -> Callable[[Place], bytes]:
    """Return what gives a place its weight for what is *asked*: the highest wins."""
    begun = blake2b("\0".join((*asked, "")).encode(errors="surrogatepass"), digest_size=8)

    def weight(place: Place) -> bytes:
        hashed = begun.copy()  # a third of the time that a new one takes
        hashed.update(place.name.encode())
        return hashed.digest()

    return weight
