"""
A model server of FastAPI, Starlette and python-multipart that keeps what it read of each request.

    python -m bench.attack.victim PORT

What a request says is read in several ways, as servers do: by FastAPI and pydantic, by Starlette alone, by
other decoders.  `GET /seen` returns it all, and forgets it.
"""

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Annotated, Any

import django
import orjson
import uvicorn
from django.conf import settings
from django.http.multipartparser import MultiPartParser
from fastapi import FastAPI, File, Form, Request, UploadFile
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.formparsers import FormParser
from starlette.formparsers import MultiPartParser as StarletteForms
from starlette.requests import Request as Raw
from werkzeug.formparser import parse_form_data

MODELS = [f"{name}-py" for name in ("small", "held", "big")]
LIST_S = 0.2
_LINK = re.compile(r"\s*(https?|file|ftp):", re.IGNORECASE)
_WORDS = {
    "draft_model": ("draft_model", "draftModel"),
    "context_length": ("context_length", "contextLength"),
    "integrations": ("integrations", "mcp_servers"),
    "keep_alive": ("keep_alive", "keepAlive"),
}
_RELOADING = {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"}
_TURNS = ("messages", "input", "system", "query", "documents", "images", "image", "mask", "prompt")


def reading(data: Any) -> dict[str, Any] | None:
    """Return what a server would act on in the decoded body *data*; None if it would act on nothing."""
    if not isinstance(data, dict):
        return None
    return {
        "model": data.get("model"),
        "stream": bool(data.get("stream")),
        "guarded": sorted(set(guarded(data))),
        "temperature": data.get("temperature"),
        "logit_bias": "logit_bias" in data,
    }


def guarded(data: dict[str, Any]) -> Iterator[str]:
    """Yield each guarded thing that the body asks for."""
    for name, words in _WORDS.items():
        for value in (data.get(word) for word in words):
            if value or (value == 0 and value is not None and value is not False):
                yield name
    options = data.get("options")
    if isinstance(options, dict) and _RELOADING & options.keys():
        yield "options"
    tools = data.get("tools")
    if isinstance(tools, list) and any(isinstance(tool, dict) and "server_url" in tool for tool in tools):
        yield "integrations"
    if any(_LINK.match(link) for link in links({name: data.get(name) for name in _TURNS})) or any(
        _LINK.match(link) for name in _TURNS for link in links(data.get(name))
    ):
        yield "image_url"


def links(part: Any) -> Iterator[str]:
    """Yield the links of a turn or content part in the dialects of vLLM, transformers, OpenAI, Anthropic."""
    if isinstance(part, list):
        for each in part:
            yield from links(each)
    if isinstance(part, dict):
        for name, value in part.items():
            if name in ("content", "output", "source") and isinstance(value, (dict, list)):
                yield from links(value)
            elif name.endswith("_url") or name in ("url", "image", "images"):
                many = value if isinstance(value, list) else [value]
                found = [each.get("url") if isinstance(each, dict) else each for each in many]
                yield from (link for link in found if isinstance(link, str))


class Chat(BaseModel):
    """A request as vLLM and its likes declare it."""

    model_config = ConfigDict(extra="allow")
    model: str
    stream: bool | None = False
    context_length: Any = Field(None, validation_alias=AliasChoices("context_length", "contextLength"))


app = FastAPI()
seen: list[dict[str, Any]] = []


@app.get("/v1/models")
async def models() -> dict[str, Any]:
    """List what there is, not at once."""
    await asyncio.sleep(LIST_S)
    return {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]}


@app.get("/seen")
async def told() -> list[dict[str, Any]]:
    """Tell what was read since the last time."""
    now, seen[:] = list(seen), []
    return now


@app.post("/v1/audio/{what}")
@app.post("/v1/images/{what}")
async def upload(
    request: Request,
    model: Annotated[str, Form()] = "",
    stream: Annotated[bool, Form()] = False,
    file: Annotated[UploadFile | None, File()] = None,
) -> dict[str, Any]:
    """Take a form, as a server for speech does."""
    is_form = "multipart" in request.headers.get("content-type", "").lower()
    return _answer(request, {"model": model, "stream": stream, "guarded": []} if is_form else None)


