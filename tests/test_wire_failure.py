"""What an error looks like to clients of each dialect."""

import json

import pytest

from dmap.errors import (
    AccessDenied,
    BackendDown,
    BackendSlow,
    BadRequest,
    BodyTooLarge,
    InvalidKey,
    LoadFailed,
    ModelNotFound,
    Overloaded,
    UploadTimeout,
    WaitExpired,
)
from dmap.kinds import ROUTES
from dmap.wire.dialects import Dialect
from dmap.wire.failure import envelope, error_record
from dmap.wire.stream import StreamWatch


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (BadRequest, "invalid_request_error"),
        (InvalidKey, "authentication_error"),
        (AccessDenied, "permission_error"),
        (ModelNotFound, "not_found_error"),
        (UploadTimeout, "invalid_request_error"),
        (BodyTooLarge, "request_too_large"),
        (Overloaded, "rate_limit_error"),
        (LoadFailed, "api_error"),
        (BackendDown, "overloaded_error"),
        (WaitExpired, "overloaded_error"),
        (BackendSlow, "timeout_error"),
    ],
)
def test_anthropics_types(error, named):
    """Anthropic's clients get the types that their documentation has for the status, and the request's id."""
    body = envelope(error("so it is", param="model"), Dialect.MESSAGES, "req_1")

    assert (body["type"], body["request_id"], body["src"]) == ("error", "req_1", "dmap")
    assert body["error"] == {"type": named, "message": "so it is", "param": "model", "code": error.code}


@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.RESPONSES, Dialect.PLAIN])
def test_openais_envelope(dialect):
    """All others get OpenAI's."""
    assert envelope(WaitExpired("so it is"), dialect, "req_1") == WaitExpired("so it is").body()


@pytest.mark.parametrize(
    ("dialect", "event", "told"),
    [
        (
            Dialect.CHAT,
            None,
            {"error": {"message": "slow", "type": "backend_error", "param": None, "code": "backend_slow"}},
        ),
        (
            Dialect.RESPONSES,
            "error",
            {"type": "error", "code": "backend_slow", "message": "slow", "param": None},
        ),
        (
            Dialect.MESSAGES,
            "error",
            {"type": "error", "error": {"type": "timeout_error", "message": "slow"}},
        ),
    ],
)
def test_an_error_is_written_in_the_dialect(dialect, event, told):
    """An error inside a stream has the form that clients of the dialect raise on, and is one record."""
    record = error_record(BackendSlow("slow"), dialect).decode()

    *head, data, _, end = record.split("\n")
    assert (head, end, record.count("\n\n")) == ([f"event: {event}"] if event else [], "", 1)
    assert json.loads(data.removeprefix("data: ")) == told


@pytest.mark.parametrize("dialect", list(dict.fromkeys(route.dialect for route in ROUTES.values())))
def test_an_error_cannot_break_out_of_its_record(dialect):
    """A message with line ends stays inside one record."""
    record = error_record(BackendSlow("a\n\ndata: [DONE]\r\n\r\n"), dialect)

    assert record.count(b"\n\n") == 1
    assert b"\r" not in record
    watch = StreamWatch()
    watch.keep(record)
    assert watch.error == "a\n\ndata: [DONE]\r\n\r\n"
