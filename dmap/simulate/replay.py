"""
An owner's own traffic, from the activity log, as workloads: one for each device.

A request comes when it came.  But one that came within `THINK_S` after an answer to its client comes as long
after that answer in the replay, too: whoever asks again after each answer does so sooner under a faster
policy and later under a slower one.  An answer is followed by one request at most.  It takes as long as it
took; one that nobody got takes what is usual for its model, and so does a load.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from dmap.activity import Entries, Switch
from dmap.activity import Request as Logged
from dmap.config import ConfigProblem, Device
from dmap.models import ModelInfo, ModelKey
from dmap.simulate.figures import Figures, p95
from dmap.simulate.groups import Group, Request, Stage
from dmap.simulate.owner import Owner, model_of, renamed
from dmap.simulate.table import counted, lasting
from dmap.simulate.workload import Model, Workload

THINK_S = 60.0
"""Who asks within so many seconds after an answer asks because of it."""
ANSWER_GUESS_S, LOAD_GUESS_S = 5.0, 10.0
"""Where the log has no answer at all, or no load."""
_REFUSED = ("wait_expired", "rate_limit_exceeded")
_LEFT = ("client_left", "cancelled")
_EMBEDDINGS = "/embeddings"


@dataclass(slots=True)
class Ask:
    """One request as it is played; after its answer, and *think_s*, comes *next*."""

    since: float
    request: Request
    next: "Ask | None" = None
    think_s: float = 0.0


class Traffic(Group):
    """Requests of a log: *first* are those that no answer brought about."""

    first: tuple[Any, ...]
    models: tuple[str, ...]

    @property
    def asks(self) -> tuple[str, ...]:
        return self.models

    def play(self, stage: Stage, number: int) -> None:
        for ask in self.first:
            _come(stage, ask.since, ask)


def _come(stage: Stage, when: float, ask: Ask) -> None:
    request, after = replace(ask.request), ask.next
    if after is not None:
        request.then = lambda now: _come(stage, now + ask.think_s, after)
    stage.ask(when, request)


@dataclass(slots=True)
class DeviceLog:
    """
    What the log has of one device: requests in the order of arrival, and switches.

    *beyond* counts those that were refused before the queue, for reasons that no setting here changes.
    """

    name: str
    requests: list[Logged] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    beyond: int = 0

    def take(self, entry: Logged | Switch) -> None:
        """Take one more entry."""
        if isinstance(entry, Switch):
            self.switches.append(entry)
        elif entry.cache == "hit":
            return  # no model was asked
        elif entry.queue_s or entry.service_s or entry.outcome in _REFUSED:
            self.requests.append(entry)
        else:
            self.beyond += 1

    def title(self) -> str:
        """Name the device and how much there is of it."""
        clients = {entry.client for entry in self.requests}
        asked = f"{counted(len(self.requests), 'request')} of {counted(len(clients), 'client')}"
        return f"{self.name}  ({asked} for {counted(len(self._seen()), 'model')} in {lasting(self.spans_s)})"

    @property
    def spans_s(self) -> float:
        """The seconds from the first arrival to the last end."""
        return max(map(_ended, self.requests)) - self.requests[0].at

    def workload(self, owner: Owner | None) -> Workload:
        """
        Return this traffic as a workload under the settings of *owner*, else under the defaults.

        Raises `ConfigProblem` if *owner* has no such device.
        """
        if owner is not None and self.name not in owner.devices:
            raise ConfigProblem([f"{owner.name}: there is no device {self.name!r}, which the log is of"])
        models = self._models(owner)
        return Workload(
            name=self.name,
            groups=(Traffic(first=tuple(self._asks()), models=tuple(models)),),
            load_s=self.loads_s(),
            duration_s=10 * self.spans_s + 86_400,
            limits=self._limits(owner) if owner is not None else Device(),
            models=models,
            priorities=owner.priorities if owner is not None else {},
        )

    def recorded(self) -> Figures:
        """Return the figures of what really happened."""
        served = [entry for entry in self.requests if entry.service_s]
        waits = sorted(entry.queue_s for entry in served)
        by_client: dict[str, list[float]] = defaultdict(list)
        for entry in served:
            by_client[entry.client].append(entry.queue_s)
        left = sum(not entry.service_s and entry.outcome in _LEFT for entry in self.requests)
        return Figures(
            served=len(served),
            refused=len(self.requests) - len(served) - left,
            left=left,
            switches=sum(switch.model is not None and switch.outcome == "ok" for switch in self.switches),
            mean_s=fmean(waits) if waits else 0.0,
            p95_s=p95(waits),
            longest_s=max(waits, default=0.0),
            served_by_group={client: len(waits) for client, waits in by_client.items()},
            longest_by_group={client: max(waits) for client, waits in by_client.items()},
        )

    def loads_s(self) -> dict[str, float]:
        """Return what a load of each model took, with the unloading before it: the median."""
        took: dict[str, list[float]] = defaultdict(list)
        for switch in self.switches:
            if switch.model is not None and switch.outcome == "ok":
                key = ModelKey(switch.backend or "", switch.model)
                took[str(key)].append(switch.unload_s + switch.load_s)
        usual = median([each for some in took.values() for each in some] or [LOAD_GUESS_S])
        return {str(key): median(took.get(str(key)) or [usual]) for key in self._seen()}

    def _limits(self, owner: Owner) -> Device:
        seen = self._seen()
        routes = owner.routes(seen)
        return renamed(owner.devices[self.name], {str(key): routes[key] for key in seen if key in routes})

    def _models(self, owner: Owner | None) -> dict[str, Model]:
        seen = self._seen()
        routes = owner.routes(seen) if owner is not None else {}
        found = {}
        for key, info in seen.items():
            known = model_of(routes[key]) if key in routes else Model(embedding=info.embedding)
            parallel = known.parallel or info.parallel or self._at_once(key)
            found[str(key)] = known.model_copy(update={"parallel": parallel})
        return found

    def _seen(self) -> dict[ModelKey, ModelInfo]:
        """Return the models that were asked for, as far as the log tells."""
        parallel = {ModelKey(each.backend or "", each.model or ""): each.parallel for each in self.switches}
        chats = {_key(entry) for entry in self.requests if not entry.path.endswith(_EMBEDDINGS)}
        keys = dict.fromkeys(_key(entry) for entry in self.requests)
        return {
            key: ModelInfo(key.model, False, parallel=parallel.get(key), embedding=key not in chats)
            for key in keys
        }

    def _at_once(self, key: ModelKey) -> int:
        """Return how many requests the model served at once, at the most."""
        ends = [entry for entry in self.requests if _key(entry) == key and entry.service_s]
        steps = [(_ended(entry) - entry.service_s, 1) for entry in ends]
        steps += [(_ended(entry), -1) for entry in ends]
        most = running = 0
        for _, step in sorted(steps):
            running += step
            most = max(most, running)
        return max(most, 1)

    def _asks(self) -> Iterable[Ask]:
        """Yield the requests that no answer brought about, each with those that follow on it."""
        usual = self._usual_s()
        begun = self.requests[0].at
        answered: dict[str, list[tuple[float, Ask]]] = defaultdict(list)
        for entry in self.requests:
            ask = Ask(entry.at - begun, _request(entry, usual))
            recent = [each for each in answered[entry.client] if each[0] >= entry.at - THINK_S]
            before = max((each for each in recent if each[0] <= entry.at), key=_when, default=None)
            if before is None:
                yield ask
            else:
                recent.remove(before)
                before[1].next, before[1].think_s = ask, entry.at - before[0]
            answered[entry.client] = [*recent, (_ended(entry), ask)]

    def _usual_s(self) -> dict[str, float]:
        """Return the median time of an answer, by model."""
        took: dict[str, list[float]] = defaultdict(list)
        for entry in self.requests:
            if entry.service_s:
                took[str(_key(entry))].append(entry.service_s)
        usual = median([each for some in took.values() for each in some] or [ANSWER_GUESS_S])
        return {str(key): median(took.get(str(key)) or [usual]) for key in self._seen()}


def read_log(path: Path) -> tuple[list[DeviceLog], list[str]]:
    """
    Return what the log at *path*, a file or a folder, has of each device, and what is to be said of it.

    Raises `OSError` if it cannot be read, and `ConfigProblem` if there is no request in it.
    """
    logs: dict[str, DeviceLog] = {}
    entries, elsewhere = Entries(path), 0
    for entry in entries:
        if entry.device is None:
            elsewhere += 1
        else:
            logs.setdefault(entry.device, DeviceLog(entry.device)).take(entry)
    found = [log for log in logs.values() if log.requests]
    if not found:
        raise ConfigProblem([f"{path}: no request for a model of a device is in it"])
    for log in found:
        log.requests.sort(key=lambda entry: entry.at)
    return found, list(_left_out(entries.skipped, elsewhere, sum(log.beyond for log in found)))


def _left_out(skipped: int, elsewhere: int, beyond: int) -> Iterable[str]:
    if elsewhere:
        yield f"{counted(elsewhere, 'request')} for backends without a device: left out"
    if beyond:
        yield f"{counted(beyond, 'request')} refused before the queue: left out"
    if skipped:
        yield f"{counted(skipped, 'line')} that cannot be read: left out"


def _request(entry: Logged, usual_s: Mapping[str, float]) -> Request:
    key = str(_key(entry))
    return Request(
        model=key,
        client=entry.client,
        group=entry.client,
        answer_s=entry.service_s or usual_s[key],
        priority=entry.priority,
        key=entry.client,
        leaves_s=entry.queue_s if entry.outcome in _LEFT and not entry.service_s else None,
    )


def _key(entry: Logged) -> ModelKey:
    return ModelKey(entry.backend, entry.model)


def _ended(entry: Logged) -> float:
    return entry.at + entry.queue_s + entry.service_s


def _when(answer: tuple[float, Ask]) -> float:
    return answer[0]
