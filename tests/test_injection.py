"""What dmap makes of a request, seen by the backend: the exact bytes that arrive there."""

import json
from typing import Any

import pytest

from dmap.state import Activation, Saved
from tests.fakes import SSE, answer, chunk, delta, post, served, told

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ANSWER = answer(b'{"id": "1", "object": "chat.completion", "model": "m", "choices": []}')
EMBEDDING = answer(b'{"object": "list", "data": [], "model": "m"}')
PLAIN = b'{"model": "m", "messages": []}'
FORM = "Content-Type: multipart/form-data; boundary=b\r\n"
UPLOAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'


@pytest.fixture
async def serve(start, backend, caplog):
    async with served(start, backend, caplog) as serve:
        yield serve


async def arrived(proxy: Any, backend: Any, request: bytes, reply: bytes = ANSWER) -> bytes:
    """Send *request*, have it answered, and return the body that came to the backend."""
    client = await proxy.client()
    await client.send(request)
    exchange = await backend.next()
    await exchange.end(reply)
    assert (await client.answer()).status == 200
    return exchange.body


async def refused(proxy: Any, backend: Any, body: bytes) -> dict[str, Any]:
    """Send a chat that is refused; return the error, with its status."""
    client = await proxy.client()
    await client.send(post(body))
    got = await client.answer()
    assert backend.requests == []
    return {"status": got.status, **got.error}


async def test_nothing_to_do(serve, backend):
    """A request that says everything, in whatever spelling JSON has for it, arrives as it was sent."""
    proxy = await serve(rest="defaults: {temperature: 0.5, max_tokens: 9}\nmodels: {m: {strip: [user]}}")
    body = (
        b' {"messages" :[ ], "model": "\\u006d",\n"temperature": 1.50, "max_completion_tokens":1, "x": 1e2 } '
    )

    assert await arrived(proxy, backend, post(body)) == body


async def test_defaults_by_precedence(serve, backend):
    """The request's own value goes before the activation's, the model's, and that for all; null is absent."""
    proxy = await serve(
        rest="defaults: {temperature: 0.1, top_p: 0.1, top_k: 1, seed: 1}\n"
        "models: {m: {defaults: {temperature: 0.2, top_p: 0.2, top_k: 2}}}"
    )
    proxy.proxy.catalog.choose(Saved(models={"m": Activation({"temperature": 0.3, "top_p": 0.3})}))

    body = await arrived(
        proxy, backend, post(b'{"model": "m", "messages": [], "temperature": 0.4, "top_p": null}')
    )

    assert body == b'{"model":"m","messages":[],"temperature":0.4,"top_p":0.3,"top_k":2,"seed":1}'


@pytest.mark.parametrize(
    ("path", "added", "left"),
    [
        (CHAT, b'"max_tokens":9,"stop":["END"],"repeat_penalty":1.1,"repetition_penalty":1.1', {}),
        ("/v1/responses", b'"max_output_tokens":9', {"stopStrings": ["END"], "repeatPenalty": 1.1}),
        (MESSAGES, b'"max_tokens":9,"stop_sequences":["END"]', {"repeatPenalty": 1.1}),
    ],
)
async def test_the_words_of_the_forerunner(serve, backend, path, added, left):
    """
    Its spelling is understood in the file and in requests, and sent in the one that the route has.

    What a route has no word for is not put in, and goes on as the client wrote it.
    """
    by_file = await serve(rest="defaults: {maxTokens: 9, stopStrings: [END], repeatPenalty: 1.1}")
    by_request = await serve()
    bare = b'{"model":"m","messages":[],"input":"x"'
    said = bare + b',"maxTokens":9,"stopStrings":["END"],"repeatPenalty":1.1}'

    first = await arrived(by_file, backend, post(bare + b"}", path))
    second = await arrived(by_request, backend, post(said, path))

    assert first == bare + b"," + added + b"}"
    assert json.loads(second) == json.loads(first) | left


async def test_a_value_out_of_range_is_refused(serve, backend):
    """A parameter in dmap's own spelling is checked by dmap, before any queue."""
    error = await refused(await serve(), backend, b'{"model": "m", "topP": 3}')

    assert (error["status"], error["param"], error["code"]) == (400, "topP", "invalid_request")


async def test_the_backend_judges_what_is_openais(serve, backend):
    """A parameter in OpenAI's spelling is the backend's to judge."""
    body = b'{"model": "m", "messages": [], "top_p": 3, "temperature": "hot"}'

    assert await arrived(await serve(), backend, post(body)) == body


async def test_two_spellings_that_differ_are_refused(serve, backend):
    """`maxTokens` and `max_tokens` with two values are 400, naming the field."""
    error = await refused(await serve(), backend, b'{"model": "m", "maxTokens": 3, "max_tokens": 4}')

    assert (error["status"], error["param"]) == (400, "maxTokens")


