"""
Workloads as YAML files: what is asked of one device, by whom.  `docs/simulate.md` has the format.

A file has one workload, or several that differ in what `cases` says.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator

from dmap.arbiter import Limits, Needs
from dmap.config import ConfigProblem, Device, checked, read, values_of
from dmap.gate.live import limits_of
from dmap.sections import Section
from dmap.sections.types import Count, Seconds, Size
from dmap.simulate.chance import Answer, Times
from dmap.simulate.groups import AnyGroup

FOLDER = Path(__file__).parent / "workloads"
UNBOUNDED = 1_000_000
"""A workload has no bound on queue and wait unless it says so."""


def _loads(value: Any) -> float | dict[str, float]:
    """Read the seconds of a load, of all models or by model."""
    if isinstance(value, dict):
        return {str(model): _load(each) for model, each in value.items()}
    return _load(value)


def _load(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise ValueError("not seconds; write it like 8, or by model like {A: 2, B: 20}")


class Model(Section):
    """What is particular about one model."""

    memory: Size | None = None
    parallel: Count | None = None
    embedding: bool = False
    pin: bool = False
    ttl_s: Seconds | None = None


def _bounded(value: Any) -> Any:
    return {"queue": UNBOUNDED, "wait_s": UNBOUNDED, **value} if isinstance(value, dict) else value


class Workload(Section):
    """
    What is asked of a device for *duration_s*, and what the device is.

    *load_s* is what a load takes, with the cool-down before it, of all models or by model.  *limits* are
    those of a device in the configuration.  With *key* all clients share one name; with *users* their
    requests tell who asks.
    """

    name: str = ""
    groups: tuple[AnyGroup, ...]
    answer: Answer = Times("fixed", 1.0)
    parallel: Count = 1
    load_s: Annotated[float | dict[str, float], PlainValidator(_loads)] = 8.0
    duration_s: Seconds = 3600.0
    limits: Annotated[Device, BeforeValidator(_bounded)] = Device(queue=UNBOUNDED, wait_s=UNBOUNDED)
    models: dict[str, Model] = {}
    key: str | None = None
    users: bool = False
    priorities: dict[str, int] = {}

    @property
    def asks(self) -> tuple[str, ...]:
        """The models that somebody asks for."""
        return tuple(dict.fromkeys(model for group in self.groups for model in group.asks))

    def conflicts(self) -> Iterator[str]:
        """Yield what does not fit together."""
        if not self.groups:
            yield "groups: nobody asks for anything"
        if isinstance(self.load_s, Mapping):
            for model in self.asks:
                if model not in self.load_s:
                    yield f"load_s: nothing for the model {model!r}"
        for model in self.models:
            if model not in self.asks:
                yield f"models.{model}: nobody asks for it"
        for at, names in enumerate(self.limits.together):
            for name in (name for name in names if name not in self.asks):
                yield f"limits.together[{at}]: nobody asks for {name!r}"

    def load_of(self, model: str) -> float:
        """Return what a load of *model* takes."""
        return self.load_s[model] if isinstance(self.load_s, Mapping) else self.load_s

    def needs_of(self, model: str) -> Needs:
        """Return what *model* takes; where several may be resident, those of unknown size fit together."""
        given = self.models.get(model, Model())
        size = given.memory
        if size is None and self.limits.memory is None and self._is_shared():
            size = 1
        parallel = given.parallel or self.parallel
        lists = self.limits.lists_of(model.__eq__)
        return Needs(size, parallel, given.embedding, given.pin, given.ttl_s, lists)

    def bounds(self) -> Limits:
        """Return the limits of the device as its arbiter takes them."""
        return limits_of(self.limits)

    def _is_shared(self) -> bool:
        return self.limits.max_models > 1 or any(model.embedding for model in self.models.values())


def read_file(path: Path) -> list[Workload]:
    """
    Return the workloads of a file, each called by the file's name and its case.

    Raises `ConfigProblem` with everything that is wrong, each line with its key.
    """
    common, cases = _read(path)
    found, problems = [], dict[str, list[str]]()
    for case, changes in cases.items():
        name = f"{path.stem} {case}".strip()
        try:
            found.append(checked(Workload, {"name": name, **_merged(common, changes)}))
        except ConfigProblem as exc:
            for problem in exc.problems:
                problems.setdefault(problem, []).append(str(case))
    if problems:
        raise ConfigProblem([_told(path, problem, where, len(cases)) for problem, where in problems.items()])
    return found


def _read(path: Path) -> tuple[dict[str, Any], dict[Any, dict[str, Any]]]:
    """Return what all cases of a file have in common, and the cases."""
    try:
        common = values_of(read(path))
    except ConfigProblem as exc:
        raise ConfigProblem([f"{path}: {problem}" for problem in exc.problems]) from exc
    if not isinstance(common, dict):
        raise ConfigProblem([f"{path}: must be a mapping (key: value)"])
    cases = common.pop("cases", {"": {}})
    if not isinstance(cases, dict) or not all(isinstance(changes, dict) for changes in cases.values()):
        raise ConfigProblem([f"{path}: cases: must be a mapping of names to mappings"])
    return common, cases


def _merged(common: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return *common* with *changes*, of which `first` changes the first group only."""
    values = {**common, **changes}
    first, groups = values.get("first"), values.get("groups")
    if isinstance(first, dict) and isinstance(groups, list) and groups and isinstance(groups[0], dict):
        values["groups"] = [{**groups[0], **values.pop("first")}, *groups[1:]]
    return values


def _told(path: Path, problem: str, where: Sequence[str], cases: int) -> str:
    """Say in which cases *problem* is, unless it is in all of them."""
    return f"{path}: {problem}" + (f" (case {', '.join(where)})" if len(where) < cases else "")


def every(words: Iterable[str]) -> list[Workload]:
    """
    Return the workloads of this folder whose name has one of *words*.

    If there are no words, these are all that are for one device: those for a fleet have to be asked for.
    """
    wanted = list(words)
    paths = [*sorted(FOLDER.glob("*.yaml")), *(sorted(FOLDER.glob("fleet/*.yaml")) if wanted else ())]
    found = [each for path in paths for each in read_file(path)]
    return [each for each in found if not wanted or any(word in each.name for word in wanted)]
