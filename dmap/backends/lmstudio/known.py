"""
What is known of an instance in LM Studio, by what its two lists say.  Pure: it asks nobody.

The v1 list names an instance from the *start* of its load (measured: 0.2 s into 40 s), so it does not say
ready.  The v0 list has a `state`, which says `loading` for as long as that takes, but may lag behind a load
that is done.  So both have to agree, but for three cases:

1. What our own load's 200 proved stays ready while v1 lists it, until v0 has said `loaded` too.  From then on
   v0 has nothing to lag behind: whatever else it says, somebody has unloaded it, or loads it anew.
2. Where the two disagree for `disagree_s`, v1 is right from then on.  `loading` is no disagreement.
3. Where v0 is gone, v1 is right at once.
"""

from enum import Enum, auto
from typing import NamedTuple

LOADED, LOADING = "loaded", "loading"
"""What v0 calls the state of an instance; `loading` is not documented, but measured."""


class State(Enum):
    """What is known of an instance: a load or an unload of ours that has ended, or what v0 says."""

    PROVEN = auto()
    CONFIRMED = auto()
    DOUBTED = auto()
    UNLOADED = auto()


class Known(NamedTuple):
    """What is known of an instance, and since when."""

    state: State
    since: float

    def after(self, word: object, now: float, disagree_s: float) -> "Known":
        """Return what is known once v1 lists the instance, and v0 has this *word* on it, or None."""
        if self.state is State.UNLOADED and now - self.since < disagree_s:
            return self  # the lists lag behind
        if word == LOADED:
            return Known(State.CONFIRMED, now)
        if self.state is State.PROVEN or (self.state is State.CONFIRMED and word is None):
            return self
        return self if self.state is State.DOUBTED and word != LOADING else Known(State.DOUBTED, now)

    def answers(self, now: float, disagree_s: float) -> bool:
        """Tell whether the instance answers."""
        is_old = self.state is State.DOUBTED and now - self.since >= disagree_s
        return is_old or self.state in (State.PROVEN, State.CONFIRMED)
