"""
How much work comes for the models of a device whether it is answered or not.

Clients that ask again after each answer look like a full load to whoever counts what is served.  But who
waits asks nothing more, so their work cannot pile up.  What piles up is what comes for a model *while it is
away*.  So arrivals count only then, and only from the cost of a switch on: by that time those who had an
answer last have asked again.  Nobody has to be told apart for that; ten users may share one key.  Who leaves
before the model is back brought no work: else one who asks and leaves in a loop would look like a full load.
"""

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from dmap.arbiter.effects import ModelId

WINDOW_S = 150.0
"""What was seen counts for a third after this time, and for a twentieth after three times that."""
DOUBT_S = 2.0
"""Each model begins with so many seconds in which nothing came."""
GUESSES = 2.0
"""What was thought of the length of an answer before counts for so many answers."""


@dataclass(slots=True)
class Stream:
    """
    What comes for one model: *arrivals* in *away_s* of its being away, and its *answers* with their lengths.

    Of each answer *leases* counts those under way when it ended, itself included.  All five fade.  Arrivals
    count from *counts_from* on, which is infinite while the model is resident.  It *left* last at that time.
    """

    at: float
    counts_from: float
    asked_at: float = -math.inf
    left: float = -math.inf
    arrivals: float = 0.0
    away_s: float = 0.0
    answers: float = 0.0
    answers_s: float = 0.0
    leases: float = 0.0

    def fade(self, now: float) -> None:
        """Bring the figures up to date."""
        kept = math.exp((self.at - now) / WINDOW_S)
        self.arrivals, self.away_s = self.arrivals * kept, self.away_s * kept
        self.answers, self.answers_s = self.answers * kept, self.answers_s * kept
        self.leases *= kept
        counted_s = now - max(self.at, self.counts_from)
        if counted_s > 0:
            self.away_s += WINDOW_S * (1 - math.exp(-counted_s / WINDOW_S))
        self.at = now

    @property
    def rate(self) -> float:
        """How many requests come per second, whether they are answered or not."""
        return self.arrivals / (self.away_s + DOUBT_S)

    @property
    def at_once(self) -> float:
        """How many answers there are at once, 1 or more."""
        return (self.leases + GUESSES) / (self.answers + GUESSES)

    def answer_s(self, guess_s: float) -> float:
        """Return the mean length of an answer."""
        return (self.answers_s + GUESSES * guess_s) / (self.answers + GUESSES)


@dataclass(slots=True)
class Influx:
    """The streams of a device's models."""

    _streams: dict[ModelId, Stream] = field(default_factory=dict)

    def asked(self, now: float, model: ModelId, cost_s: float) -> None:
        """Note a request for *model*, a switch to which costs *cost_s*."""
        stream = self._streams.get(model)
        if stream is None:
            stream = self._streams[model] = Stream(now, now + cost_s)
        stream.asked_at = now
        if now >= stream.counts_from:
            stream.fade(now)
            stream.arrivals += 1

    def given_up(self, model: ModelId, since: float) -> None:
        """Note that a request of that time left unanswered: it brought no work."""
        stream = self._streams[model]
        if since >= stream.counts_from:
            stream.arrivals = max(stream.arrivals - math.exp((since - stream.at) / WINDOW_S), 0.0)

    def answered(self, now: float, model: ModelId, answer_s: float, leases: int) -> None:
        """Note an answer of *model*, which gave so many at once when it ended: its *leases*."""
        stream = self._streams[model]
        stream.fade(now)
        stream.answers += 1
        stream.answers_s += answer_s
        stream.leases += leases

    def answer_s(self, model: ModelId, guess_s: float) -> float:
        """Return the mean length of the answers of *model* in the last minutes."""
        stream = self._streams.get(model)
        return stream.answer_s(guess_s) if stream is not None else guess_s

    def moved(self, now: float, model: ModelId, cost_s: float = math.inf) -> None:
        """Note that *model* is away from now on if a switch to it costs *cost_s*; else it is resident."""
        stream = self._streams.setdefault(model, Stream(now, now + cost_s))
        stream.fade(now)
        stream.counts_from = now + cost_s
        if cost_s < math.inf:
            stream.left = now

    def left(self, model: ModelId) -> float:
        """Tell when *model* was resident last."""
        return self._streams[model].left

    def forget(self, model: ModelId) -> None:
        """Forget what comes for *model*, which is not in use."""
        self._streams.pop(model, None)

    def in_use(self, now: float, waiting: Container[ModelId] = ()) -> Iterator[tuple[ModelId, Stream]]:
        """Iterate over the streams of the models asked for lately, or that somebody is *waiting* for."""
        for model, stream in self._streams.items():
            if model in waiting or now - stream.asked_at <= WINDOW_S:
                stream.fade(now)
                yield model, stream
