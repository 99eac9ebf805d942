"""
Judge a whole answer by what it says, since servers say 200 to an error and HTML to a client of JSON.

Pure: bytes in, a failure or nothing out.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from dmap.errors import BackendBroke, DmapError, Relayed
from dmap.wire.dialects import Dialect
from dmap.wire.stream import error_of, text_of
from dmap.wire.values import json_of

_EXCERPT = 300
_NO_ROUTE = frozenset(
    ("file not found", "not found", "404: not found", "404 page not found", "the backend gave no reason")
)
_ANSWER_MEMBERS = frozenset(("id", "object", "choices", "data", "output"))


@dataclass(frozen=True, slots=True)
class Phrases:
    """
    What a server's error messages say that its statuses do not.

    A message that begins with one of *own_faults* (in `casefold`) is no fault of the request, though its
    status is 400 or 404.  One that contains one of *too_long* is about a prompt that does not fit.  One that
    begins with one of *no_path* is about a wrong path.
    """

    own_faults: tuple[str, ...] = ()
    too_long: tuple[str, ...] = ()
    no_path: tuple[str, ...] = ()


def decoded(content_type: str, body: bytes) -> Any:
    """Return *body* decoded if it calls itself JSON and is; else None."""
    return json_of(body) if "json" in content_type.lower() else None


def failure_of(
    status: int, content_type: str, body: bytes, payload: Any, phrases: Phrases
) -> DmapError | None:
    """
    Return what has to be said instead of this answer; None when it can go down as it is.

    *payload* is `decoded(...)`; *phrases* are those of all kinds of servers.  An error in OpenAI's shape goes
    down as it is if its status matches.
    """
    if 300 <= status < 400:
        return BackendBroke(f"the backend answered a redirect ({status}); see its url in the configuration")
    if status in (401, 403):
        return BackendBroke(
            f"the backend refused dmap's key ({status}); see its api_key in the configuration"
        )
    message = (error_of(payload) or "") if _is_error(payload) else ""
    error = payload.get("error", payload) if message else None
    error = error if isinstance(error, dict) else {}
    if "exceed_context" in _code(error) or any(each in message for each in phrases.too_long):
        return Relayed(message, status=400, code="context_length_exceeded", type="invalid_request_error")
    if status in (400, 404) and message.casefold().startswith(phrases.own_faults):
        return Relayed(message, status=502, code="backend_error")
    if status >= 400:
        in_shape = message and isinstance(payload.get("error"), dict)
        return None if in_shape else Relayed(message or _excerpt(body), status=status, code="backend_error")
    if "html" in content_type.lower():
        return BackendBroke(f"the backend answered with a web page: {_excerpt(body)}")
    if message:
        is_path = message.startswith(phrases.no_path)
        return Relayed(message, status=404 if is_path else _status(error), code=_code(error))
    if "json" in content_type.lower() and payload is None and status != 204:
        return BackendBroke("the backend's answer is cut short: it is no whole JSON")
    return None


def lacks_route(status: int, payload: Any, body: bytes) -> bool:
    """
    Tell whether a server says by this answer that it has no such route, whatever the request.

    A 404 may be about a model, too, so its words count: those of llama.cpp, of Starlette, and of what comes
    with Python and Go.  llama.cpp says 501 to routes that it was not started for.
    """
    if status not in (404, 405, 501):
        return False
    detail = payload.get("detail") if isinstance(payload, dict) else None
    said = (error_of(payload) or text_of(detail or "") or _excerpt(body)).casefold()
    if status == 501:
        return said.startswith("this server does not support")
    return status == 405 or said in _NO_ROUTE or said.startswith("<")


def in_dialect(dialect: Dialect, payload: Any, body: bytes) -> bytes:
    """Return an error's *body* with the `type` that Anthropic's clients know it by, if it has none."""
    if dialect is not Dialect.MESSAGES or not isinstance(payload, dict) or "type" in payload:
        return body
    return msgspec.json.encode({"type": "error", **payload})


def _is_error(payload: Any) -> bool:
    """An answer of the Responses API has an `error` member too, beside those of an answer."""
    if not isinstance(payload, dict) or payload.get("object") == "error":
        return isinstance(payload, dict)
    return bool(payload.get("error")) and not _ANSWER_MEMBERS & payload.keys()


def _status(error: dict[str, Any]) -> int:
    """Find the status that an *error* inside a 200 should have had (LM Studio's catalogue of errors)."""
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 600:
        return code
    words = f"{text_of(error.get('type'))} {text_of(code)}"
    if "not_found" in words:
        return 404
    return 400 if "invalid" in words or "exceed_context" in words else 502


def _code(error: dict[str, Any]) -> str:
    code = error.get("code")
    return text_of((code if isinstance(code, str) else error.get("type")) or code or "backend_error")


def _excerpt(body: bytes) -> str:
    text = " ".join(body[: 4 * _EXCERPT].decode("utf-8", "replace").split())
    return text[:_EXCERPT] or "the backend gave no reason"
