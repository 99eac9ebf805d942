"""What an error looks like to a client: the body of an answer, or an event within a stream."""

import json
from typing import Any

from dmap.errors import DmapError
from dmap.wire.dialects import Dialect


def envelope(error: DmapError, dialect: Dialect, request: str) -> dict[str, Any]:
    """
    Return the body that tells clients of *dialect* of *error* on the *request* of this id.

    It is OpenAI's.  Where Anthropic's is another one, the members of both are there.
    """
    body = error.body()
    if not dialect.error_types:
        return body
    return {"type": "error", **body, "error": _named(error, dialect), "request_id": request}


def error_record(error: DmapError, dialect: Dialect) -> bytes:
    """Write *error* as one event, in the form that clients of *dialect* raise on."""
    inner = _named(error, dialect)
    match dialect.errors:
        case "plain":
            return f"data: {json.dumps({'error': inner})}\n\n".encode()
        case "typed":
            said = {"error": {name: inner[name] for name in ("type", "message")}}
        case "flat":
            said = {name: inner[name] for name in ("code", "message", "param")}
    return f"event: error\ndata: {json.dumps({'type': 'error', **said})}\n\n".encode()


def _named(error: DmapError, dialect: Dialect) -> dict[str, Any]:
    """Return the error itself, its type named as *dialect* does."""
    inner: dict[str, Any] = error.body()["error"]
    if dialect.error_types:
        other = "invalid_request_error" if error.status < 500 else "api_error"
        inner["type"] = dialect.error_types.get(error.status, other)
    return inner
