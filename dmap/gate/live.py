"""
The arbiter in real time: it hears of each event when it happens, and of the time when that matters.

It carries nothing out itself; the counterpart is `gate`, which does.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Concatenate, ParamSpec

from dmap import tasks
from dmap.arbiter import Arbiter, Effect, Limits
from dmap.config import Device

_Arguments = ParamSpec("_Arguments")


class LiveArbiter:
    """
    The *arbiter* of the device *name*, with the loop's clock and one timer for its next deadline.

    *latest* is the time of the latest event.  *carry_out* gets what each event leads to, in order, even if
    that is nothing.  A bug in the arbiter or in *carry_out* stops the daemon: a grant may have been lost with
    it, and no device would come back from that.
    """

    def __init__(self, name: str, limits: Limits, carry_out: Callable[[Iterable[Effect]], None]) -> None:
        self.name = name
        self.arbiter = Arbiter(limits)
        self._carry_out = carry_out
        self._loop = asyncio.get_running_loop()
        self.latest = 0.0
        self._timer: asyncio.Handle | None = None
        self._due = 0.0

    def now(self) -> float:
        """Return the loop's time, but never less than the arbiter has heard: timers may come early."""
        self.latest = max(self.latest, self._loop.time())
        return self.latest

    def say(
        self,
        event: Callable[Concatenate[float, _Arguments], Iterable[Effect]],
        *args: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> None:
        """Tell the arbiter that *event*, one of its methods, happens now; have its answer carried out."""
        try:
            self._carry_out(event(self.now(), *args, **options))
            self._set_timer()
        except Exception as exc:
            tasks.report(f"the gate of {self.name!r}", exc, vital=True)
            raise

    def close(self) -> None:
        """Stop the timer.  Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        deadline = self.arbiter.next_deadline()
        if deadline is None or (self._timer is not None and self._due <= deadline):
            return  # a tick too many does no harm and is cheaper than a new timer per request
        self.close()
        # What uvloop returns has no `when` if the time is about now.
        self._due, self._timer = deadline, self._loop.call_at(deadline, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        self._timer = None
        self.latest = max(self.latest, deadline)
        self.say(self.arbiter.tick)


def limits_of(section: Device) -> Limits:
    """Return the part of a device's section that its arbiter goes by, under the same names but for one."""
    names = {field.name for field in fields(Limits)}
    return Limits(memory_bytes=section.memory, **section.model_dump(include=names))
