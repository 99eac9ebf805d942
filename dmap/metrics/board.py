"""
All that is measured: counters that listen to the events, and gauges that are read at each scrape.

Labels are bounded.  A model is one that a backend has, never what a client wrote.  A client is the name of
a key, and all clients without a key are `ADDRESS`.  `MODELS` and `CLIENTS` bound how many there can be.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from itertools import product
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from dmap import __version__
from dmap.arbiter import Cause, Snapshot
from dmap.events import Bus, Event
from dmap.memory import Balance
from dmap.metrics.outcome import DENIED, codes_of, kind_of, kinds_of_upstream_errors, status_of
from dmap.metrics.series import MODELS, Counter, Histogram, LabelLimit

CLIENTS = 128
NO_MODEL = "(none)"
"""The model of a request that was refused before it was known, or passed on without one."""
ADDRESS = "(address)"
"""The client of all requests without a key; no key can have this name."""

ANSWERS_S = (0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600)
FIRST_BYTES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
WAITS_S = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
SWITCHES_S = (0.5, 1, 2, 4, 6, 8, 10, 15, 20, 30, 45, 60, 90, 120, 300)
REDIS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_OF_NODES = "node reason"
CACHE = ("hit", "miss", "away")
ROUTED = ("cold", "only", "resident", "unknown")
"""Why a node was chosen."""
RESENT = ("backend_down", "model_load_failed", "rate_limit_exceeded", "shutting_down")
"""Why requests go on to another node as a rule."""
LAGS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

_COUNTERS = {
    "dmap_tokens_in_total": ("model client", "Tokens of prompts, as backends counted them"),
    "dmap_tokens_out_total": ("model client", "Tokens of answers, as backends counted them"),
    "dmap_chunks_total": ("model", "Pieces of answers passed on"),
    "dmap_answer_bytes_total": ("model", "Bytes of answers passed on"),
    "dmap_refused_total": ("reason", "Requests refused, by the code of the error"),
    "dmap_timeouts_total": ("reason", "Requests that a bound in seconds ended"),
    "dmap_upstream_errors_total": ("backend kind", "Requests that a backend failed"),
    "dmap_retries_total": ("model", "Requests that queued again, for their server was gone"),
    "dmap_resent_total": ("reason", "Requests that went on to another place, by why this one did not do"),
    "dmap_routed_total": (_OF_NODES, "Requests that went to a node, by what it was chosen for"),
    "dmap_cache_total": ("result", "Requests that may have an answer that was kept, by whether they did"),
    "dmap_switches_total": ("device reason", "Switches begun, by why they did"),
    "dmap_switch_failures_total": ("device", "Switches that failed"),
    "dmap_evictions_total": ("device reason", "Models unloaded, by why they had to go"),
    "dmap_mismatches_total": ("model", "Answers that named another model than was asked"),
    "dmap_access_denied_total": ("code", "Requests not let in, by code"),
    "dmap_config_reloads_total": ("outcome", "Readings of the configuration"),
    "dmap_outside_changes_total": ("change", "Models that others loaded or unloaded"),
}
"""The labels and the meaning of each counter."""
_HISTOGRAMS: Mapping[str, tuple[Sequence[float], str, str]] = {
    "dmap_request_duration_seconds": (ANSWERS_S, "model status", "From arrival to the end of the answer"),
    "dmap_queue_wait_seconds": (WAITS_S, "model", "How long a request waited for its model"),
    "dmap_first_byte_seconds": (FIRST_BYTES_S, "model", "From asking the backend to its first byte"),
    "dmap_client_queue_wait_seconds": (WAITS_S, "client", "How long requests of a key waited"),
    "dmap_client_first_byte_seconds": (FIRST_BYTES_S, "client", "The same of the first byte, by key"),
    "dmap_switch_duration_seconds": (SWITCHES_S, "device", "From its begin to the model that answers"),
    "dmap_drain_seconds": (WAITS_S, "device", "How long a switch waited for leases to end"),
    "dmap_load_seconds": (SWITCHES_S, "model", "What loading a model took"),
    "dmap_loop_lag_seconds": (LAGS_S, "", "How late a timer of the event loop was"),
    "dmap_redis_seconds": (REDIS_S, "op", "From asking Redis to its answer, by what was asked"),
    "dmap_scrape_duration_seconds": (LAGS_S, "", "What one answer of /metrics took"),
}
"""The upper ends of the buckets, the labels and the meaning of each histogram."""


@dataclass(eq=False)
class Metrics(Collector):
    """
    Everything that `/metrics` shows, in a *registry* of its own.

    It listens to *bus* from the start.  *devices* is asked at each scrape for what waits and is resident
    where, *backends* for which of them answer, *nodes* for the ages of their views, *lost* for how many
    lines the activity log lacks, *redis* whether that answers, None where there is none, *cache* whether
    answers are kept; *clock* is the one that the snapshots go by.
    """

    bus: InitVar[Bus]
    _: KW_ONLY
    clock: Callable[[], float]
    devices: Callable[[], Mapping[str, Snapshot]]
    backends: Callable[[], Mapping[str, bool]]
    memory: Callable[[], Mapping[str, Balance | None]] = dict
    lost: Callable[[], int] = lambda: 0
    redis: Callable[[], bool | None] = lambda: None
    cache: Callable[[], bool] = lambda: False
    nodes: Callable[[], Mapping[str, float]] = dict

    def __post_init__(self, bus: Bus) -> None:
        self._counters = {name: Counter(name, *about) for name, about in _COUNTERS.items()}
        self._histograms = {name: Histogram(name, *about) for name, about in _HISTOGRAMS.items()}
        self._models, self._clients = LabelLimit(MODELS), LabelLimit(CLIENTS)
        self.lag = self._histograms["dmap_loop_lag_seconds"]
        self.scrape = self._histograms["dmap_scrape_duration_seconds"]
        self.redis_s = self._histograms["dmap_redis_seconds"]
        self._listen(bus)
        self.registry = CollectorRegistry(auto_describe=True)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """Write down every family; called by the registry."""
        devices, backends = self.devices(), self.backends()
        self._start(devices, backends, self.nodes())
        yield from (counter.family() for counter in self._counters.values())
        yield from (histogram.family() for histogram in self._histograms.values())
        yield from _gauges(devices, self.clock())
        yield _memory(self.memory())
        yield _gauge("dmap_backend_up", "1 if the backend answered last time", "backend", backends)
        ages = self.nodes()
        up = {name: backends[name] for name in ages}
        yield _gauge("dmap_node_up", "1 if the node takes requests", _OF_NODES.split()[0], up)
        yield _gauge(
            "dmap_view_age_seconds", "How old the last view of a node is", _OF_NODES.split()[0], ages
        )
        yield CounterMetricFamily(
            "dmap_activity_lost_total", "Lines that the activity log lacks", self.lost()
        )
        if (is_up := self.redis()) is not None:
            yield GaugeMetricFamily("dmap_redis_up", "1 if Redis answers", is_up)
        yield _gauge("dmap_build_info", "The version that runs", "version", {__version__: 1})

    def _start(self, devices: Iterable[str], backends: Iterable[str], nodes: Iterable[str]) -> None:
        """Have all that can be counted be there from the first scrape on, but for models and clients."""
        causes = [cause.value for cause in Cause]
        told = kinds_of_upstream_errors()
        for name, keys in (
            ("dmap_switches_total", product(devices, causes)),
            ("dmap_evictions_total", product(devices, causes)),
            ("dmap_switch_failures_total", product(devices)),
            ("dmap_upstream_errors_total", product(backends, told)),
            ("dmap_routed_total", product(nodes, ROUTED)),
            ("dmap_resent_total", product(RESENT if nodes else ())),
            ("dmap_refused_total", product(codes_of("refused"))),
            ("dmap_timeouts_total", product(codes_of("timeout"))),
            ("dmap_access_denied_total", product(DENIED)),
            ("dmap_config_reloads_total", product(("reloaded", "refused"))),
            ("dmap_outside_changes_total", product(("appeared", "vanished"))),
            ("dmap_cache_total", product(CACHE if self.cache() else ())),
        ):
            for key in keys:
                self._counters[name].start(*key)
        for name in ("dmap_switch_duration_seconds", "dmap_drain_seconds"):
            for device in devices:
                self._histograms[name].start(device)

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return each sample's name with its label sets and values, the buckets of histograms left out."""
        samples: dict[str, list[dict[str, Any]]] = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if not sample.name.endswith("_bucket"):
                    samples.setdefault(sample.name, []).append({**sample.labels, "value": sample.value})
        return samples

    def _listen(self, bus: Bus) -> None:
        def count(name: str, *types: str) -> None:
            counter, labels = self._counters[name], _COUNTERS[name][0].split()
            bus.listen(lambda event: counter.add(1, *(self._label(event, label) for label in labels)), *types)

        bus.listen(self._ended, "request.finished", "request.failed", "request.cancelled")
        bus.listen(self._moved, "request.moved")
        bus.listen(self._drained, "switch.drained")
        bus.listen(self._loaded, "switch.loaded")
        count("dmap_evictions_total", "switch.unloaded")
        count("dmap_switch_failures_total", "switch.failed")
        count("dmap_mismatches_total", "request.mismatch")
        count("dmap_retries_total", "request.retried")
        count("dmap_routed_total", "request.routed")
        count("dmap_access_denied_total", "access.denied")
        count("dmap_config_reloads_total", "config.reloaded", "config.refused")
        count("dmap_outside_changes_total", "model.appeared", "model.vanished")

    def _label(self, event: Event, label: str) -> str:
        """Return what *event* has for *label*: its field of that name, else the last word of its type."""
        value: str = event.fields.get(label, event.type.partition(".")[2])
        return self._model(value) if label == "model" else value

    def _model(self, model: str) -> str:
        """Return the label of *model*."""
        return self._models.of(model)

    def _ended(self, event: Event) -> None:
        fields = event.fields
        model = fields.get("model")
        label = NO_MODEL if model is None else self._model(model)
        status = status_of(fields)
        self._histograms["dmap_request_duration_seconds"].observe(fields["total_s"], label, status)
        cache = fields.get("cache")
        if cache is not None:
            self._counters["dmap_cache_total"].add(1, cache)
        if model is not None and cache != "hit":  # no model was asked, nor waited for
            self._measure(fields, label)
        if status == "refused":
            self._counters["dmap_refused_total"].add(1, kind_of(fields))
        elif status == "timeout":
            self._counters["dmap_timeouts_total"].add(1, kind_of(fields))
        elif status == "upstream_error":
            backend = fields.get("backend", NO_MODEL)
            self._counters["dmap_upstream_errors_total"].add(1, backend, kind_of(fields))

    def _measure(self, fields: Mapping[str, Any], model: str) -> None:
        get = fields.get
        for name in ("dmap_mismatches_total", "dmap_retries_total"):
            self._counters[name].start(model)
        client = self._clients.of(fields["client"]) if get("key") else ADDRESS
        self._waited("queue_wait", get("queue_s", 0.0), model, client)
        first_byte_s = get("first_byte_s")
        if first_byte_s is None:
            return  # the backend answered nothing that could be counted
        self._waited("first_byte", first_byte_s, model, client)
        self._counters["dmap_chunks_total"].add(get("chunks", 0), model)
        self._counters["dmap_answer_bytes_total"].add(get("bytes", 0), model)
        self._counters["dmap_tokens_in_total"].add(get("tokens_in", 0), model, client)
        self._counters["dmap_tokens_out_total"].add(get("tokens_out", 0), model, client)

    def _waited(self, what: str, value: float, model: str, client: str) -> None:
        self._histograms[f"dmap_{what}_seconds"].observe(value, model)
        if client != ADDRESS:
            self._histograms[f"dmap_client_{what}_seconds"].observe(value, client)

    def _moved(self, event: Event) -> None:
        self._counters["dmap_resent_total"].add(1, event.fields["code"])

    def _drained(self, event: Event) -> None:
        fields, device = event.fields, event.fields["device"]
        self._histograms["dmap_drain_seconds"].observe(fields["drain_s"], device)
        if fields["load"] is not None:
            self._counters["dmap_switches_total"].add(1, device, fields["reason"])

    def _loaded(self, event: Event) -> None:
        fields, load_s = event.fields, event.fields["load_s"]
        self._histograms["dmap_load_seconds"].observe(load_s, self._model(fields["model"]))
        self._histograms["dmap_switch_duration_seconds"].observe(
            fields["unload_s"] + load_s, fields["device"]
        )


