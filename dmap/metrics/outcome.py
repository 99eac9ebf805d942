"""
How a request ended, in as few words as a label can take.

The words are `success`, `upstream_error`, `timeout` and `error`; beside them `refused`, which dmap did
before it asked a backend, and `cancelled`, which the client or the owner did.
"""

from collections.abc import Mapping
from typing import Any

_OUTCOMES = {
    "success": "success",
    "cancelled": "client_left cancelled",
    # The caller's fault, or no place for it.
    "refused": "access_denied body_too_large drained encoded_body context_length_exceeded invalid_api_key"
    " invalid_request misdirected model_not_found not_implemented rate_limit_exceeded request_not_found"
    " shutting_down unknown_path",
    # A bound in seconds that the configuration names ran out.
    "timeout": "backend_slow client_stalled lease_expired upload_timeout wait_expired",
    # The backend's fault.
    "upstream_error": "backend_broke backend_died backend_down backend_error model_load_failed",
    # Ours.
    "error": "internal_error not_saved",
}
DENIED = ("access_denied", "invalid_api_key", "rate_limit_exceeded")
"""The codes of requests that were not let in."""
STATUS = {outcome: status for status, outcomes in _OUTCOMES.items() for outcome in outcomes.split()}
"""The status of each outcome that dmap itself gives; any other is a code that a backend made up."""


def status_of(fields: Mapping[str, Any]) -> str:
    """Return the status of a request from the *fields* of its last event."""
    status = STATUS.get(fields["outcome"], "upstream_error")
    if status == "success" and fields.get("status", 200) >= 400:
        return "upstream_error"  # passed on as the backend told it
    return status


def kind_of(fields: Mapping[str, Any]) -> str:
    """Return which failure it was; `told_4xx` and `told_5xx` stand for all codes that backends made up."""
    outcome: str = fields["outcome"]
    if outcome in STATUS and outcome not in ("success", "backend_error"):
        return outcome
    return "told_4xx" if 400 <= fields.get("status", 200) < 500 else "told_5xx"


def codes_of(status: str) -> list[str]:
    """Return the codes that come with *status*."""
    return _OUTCOMES[status].split()


def kinds_of_upstream_errors() -> list[str]:
    """Return what `kind_of` may say of a backend's failure."""
    return [*(code for code in codes_of("upstream_error") if code != "backend_error"), "told_4xx", "told_5xx"]
