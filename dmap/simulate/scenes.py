"""What `dmap simulate` is asked to play: workloads by name or from files, an owner's device, his traffic."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dmap.config import ConfigProblem
from dmap.simulate.figures import Figures
from dmap.simulate.owner import Owner, changed
from dmap.simulate.replay import DeviceLog
from dmap.simulate.table import about_limits, about_models, counted, title
from dmap.simulate.workload import Workload, every, read_file

SHORT = ("closed", "open 80/15/5 at 0.5", "open 80/15/5 at 0.85")
"""The workloads that are played if none is named: those of the design, and a light and a heavy open load."""
FLEETS = ("fleet zipf 1.0",)
"""The same for a fleet."""


@dataclass(slots=True)
class Scene:
    """
    One workload to be played: *others* are the same under changed settings, by what was changed.

    *recorded* has the figures of what really happened, if it did.  Somebody comes for *spans_s*.
    """

    title: str
    workload: Workload
    notes: Sequence[str] = ()
    others: dict[str, Workload] = field(default_factory=dict)
    recorded: Figures | None = None
    spans_s: float = 0.0

    def __post_init__(self) -> None:
        """Take the workload's time, where no other is told."""
        self.spans_s = self.spans_s or self.workload.duration_s


def chosen(names: Sequence[str]) -> list[Workload]:
    """
    Return the workloads of the files among *names*, and those that have one of its other words in theirs.

    Raises `ConfigProblem` for a file that is wrong, and for a word that fits none.
    """
    found: list[Workload] = []
    for name in names:
        path = Path(name)
        known = read_file(path) if path.suffix in (".yaml", ".yml") else every([name])
        if not known:
            raise ConfigProblem([f"no workload has {name!r} in its name; `dmap simulate --list` shows them"])
        found += [each for each in known if each not in found]
    return found


def scenes_of(workload: Workload, owners: Sequence[Owner], changes: Sequence[str]) -> Iterator[Scene]:
    """
    Yield *workload* on each device of the first of *owners*, or as it is if there is none.

    What the other owners have, and the *changes*, are compared with that.  Raises `ConfigProblem` if the
    first has no device.
    """
    if not owners:
        yield Scene(title(workload), workload, others=_changed(workload, changes))
        return
    first, *rest = owners
    if not first.devices:
        raise ConfigProblem([f"{first.name}: no backend is on a device, so there is nothing to arbitrate"])
    for device, section in first.devices.items():
        there = workload.model_copy(update={"name": f"{workload.name} on {device}"})
        played, names = first.on_device(there, device)
        theirs = [owner for owner in rest if device in owner.devices]
        others = {owner.name: owner.on_device(there, device)[0] for owner in theirs}
        notes = [about_limits(f"{device} of {first.name}", section), about_models(played, names)]
        yield Scene(title(played), played, notes, {**others, **_changed(played, changes)})


def replay_of(log: DeviceLog, owners: Sequence[Owner], changes: Sequence[str]) -> Scene:
    """Return the traffic of a log under the first of *owners*, compared with the others and the *changes*."""
    first = owners[0] if owners else None
    played = log.workload(first)
    others = {owner.name: log.workload(owner) for owner in owners[1:]}
    whose = f"{log.name} of {first.name}" if first is not None else f"{log.name}, by default (no --config)"
    notes = [about_limits(whose, played.limits), about_models(played, {})]
    recorded = log.recorded()
    if recorded.left:
        notes.append(f"{counted(round(recorded.left), 'request')} left while waiting")
    return Scene(log.title(), played, notes, {**others, **_changed(played, changes)}, recorded, log.spans_s)


def _changed(workload: Workload, changes: Iterable[str]) -> dict[str, Workload]:
    """Return *workload* under each of the *changes* to its device."""
    return {
        words: workload.model_copy(update={"limits": changed(workload.limits, words)}) for words in changes
    }
