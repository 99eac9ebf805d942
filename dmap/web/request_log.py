"""What is told of one request: its events as it goes, and at its end the one log line."""

import logging
from typing import Any

from dmap.events import Bus
from dmap.gate import Gate, Lease
from dmap.logfmt import Line
from dmap.record import RequestRecord

_log = logging.getLogger("dmap.requests")
_QUIET = frozenset(("/health", "/ready", "/metrics", "/debug/status", "/debug/metrics", "/admin/queue"))
_ENDS = {"success": "request.finished", "client_left": "request.cancelled", "cancelled": "request.cancelled"}


def received(bus: Bus, record: RequestRecord) -> None:
    """Tell that a request for a model was let in; only then will its end be told as an event."""
    record.received = True
    fields = {"id": record.id, "client": record.client, "method": record.method, "path": record.path}
    bus.tell("request.received", fields)


def queued(bus: Bus, record: RequestRecord, gate: Gate, lease: Lease) -> None:
    """Tell that the request has to wait, at what place, about how long, and behind what."""
    position, estimate_s = gate.view.of_newcomer(lease)
    fields = {
        "id": record.id,
        "client": record.client,
        "model": record.model_key,
        "backend": record.backend,
        "position": position,
        "estimate_s": round(estimate_s, 3),
        "behind": gate.view.obstacle(lease),
    }
    bus.tell("request.queued", fields)


def granted(bus: Bus, record: RequestRecord) -> None:
    """Tell that the request has its model."""
    fields = {
        "id": record.id,
        "client": record.client,
        "model": record.model_key,
        "queue_s": record.queue_s,
        "switch_s": record.switch_s,
    }
    bus.tell("request.granted", fields)


def first_byte(bus: Bus, record: RequestRecord) -> None:
    """Tell that the answer has begun."""
    fields = {
        "id": record.id,
        "client": record.client,
        "model": record.model_key,
        "first_byte_s": record.first_byte_s,
    }
    bus.tell("request.first_byte", fields)


def ended(bus: Bus, record: RequestRecord, now: float) -> None:
    """Tell how it ended, *now* being the loop's time: one log line and, if it was received, one event."""
    outcome = outcome_of(record)
    fields = {
        "id": record.id,
        "client": record.client,
        "method": record.method,
        "path": record.path,
        "model": record.model or None,
        "backend": record.backend or None,
        "queue_s": record.queue_s,
        "switch_s": record.switch_s,
        "first_byte_s": record.first_byte_s,
        "total_s": now - record.arrived_at,
        "bytes": record.bytes_out,
        "tokens_in": record.tokens_in,
        "tokens_out": record.tokens_out,
        "status": record.status or None,
        "outcome": outcome,
        "reason": record.reason or None,
    }
    _log.log(logging.DEBUG if record.path in _QUIET else logging.INFO, "%s", Line("request", fields))
    if record.received:
        event = {name: value for name, value in (fields | _more(record, now)).items() if value is not None}
        bus.tell(_ENDS.get(outcome, "request.failed"), event)


def outcome_of(record: RequestRecord) -> str:
    """Return how a request ended; an error that its backend told goes down as it is, but is no success."""
    return record.outcome or ("backend_error" if record.status >= 400 else "success")


def _more(record: RequestRecord, now: float) -> dict[str, Any]:
    """What the events tell beyond the log line, or otherwise."""
    rate = record.tokens_per_s or _measured(record, now)
    return {
        "model": record.model_key,
        "key": record.key,
        "stream": record.stream,
        "chunks": record.chunks,
        "tokens_per_s": round(rate, 2) if rate is not None else None,
    }


def _measured(record: RequestRecord, now: float) -> float | None:
    """Return the tokens per second of a stream whose server does not tell, by the time it took to arrive."""
    if not (record.stream and record.tokens_out and record.first_byte_s is not None):
        return None
    answering_s = now - record.arrived_at - record.queue_s - record.first_byte_s
    return record.tokens_out / answering_s if answering_s > 0 else None
