"""The bound on any wait under dmap's policy: `dmap.arbiter.bound` for what was asked in a run."""

from collections import Counter
from collections.abc import Iterable

from dmap.arbiter.bound import Use, bound_s
from dmap.arbiter.policy import fits
from dmap.simulate.groups import Request
from dmap.simulate.result import Result
from dmap.simulate.workload import Workload


def promised_s(workload: Workload, result: Result) -> dict[str, float]:
    """
    Return the longest wait that may be, by model, for the lowest priority that asked; `wait_s` ends it, too.

    It goes by what really was asked: the longest answer of each model, the most clients that were there at
    once, the most requests that one of them had open, and what the load added to patience.
    """
    requests = [*result.answers, *result.refused, *result.left, *result.waiting]
    priorities = [request.priority for request in requests] or [0]
    asked = {model: [each for each in requests if each.model == model] for model in workload.asks}
    uses = {model: _use(workload, model, some) for model, some in asked.items() if some}
    limits = workload.bounds()
    together = fits(limits, [workload.needs_of(model) for model in uses])
    return {
        model: min(
            limits.wait_s,
            bound_s(
                limits,
                use,
                [] if together else [other for name, other in uses.items() if name != model],
                min(priorities),
                max(priorities),
                result.extra_s,
            ),
        )
        for model, use in uses.items()
    }


def _use(workload: Workload, model: str, requests: list[Request]) -> Use:
    clients, at_once = _crowd(requests)
    answer_s = max(request.answer_s for request in requests)
    return Use(workload.load_of(model), answer_s, clients, workload.needs_of(model).parallel, at_once)


def _crowd(requests: Iterable[Request]) -> tuple[int, int]:
    """Return the most clients that were there at once, and the most requests that one had open."""
    steps = [(request.since, 1, request) for request in requests]
    steps += [(request.since + request.wait_s + request.answer_s, 0, request) for request in requests]
    there: Counter[str] = Counter()
    clients = at_once = 1
    for _, comes, request in sorted(steps, key=lambda step: step[:2]):
        name = request.key or request.client
        there[name] += 1 if comes else -1
        if not there[name]:
            del there[name]
        clients, at_once = max(clients, len(there)), max(at_once, there[name])
    return clients, at_once
