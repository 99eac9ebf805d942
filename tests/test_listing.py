"""What anyone may look at: the models, one model, whether dmap lives, whether it can serve."""

import hashlib
import json

import pytest

from tests.fakes import Answer, chat, post

SHA = {name: hashlib.sha256(f"sk-{name}".encode()).hexdigest() for name in ("all", "some", "ops")}
KEYS = f"""
access:
  keys:
    - {{name: all, sha256: {SHA["all"]}}}
    - {{name: some, sha256: {SHA["some"]}, models: [gpt]}}
    - {{name: ops, sha256: {SHA["ops"]}, scopes: [admin]}}
"""
MODELS = """
models:
  m: {aliases: [gpt, org/m]}
  named: {backend: fake}
"""


@pytest.fixture
async def serve(start, backend):
    """Start a proxy in front of the fake backend, which has the model `m`."""

    async def serve(rest: str = "", url: str = ""):
        return await start(f"backends: {{fake: {{kind: openai, url: '{url or backend.url}'}}}}\n{rest}")

    return serve


async def get(proxy, path: str, *, method: str = "GET", key: str = "", host: str = "127.0.0.1") -> Answer:
    """Ask for *path* over a connection of its own."""
    client = await proxy.client()
    credentials = f"Authorization: Bearer sk-{key}\r\n" if key else ""
    await client.send(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{credentials}\r\n".encode())
    return await client.answer()


def ids(answer: Answer) -> list[str]:
    assert answer.status == 200
    return [model["id"] for model in json.loads(answer.body)["data"]]


# Models


async def test_models_as_openai_lists_them(serve):
    """`GET /v1/models` has OpenAI's shape, a request id, and says who made it."""
    answer = await get(await serve(), "/v1/models")

    assert json.loads(answer.body) == {
        "object": "list",
        "data": [
            {
                "id": "m",
                "object": "model",
                "created": 0,
                "owned_by": "fake",
                "resident": True,
                "context_length": None,
                "embedding": False,
            }
        ],
    }
    assert answer.head.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.head.headers["server"] == "dmap"
    assert answer.head.headers["x-request-id"].startswith("req_")


async def test_aliases_and_named_models_are_listed(serve):
    """Aliases stand beside their model, and a model of the file need not be the backend's."""
    assert ids(await get(await serve(MODELS), "/v1/models")) == ["named", "m", "gpt", "org/m"]


@pytest.mark.parametrize(
    ("key", "seen"), [("all", ["m", "gpt"]), ("some", ["m", "gpt"]), ("ops", ["m", "gpt"])]
)
async def test_any_key_may_look(serve, key, seen):
    """Any key may look, whatever its scopes, and sees what it may use."""
    proxy = await serve(KEYS + "models: {m: {aliases: [gpt]}}")

    assert ids(await get(proxy, "/v1/models", key=key)) == seen


async def test_a_key_sees_only_its_models(serve):
    """What a key may not use it does not see, in the list or alone."""
    proxy = await serve(KEYS + "models: {other: {backend: fake}}")

    assert ids(await get(proxy, "/v1/models", key="some")) == []
    assert (await get(proxy, "/v1/models/other", key="some")).status == 404
    assert (await get(proxy, "/v1/models/other", key="all")).status == 200


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/models", ""),
        ("/v1/models", "wrong"),
        ("/v1/models/m", ""),
        ("/v1/models/m", "wrong"),
        ("/ready", "wrong"),
    ],
)
async def test_without_a_key_nobody_looks(serve, path, key):
    """Where there are keys, only `/health` is open, and of `/ready` its status."""
    answer = await get(await serve(KEYS), path, key=key)

    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["/v1/models", "/ready", "/v1/models/m"])
async def test_a_rebound_name_does_not_look(serve, path):
    """Without keys a page under another name does not see the list."""
    answer = await get(await serve(), path, host="evil.example")

    assert (answer.status, answer.error["code"]) == (403, "access_denied")


# One model


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/models/m", "m"),
        ("/v1/models/gpt", "gpt"),
        ("/v1/models/org/m", "org/m"),
        ("/v1/models/org%2Fm", "org/m"),
        ("/v1/models/named?x=1", "named"),
        ("/v1/models/M", "m"),
        ("/v1/models/GPT", "m"),
        ("/v1/models/fake/m", "m"),
    ],
)
async def test_one_model(serve, path, model):
    """`GET /v1/models/{id}` has one of the list, by any of its names, a slash in it written either way."""
    answer = await get(await serve(MODELS), path)

    assert answer.status == 200
    assert json.loads(answer.body)["id"] == model


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/models/x", "/v1/models/m@q4", "/v1/models/m/", "/v1/models/%00", "/v1/models/..%2fm"),
        *("/api/v0/models/x", "/api/v0/models/../../../admin/models", "/api/v0/models/..%2f..%2f..%2fadmin"),
    ],
)
async def test_no_such_model(serve, path):
    """A name that means no model is 404, as OpenAI says it."""
    answer = await get(await serve(MODELS), path)

    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")


# Health and readiness


async def test_health_is_open(serve):
    """`GET /health` needs no key and no name, and says how long the loop took."""
    answer = await get(await serve(KEYS), "/health", host="anything")

    body = json.loads(answer.body)
    assert (answer.status, body["status"]) == (200, "ok")
    assert 0 <= body["loop_ms"] < 1000


async def test_ready_with_a_backend(serve):
    """`GET /ready` is 200 while some backend answers, with the state of each queue."""
    answer = await get(await serve(), "/ready")

    assert answer.status == 200
    queue = {"drained": False, "waiting": 0, "leases": 0, "oldest_wait_s": 0}
    assert json.loads(answer.body) == {
        "ready": True,
        "backends": {"fake": {"answers": True, **queue}},
        "devices": {},
    }


async def test_not_ready_without_one(serve):
    """With no backend that answers, dmap lives but is not ready, and lists no model."""
    proxy = await serve(url="http://127.0.0.1:1")

    ready, health = await get(proxy, "/ready"), await get(proxy, "/health")

    assert (ready.status, health.status) == (503, 200)
    assert json.loads(ready.body)["backends"]["fake"]["answers"] is False
    assert ids(await get(proxy, "/v1/models")) == []
    assert (await get(proxy, "/v1/models/m")).status == 503


async def test_a_model_of_a_backend_that_never_answered(serve):
    """As long as a backend has not answered, a model it may have is 503 with a time to come back, not 404."""
    proxy = await serve(url="http://127.0.0.1:1")
    client = await proxy.client()

    await client.send(post(chat()))
    answer = await client.answer()

    assert (answer.status, answer.error["code"]) == (503, "backend_down")
    assert answer.head.headers["retry-after"] == "5"


# Methods


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/health", "/ready"])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_they_are_only_looked_at(serve, path, method):
    """What is looked at takes no other method, and says which one it takes."""
    answer = await get(await serve(), path, method=method)

    assert (answer.status, answer.head.headers["allow"]) == (405, "GET, HEAD")
    assert answer.error["code"] == "invalid_request"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/models/", "/V1/models", "//v1/models", "/v1//models", "/docs"]
)
async def test_no_such_path(serve, path):
    """Any other path, and any other spelling of one, is 404 in OpenAI's shape."""
    answer = await get(await serve(), path)

    assert (answer.status, answer.error["code"]) == (404, "unknown_path")