def _gauge(name: str, meaning: str, labels: str, values: Mapping[Any, float]) -> Metric:
    """Return a gauge with a value for each label; where there are more *labels*, for each tuple of them."""
    family = GaugeMetricFamily(name, meaning, labels=labels.split())
    for key, value in values.items():
        family.add_metric((key,) if isinstance(key, str) else key, value)
    return family


def _memory(devices: Mapping[str, Balance | None]) -> Metric:
    """Return who has the memory of devices; what is not known is not there."""
    kinds = {name: found.kinds for name, found in devices.items() if found is not None}
    has = {(name, kind): bytes for name, known in kinds.items() for kind, bytes in known.items()}
    return _gauge("dmap_device_memory_bytes", "Memory of the GPUs, by who has it", "device kind", has)


def _gauges(devices: Mapping[str, Snapshot], now: float) -> Iterator[Metric]:
    """Yield what is so on every device; *now* is the time that the snapshots go by."""

    def of(name: str, meaning: str, value: Callable[[Snapshot], float]) -> Metric:
        return _gauge(name, meaning, "device", {device: value(view) for device, view in devices.items()})

    yield of("dmap_queue_depth", "Requests that wait", lambda view: view.waiting)
    yield of("dmap_oldest_wait_seconds", "How long the oldest waits", lambda view: view.oldest_wait_s)
    yield of("dmap_leases", "Requests that are being answered", lambda view: view.leases)
    yield of("dmap_residents", "Models that are loaded", lambda view: len(view.residents))
    yield of(
        "dmap_switch_under_way_seconds",
        "How long the switch under way takes by now, 0 without one",
        lambda view: now - view.plan.since if view.plan is not None else 0.0,
    )
    yield of("dmap_drained", "1 while the device serves nobody", lambda view: float(view.drained))
    names, leases = LabelLimit(MODELS), defaultdict[tuple[str, str], int](int)
    for device, view in devices.items():
        for one in view.residents:  # two backends may both have a model of this name
            leases[device, names.of(one.model.model)] += one.leases
    meaning = "Requests that each resident is answering"
    yield _gauge("dmap_resident_leases", meaning, "device model", leases)
