"""
From what is known of a request at its end to the spans of its trace.  Pure: values in, values out.

The request's own span has below it one for each wait in the queue, and one for each time that it was sent.
Below a wait are the switches of its device that it saw, whoever they were for.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmap.kinds import ROUTES
from dmap.record import RequestRecord
from dmap.wire.ids import new_word
from dmap.wire.trace import SENT, Step, Trace

SWITCHES = 16
"""So many switches are shown below one wait, the last ones."""

_BACK = ("request.retried", "request.moved", "request.finished", "request.failed", "request.cancelled")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of time, in seconds since 1970: *faces* the client, the server behind, or nobody outside."""

    name: str
    id: str
    parent: str | None
    since: float
    until: float
    about: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    faces: str = ""


@dataclass(frozen=True, slots=True)
class SeenSwitch:
    """A switch of *device* from its decision to its end; *until* is None while it is under way."""

    device: str
    since: float
    until: float | None
    about: Mapping[str, Any]
    error: str | None = None


def spans_of(
    record: RequestRecord, trace: Trace, now: float, total_s: float, switches: Sequence[SeenSwitch]
) -> list[Span]:
    """
    Return the spans of a request that has ended *now*, after *total_s*; *switches* are the last ones.

    A path that dmap does not know is in no name: a client made it up, and collectors count by names.
    """
    # The two clocks were not read at one moment; no span begins before the one that it is below.
    began = min((now - total_s, *(step.at for step in trace.steps[:1])))
    own = Span(
        f"{record.method} {record.path}" if record.path in ROUTES else record.method,
        trace.span,
        trace.parent,
        began,
        now,
        _about(record),
        record.reason or record.outcome if record.outcome != "success" else None,
        "client",
    )
    below = [*_waits(record, trace, now, switches), *_answers(trace, now)]
    return [own, *below]


def _about(record: RequestRecord) -> dict[str, Any]:
    """Return what is told of the whole, by OpenTelemetry's names where it has one (HTTP and GenAI)."""
    told = {
        "http.request.method": record.method,
        "http.route": record.path if record.path in ROUTES else None,
        "url.path": record.path,
        "http.response.status_code": record.status or None,
        "gen_ai.request.model": record.model or None,
        "gen_ai.usage.input_tokens": record.tokens_in,
        "gen_ai.usage.output_tokens": record.tokens_out,
        "error.type": record.outcome if record.outcome != "success" else None,
        "dmap.request": record.id,
        "dmap.client": record.client,
        "dmap.backend": record.backend or None,
        "dmap.device": record.device,
        "dmap.queue_s": record.queue_s or None,
        "dmap.switch_s": record.switch_s or None,
        "dmap.cache": record.cache or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _waits(record: RequestRecord, trace: Trace, now: float, switches: Sequence[SeenSwitch]) -> Iterator[Span]:
    for step, until in _stretches(trace.steps, ("request.queued",), ("request.granted", *_BACK), now):
        seen = ("position", "estimate_s", "behind")
        about = {f"dmap.{name}": step.fields[name] for name in seen if name in step.fields}
        wait = Span("queue", new_word(), trace.span, step.at, until, about)
        yield wait
        here = (each for each in switches if each.device == record.device)
        yield from _during(wait, here)


def _during(wait: Span, switches: Iterable[SeenSwitch]) -> list[Span]:
    """Return the switches that *wait* saw, each as long as it saw it."""
    spans = [
        Span(
            "switch",
            new_word(),
            wait.id,
            max(each.since, wait.since),
            min(each.until or wait.until, wait.until),
            each.about,
            each.error,
        )
        for each in switches
        if each.since <= wait.until and (each.until is None or each.until > wait.since)
    ]
    return spans[-SWITCHES:]


def _answers(trace: Trace, now: float) -> Iterator[Span]:
    for span, (step, until) in zip(trace.sent, _stretches(trace.steps, (SENT,), _BACK, now), strict=False):
        first = (each.fields["first_byte_s"] for each in trace.steps if each.type == "request.first_byte")
        about = {"dmap.first_byte_s": next(first, None)}
        yield Span("relay", span, trace.span, step.at, until, about, faces="server")


def _stretches(
    steps: Sequence[Step], begins: Sequence[str], ends: Sequence[str], now: float
) -> Iterator[tuple[Step, float]]:
    """Yield each step that *begins* something, with the time of the next one that ends it, or *now*."""
    for at, step in enumerate(steps):
        if step.type in begins:
            yield step, next((each.at for each in steps[at + 1 :] if each.type in ends), now)
