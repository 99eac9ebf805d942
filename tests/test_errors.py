"""The error tree: each class knows its status, and tells it in OpenAI's shape."""

import inspect

import pytest

from dmap import errors
from dmap.errors import BackendDown, BadRequest, DmapError, Final, Internal, LoadFailed, Overloaded, Relayed

CLASSES = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, DmapError)]


@pytest.mark.parametrize(
    ("name", "status", "retry"),
    [
        ("BadRequest", 400, None),
        ("ContextExceeded", 400, None),
        ("InvalidKey", 401, None),
        ("AccessDenied", 403, None),
        ("PathNotFound", 404, None),
        ("ModelNotFound", 404, None),
        ("UploadTimeout", 408, "false"),
        ("BodyTooLarge", 413, None),
        ("EncodedBody", 415, None),
        ("Overloaded", 429, None),
        ("Internal", 500, None),
        ("NotBuilt", 501, "false"),
        ("LoadFailed", 502, "false"),
        ("BackendBroke", 502, "false"),
        ("BackendDown", 503, None),
        ("WaitExpired", 503, None),
        ("ShuttingDown", 503, None),
        ("BackendSlow", 504, "false"),
        ("LeaseExpired", 504, "false"),
        ("ClientStalled", 504, "false"),
    ],
)
def test_status_and_retry(name, status, retry):
    """A class has one status, and says where a client shall not repeat by itself what it would repeat."""
    error = getattr(errors, name)("what happened")

    assert (error.status, error.headers().get("x-should-retry")) == (status, retry)


def test_all_are_promised():
    """Every error is in the tree at the top of the file."""
    names = {each.__name__ for each in CLASSES}

    assert [name for name in names if name not in (errors.__doc__ or "")] == []


@pytest.mark.parametrize("kind", [each for each in CLASSES if each is not Relayed])
def test_types_and_codes_are_words(kind):
    """`type` and `code` are words that a program can compare; only `Internal` has those of no class."""
    error = kind("x")

    assert (error.type + error.code).replace("_", "").islower()
    assert (error.code == "internal_error") == (kind in (DmapError, Final, Internal))


def test_the_body_is_openais():
    """A body has OpenAI's four members, and says that dmap wrote it."""
    assert BadRequest("no", param="model").body() == {
        "error": {
            "message": "no",
            "type": "invalid_request_error",
            "param": "model",
            "code": "invalid_request",
        },
        "src": "dmap",
    }


def test_what_a_backend_told_keeps_its_status():
    """A relayed error has the status and the code that it should have had."""
    error = Relayed("boom", status=418, code="teapot")

    assert (error.status, error.body()["error"]["code"], str(error)) == (418, "teapot", "boom")


@pytest.mark.parametrize(
    ("after_s", "told"),
    [
        (None, None),
        (0, "1"),
        (0.2, "1"),
        (1, "1"),
        (1.01, "2"),
        (59.5, "60"),
        (61, "60"),
        (1e9, "60"),
        (-5, "1"),
    ],
)
def test_retry_after_is_one_that_clients_heed(after_s, told):
    """`Retry-After` is rounded up and kept within what OpenAI's clients wait for."""
    assert Overloaded("full", retry_after_s=after_s).headers().get("Retry-After") == told


def test_both_headers_go_together():
    """An estimate and the advice not to retry do not hide each other."""
    assert LoadFailed("no", retry_after_s=3).headers() == {"Retry-After": "3", "x-should-retry": "false"}
    assert BackendDown("no").headers() == {}
