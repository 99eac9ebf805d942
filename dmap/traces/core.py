"""What begins and ends the traces of requests, and remembers the switches that they may have waited for."""

import contextlib
import random
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from dmap.config import ConfigProblem, TracesSection
from dmap.events import Bus, Event
from dmap.extras import how
from dmap.record import RequestRecord
from dmap.traces.spans import SeenSwitch, spans_of
from dmap.wire.trace import Trace, trace_of

if TYPE_CHECKING:
    from dmap.traces.export import Exporter

SWITCHES = 256
"""So many switches that have ended are remembered, of all devices."""

_ENDS = ("switch.loaded", "switch.failed", "switch.cancelled", "switch.unloaded")
_ABOUT = ("for", "load", "unload", "cause", "drain_s", "unload_s", "load_s")


def check(section: TracesSection | None) -> None:
    """Raise `ConfigProblem` if traces are wanted and what sends them is not installed."""
    try:
        if section is not None:
            import dmap.traces.export  # noqa: F401
    except ImportError as exc:
        raise ConfigProblem([f"traces: {exc.name} is missing; {how('otel')}"]) from None


class Headers(Protocol):
    """The headers of a request: a name may be there more than once."""

    def getall(self, name: str, default: Sequence[str], /) -> Sequence[str]:
        """Return the values of *name*."""


class Traces:
    """
    The traces of requests, sent to the collector that *section* names while this is `running`.

    With None there are none, and nothing is listened to on *bus*.  Raises what `check` does.
    """

    def __init__(self, section: TracesSection | None, bus: Bus) -> None:
        check(section)
        self._section = section
        self._clock = bus.clock
        self._ended = deque[SeenSwitch](maxlen=SWITCHES)
        self._under_way: dict[str, SeenSwitch] = {}
        self._exporter: Exporter | None = None
        if section is not None:
            bus.listen(self._hear, "switch.started", *_ENDS)

    def begin(self, headers: Headers) -> Trace | None:
        """Return the trace of a request with these *headers*."""
        if self._section is None:
            return None
        return trace_of(headers.getall("traceparent", ()), self._draw)

    def end(self, record: RequestRecord, total_s: float) -> None:
        """
        Send the trace of a request that was let in, and ended after *total_s*, if it is one of the sampled.

        Others have none: strangers would fill what waits for the collector, and probes of health the rest.
        """
        trace = record.trace
        if record.received and trace is not None and trace.sampled and self._exporter is not None:
            switches = (*self._ended, *self._under_way.values())
            self._exporter.take(trace.id, spans_of(record, trace, self._clock(), total_s, switches))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Send what ends as long as the context is open, and in the end what is left."""
        if self._section is None:
            yield
            return
        from dmap.traces.export import Exporter  # it takes the extra `otel`

        self._exporter = Exporter(self._section.url)
        try:
            yield
        finally:
            await self._exporter.close()

    def _draw(self) -> bool:
        assert self._section is not None, "without a section nothing is drawn"
        return random.random() < self._section.share

    def _hear(self, event: Event) -> None:
        fields = event.fields
        device: str = fields["device"]
        if event.type == "switch.started":
            self._under_way[device] = SeenSwitch(device, event.at, None, _about(fields))
        elif event.type != "switch.unloaded" or fields["load"] is None:
            seen = self._under_way.pop(device, None)
            if seen is not None:
                error = fields["reason"] if event.type == "switch.failed" else None
                self._ended.append(replace(seen, until=event.at, about=_about(fields), error=error))


def _about(fields: Mapping[str, Any]) -> dict[str, Any]:
    told = {f"dmap.{name}": fields.get(name) for name in _ABOUT}
    return {name: value for name, value in told.items() if value is not None}
