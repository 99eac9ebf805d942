"""A whole answer judged by what it says, not by its status alone."""

import json
from typing import Any

import pytest

from dmap.errors import BackendBroke, Relayed
from dmap.kinds import PHRASES
from dmap.wire.verdict import decoded, failure_of, lacks_route

JSON = "application/json; charset=utf-8"


def judged(status: int, body: bytes | dict[str, Any], kind: str = JSON) -> Any:
    """Judge an answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return failure_of(status, kind, raw, decoded(kind, raw), PHRASES)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"id": "x", "choices": []}, JSON),
        (200, {"object": "list", "data": []}, JSON),
        (200, {"output": [], "error": None}, JSON),
        (200, {"id": "resp", "status": "failed", "error": {"message": "m"}}, JSON),
        (200, [1], JSON),
        (200, b"RIFF\x00", "audio/wav"),
        (200, b"", "text/plain"),
        (200, b"not json", "text/plain"),
        (204, b"", JSON),
        (400, {"error": {"message": "m", "code": "c"}}, JSON),
        (404, {"error": {"message": "m", "type": "t"}}, JSON),
        (500, {"error": {"message": "m"}}, JSON),
    ],
)
def test_an_answer_goes_down_as_it_is(status, body, kind):
    """An answer that is whole, or an error in OpenAI's shape with its status, is the client's."""
    assert judged(status, body, kind) is None


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        ({"error": "Unexpected endpoint (GET /x)"}, 404, "backend_error", "Unexpected endpoint (GET /x)"),
        ({"error": "Model crashed"}, 502, "backend_error", "Model crashed"),
        ({"error": {"message": "m", "code": 429}}, 429, "429", "m"),
        ({"error": {"message": "m", "code": "model_not_found"}}, 404, "model_not_found", "m"),
        ({"error": {"message": "m", "type": "invalid_request_error"}}, 400, "invalid_request_error", "m"),
        ({"error": {"message": "m", "type": "exceed_context_size"}}, 400, "context_length_exceeded", "m"),
        ({"error": {"message": "m", "code": 200}}, 502, "200", "m"),
        ({"error": {"message": "m"}}, 502, "backend_error", "m"),
        ({"error": ["m"]}, 502, "backend_error", '["m"]'),
        ({"error": True}, 502, "backend_error", "true"),
        ({"object": "error", "message": "m", "code": 404}, 404, "404", "m"),
    ],
)  # fmt: skip
def test_an_error_that_says_200(body, status, code, message):
    """An error told with a 200, as LM Studio does, gets the status that it should have had."""
    failure = judged(200, body)

    assert isinstance(failure, Relayed)
    assert (failure.status, failure.code, failure.message) == (status, code, message)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_prompt_that_is_too_long_is_the_clients_fault(status):
    """However a server tells it, the error is the one by which OpenAI's clients know it."""
    failure = judged(status, {"error": {"message": "m", "type": "exceed_context_size"}})

    assert (failure.status, failure.type, failure.code) == (
        400,
        "invalid_request_error",
        "context_length_exceeded",
    )


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, {"error": "model 'x' not found"}, JSON, "model 'x' not found"),
        (500, b"<h1>Oh\n\n  no</h1>", "text/html", "<h1>Oh no</h1>"),
        (503, b"", "", "the backend gave no reason"),
        (500, b"\xff" * 5000, "", "\ufffd" * 300),
        (422, {"detail": "x"}, JSON, '{"detail": "x"}'),
    ],
)
def test_an_error_in_another_shape(status, body, kind, message):
    """An error that OpenAI's clients could not read is told in their shape, with its own status."""
    failure = judged(status, body, kind)

    assert isinstance(failure, Relayed)
    assert (failure.status, failure.message) == (status, message)


@pytest.mark.parametrize(
    "message",
    [
        "The model has crashed without additional information. (Exit code: null)",
        "Model unloaded",
        "Model is unloaded.",
        "No models loaded. Please load a model in the developer page or use the 'lms load' command.",
        'Failed to load model "gpt-oss-20b". Error: Operation canceled.',
        'Invalid model identifier "gpt-oss-20b". Please specify a valid downloaded model (e.g., a/b).',
    ],
)
@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize(
    "shape", [lambda message: message, lambda message: {"message": message, "code": None}]
)
def test_a_fault_of_the_server_is_no_bad_request(message, status, shape):
    """What LM Studio calls 400 or 404 though the request was good is 502, so that clients may try again."""
    failure = judged(status, {"error": shape(message)})

    assert isinstance(failure, Relayed)
    assert (failure.status, failure.code, failure.message) == (502, "backend_error", message)


@pytest.mark.parametrize(
    ("status", "word"), [(301, "redirect"), (307, "redirect"), (401, "api_key"), (403, "api_key")]
)
def test_what_is_between_dmap_and_the_backend(status, word):
    """A redirect and a refusal of dmap's own credentials are the owner's matter, not the client's."""
    failure = judged(status, {"error": {"message": "sk-backend is wrong"}})

    assert isinstance(failure, BackendBroke)
    assert word in failure.message
    assert "sk-backend" not in failure.message


@pytest.mark.parametrize("body", [b'{"id": "x", "choi', b'{"a": "\xff"}', b"", b"[" * 100_000, b"{} {}"])
def test_an_answer_cut_short(body):
    """A body that calls itself JSON and is none is a broken answer."""
    assert isinstance(judged(200, body), BackendBroke)


@pytest.mark.parametrize("kind", ["", "text/plain", "audio/wav"])
def test_only_json_is_decoded(kind):
    """A body that does not call itself JSON is left alone."""
    assert decoded(kind, b'{"error": "x"}') is None


@pytest.mark.parametrize("member", ["code", "type", "message"])
def test_a_long_error_in_a_200(member):
    """No member of a server's error gets into dmap's own in unbounded length."""
    failure = judged(200, {"error": {"message": "x", member: "y" * 100_000}})

    assert len(f"{failure.code} {failure.message}") < 2100


@pytest.mark.parametrize(
    ("status", "body", "lacks"),
    [
        (404, b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}', True),
        (404, b'{"detail":"Not Found"}', True),
        (404, b"404 page not found\n", True),
        (404, b"404: Not Found", True),
        (404, b"<!doctype html><title>404 Not Found</title>", True),
        (404, b"", True),
        (405, b'{"detail":"Method Not Allowed"}', True),
        (501, b'{"error":{"message":"This server does not support embeddings. Start it with ..."}}', True),
        (501, b'{"error":{"message":"tools are not built yet"}}', False),
        (404, b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError"}}', False),
        (404, b'{"detail":[{"msg":"no such voice"}]}', False),
        (400, b'{"detail":"Not Found"}', False),
        (200, b'{"detail":"Not Found"}', False),
    ],
)
def test_a_route_that_a_server_lacks(status, body, lacks):
    """What servers say to a path that they do not know is told from what they say of a model or a field."""
    assert lacks_route(status, decoded("application/json", body), body) is lacks
