"""The state at the moment of a scrape: what waits, what is loaded, what is changing."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from dmap.arbiter import Snapshot
from dmap.metrics.series import MODELS, LabelLimit


def gauge(name: str, meaning: str, values: Mapping[str, float], label: str) -> Metric:
    """Return a gauge with one *label* and its *values*."""
    family = GaugeMetricFamily(name, meaning, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def gauges(devices: Mapping[str, Snapshot], now: float) -> Iterator[Metric]:
    """Yield what is so on every device; *now* is the time that the snapshots go by."""

    def of(name: str, meaning: str, value: Callable[[Snapshot], float]) -> Metric:
        return gauge(name, meaning, {device: value(view) for device, view in devices.items()}, "device")

    yield of("dmap_queue_depth", "Requests that wait", lambda view: view.waiting)
    yield of("dmap_oldest_wait_seconds", "How long the oldest waits", lambda view: view.oldest_wait_s)
    yield of("dmap_leases", "Requests that are being answered", lambda view: view.leases)
    yield of("dmap_residents", "Models that are loaded", lambda view: len(view.residents))
    yield of(
        "dmap_switch_under_way_seconds",
        "How long the switch under way takes by now, 0 without one",
        lambda view: now - view.switch.since if view.switch is not None else 0.0,
    )
    yield of("dmap_drained", "1 while the device serves nobody", lambda view: float(view.drained))
    yield _resident_leases(devices)


def _resident_leases(devices: Mapping[str, Snapshot]) -> Metric:
    names = LabelLimit(MODELS)
    leases: dict[tuple[str, str], int] = {}
    for device, view in devices.items():
        for one in view.residents:
            key = device, names.of(one.model.model)  # two backends may both have a model of this name
            leases[key] = leases.get(key, 0) + one.leases
    family = GaugeMetricFamily(
        "dmap_resident_leases", "Requests that each resident is answering", labels=("device", "model")
    )
    for key, count in leases.items():
        family.add_metric(key, count)
    return family
