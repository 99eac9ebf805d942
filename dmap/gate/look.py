"""
A look at what is really resident on a device, and what the arbiter is told of it.

The arbiter ignores what was read before or during a switch, so whoever looks looks again then.
"""

from collections.abc import Mapping

from dmap.arbiter import Cause, Needs
from dmap.gate.device_backends import DeviceBackends, Reading
from dmap.gate.knowledge import Knowledge
from dmap.gate.live import LiveArbiter
from dmap.gate.switchlog import Tell
from dmap.models import ModelKey


class Look:
    """
    Looks at the *backends* of one device; one `take` at a time.

    *tell* hears of models that came or went without dmap.  What the first look finds was there before.
    """

    def __init__(self, live: LiveArbiter, backends: DeviceBackends, known: Knowledge, tell: Tell) -> None:
        self._live = live
        self._arbiter = live.arbiter
        self._backends = backends
        self._known = known
        self._tell = tell
        self._has_looked = False

    async def take(self) -> bool:
        """Look once; return whether a switch began or ended meanwhile, so that it was in vain."""
        epoch = self._arbiter.epoch
        reading = await self._backends.read()
        is_late = epoch != self._arbiter.epoch
        self._note_recovered(reading)
        found = self._known.found(reading)
        if not is_late and self._arbiter.switch is None:
            self._note_strays(reading, found)
        self._live.say(self._arbiter.observed, epoch, found)
        for key in self._known.outdated(reading):
            self._live.say(self._arbiter.unload, key, Cause.OUTDATED)
        return is_late

    def _note_recovered(self, reading: Reading) -> None:
        """Let models be tried again whose last load failed because a backend was down that answers now."""
        for key in [key for key in self._known.down if key.backend not in reading.silent]:
            self._known.down.discard(key)
            self._live.say(self._arbiter.recovered, key)

    def _note_strays(self, reading: Reading, found: Mapping[ModelKey, Needs]) -> None:
        known = self._arbiter.residents
        came = [key for key in found if key not in known] if self._has_looked else []
        went = [key for key in known if key not in found and key not in reading.residents]
        for event, keys in (("model.appeared", came), ("model.vanished", went)):
            for key in keys:
                self._tell(event, {"device": self._live.name, "model": str(key)})
        self._known.forget(reading)
        self._has_looked = True
