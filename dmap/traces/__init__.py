"""
Where the time of a request went, for a collector of OpenTelemetry: its spans, made after its end.

`spans` makes them of the steps that the request's events told, and of the switches of its device.  `export`
sends them, with OpenTelemetry's own SDK, which is imported only here and only when `traces` is set.
"""

from dmap.traces.core import Traces, check

__all__ = ["Traces", "check"]
