"""
For how long newcomers will wait, and what became of it.

The wait is reckoned once, when a ticket comes, and kept with it.  When it is granted, `Calibration` learns
what such a wait is worth.
"""

from dataclasses import dataclass

from dmap.arbiter import outlook
from dmap.arbiter.calibration import FEW
from dmap.arbiter.device import Device
from dmap.arbiter.effects import ModelId
from dmap.arbiter.state import Reckoned, Situation, Ticket, Wait

FRESH_S = 1.0
"""The turns of the waiting models are laid out anew after this time, or when the outlook does not hold."""


@dataclass(slots=True)
class Forecast:
    """The waits of those who come to *device*."""

    _device: Device
    _seen: outlook.Outlook | None = None

    def reckon(self, now: float, ticket: Ticket) -> Reckoned:
        """Reckon how long *ticket* would wait, were it let in now."""
        device, model = self._device, ticket.model
        line, resident = device.waiters.lines.get(model), device.residents.get(model)
        ahead = line.ahead_of(ticket.client, ticket.priority) if line is not None else 0
        in_line_s = outlook.in_line_s(device, model, ahead)
        situation = outlook.situation(device, model)
        if resident is not None and situation is Situation.LINE:
            return Reckoned(situation, outlook.slot_s(now, device, resident), in_line_s)
        return Reckoned(situation, self._ready_s(now, model), in_line_s)

    def tell(self, now: float, ticket: Ticket) -> Wait:
        """Return how long *ticket* would wait, were it let in now; `wait_s` if nobody is served."""
        limits = self._device.limits
        if self._device.drained:
            return Wait(limits.wait_s, limits.wait_s)
        return self._device.calibration.tell(self.reckon(now, ticket))

    def is_hopeless(self, now: float, ticket: Ticket) -> bool:
        """
        Tell whether hardly anybody in the place of *ticket*, which was reckoned, is served within `wait_s`.

        Those ahead are not only served: they are refused, too, each after its own `wait_s`.  Let the oldest
        have come *lead_s* before, and the wait exceed `wait_s` by *excess_s*.  In the last *lead_s* before
        the refusal turns pass through all that are left ahead, whoever gets one, so a share of
        lead / (lead + excess) does.

        Who is first in line is never hopeless: else nobody would learn of better times.
        """
        device, line = self._device, self._device.waiters.lines.get(ticket.model)
        if ticket.reckoned is None or line is None:
            return False
        wait_s, ready_s = device.limits.wait_s, ticket.reckoned._replace(line_s=0)
        if device.calibration.least_s(ready_s) > wait_s:
            return True
        excess_s = device.calibration.least_s(ticket.reckoned) - wait_s
        lead_s = now - line.oldest.since
        return excess_s > 0 and lead_s < FEW * (lead_s + excess_s)

    def foretold(self, now: float, ticket: Ticket) -> Wait:
        """Return how long *ticket*, which waits, was to wait when it came."""
        if ticket.reckoned is None:
            return self.tell(now, ticket)
        return self._device.calibration.tell(ticket.reckoned)

    def came(self, now: float, ticket: Ticket) -> None:
        """Hear that *ticket* is granted.  A wait through a drain teaches nothing."""
        device = self._device
        if ticket.reckoned is not None and not device.drained and device.resumed_at <= ticket.since < now:
            device.calibration.learn(ticket.reckoned, now - ticket.since)

    def left(self, now: float, ticket: Ticket) -> None:
        """
        Hear that *ticket* leaves, or is refused after its wait.

        Nobody knows how long it would have waited; but if that is more than reckoned already, it tells.
        """
        if ticket.reckoned is not None and now - ticket.since > ticket.reckoned.wait_s:
            self.came(now, ticket)

    def _ready_s(self, now: float, model: ModelId) -> float:
        """Return in how many seconds an absent *model* will serve."""
        if model not in self._device.waiters.lines:
            return dict(outlook.ready_times(now, self._device, model))[model]
        seen = self._seen
        if seen is None or now - seen.at > FRESH_S or model not in seen.starts or not seen.holds():
            seen = self._seen = outlook.Outlook(now, self._device)
        _, ready_s = seen.starts[model]
        return max(seen.at + ready_s - now, 0.0)
