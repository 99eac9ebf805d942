"""
All that is measured: counters that listen to the events, and gauges that are read at each scrape.

Labels are bounded.  A model is one that a backend has, never what a client wrote.  A client is the name of
a key, and all clients without a key are `ADDRESS`.  `MODELS` and `CLIENTS` bound how many there can be.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from dmap import __version__
from dmap.arbiter import Snapshot
from dmap.events import Bus, Event
from dmap.metrics.gauges import gauge, gauges
from dmap.metrics.outcome import kind_of, status_of
from dmap.metrics.series import MODELS, Counter, Histogram, LabelLimit

CLIENTS = 128
NO_MODEL = "(none)"
"""The model of a request that was refused before it was known."""
ADDRESS = "(address)"
"""The client of all requests without a key; no key can have this name."""

ANSWERS_S = (0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600)
FIRST_BYTES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
WAITS_S = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
SWITCHES_S = (0.5, 1, 2, 4, 6, 8, 10, 15, 20, 30, 45, 60, 90, 120, 300)
LAGS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics(Collector):
    """
    Everything that `/metrics` shows, in a *registry* of its own.

    It listens to *bus* from the start.  *devices* is asked at each scrape for what waits and is resident
    where, *backends* for which of them answer; *clock* is the one that the snapshots go by.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        clock: Callable[[], float],
        devices: Callable[[], Mapping[str, Snapshot]],
        backends: Callable[[], Mapping[str, bool]],
    ) -> None:
        self._clock = clock
        self._devices = devices
        self._backends = backends
        self._requests = _Requests(bus)
        self._switches = _Switches(bus, clock)
        self._rest = _Rest(bus)
        self.lag = Histogram("dmap_loop_lag_seconds", "How late a timer of the event loop was", bounds=LAGS_S)
        self.scrape = Histogram(
            "dmap_scrape_duration_seconds", "What one answer of /metrics took", bounds=LAGS_S
        )
        self.registry = CollectorRegistry(auto_describe=True)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """Write down every family; called by the registry."""
        for part in (self._requests, self._switches, self._rest):
            yield from (series.family() for series in vars(part).values() if isinstance(series, _SERIES))
        yield from (self.lag.family(), self.scrape.family())
        yield from gauges(self._devices(), self._clock())
        yield gauge("dmap_backend_up", "1 if the backend answered last time", self._backends(), "backend")
        yield gauge("dmap_build_info", "The version that runs", {__version__: 1}, "version")

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return each sample's name with its label sets and values, the buckets of histograms left out."""
        samples: dict[str, list[dict[str, Any]]] = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if not sample.name.endswith("_bucket"):
                    samples.setdefault(sample.name, []).append({**sample.labels, "value": sample.value})
        return samples


_SERIES = (Counter, Histogram)


class _Requests:
    """What a request leaves when it is over."""

    def __init__(self, bus: Bus) -> None:
        self._models = LabelLimit(MODELS)
        self._clients = LabelLimit(CLIENTS)
        self.durations = Histogram(
            "dmap_request_duration_seconds",
            "From a request's arrival to the end of its answer",
            "model",
            "status",
            bounds=ANSWERS_S,
        )
        self.waits = Histogram(
            "dmap_queue_wait_seconds", "How long a request waited for its model", "model", bounds=WAITS_S
        )
        self.first_bytes = Histogram(
            "dmap_first_byte_seconds",
            "From sending a request to the backend to the first byte of its answer",
            "model",
            bounds=FIRST_BYTES_S,
        )
        self.tokens_in = Counter(
            "dmap_tokens_in_total", "Tokens of prompts, as backends counted them", "model", "client"
        )
        self.tokens_out = Counter(
            "dmap_tokens_out_total", "Tokens of answers, as backends counted them", "model", "client"
        )
        self.chunks = Counter("dmap_chunks_total", "Pieces of answers passed on", "model")
        self.bytes = Counter("dmap_answer_bytes_total", "Bytes of answers passed on", "model")
        self.refused = Counter("dmap_refused_total", "Requests refused, by the code of the error", "reason")
        self.timeouts = Counter("dmap_timeouts_total", "Requests that a bound in seconds ended", "reason")
        self.upstream_errors = Counter(
            "dmap_upstream_errors_total", "Requests that a backend failed", "backend", "kind"
        )
        bus.listen(self._ended, "request.finished", "request.failed", "request.cancelled")

    def _ended(self, event: Event) -> None:
        fields = event.fields
        get = fields.get
        model = get("model")
        label = NO_MODEL if model is None else self._models.of(_bare(model))
        status = status_of(fields)
        self.durations.observe(fields["total_s"], label, status)
        if model is not None:
            self._measure(fields, label)
        if status == "refused":
            self.refused.add(1, kind_of(fields))
        elif status == "timeout":
            self.timeouts.add(1, kind_of(fields))
        elif status == "upstream_error":
            self.upstream_errors.add(1, get("backend", NO_MODEL), kind_of(fields))

    def _measure(self, fields: Mapping[str, Any], model: str) -> None:
        get = fields.get
        self.waits.observe(get("queue_s", 0.0), model)
        first_byte_s = get("first_byte_s")
        if first_byte_s is None:
            return  # the backend answered nothing that could be counted
        self.first_bytes.observe(first_byte_s, model)
        self.chunks.add(get("chunks", 0), model)
        self.bytes.add(get("bytes", 0), model)
        client = self._clients.of(fields["client"]) if get("key") else ADDRESS
        self.tokens_in.add(get("tokens_in", 0), model, client)
        self.tokens_out.add(get("tokens_out", 0), model, client)


