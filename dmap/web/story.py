"""What is told of one request: its events as it goes, and at its end the one log line."""

import logging
from typing import Any

from dmap.events import Bus
from dmap.gate import Gate
from dmap.logfmt import Line
from dmap.trip import Trip

__all__ = ["ended", "first_byte", "granted", "outcome_of", "queued", "received"]

_log = logging.getLogger("dmap.requests")
_QUIET = frozenset(("/health", "/ready", "/metrics", "/debug/status", "/debug/metrics", "/admin/queue"))
_ENDS = {"success": "request.finished", "client_left": "request.cancelled", "cancelled": "request.cancelled"}


def received(bus: Bus, trip: Trip) -> None:
    """Tell that a request for a model was let in; only then will its end be told as an event."""
    trip.received = True
    told = {"id": trip.id, "client": trip.client, "method": trip.method, "path": trip.path}
    bus.tell("request.received", told)


def queued(bus: Bus, trip: Trip, gate: Gate, position: int, estimate_s: float) -> None:
    """Tell that the request has to wait, at what place, about how long, and behind what."""
    told = {
        "id": trip.id,
        "client": trip.client,
        "model": trip.model,
        "backend": trip.backend,
        "position": position,
        "estimate_s": round(estimate_s, 3),
        "behind": gate.obstacle(trip.model),
    }
    bus.tell("request.queued", told)


def granted(bus: Bus, trip: Trip) -> None:
    """Tell that the request has its model."""
    told = {
        "id": trip.id,
        "client": trip.client,
        "model": trip.model,
        "queue_s": trip.queue_s,
        "switch_s": trip.switch_s,
    }
    bus.tell("request.granted", told)


def first_byte(bus: Bus, trip: Trip) -> None:
    """Tell that the answer has begun."""
    told = {"id": trip.id, "client": trip.client, "model": trip.model, "first_byte_s": trip.first_byte_s}
    bus.tell("request.first_byte", told)


def ended(bus: Bus, trip: Trip, now: float) -> None:
    """Tell how it ended, *now* being the loop's time: one log line and, if it was received, one event."""
    outcome = outcome_of(trip)
    fields = {
        "id": trip.id,
        "client": trip.client,
        "method": trip.method,
        "path": trip.path,
        "model": trip.model or None,
        "backend": trip.backend or None,
        "queue_s": trip.queue_s,
        "switch_s": trip.switch_s,
        "first_byte_s": trip.first_byte_s,
        "total_s": now - trip.arrived_at,
        "bytes": trip.bytes_out,
        "tokens_in": trip.tokens_in,
        "tokens_out": trip.tokens_out,
        "status": trip.status or None,
        "outcome": outcome,
        "reason": trip.reason or None,
    }
    _log.log(logging.DEBUG if trip.path in _QUIET else logging.INFO, "%s", Line("request", fields))
    if trip.received:
        told = {name: value for name, value in fields.items() if value is not None}
        bus.tell(_ENDS.get(outcome, "request.failed"), told | _more(trip, now))


def outcome_of(trip: Trip) -> str:
    """Return how a request ended; an error that its backend told goes down as it is, but is no success."""
    return trip.outcome or ("backend_error" if trip.status >= 400 else "success")


def _more(trip: Trip, now: float) -> dict[str, Any]:
    """What the events tell beyond the log line."""
    more: dict[str, Any] = {"key": trip.key, "stream": trip.stream, "chunks": trip.chunks}
    rate = trip.tokens_per_s or _measured(trip, now)
    return more | {"tokens_per_s": round(rate, 2)} if rate is not None else more


def _measured(trip: Trip, now: float) -> float | None:
    """Return the tokens per second of a stream whose server does not tell, by the time it took to arrive."""
    if not (trip.stream and trip.tokens_out and trip.first_byte_s is not None):
        return None
    answering_s = now - trip.arrived_at - trip.queue_s - trip.first_byte_s
    return trip.tokens_out / answering_s if answering_s > 0 else None