async def test_force_and_strip(serve, backend):
    """What is stripped does not arrive, what is forced arrives once, whatever word the request has."""
    proxy = await serve(
        rest="defaults: {temperature: 0.5}\n"
        "models: {m: {force: {maxTokens: 9}, strip: [temperature, logitBias, draft_model]}}"
    )
    said = b'{"model":"m","messages":[],"temperature":2,"logit_bias":{},"draft_model":"n","maxTokens":1}'

    fitted = b'{"model":"m","messages":[],"max_tokens":9,"temperature":0.5}'

    assert await arrived(proxy, backend, post(said)) == fitted


async def test_a_default_makes_it_stream(serve, backend):
    """A request that does not say whether it streams gets events where that is the default."""
    proxy = await serve(rest="defaults: {stream: true}")
    client = await proxy.client()
    await client.send(post(PLAIN))

    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("hi")))
    exchange.cut()

    assert exchange.body == b'{"model":"m","messages":[],"stream":true}'
    assert (await client.head()).headers["content-type"] == "text/event-stream"
    assert b'"content": "hi"' in await client.until(b"\n\n")
    assert told(await client.until(b"\n\n"))["error"]["code"] == "backend_broke"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
async def test_embeddings_get_nothing(serve, backend, path):
    """Neither sampling parameters nor `stream` are put into, or forced into, a request for embeddings."""
    proxy = await serve(rest="defaults: {stream: true, top_p: 0.5}\nmodels: {m: {force: {temperature: 0}}}")
    body = b'{"model": "m", "input": "x", "query": "x", "documents": []}'

    assert await arrived(proxy, backend, post(body, path), EMBEDDING) == body


@pytest.mark.parametrize(
    ("path", "body", "counted"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "the sea"}]}, "completion_tokens"),
        ("/v1/completions", {"prompt": "the sea"}, "completion_tokens"),
        ("/v1/responses", {"input": "the sea"}, "output_tokens"),
        (
            MESSAGES,
            {"messages": [{"role": "user", "content": "the sea"}]},
            "output_tokens",
        ),
    ],
)
async def test_a_real_engine_takes_every_word(start, models, path, body, counted):
    """llama.cpp's server answers a request with all defaults on each route, and goes by them."""
    proxy = await start(
        f"devices: {{gpu0: {{}}}}\nbackends: {{box: {{kind: gguf, path: '{models}', device: gpu0}}}}\n"
        "models: {tiny-sea: {load: {context_length: 256}}}\n"
        "defaults: {temperature: 0.5, topP: 0.9, topK: 40, min_p: 0.1, maxTokens: 3, stop: [NEVER],\n"
        "  seed: 7, repeatPenalty: 1.1, presence_penalty: 0.1, frequency_penalty: 0.1,\n"
        "  reasoning_effort: low, stream: false}"
    )
    client = await proxy.client()
    await client.send(post({"model": "tiny-sea", **body}, path))

    got = await client.answer()

    assert (got.status, json.loads(got.body)["usage"][counted]) == (200, 3)


# The model's name


@pytest.mark.parametrize("body", [b'{"messages": []}', b'{"messages": [], "model": null}'])
async def test_no_model_is_the_active_one(serve, backend, body):
    """A request without a model goes to the active one, and says so to the backend."""
    proxy = await serve(rest="models: {m: {aliases: [gpt]}}")
    proxy.proxy.catalog.choose(Saved(active="gpt"))

    assert await arrived(proxy, backend, post(body)) == b'{"messages":[],"model":"m"}'


async def test_a_form_without_a_model(serve, backend):
    """An upload that names no model gets the active one as its first field; the rest stays as it is."""
    proxy = await serve(rest="defaults: {temperature: 0.5}")
    proxy.proxy.catalog.choose(Saved(active="m"))
    field = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'

    body = await arrived(
        proxy, backend, post(UPLOAD, "/v1/audio/transcriptions", headers=FORM), answer(b'{"text": "hi"}')
    )

    assert body == field + UPLOAD


async def test_the_content_type_of_a_form_is_dmaps_own(serve, backend):
    """Of a form's content type only its boundary goes on: Starlette would read fields by the charset."""
    proxy, charset = await serve(), FORM.replace("boundary", "charset=punycode; boundary")
    form = UPLOAD.replace(b"--b--", b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--')

    await arrived(
        proxy, backend, post(form, "/v1/audio/transcriptions", headers=charset), answer(b'{"text": "hi"}')
    )

    assert backend.requests[-1].headers["content-type"] == "multipart/form-data; boundary=b"


async def test_no_model_and_none_active(serve, backend):
    """A request without a model is 400 where none is active, and told which it could name."""
    error = await refused(await serve(), backend, b'{"messages": []}')

    assert (error["status"], error["param"]) == (400, "model")
    assert "('m')" in error["message"]


async def test_the_active_model_is_gone(serve, backend):
    """A request without a model is 404 where the active one is no more, and the message says so."""
    proxy = await serve()
    proxy.proxy.catalog.choose(Saved(active="gone"))

    error = await refused(proxy, backend, b'{"messages": []}')

    assert (error["status"], error["code"]) == (404, "model_not_found")
    assert "the active one is gone" in error["message"]