class _Switches:
    """What changes residents, device by device."""

    def __init__(self, bus: Bus, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._under_way: dict[str, tuple[str, float]] = {}
        self._models = LabelLimit(MODELS)
        self.switches = Counter("dmap_switches_total", "Switches begun, by why they did", "device", "reason")
        self.failures = Counter("dmap_switch_failures_total", "Switches that failed", "device")
        self.evictions = Counter(
            "dmap_evictions_total", "Models unloaded, by why they had to go", "device", "reason"
        )
        self.durations = Histogram(
            "dmap_switch_duration_seconds",
            "From the begin of a switch to the model that answers",
            "device",
            bounds=SWITCHES_S,
        )
        self.drains = Histogram(
            "dmap_drain_seconds", "How long a switch waited for leases to end", "device", bounds=WAITS_S
        )
        self.loads = Histogram("dmap_load_seconds", "What loading a model took", "model", bounds=SWITCHES_S)
        bus.listen(self._started, "switch.drained")
        bus.listen(self._unloaded, "switch.unloaded")
        bus.listen(self._loaded, "switch.loaded")
        bus.listen(self._failed, "switch.failed")

    def _started(self, event: Event) -> None:
        device, reason = event.fields["device"], event.fields["reason"]
        self._under_way[device] = reason, self._clock()
        self.drains.observe(event.fields["drain_s"], device)
        if event.fields["load"] is not None:
            self.switches.add(1, device, reason)

    def _unloaded(self, event: Event) -> None:
        device = event.fields["device"]
        self.evictions.add(1, device, self._under_way[device][0])

    def _loaded(self, event: Event) -> None:
        device, load_s = event.fields["device"], event.fields["load_s"]
        self.loads.observe(load_s, self._models.of(_bare(event.fields["model"])))
        self.durations.observe(self._clock() - self._under_way[device][1], device)

    def _failed(self, event: Event) -> None:
        self.failures.add(1, event.fields["device"])


class _Rest:
    """What else is worth counting."""

    def __init__(self, bus: Bus) -> None:
        self._models = LabelLimit(MODELS)
        self.mismatches = Counter(
            "dmap_mismatches_total", "Answers that named another model than was asked", "model"
        )
        self.denied = Counter("dmap_access_denied_total", "Requests not let in, by code", "code")
        self.reloads = Counter("dmap_config_reloads_total", "Readings of the configuration", "outcome")
        self.outside = Counter(
            "dmap_outside_changes_total", "Models that others loaded or unloaded", "change"
        )
        bus.listen(
            lambda e: self.mismatches.add(1, self._models.of(_bare(e.fields["model"]))), "request.mismatch"
        )
        bus.listen(lambda e: self.denied.add(1, e.fields["code"]), "access.denied")
        bus.listen(lambda e: self.reloads.add(1, _last(e)), "config.reloaded", "config.refused")
        bus.listen(lambda e: self.outside.add(1, _last(e)), "model.appeared", "model.vanished")


def _bare(model: str) -> str:
    """Return the id of *model*, which events spell `backend/id`."""
    return model.partition("/")[2]


def _last(event: Event) -> str:
    return event.type.partition(".")[2]