@app.post("/{path:path}")
async def chat(request: Request, body: Chat) -> dict[str, Any]:
    """Take a JSON body, as a server for text does."""
    return _answer(request, reading(body.model_dump()))


def _answer(request: Request, view: dict[str, Any] | None) -> dict[str, Any]:
    request.state.views["fastapi"] = view
    return {"object": "chat.completion", "id": request.headers.get("x-request-id"), "choices": []}


class Witness:
    """The application as uvicorn runs it: reads each body in every way, then has FastAPI answer."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await app(scope, receive, send)  # type: ignore[arg-type]
        body = await Raw(scope, receive).body()  # type: ignore[arg-type]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        views = scope.setdefault("state", {})["views"] = await _views(scope, body, headers)
        target = scope["raw_path"].decode() + "?" * bool(scope["query_string"])
        entry = {"id": headers.get("x-request-id"), "path": target, "views": views, "headers": headers}
        seen.append(entry)

        async def again() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        return await app(scope, again, send)  # type: ignore[arg-type]


async def _views(scope: dict[str, Any], body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    kind = headers.get("content-type", "")
    if kind.lower().startswith("multipart/") or "urlencoded" in kind.lower():
        ways: dict[str, Callable[[], Any]] = {
            "werkzeug": lambda: _fields(_werkzeug(body, kind)),
            "django": lambda: _fields(_django(body, kind)),
        }
        return {"starlette": await _starlette(scope, body)} | {name: _try(way) for name, way in ways.items()}
    return {
        "json": _try(lambda: reading(json.loads(body))),
        "orjson": _try(lambda: reading(orjson.loads(body))),
        "cut": _try(lambda: reading(json.loads(body, object_pairs_hook=_cut))),
        "pydantic": _try(lambda: reading(Chat.model_validate_json(body).model_dump())),
    }


def _cut(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keep names up to their first NUL, as what holds them in strings of C does."""
    return {name.partition("\0")[0]: value for name, value in pairs}


def _try(way: Callable[[], Any]) -> Any:
    try:
        return way()
    except Exception as exc:
        return f"unreadable: {type(exc).__name__}"


async def _starlette(scope: dict[str, Any], body: bytes) -> Any:
    async def pieces() -> Any:
        yield body

    headers = Raw(scope).headers
    parser = FormParser if "urlencoded" in headers.get("content-type", "") else StarletteForms
    try:
        form = await parser(headers, pieces()).parse()
    except Exception as exc:
        return f"unreadable: {type(exc).__name__}"
    return _fields([(name, value) for name, value in form.multi_items() if isinstance(value, str)])


def _werkzeug(body: bytes, kind: str) -> list[tuple[str, str]]:
    wsgi = {"wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": kind}
    _, form, _ = parse_form_data({**wsgi, "REQUEST_METHOD": "POST"}, silent=False)
    return list(form.items(multi=True))


def _django(body: bytes, kind: str) -> list[tuple[str, str]]:
    meta = {"CONTENT_TYPE": kind, "CONTENT_LENGTH": len(body)}
    form, _ = MultiPartParser(meta, BytesIO(body), [], "utf-8").parse()
    return [(name, value) for name, values in form.lists() for value in values]


def _fields(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return every value that a server might take for `model`, and what else it might act on."""
    models = sorted({value for name, value in pairs if name.strip() in ("model", "model[]")})
    streams = any(name == "stream" and value.lower() in ("true", "1", "on", "yes") for name, value in pairs)
    said = {name.removesuffix("[]"): value for name, value in pairs if name != "model"}
    asked = guarded({"images": [said], **said})
    return {
        "model": models[0] if len(models) == 1 else models or None,
        "stream": streams,
        "guarded": list(asked),
    }


if __name__ == "__main__":
    settings.configure(DATA_UPLOAD_MAX_MEMORY_SIZE=2**30)
    django.setup()
    asyncio.run(
        uvicorn.Server(
            uvicorn.Config(Witness(), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
        ).serve()
    )
