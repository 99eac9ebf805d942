"""
What a node tells of one request before it answers: its place there, and that it has its model.

`nodes` says what an answer means that comes from a node; the words are those of `wire.hop`.  No I/O.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dmap.errors import NodeSilent
from dmap.wire import hop


@dataclass(slots=True, eq=False)
class AtNode:
    """
    One request at the node *name*.

    It *waits* there, in *place*, if what the node says before an answer arrives here; else it counts as
    granted from the beginning.  Who has an answer was granted, whether or not that was heard; a refusal
    leaves it waiting.  *queued* is called with each place in the queue that the node tells, None where the
    details were lost on the way, and *granted* once.  *waited* hears for how many seconds it was in the
    node's queue, and the part of them for a switch; *waited_s* is what of it is known by the front's clock.
    With the grant a node may tell what the answer is *made_with*.
    """

    name: str
    waits: bool
    queued: Callable[[hop.Queued | None], None]
    granted: Callable[[], None]
    waited: Callable[[float, float], None]
    place: str = "waiting for the first token"
    waited_s: float = 0.0
    made_with: str = ""
    _sent_at: float = 0.0
    _heard_at: float = 0.0
    _signs: int = 0

    def begin(self, now: float) -> None:
        """Hear that the request is sent."""
        self._sent_at = self._heard_at = now
        if self.waits:
            self.place = "waiting for the model"

    def hear(self, status: int, headers: Mapping[str, str], now: float) -> bool:
        """Take an answer in between (1xx), with its *headers*; tell whether it means anything."""
        self._signs += 1
        if status == hop.GRANTED:  # it grants again where its server was gone
            self.made_with = headers.get(hop.MADE_WITH, "")
        if not self.waits or self._signs > hop.MOST_SIGNS:
            return False
        self._heard_at = now
        if status == hop.WAITS:
            place = hop.place_in(headers)
            self.place = place.words if place is not None else "waiting for the model"
            self.queued(place)
        elif status == hop.GRANTED:
            self.grant(now)
        return True

    def grant(self, now: float) -> None:
        """Hear that it has its model."""
        self.end(now)
        self.waits, self.place = False, "waiting for the first token"
        self.granted()

    def end(self, now: float) -> None:
        """Hear that it waits no longer, if it did: it is granted, or what it came to is known."""
        if self.waits:
            self.waited_s = now - self._sent_at
            self.waited(self.waited_s, 0.0)

    def silence(self, now: float) -> NodeSilent | None:
        """Return why the node is given up, if it has told nothing for long: its process may stand still."""
        if now - self._heard_at >= hop.SILENT_S or now - self._sent_at >= hop.LONGEST_WAIT_S:
            return NodeSilent(f"its node has told nothing for {now - self._heard_at:.0f} s", retry_after_s=2)
        return None
