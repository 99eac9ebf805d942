"""
Counters and histograms in plain dicts and lists, written as Prometheus' families only when asked for.

prometheus_client's own take a lock per value and look a child up by its labels under another one, and its
histogram walks its buckets one by one: 13 us for what a finished request leaves, 5 with every child kept at
hand, against 3 here.  Only the loop's thread may use these.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

MODELS = 256
"""How many models can have series of their own."""
OTHER = "(other)"
"""Stands for the names over the bound; no key, device or backend can have this name."""


@dataclass(slots=True)
class LabelLimit:
    """The values of one label: the first *most* names, and `OTHER` for all that come later."""

    most: int
    _known: set[str] = field(default_factory=set)

    def of(self, name: str) -> str:
        """Return what stands for *name*."""
        if len(self._known) < self.most:
            self._known.add(name)
        return name if name in self._known else OTHER


class Counter:
    """A counter with a value for each combination of its *labels*, names with blanks between."""

    def __init__(self, name: str, labels: str, meaning: str) -> None:
        self._name, self._labels, self._meaning = name, labels.split(), meaning
        self._values: defaultdict[tuple[str, ...], float] = defaultdict(float)

    def add(self, amount: float, *key: str) -> None:
        """Add *amount* to the value for *key*, one string per label."""
        self._values[key] += amount

    def start(self, *key: str) -> None:
        """Have *key* be there, at 0: Prometheus sees no increase where there was nothing before."""
        self._values.setdefault(key, 0.0)

    def family(self) -> CounterMetricFamily:
        """Return all values."""
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for key, value in self._values.items():
            family.add_metric(key, value)
        return family


class Histogram:
    """
    A histogram for each combination of its *labels*; *bounds* are the upper ends of its buckets.

    Without labels it is an `Observer` of prometheus_async.
    """

    def __init__(self, name: str, bounds: Sequence[float], labels: str, meaning: str) -> None:
        self._name, self._bounds, self._labels, self._meaning = name, bounds, labels.split(), meaning
        # A count for each bucket, one for what is over the last, and the sum.
        empty = [0.0] * (len(bounds) + 2)
        self._rows = defaultdict[tuple[str, ...], list[float]](lambda: list(empty))
        if not labels:
            self._rows[()] = list(empty)

    def observe(self, value: float, *key: str) -> None:
        """Count *value* under *key*, one string per label."""
        row = self._rows[key]
        row[bisect_left(self._bounds, value)] += 1
        row[-1] += value

    def start(self, *key: str) -> None:
        """Have *key* be there, with nothing counted."""
        self._rows[key]

    def family(self) -> HistogramMetricFamily:
        """Return all histograms."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        for key, row in self._rows.items():
            family.add_metric(key, list(zip(ends, accumulate(row[:-1]), strict=True)), row[-1])
        return family
