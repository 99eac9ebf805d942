"""
Whether something else switches the models of a server that dmap switches, while requests run there.

A person who loads a model by hand does that once, and seldom takes out one that is in use.  Another dmap does
both, again and again.  So what counts is a model that goes and another change, within `WITHIN_S`, beside
requests.  It is told, in the log and in `/ready`, and nothing is refused for it.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable

from dmap.events import Bus, Event
from dmap.logfmt import Line

WITHIN_S = 15.0
TOLD_S = 300.0
"""So long it is told after the last time, and it is logged no more often."""
CHANGES = 16

_log = logging.getLogger(__name__)


class Rivals:
    """Listens to *bus* for models that come and go; *is_busy* tells whether requests run on a device."""

    def __init__(self, bus: Bus, is_busy: Callable[[str], bool]) -> None:
        self._clock, self._is_busy = bus.clock, is_busy
        self._changes = defaultdict[str, deque[Event]](lambda: deque(maxlen=CHANGES))
        self._failed_at: dict[str, float] = {}
        self._told_at: dict[str, float] = {}
        bus.listen(self._hear, "model.appeared", "model.vanished")
        bus.listen(self._note_failure, "request.failed", "request.retried")

    def suspected(self) -> set[str]:
        """Return the backends whose models something else has switched lately."""
        now = self._clock()
        return {backend for backend, at in self._told_at.items() if now - at < TOLD_S}

    def _note_failure(self, event: Event) -> None:
        if event.fields.get("device") is not None:
            self._failed_at[event.fields["device"]] = event.at

    def _hear(self, event: Event) -> None:
        device, backend = event.fields["device"], event.fields["backend"]
        is_used = self._is_busy(device) or event.at - self._failed_at.get(device, 0.0) < WITHIN_S
        if not is_used:
            return
        changes = self._changes[backend]
        changes.append(event)
        lately = [each for each in changes if event.at - each.at < WITHIN_S]
        if len(lately) > 1 and any(each.type == "model.vanished" for each in lately):
            self._tell(backend, event.at, len(lately))

    def _tell(self, backend: str, now: float, changes: int) -> None:
        is_new = now - self._told_at.get(backend, -TOLD_S) >= TOLD_S
        self._told_at[backend] = now
        if is_new:
            reason = "models come and go while requests run, and nobody here asked for that"
            told = {"backend": backend, "changes": changes, "reason": reason}
            _log.warning(Line("switched_by_others", told))
