"""
How a request ended, in as few words as a label can take.

The words are `success`, `upstream_error`, `timeout` and `error`; beside them `refused`, which dmap did
before it asked a backend, and `cancelled`, which the client or the owner did.
"""

from collections.abc import Mapping
from typing import Any

STATUS = {
    "success": "success",
    "client_left": "cancelled",
    "cancelled": "cancelled",
    # The caller's fault, or no place for it.
    "access_denied": "refused",
    "body_too_large": "refused",
    "encoded_body": "refused",
    "context_length_exceeded": "refused",
    "invalid_api_key": "refused",
    "invalid_request": "refused",
    "model_not_found": "refused",
    "not_implemented": "refused",
    "rate_limit_exceeded": "refused",
    "request_not_found": "refused",
    "shutting_down": "refused",
    "unknown_path": "refused",
    # A bound in seconds that the configuration names ran out.
    "backend_slow": "timeout",
    "client_stalled": "timeout",
    "lease_expired": "timeout",
    "upload_timeout": "timeout",
    "wait_expired": "timeout",
    # The backend's fault.
    "backend_broke": "upstream_error",
    "backend_down": "upstream_error",
    "backend_error": "upstream_error",
    "model_load_failed": "upstream_error",
    # Ours.
    "internal_error": "error",
    "not_saved": "error",
}
"""The status of each outcome that dmap itself gives; any other is a code that a backend made up."""


def status_of(fields: Mapping[str, Any]) -> str:
    """Return the status of a request from the *fields* of its last event."""
    status = STATUS.get(fields["outcome"], "upstream_error")
    if status == "success" and fields.get("status", 200) >= 400:
        return "upstream_error"  # passed on as it was told
    return status


def kind_of(fields: Mapping[str, Any]) -> str:
    """Return which failure it was; `told_4xx` and `told_5xx` stand for all codes that backends made up."""
    outcome: str = fields["outcome"]
    if outcome in STATUS and outcome not in ("success", "backend_error"):
        return outcome
    return "told_4xx" if 400 <= fields.get("status", 200) < 500 else "told_5xx"
