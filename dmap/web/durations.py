"""
How long loads and answers take, kept over a restart in the state file.

The arbiters learn it, and begin with it after a restart.  So the first estimates are as good as the last.
"""

import json
from collections.abc import Callable, Container, Mapping

from dmap.arbiter import Learnt
from dmap.gate import Gate
from dmap.models import ModelKey
from dmap.state import LONGEST_S, MODELS, MOST_PER_S, NAME, Durations

IsGone = Callable[[ModelKey], bool]
"""Tells whether there is no such model any more, as far as that is known."""


def recall(saved: Mapping[str, Durations], devices: Mapping[str, Gate], backends: Container[str]) -> None:
    """Have the arbiters of *devices* begin with what was *saved*, as far as it is about *backends*."""
    for name in saved.keys() & devices.keys():
        one = saved[name]
        by_name = (one.loads_s, one.answers_s, one.cached_loads_s)
        loads_s, answers_s, cached_loads_s = (_by_key(each, backends) for each in by_name)
        devices[name].lengths.recall(
            Learnt(loads_s, answers_s, one.bytes_per_s, cached_loads_s, one.cached_bytes_per_s)
        )


def learnt(devices: Mapping[str, Gate], is_gone: IsGone) -> dict[str, Durations]:
    """Return what the arbiters have learnt by now, by device."""
    found = {name: _durations(gate.lengths.learnt(), is_gone) for name, gate in devices.items()}
    return {name: durations for name, durations in found.items() if durations != Durations()}


def _durations(learnt: Learnt, is_gone: IsGone) -> Durations:
    return Durations(
        _by_name(learnt.loads_s, is_gone),
        _by_name(learnt.answers_s, is_gone),
        _rate(learnt.bytes_per_s),
        _by_name(learnt.cached_loads_s, is_gone),
        _rate(learnt.cached_bytes_per_s),
    )


def _rate(bytes_per_s: float | None) -> float | None:
    return None if bytes_per_s is None else _rounded(min(max(bytes_per_s, 1.0), MOST_PER_S))


def _by_name(by_key: Mapping[ModelKey, float], is_gone: IsGone) -> dict[str, float]:
    """Return the last `MODELS` of those that are left."""
    left = {key: _rounded(min(s, LONGEST_S)) for key, s in by_key.items() if not is_gone(key)}
    named = {str(key): s for key, s in left.items() if s > 0 and len(json.dumps(str(key))) <= NAME}
    return dict(list(named.items())[-MODELS:])


def _by_key(by_name: Mapping[str, float], backends: Container[str]) -> dict[ModelKey, float]:
    keys = {ModelKey(*name.split("/", 1)): s for name, s in by_name.items() if "/" in name}
    return {key: s for key, s in keys.items() if key.backend in backends}


def _rounded(value: float) -> float:
    """Keep two digits: what changes by less is not worth a write."""
    return float(f"{value:.2g}")
