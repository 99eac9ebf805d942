"""The table of routes: what answers a path, and what is said where nothing does."""

import re

import pytest

from dmap.errors import MethodNotAllowed, PathNotFound
from dmap.web import listing
from dmap.web.admin import service
from dmap.web.passing import pass_on
from dmap.web.table import find


@pytest.mark.parametrize(
    ("method", "path", "handler", "named"),
    [
        ("GET", "/v1/models", listing.models, ""),
        ("HEAD", "/v1/models", listing.models, ""),
        ("GET", "/v1/models/a", listing.model, "a"),
        ("GET", "/v1/models/up/a%2Fb%20c", listing.model, "up/a/b c"),
        ("GET", "/api/v0/models//", listing.model_v0, "/"),
        ("POST", "/admin/queue/x/y/cancel", service.cancel, "x/y"),
    ],
)
def test_what_is_there(method, path, handler, named):
    """A path has one handler; what stands in the place for a name is any text but none."""
    assert find(method, path) == (handler, named)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1/models/",
        "/v1/model",
        "/V1/models",
        "/v1/%6dodels",
        "/health/",
        "/admin/queue//cancel",
        "/admin.service.cancel",
    ],
)
def test_what_is_not(path):
    """Another spelling of a path is another path."""
    with pytest.raises(PathNotFound):
        find("GET", path)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions? A client's base URL ends in /v1, once"),
        ("/v1/v1/chat/completions", "/v1/chat/completions? A client's base URL ends in /v1, once"),
        ("/models/m", "/v1/models/m? A client's base URL ends in /v1, once"),
        ("/v1/v1/models/org/m", "/v1/models/org/m?"),
        ("/chat/completions/", "/v1/chat/completions?"),
        ("/models", "/v1/models? A client's base URL ends in /v1, once"),
        ("//v1/chat/completions", "/v1/chat/completions?"),
        ("/openai/v1/embeddings", "/v1/embeddings?"),
        ("/v1/v1/messages", "/v1/messages? The base URL of Anthropic's clients ends before /v1"),
        ("/v1/chat/completions/", "/v1/chat/completions?"),
        ("/V1/Chat/Completions", "/v1/chat/completions?"),
        ("/v1/chat/completion", "/v1/chat/completions?"),
        ("/v1/embedding", "/v1/embeddings?"),
        ("/v1/image/generations", "/v1/images/generations?"),
        ("/admin/model/load", "/admin/models/load?"),
    ],
)
@pytest.mark.parametrize("passes", [True, False])
def test_what_was_meant(path, meant, passes):
    """A path that is nearly one of ours is told which, wherever else it might go."""
    with pytest.raises(PathNotFound, match=re.escape(f"did you mean {meant}")):
        find("POST", path, passes=passes)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/models/a", "GET, HEAD"),
        ("POST", "/v1/models/load", "GET, HEAD"),
        ("OPTIONS", "/admin/queue/a/cancel", "POST"),
    ],
)
def test_another_method(method, path, allowed):
    """A path that takes other methods says which."""
    with pytest.raises(MethodNotAllowed) as refused:
        find(method, path)

    assert refused.value.headers()["Allow"] == allowed


@pytest.mark.parametrize(
    "path", ["/v1/reranking", "/v1/moderations", "/v1/audio/voices", "/v1/responses/x/cancel"]
)
def test_what_is_no_typo(path):
    """What other servers have, however like ours, goes on to one."""
    assert find("POST", path, passes=True) == (pass_on, "")
