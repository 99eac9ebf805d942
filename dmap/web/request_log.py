"""What the events and the log say of one request: an event for each step, and one line at its end."""

import logging
from collections.abc import Mapping
from typing import Any

from dmap.events import Bus
from dmap.logfmt import Line
from dmap.record import RequestRecord

_log = logging.getLogger("dmap.requests")
_QUIET = frozenset(
    ("/health", "/ready", "/metrics", "/debug/status", "/debug/metrics", "/admin/queue", "/node/view")
)
_ENDS = {"success": "request.finished", "client_left": "request.cancelled", "cancelled": "request.cancelled"}


def tell(bus: Bus, record: RequestRecord, event: str, fields: Mapping[str, Any]) -> None:
    """Tell that *event* happened to the request; its client and its model come before *fields*."""
    told: dict[str, Any] = {"id": record.id, "client": record.client}
    if record.model:
        told["model"] = record.model
    if record.backend:
        told["backend"] = record.backend
    if record.trace is not None:
        told["trace"] = record.trace.id
        record.trace.note(bus.clock(), event, fields)
    told.update(fields)
    bus.tell(event, told)


def granted(bus: Bus, record: RequestRecord) -> None:
    """Tell that the request has its model."""
    fields: dict[str, Any] = {"queue_s": record.queue_s, "switch_s": record.switch_s}
    if record.alias is not None:
        fields["asked"] = record.alias
    fields.update(record.changes)
    tell(bus, record, "request.granted", fields)


def facts(record: RequestRecord) -> dict[str, Any]:
    """Return what is told of a request in the log and elsewhere.  None is what it lacks, or lacks so far."""
    return {
        "id": record.id,
        "client": record.client,
        "method": record.method,
        "path": record.path,
        "asked": record.alias,
        "model": record.model or None,
        "backend": record.backend or None,
        "behind": record.behind or None,
        "queue_s": record.queue_s,
        "switch_s": record.switch_s,
        "retried": record.retried or None,
        "moved": record.moved or None,
        "cache": record.cache or None,
        "first_byte_s": record.first_byte_s,
        "hop_s": record.hop_s,
        "total_s": record.total_s,
        "bytes": record.bytes_out,
        "tokens_in": record.tokens_in,
        "tokens_out": record.tokens_out,
        "trace": record.trace.id if record.trace is not None else None,
        "status": record.status or None,
        "outcome": record.outcome or None,
        "reason": record.reason or None,
    }


def ended(bus: Bus, record: RequestRecord, total_s: float) -> None:
    """
    Tell how a request ended after *total_s*: one log line, and one event if it was let in.

    An error that the backend answered is passed on, but is no success.
    """
    record.total_s = total_s
    record.outcome = record.outcome or ("backend_error" if record.status >= 400 else "success")
    fields = {name: value for name, value in facts(record).items() if value is not None}
    _log.log(logging.DEBUG if record.path in _QUIET else logging.INFO, Line("request", fields))
    if record.received:
        told = {**fields, "key": record.key, "priority": record.priority, "service_s": record.service_s}
        told["stream"], told["chunks"], rate = record.stream, record.chunks, _tokens_per_s(record, total_s)
        if record.device is not None:
            told["device"] = record.device
        if rate is not None:
            told["tokens_per_s"] = rate
        bus.tell(_ENDS.get(record.outcome, "request.failed"), told)


def _tokens_per_s(record: RequestRecord, total_s: float) -> float | None:
    """Return what the server tells of its speed; else, for a stream, the speed at which tokens arrived."""
    rate = record.tokens_per_s
    if not rate and record.stream and record.tokens_out and record.first_byte_s is not None:
        answering_s = total_s - record.queue_s - record.first_byte_s
        rate = record.tokens_out / answering_s if answering_s > 0 else None
    return round(rate, 2) if rate is not None else None
