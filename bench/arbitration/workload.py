"""
Workloads as YAML files: what is asked of one device, by whom.

A file has one workload, or several that differ in what `cases` says.  Whoever asks is a list of groups, each
of one kind, which its first key names:

    loops: 24       clients of `model` that ask again `think` after each answer, `open` requests at once each;
                    after the first one they pause once for `pause_s`
    agents: 12      the same, but each turns to another of `models` after `stay` answers
    arrivals: .85   requests by chance, for models by `shares`; the number is rho, the load without switches,
                    or `rate` gives it per second; `swing: [low, high, period_s]` varies rho, `batch` is how
                    many come at once
    bursts: 20      requests of one model within `within_s`, each `every_s`, models in turn

`answer`, `think` and `stay` are times as in `chance`.  With `key` all of a group are one client.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dmap.arbiter import Limits

FOLDER = Path(__file__).parent / "workloads"


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of a device, and what the device is."""

    name: str
    groups: tuple[Mapping[str, Any], ...]
    answer: str | float = 1.0
    parallel: int = 1
    load_s: float | Mapping[str, float] = 8.0
    duration_s: float = 3600.0
    max_models: int = 1
    limits: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None

    def load_of(self, model: str) -> float:
        """Return what a load of *model* takes."""
        return self.load_s[model] if isinstance(self.load_s, Mapping) else self.load_s

    def bounds(self) -> Limits:
        """Return the limits of the device: no bound on queue and wait unless the file says so."""
        return Limits(
            **{"queue": 1_000_000, "wait_s": 1_000_000, "max_models": self.max_models, **self.limits}
        )


def read(path: Path) -> Iterator[Workload]:
    """Yield the workloads of a file."""
    common = yaml.safe_load(path.read_text())
    cases = common.pop("cases", {"": {}})
    for case, changes in cases.items():
        values = {**common, **changes}
        if "first" in values:
            values["groups"] = [{**values["groups"][0], **values.pop("first")}, *values["groups"][1:]]
        yield Workload(f"{path.stem} {case}".strip(), tuple(values.pop("groups")), **values)


def every(words: list[str]) -> list[Workload]:
    """Return the workloads of all files whose name has one of *words*; all, if there are no words."""
    found = [each for path in sorted(FOLDER.glob("*.yaml")) for each in read(path)]
    return [each for each in found if not words or any(word in each.name for word in words)]
