"""How soon clients ask a model again after an answer, and hence which are about to."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean

from dmap.arbiter.effects import ClientId, ModelId
from dmap.arbiter.estimates import remember

PAUSES = 8
"""So many pauses of a client count, so that a long one is soon forgotten."""
LINGER = 5
"""A client counts as due for this many of its mean pauses: irregular ones outlast two every seventh time."""
GRACE = 0.05
"""The least linger, as a share of a switch's cost: a client in a tight loop is never quite in time."""
EXPECTED = 128
"""So many users of a resident may be expected back, those answered last: each event looks at all of them."""
THINKING = 64
"""So many users of one name may be thinking between two requests."""


@dataclass(slots=True)
class Habit:
    """
    One client with one model: since when its users have been *thinking*, and the last *pauses* that ended.

    A pause that took too long counts as infinite, and its user as gone.
    """

    thinking: deque[float] = field(default_factory=lambda: deque(maxlen=THINKING))
    pauses: deque[float] = field(default_factory=lambda: deque(maxlen=PAUSES))

    def asked(self, now: float, longest_s: float) -> None:
        """Note a request: whoever has been thinking for longest is back."""
        while self.thinking and now - self.thinking[0] > longest_s:
            self.thinking.popleft()
            self.pauses.append(math.inf)
        if self.thinking:
            self.pauses.append(now - self.thinking.popleft())

    def linger_s(self, longest_s: float) -> float:
        """Tell for how long after an answer the next request is due; 0 if it seldom comes in time."""
        in_time = [pause_s for pause_s in self.pauses if pause_s <= longest_s]
        if not in_time or 2 * len(in_time) < len(self.pauses):
            return 0.0
        return min(max(LINGER * fmean(in_time), GRACE * longest_s), longest_s)


@dataclass(slots=True)
class Habits:
    """
    The habits of all clients.  Nobody is waited for over *longest_s*, which is what a switch costs.

    A client is a name here, or one of its users where requests tell these apart.

    A name may have several users.  It counts as such once it had more than one request open: from then on a
    request does not tell that its user has left the other models.
    """

    _habits: dict[tuple[ClientId, ModelId], Habit] = field(default_factory=dict)
    _open: dict[ClientId, int] = field(default_factory=dict)
    _shared: dict[ClientId, None] = field(default_factory=dict)

    def asked(self, now: float, client: ClientId, model: ModelId, longest_s: float) -> None:
        """Note a request."""
        habit = self._habits.get((client, model)) or Habit()
        habit.asked(now, longest_s)
        remember(self._habits, (client, model), habit)
        self._open[client] = self._open.get(client, 0) + 1
        if self._open[client] > 1 or client in self._shared:
            remember(self._shared, client, None)

    def ended(self, client: ClientId) -> None:
        """Note the end of a ticket."""
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]

    def answered(self, now: float, client: ClientId, model: ModelId, longest_s: float) -> bool:
        """Note an answer, after which its user may be thinking; tell whether it is expected back in time."""
        habit = self._habits.get((client, model))
        if habit is None:
            return False
        habit.thinking.append(now)
        return habit.linger_s(longest_s) > 0

    def is_shared(self, client: ClientId) -> bool:
        """Tell whether *client* seems to be several users."""
        return client in self._shared

    def due(self, now: float, client: ClientId, model: ModelId, longest_s: float) -> Iterator[float]:
        """Yield until when each request of *client* is due that still may come in time."""
        habit = self._habits.get((client, model))
        if habit is not None:
            linger_s = habit.linger_s(longest_s)
            yield from (since + linger_s for since in habit.thinking if since + linger_s > now)

    def linger_s(self, client: ClientId, model: ModelId, longest_s: float) -> float:
        """Tell for how long after an answer the client's next request will be due; 0 where it never is."""
        habit = self._habits.get((client, model))
        return habit.linger_s(longest_s) if habit is not None else 0.0
