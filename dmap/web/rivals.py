"""
Whether something else switches the models of a server that dmap switches, while requests run there.

A person who loads a model by hand does that once, and seldom takes out one that is in use.  Another dmap does
both, again and again.  So what counts is a model that goes under its requests, or one that goes and another
change within `WITHIN_S`, beside requests.  A model comes as soon as its load is seen, which may take long.
What a server loses that was down does not count.  It is told, in the log and in `/ready`, and nothing is
refused for it.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from dmap.events import Bus, Event
from dmap.logfmt import Line

WITHIN_S = 60.0
"""A load of a large model may take that long, and whoever loads it has taken out another one before."""
SHOWN_S = 60.0
"""So long it is told after the last time."""
TOLD_S = 300.0
"""It is logged no more often."""
USED_S = 15.0
"""
A device is in use for so long after a request has failed there: a rival's unload may have ended it.

For so long after a server was down, models that go are those that it has lost.
"""
CHANGES = 16

_log = logging.getLogger(__name__)


class _Change(NamedTuple):
    at: float
    model: str
    has_gone: bool


class Rivals:
    """
    Listens to *bus* for models that come and go on *servers*, the backends that others could switch, too.

    *is_busy* tells whether requests run on a device.
    """

    def __init__(self, bus: Bus, is_busy: Callable[[str], bool], servers: Collection[str]) -> None:
        self._clock, self._is_busy, self._servers = bus.clock, is_busy, servers
        self._changes = defaultdict[str, deque[_Change]](lambda: deque(maxlen=CHANGES))
        self._failed: dict[str, tuple[float, str]] = {}
        self._down_at: dict[str, float] = {}
        self._seen_at: dict[str, float] = {}
        self._told_at: dict[str, float] = {}
        bus.listen(self._hear, "model.appeared", "model.vanished")
        bus.listen(self._note_failure, "request.failed", "request.retried")

    def suspected(self) -> set[str]:
        """Return the backends whose models something else has switched lately."""
        now = self._clock()
        return {backend for backend, at in self._seen_at.items() if now - at < SHOWN_S}

    def note_down(self, backend: str) -> None:
        """Hear that the server of *backend* does not answer: if it is killed, it loses its models."""
        self._down_at[backend] = self._clock()

    def note_arriving(self, device: str, backend: str, models: Iterable[str]) -> None:
        """Hear that others are loading *models* of *backend* by its last look."""
        for model in models:
            self._note(device, backend, _Change(self._clock(), model, has_gone=False))

    def _note_failure(self, event: Event) -> None:
        if (backend := event.fields.get("backend", "")) in self._servers:
            self._failed[backend] = event.at, event.fields.get("model", "")

    def _hear(self, event: Event) -> None:
        change = _Change(event.at, event.fields["model"], event.type == "model.vanished")
        self._note(event.fields["device"], event.fields["backend"], change)

    def _note(self, device: str, backend: str, change: _Change) -> None:
        failed_at, failed = self._failed.get(backend, (0.0, ""))
        has_failed, has_gone = change.at - failed_at < USED_S, change.has_gone
        is_lost = has_gone and change.at - self._down_at.get(backend, 0.0) < USED_S
        lately = [each for each in self._changes[backend] if change.at - each.at < WITHIN_S]
        is_known = not has_gone and change[1:] in [each[1:] for each in lately]  # it was seen on its way
        if backend not in self._servers or is_lost or is_known or not (has_failed or self._is_busy(device)):
            return
        self._changes[backend].append(change)
        is_one_of_two = lately and (has_gone or any(each.has_gone for each in lately))
        if is_one_of_two or (has_gone and has_failed and failed == change.model):
            self._seen_at[backend] = change.at
            self._tell(backend, change.at, len(lately) + 1)

    def _tell(self, backend: str, now: float, changes: int) -> None:
        if now - self._told_at.get(backend, -TOLD_S) >= TOLD_S:
            self._told_at[backend] = now
            reason = "models come and go while requests run, and nobody here asked for that"
            told = {"backend": backend, "changes": changes, "reason": reason}
            _log.warning(Line("switched_by_others", told))
